"""The engine on the real demo model."""

from __future__ import annotations

from torch_backend.plugin import gateway_backends, gateway_models

from core.testing import EngineConformance


class TestTorchEngine(EngineConformance):
    """Everything the kit asks of an engine; in float32, where equal requests give equal texts whatever is cached."""

    backend = gateway_backends()[0]
    model = gateway_models()[0]
    settings = {"threads": 1, "dtype": "float32"}  # noqa: RUF012 - a ClassVar of the base
