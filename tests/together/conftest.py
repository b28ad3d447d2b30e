"""One gateway with every backend that is installed, on the demo model."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from core.testing import Gateway, demo_weights, eventually, start_gateway

CONFIG = """
[plugins]
allow = ["llamacpp", "torch"]
[limits]
max_waiting = 200
[deployments."smollm2-135m@llamacpp"]
context_tokens = 2048
settings = { threads = 1, slots = 4 }
[deployments."smollm2-135m@torch"]
context_tokens = 2048
settings = { threads = 1, slots = 4, dtype = "float32" }
"""


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    demo_weights()
    with start_gateway(CONFIG) as running:
        eventually(lambda: running.health()["status"] == "healthy", within_s=120)
        yield running


@pytest.fixture(scope="session")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=120) as made:
        yield made
