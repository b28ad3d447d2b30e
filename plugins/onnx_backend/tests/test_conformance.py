"""The engine on the real demo model."""

from __future__ import annotations

import pytest
from onnx_backend.plugin import gateway_backends, gateway_models

from core.testing import EngineConformance

pytestmark = pytest.mark.timeout(900)  # on a fresh machine the first export is part of it


class TestOnnxEngine(EngineConformance):
    """Everything the kit asks of an engine; not quantised, where equal requests give equal texts whatever is cached."""

    backend = gateway_backends()[0]
    model = gateway_models()[0]
    settings = {"threads": 1, "quantization": "none"}  # noqa: RUF012 - a ClassVar of the base
