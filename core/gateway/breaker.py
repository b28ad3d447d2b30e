"""The circuit breaker of one replica: whether it is asked at all. Pure; the clock is given."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Literal

from core.settings import RoutingTable
from core.wire.control import BreakerState

__all__ = ["Breaker", "FailureKind"]

FailureKind = Literal["connect", "death", "engine", "timeout"]

_TOLD: dict[FailureKind, str] = {
    "connect": "it could not be reached",
    "death": "its process ended",
    "engine": "its engine failed",
    "timeout": "it let the time pass",
}
_JITTER = 0.2
# A process that ends refuses all who are about to connect, before a snapshot takes it away: that is one failure.
_ONE_EVENT_S = 0.25


class Breaker:
    """Closed, it lets every request through; open, none; half-open, one at a time: the probe.

    It belongs to a replica's name, not to a process: a replica that keeps dying stays out of the way. Who asks
    calls `enter` first, and then `succeeded`, `failed` or `left` with what that returned. Limits are given with
    each failure, so that a change of the configuration holds from the next one on.

    Attributes:
        state: ``open`` until a probe begins, also when its time is over; ``half_open`` while one is under way.
        reason: why it is not closed, for people; else empty.
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self.state: BreakerState = "closed"
        self.reason = ""
        self._draw = draw
        self._failed_at_s: deque[float] = deque()
        self._open_s = 0.0
        self._probe_at_s = 0.0
        self._closed_at_s = 0.0
        self._probes = 0
        self._refused: tuple[str, float] = ("", 0.0)
        self._dead = ""
        self._process = ""
        self._may_hurry = False

    def admits(self, now_s: float) -> bool:
        """Whether a request may be sent there now."""
        if self.state == "open":
            return now_s >= self._probe_at_s
        return self.state == "closed"

    def probe_in_s(self, now_s: float) -> float:
        """Seconds until a request may probe; 0 when one may now, or when the breaker is not open."""
        return max(0.0, self._probe_at_s - now_s) if self.state == "open" else 0.0

    def enter(self) -> int:
        """Note that a request is sent, as `admits` allowed; return the number of its probe, 0 if it is none."""
        if self.state == "closed":
            return 0
        self.state = "half_open"
        self._probes += 1
        return self._probes

    def began(self, process: str, now_s: float) -> bool:
        """A process has become ready; return whether it may be probed sooner for that: the failures were another's.

        That is so once after failures opened the breaker. If that probe fails, the processes after it wait as long as
        any: those that end with their first request shall not cost a request each.
        """
        successor = process != self._process != ""
        self._process = process
        if not successor or self.admits(now_s) or self.state != "open" or not self._may_hurry:
            return False
        self._probe_at_s, self._may_hurry = now_s, False
        return True

    def greeted(self, process: str) -> None:
        """A process has greeted on a new connection: it lives, so that its next break is another one."""
        if process == self._dead:
            self._dead = ""

    def succeeded(self, probe: int, now_s: float) -> None:
        """The replica gave an event. Failures stay in the window: one that fails every other time is no good."""
        if self._is_pending(probe):
            self.state, self.reason, self._closed_at_s = "closed", "", now_s

    def left(self, probe: int) -> None:
        """The request ended without a verdict: cancelled, turned away, or itself at fault. The next one probes."""
        if self._is_pending(probe):
            self.state = "open"

    def failed(
        self, kind: FailureKind, now_s: float, limits: RoutingTable, *, probe: int = 0, process: str = ""
    ) -> bool:
        """The replica failed; return whether that counted.

        ``process`` names its process: the end of one counts once, however many requests it cut, and whenever they
        notice. A failed probe opens the breaker again, for twice the time, even if it had given events before: for
        one window after them.
        """
        known = self._is_known(kind, now_s, process)
        late = self.state == "closed" and now_s - self._closed_at_s >= limits.breaker_window_s
        if probe == self._probes > 0 and self.state != "open" and not late:
            self._open(f"a probe failed: {_TOLD[kind]}", now_s, min(2 * self._open_s, limits.breaker_open_max_s))
        elif self.state == "closed" and not known:
            self._failed_at_s.append(now_s)
            while self._failed_at_s[0] < now_s - limits.breaker_window_s:
                self._failed_at_s.popleft()
            if len(self._failed_at_s) >= limits.breaker_failures:
                count, within_s = len(self._failed_at_s), limits.breaker_window_s
                reason = f"{count} failures within {within_s:g} s, the last one: {_TOLD[kind]}"
                self._may_hurry = True
                self._open(reason, now_s, min(limits.breaker_open_s, limits.breaker_open_max_s))
        return not known

    def _open(self, reason: str, now_s: float, open_s: float) -> None:
        self.state, self.reason = "open", reason
        self._open_s = open_s
        self._probe_at_s = now_s + open_s * (1 - _JITTER * self._draw())
        self._failed_at_s.clear()

    def _is_pending(self, probe: int) -> bool:
        return self.state == "half_open" and probe == self._probes

    def _is_known(self, kind: FailureKind, now_s: float, process: str) -> bool:
        """Whether another request has already met this very failure."""
        if not process:
            return False
        if kind == "death":
            known, self._dead = process == self._dead, process
            return known
        if kind == "connect":
            before, at_s = self._refused
            if process == self._dead or (process == before and now_s - at_s < _ONE_EVENT_S):
                return True
            self._refused = process, now_s
        return False
