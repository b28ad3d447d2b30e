"""The engine on the real demo model."""

from __future__ import annotations

from llamacpp_backend.plugin import gateway_backends, gateway_models

from core.testing import EngineConformance


class TestLlamaCppEngine(EngineConformance):
    """Everything the kit asks of an engine."""

    backend = gateway_backends()[0]
    model = gateway_models()[0]
    settings = {"threads": 1}  # noqa: RUF012 - a ClassVar of the base
