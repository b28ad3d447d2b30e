"""Where 64 concurrent streams go: evenly over two replicas, or as the weights say, with two HTTP workers.

``TEST_SPREAD_S`` is how long each policy is watched, longer where that is too few requests to judge by.
``--log-level=INFO -rP`` shows the counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from core.testing import Gateway, demo_weights, eventually, start_gateway
from core.testing.weights import DEMO_SOURCE

SECONDS = float(os.environ.get("TEST_SPREAD_S", "8"))
LEAST = 500
"""Requests for each model. A replica's share of fewer may miss by a tenth by chance alone."""
STREAMS = 64
WITHIN = 0.1
WEIGHTS = {"heavy": 3, "light": 1}
MODELS = {"smollm2-135m": "llamacpp", "echo": "echo"}

_log = logging.getLogger(__name__)


def configuration() -> str:
    """Of each backend, a deployment with two replicas, and two of one replica each that share a name by weight."""
    config = """
[plugins]
allow = ["echo", "llamacpp"]
[backends.llamacpp]
threads = 1
slots = 4
[backends.echo]
tokens_per_s = 10
[deployments."smollm2-135m@llamacpp"]
replicas = 2
[deployments."echo@echo"]
replicas = 2
"""
    for model, backend in MODELS.items():
        for name, weight in WEIGHTS.items():
            config += f"""
[deployments."{name}-{backend}@{backend}"]
source = "{DEMO_SOURCE if backend == "llamacpp" else "/dev/null"}"
weight = {weight}
aliases = ["weighted/{model}"]
"""
        config += f"""
[routes."least_loaded/{model}"]
models = "{model}"
policy = "least_loaded"
[routes."round_robin/{model}"]
models = "{model}"
policy = "round_robin"
[routes."weighted/{model}"]
policy = "weighted"
"""
    return config


def shares(policy: str, model: str) -> dict[str, float]:
    """What each replica should get of the requests for a model."""
    backend = MODELS[model]
    if policy == "weighted":
        total = sum(WEIGHTS.values())
        return {f"{name}-{backend}@{backend}#0": weight / total for name, weight in WEIGHTS.items()}
    return {f"{model}@{backend}#{index}": 1 / 2 for index in range(2)}


pytestmark = pytest.mark.timeout(180 + 4 * SECONDS)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    demo_weights()
    with start_gateway(configuration(), "--workers", "2") as running:
        eventually(lambda: running.health()["status"] == "healthy", within_s=60)
        yield running


async def stream(port: int, name: str) -> str:
    """Ask for a stream on a connection of its own, so that either worker may take it; return the replica."""
    body = {"model": name, "stream": True, "max_tokens": 1, "prompt": "Hello there, my"}
    content = json.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            "POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
        )
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    head, _, events = answer.partition("\r\n\r\n")
    assert " 200 " in head.splitlines()[0], answer
    assert events.count("data: [DONE]") == 1, answer
    assert '"error"' not in events, answer
    (replica,) = [line.split(": ")[1] for line in head.splitlines() if line.startswith("x-gateway-replica: ")]
    return replica


async def crowd(port: int, policy: str) -> Counter[str]:
    """Keep all streams busy for the time, half on each model; return how many each replica served."""
    served: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SECONDS

    async def one(model: str) -> None:
        while loop.time() < end_s or min(asked[other] for other in MODELS) < LEAST:
            served[await stream(port, f"{policy}/{model}")] += 1
            asked[model] += 1

    await asyncio.gather(*(one(model) for model in MODELS for _ in range(STREAMS // len(MODELS))))
    return served


def idle(gateway: Gateway) -> bool:
    """Whether every count of what is in flight is back at nothing."""
    health = gateway.health()
    deployments: list[dict[str, Any]] = list(health["deployments"].values())
    loads = [replica[key] for one in deployments for replica in one["replicas"] for key in ("running", "waiting")]
    counts = [one[key] for one in deployments for key in ("in_flight", "queued")]
    return not any((*loads, *counts, health["requests_in_flight"]))


@pytest.mark.parametrize("policy", ["least_loaded", "round_robin", "weighted"])
def test_the_spread(gateway: Gateway, policy: str) -> None:
    """Within a tenth of each replica's share, and nothing stays behind."""
    assert len(gateway.http_workers()) == 2
    served = asyncio.run(crowd(int(gateway.url.rpartition(":")[2]), policy))
    _log.info("%s: %s", policy, dict(sorted(served.items())))

    for model in MODELS:
        wanted = shares(policy, model)
        total = sum(served[replica] for replica in wanted)
        for replica, share in wanted.items():
            assert served[replica] == pytest.approx(share * total, rel=WITHIN), served
    eventually(lambda: idle(gateway), within_s=5)
