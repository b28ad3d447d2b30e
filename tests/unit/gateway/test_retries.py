"""The retry budget never becomes a storm, and comes back; waits are short and spread."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.gateway.retries import RetryBudget, backoff_s
from core.settings import RoutingTable

ROUTING = RoutingTable(retry_share=0.2, retry_burst=10)


def test_it_begins_full() -> None:
    budget = RetryBudget()

    assert sum(budget.take(ROUTING, 0.0) for _ in range(50)) == 10


def test_where_every_request_fails_retries_are_a_share_of_them() -> None:
    budget = RetryBudget()
    granted = 0
    for _ in range(1000):
        budget.earn(ROUTING)
        granted += budget.take(ROUTING, 0.0)

    assert granted == pytest.approx(200 + 10, abs=3)


def test_an_idle_worker_gets_it_back() -> None:
    budget = RetryBudget()
    while budget.take(ROUTING, 0.0):
        pass

    assert budget.take(ROUTING, 12.0)
    assert not budget.take(ROUTING, 12.0)
    assert sum(budget.take(ROUTING, 1000.0) for _ in range(50)) == 10


def test_a_burst_of_0_switches_retries_off() -> None:
    budget, off = RetryBudget(), RoutingTable(retry_burst=0)
    for _ in range(100):
        budget.earn(off)

    assert not budget.take(off, 1000.0)


@given(
    steps=st.lists(st.tuples(st.floats(0, 60), st.booleans())),
    share=st.floats(0, 2),
    burst=st.floats(0, 20),
)
def test_never_more_than_was_earned(steps: list[tuple[float, bool]], share: float, burst: float) -> None:
    """In any history: retries are at most the burst, a share of the requests, and what time gave back."""
    budget, routing = RetryBudget(), RoutingTable(retry_share=share, retry_burst=burst)
    now_s = earned = taken = 0.0
    for wait_s, request in steps:
        now_s += wait_s
        if request:
            budget.earn(routing)
            earned += share
        else:
            taken += budget.take(routing, now_s)
        assert taken <= burst + earned + burst * now_s / 120 + 1e-6


def test_an_empty_budget_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    budget, off = RetryBudget(), RoutingTable(retry_burst=0)
    with caplog.at_level(logging.WARNING):
        for second in range(121):
            budget.take(off, float(second))

    assert [record.args for record in caplog.records] == [(1,), (60,), (60,)]


@given(retries=st.integers(1, 10_000), draw=st.floats(0, 1))
def test_waits_stay_under_a_limit_that_doubles(retries: int, draw: float) -> None:
    routing = RoutingTable(retry_backoff_s=0.1, retry_backoff_max_s=2.0)
    longest = min(0.1 * 2 ** min(retries - 1, 50), 2.0)

    assert backoff_s(retries, routing, lambda: draw) == pytest.approx(draw * longest)


def test_the_first_retry_is_made_at_once() -> None:
    assert backoff_s(0, RoutingTable(), lambda: 1.0) == 0.0
