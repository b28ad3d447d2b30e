"""How often a worker may try again: a budget that is a share of its traffic, and the wait before a retry."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from core.gateway.metrics import count_budget_exhausted
from core.settings import RoutingTable

__all__ = ["RetryBudget", "backoff_s"]

_log = logging.getLogger("gateway.retries")
# In this time an idle worker's budget fills up by itself.
_REFILL_S = 120.0
_QUIET_S = 60.0
_MOST_DOUBLINGS = 60


class RetryBudget:
    """A token bucket: each request puts ``retry_share`` in, each retry, continuation and hedge takes 1.

    It begins full, with ``retry_burst``, and fills up by itself within two minutes. Where every request fails, retries
    are thus a share of the traffic and cannot become a storm. Settings are given with each call, so that a change of
    the configuration holds at once. Times are in seconds of one clock.
    """

    def __init__(self) -> None:
        self._spent = 0.0
        self._at_s: float | None = None
        self._refused = 0
        self._quiet_until_s = float("-inf")

    def earn(self, routing: RoutingTable) -> None:
        """A request has come."""
        self._spent = max(0.0, self._spent - routing.retry_share)

    def take(self, routing: RoutingTable, now_s: float) -> bool:
        """Pay for one more attempt; False: there is not enough left, and nothing is paid."""
        if self._at_s is not None:
            refill = (now_s - self._at_s) * routing.retry_burst / _REFILL_S
            self._spent = max(0.0, self._spent - refill)
        self._at_s = now_s
        if self._spent + 1 <= routing.retry_burst:
            self._spent += 1
            return True
        self._complain(now_s)
        return False

    def _complain(self, now_s: float) -> None:
        count_budget_exhausted()
        self._refused += 1
        if now_s < self._quiet_until_s:
            return
        _log.warning(
            "the retry budget is empty (routing.retry_share, routing.retry_burst): %d more attempts were not made; "
            "failures go to the clients. /health says which replicas fail",
            self._refused,
        )
        self._refused, self._quiet_until_s = 0, now_s + _QUIET_S


def backoff_s(retries: int, routing: RoutingTable, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the next retry of a request that was retried so often already.

    The first retry is made at once; before the others any time up to a limit that doubles ("full jitter"), so that
    requests which failed together do not come back together.
    """
    if retries == 0:
        return 0.0
    longest_s = routing.retry_backoff_s * 2.0 ** min(retries - 1, _MOST_DOUBLINGS)
    return draw() * min(longest_s, routing.retry_backoff_max_s)
