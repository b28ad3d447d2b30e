"""The echo engine holds to the contract."""

from __future__ import annotations

from typing import ClassVar

from echo_backend.plugin import gateway_backends, gateway_models

from core.testing import EngineConformance


class TestEcho(EngineConformance):
    backend = gateway_backends()[0]
    model = gateway_models()[0]
    settings: ClassVar = {"tokens": 400, "tokens_per_s": 200.0, "prefill_s": 0.02}
    batch_invariant = True
