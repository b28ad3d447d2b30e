"""A circuit breaker as clients and operators see it, with two HTTP workers."""

from __future__ import annotations

import re

import httpx
import pytest

from core.testing import start_gateway

CONFIG = """
[plugins]
allow = ["faults"]
[routing]
breaker_failures = 3
breaker_open_s = 60
[deployments."broken@faults"]
source = "/dev/null"
settings = { fault = "engine_error" }
[deployments."sound@faults"]
source = "/dev/null"
"""


def chat(url: str, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 4}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"connection": "close"}, timeout=20)


def breaker_of(health: dict, replica: str) -> dict:
    replicas = health["deployments"][replica.rpartition("#")[0]]["replicas"]
    return next(one["breaker"] for one in replicas if one["replica"] == replica)


def state_in_metrics(url: str, replica: str) -> float | None:
    found = re.search(
        rf'^gateway_circuit_breaker_state{{[^}}]*replica="{replica}"[^}}]*}} (\S+)$',
        httpx.get(f"{url}/metrics").text,
        re.MULTILINE,
    )
    return float(found[1]) if found else None


@pytest.mark.timeout(60)
def test_an_open_breaker_is_in_health_metrics_and_errors(eventually) -> None:
    """Whichever HTTP worker is asked; the neighbour serves on; the dead worker's word is forgotten."""
    with start_gateway(CONFIG, "--workers", "2") as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        assert breaker_of(gateway.health(), "broken@faults#0") == {
            "state": "closed",
            "reason": None,
            "retry_in_s": None,
        }

        seen = [chat(gateway.url, "broken") for _ in range(16)]  # by pigeonhole one of the two has had three
        assert {one.status_code for one in seen} <= {502, 503}
        left_out = [one for one in seen if one.status_code == 503]
        assert left_out
        assert "circuit breaker" in left_out[0].json()["error"]["message"]
        assert 0 < int(left_out[0].headers["retry-after"]) <= 60

        health = gateway.health()
        breaker = breaker_of(health, "broken@faults#0")
        assert breaker["state"] == "open"
        assert breaker["reason"]
        assert 0 < breaker["retry_in_s"] <= 60
        assert {gateway.health()["status"] for _ in range(8)} == {"degraded"}
        assert state_in_metrics(gateway.url, "broken@faults#0") == 2
        assert chat(gateway.url, "sound").status_code == 200

        for worker in gateway.http_workers():
            worker.kill()
        eventually(lambda: state_in_metrics(gateway.url, "broken@faults#0") is None)
        eventually(lambda: gateway.health()["status"] == "healthy")
