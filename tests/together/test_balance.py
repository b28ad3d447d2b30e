"""One name on two backends: both are used, and either may die."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from typing import Any

import openai
import psutil
import pytest

from core.testing import Gateway, eventually

pytestmark = pytest.mark.timeout(300)
BACKENDS = ("llamacpp", "torch")


def ask(client: openai.OpenAI, model: str, number: int = 0) -> str:
    """Ask, and return which backend answered."""
    answer = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=8
    )
    assert answer.parse().choices[0].finish_reason in {"stop", "length"}
    return answer.headers["x-gateway-backend"]


def deployments(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.health()["deployments"]
    return found


@pytest.mark.parametrize("name", ["smollm2-135m", "gpt-4"])
def test_a_name_is_balanced_over_both(gateway: Gateway, client: openai.OpenAI, name: str) -> None:
    """The bare name and an alias: 32 requests at once, and each backend gets some."""
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        served = Counter(pool.map(lambda number: ask(client, name, number), range(32)))

    assert set(served) == set(BACKENDS)
    eventually(lambda: gateway.health()["requests_in_flight"] == 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_deployment_can_be_addressed(client: openai.OpenAI, backend: str) -> None:
    assert {ask(client, f"smollm2-135m@{backend}", number) for number in range(3)} == {backend}


@pytest.mark.parametrize("victim", BACKENDS)
def test_either_may_be_killed(gateway: Gateway, client: openai.OpenAI, victim: str) -> None:
    """The other answers at once, health says so, and the victim is back by itself."""
    deployment = f"smollm2-135m@{victim}"
    (replica,) = deployments(gateway)[deployment]["replicas"]
    psutil.Process(replica["pid"]).kill()
    health = eventually(lambda: (found := gateway.health())["status"] == "degraded" and found, within_s=5)
    answered_by = ask(client, "gpt-4")

    (survivor,) = set(BACKENDS) - {victim}
    assert answered_by == survivor
    assert any(deployment in reason for reason in health["reasons"])
    assert {ask(client, "gpt-4", number) for number in range(4)} <= set(BACKENDS)
    eventually(lambda: gateway.health()["status"] == "healthy", within_s=120)
    assert ask(client, deployment) == victim
