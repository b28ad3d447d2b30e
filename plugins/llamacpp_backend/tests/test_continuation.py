"""kill -9 of the replica that serves a stream: its client gets the very text that it would have got."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.testing import Gateway, demo_weights, eventually, start_gateway

pytestmark = pytest.mark.timeout(300)

KILLS = 20
CONFIG = """
[plugins]
allow = ["llamacpp"]
[routing]
breaker_failures = 1000
[supervisor]
backoff_initial_s = 0.1
backoff_max_s = 0.2
healthy_after_s = 0.1
status_interval_s = 0.05
log_dir = "logs"
[deployments."smollm2-135m@llamacpp"]
replicas = 2
settings = { threads = 1, slots = 2 }
"""
PROMPTS = (
    "Tell me a story about a fox.",
    "Explain how a bicycle works.",
    "Write a poem about the sea.",
    "Describe a city at night.",
    "Write a letter to a friend about your holiday.",
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    demo_weights()
    with start_gateway(CONFIG, quick=False) as running:
        yield running


def replicas(gateway: Gateway) -> dict[str, int]:
    """Replicas that are ready, and their processes."""
    told = gateway.health()["deployments"]["smollm2-135m@llamacpp"]["replicas"]
    return {one["replica"]: one["pid"] for one in told if one["state"] == "ready"}


def both(gateway: Gateway) -> dict[str, int]:
    return eventually(lambda: len(found := replicas(gateway)) == 2 and found, within_s=60)


def streamed(gateway: Gateway, prompt: str, kill: dict[str, int] | None = None, after: int = 0) -> list[Any]:
    """The data of a greedy stream; with ``kill`` its replica is killed when so many chunks with text have come."""
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 28,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines: list[Any] = []
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            lines.append(line[6:] if line == "data: [DONE]" else json.loads(line[6:]))
            if kill and len(lines) == after + 1:  # the first one is the role
                os.kill(kill[response.headers["x-gateway-replica"]], signal.SIGKILL)
    return lines


def said(lines: list[Any]) -> tuple[str, list[str], Any]:
    """The text of a stream, how it ended, and its usage; it must be whole."""
    assert lines[-1] == "[DONE]", lines[-1]
    choices = [choice for line in lines[:-1] for choice in line["choices"]]
    ends = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    usage = {name: count for name, count in lines[-2]["usage"].items() if isinstance(count, int)}
    assert len({line["id"] for line in lines[:-1]}) == 1
    return "".join(choice["delta"].get("content", "") for choice in choices), ends, usage


def continued(gateway: Gateway) -> float:
    """How many streams went on elsewhere."""
    metrics = httpx.get(f"{gateway.url}/metrics").text
    found = re.search(r'^gateway_continuations_total\{outcome="continued"\} (\S+)', metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_stream_outlives_its_replica(gateway: Gateway) -> None:
    """Twenty kills at random moments, twenty answers equal to the uninterrupted ones, usage and all."""
    seed = time.time_ns()
    draw = random.Random(seed)  # noqa: S311 - not a secret
    both(gateway)
    whole = {prompt: said(streamed(gateway, prompt)) for prompt in PROMPTS}
    assert all(len(text) > 60 for text, _, _ in whole.values())
    # A kill on a busy machine may come after the last token has left; such a one proves nothing.
    for number in range(2 * KILLS):
        prompt, after = PROMPTS[number % len(PROMPTS)], draw.randint(1, 20)
        lines = streamed(gateway, prompt, both(gateway), after)
        assert said(lines) == whole[prompt], (seed, prompt, after)
        if continued(gateway) == KILLS:
            return
    pytest.fail("too many kills came late")
