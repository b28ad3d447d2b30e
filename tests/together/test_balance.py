"""One name on all backends: all are used, and any may die."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import psutil
import pytest

from core.testing import Gateway, eventually

pytestmark = pytest.mark.timeout(600)
STREAMS = 32


@pytest.fixture(params=["gateway", "gateway_apart"], scope="module")
def running(request: pytest.FixtureRequest) -> Gateway:
    """All backends in one environment, or each in its own."""
    found: Gateway = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def asking(running: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0, timeout=240) as made:
        yield made


def ask(client: openai.OpenAI, model: str, number: int = 0) -> str:
    """Ask, and return which backend answered."""
    answer = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=8
    )
    assert answer.parse().choices[0].finish_reason in {"stop", "length"}
    return answer.headers["x-gateway-backend"]


@dataclass
class Streamed:
    """One stream, as its client saw it."""

    backend: str = ""
    chunks: int = 0
    finish: str | None = None
    error: Exception | None = None


def stream(client: openai.OpenAI, number: int, begun: threading.Semaphore) -> Streamed:
    """Ask for a stream under the alias and read it to its end, whichever that is."""
    seen = Streamed()
    messages: Any = [{"role": "user", "content": f"Write an essay about the number {number}."}]
    try:
        with client.chat.completions.with_streaming_response.create(
            model="gpt-4", messages=messages, max_tokens=24, temperature=0, stream=True
        ) as response:
            seen.backend = response.headers["x-gateway-backend"]
            for chunk in response.parse():
                if not seen.chunks:
                    begun.release()
                seen.chunks += 1
                seen.finish = (chunk.choices[0].finish_reason if chunk.choices else None) or seen.finish
    except (openai.APIError, openai.APIConnectionError) as error:
        seen.error = error
    return seen


def deployments(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.health()["deployments"]
    return found


def pid_of(gateway: Gateway, backend: str) -> int:
    (replica,) = deployments(gateway)[f"smollm2-135m@{backend}"]["replicas"]
    return int(replica["pid"])


def test_each_runs_where_it_should(running: Gateway, backends: frozenset[str], request: pytest.FixtureRequest) -> None:
    """Each replica's interpreter is its environment's."""
    used = {psutil.Process(pid_of(running, backend)).cmdline()[0] for backend in backends}

    assert len(used) == (len(backends) if "gateway_apart" in request.node.name else 1)


@pytest.mark.parametrize("name", ["smollm2-135m", "gpt-4"])
def test_a_name_is_balanced_over_all(
    running: Gateway, asking: openai.OpenAI, backends: frozenset[str], name: str
) -> None:
    """The bare name and an alias: 32 requests at once, and each backend gets some."""
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        served = Counter(pool.map(lambda number: ask(asking, name, number), range(STREAMS)))

    assert set(served) == backends
    eventually(lambda: running.health()["requests_in_flight"] == 0)


def test_a_deployment_can_be_addressed(client: openai.OpenAI, backend: str) -> None:
    assert {ask(client, f"smollm2-135m@{backend}", number) for number in range(3)} == {backend}


def test_any_may_be_killed(running: Gateway, asking: openai.OpenAI, backends: frozenset[str], backend: str) -> None:
    """Amid 32 streams: what had not begun is answered by others; what had begun there ends in an error."""
    victim = psutil.Process(pid_of(running, backend))
    begun = threading.Semaphore(0)
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, asking, number, begun) for number in range(STREAMS)]
        for _ in range(4):  # the first few are on their way, the others wait
            assert begun.acquire(timeout=60)
        victim.kill()
        seen = [one.result() for one in streams]

    for one in seen:
        if one.error is not None:
            assert one.backend == backend, one
            assert one.chunks, one  # or another backend would have answered
        else:
            assert one.finish in {"stop", "length"}, one
    whole = [one for one in seen if one.error is None]
    assert len(whole) >= STREAMS // 2
    assert {one.backend for one in whole} >= backends - {backend}
    assert any(f"smollm2-135m@{backend}" in line for line in running.log.read_text().splitlines() if "SIGKILL" in line)
    eventually(lambda: running.health()["status"] == "healthy", within_s=120)
    assert ask(asking, f"smollm2-135m@{backend}") == backend
    eventually(lambda: running.health()["requests_in_flight"] == 0)


def test_health_says_who_is_dead(gateway: Gateway, client: openai.OpenAI, backend: str) -> None:
    """While the others answer."""
    psutil.Process(pid_of(gateway, backend)).kill()
    health = eventually(lambda: (found := gateway.health())["status"] == "degraded" and found, within_s=5)
    answered_by = ask(client, "gpt-4")

    assert answered_by != backend
    assert any(f"smollm2-135m@{backend}" in reason for reason in health["reasons"])
    eventually(lambda: gateway.health()["status"] == "healthy", within_s=120)
