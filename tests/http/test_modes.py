"""The same service however Sanic is started, and models that are loaded for a request."""

from __future__ import annotations

import concurrent.futures
import time

import httpx
import pytest

ON_DEMAND = """
[limits]
keepalive_s = 0.2
[deployments."lazy@echo"]
source = "/dev/null"
load = "on_demand"
idle_unload_s = 0.5
settings = { load_s = 1.0, slots = 100 }
"""


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--single-process",), ("--dev",)])
def test_every_way_to_start_it_serves_the_same(start, eventually, options) -> None:
    with start("", *options) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        answer = gateway.chat("Hello there")

        assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
        assert answer.headers["x-gateway-replica"] == "echo@echo#0"
        assert gateway.health()["backends_available"] == ["echo"]


def test_a_hundred_first_requests_load_one_copy(start, eventually) -> None:
    with start(ON_DEMAND) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        assert gateway.health()["deployments"]["lazy@echo"]["state"] == "stopped"
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: gateway.chat(model="lazy"), range(100)))

        assert {answer.status_code for answer in answers} == {200}
        assert gateway.log.read_text().count("lazy@echo#0: starting") == 1


def test_a_stream_sends_comments_while_its_model_loads(start, eventually) -> None:
    with start(ON_DEMAND) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        body = {"model": "lazy", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=20) as response:
            lines = [line for line in response.iter_lines() if line]

        assert sum(line.startswith(":") for line in lines) >= 2
        assert lines[-1] == "data: [DONE]"


def test_a_model_that_is_unloaded_when_idle_never_fails_a_request(start, eventually) -> None:
    """Requests come about as rarely as it is unloaded, so that the two meet."""
    config = ON_DEMAND.replace("load_s = 1.0", "load_s = 0.1")
    with start(config) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        statuses = []
        for number in range(16):
            statuses.append(gateway.chat(model="lazy").status_code)
            time.sleep(0.40 + 0.02 * number)

        assert statuses == [200] * 16
        assert gateway.log.read_text().count("lazy@echo#0: starting") > 1
        eventually(lambda: gateway.health()["deployments"]["lazy@echo"]["state"] == "stopped")
