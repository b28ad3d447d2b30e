"""The drill of the circuit breaker: it opens, keeps requests away, and closes when the replica is sound again."""

from __future__ import annotations

import time

from core.testing.drills.asking import Heard, expected_text
from core.testing.drills.configuration import SOUND
from core.testing.drills.declared import Drill
from core.testing.drills.ground import Finding, Ground, Verdict

__all__ = ["break_open"]

_READY_S = 60.0
_OPEN_S = 30.0
_ASK_S = 20.0
_TOLD_S = 3.0
_PROBED_S = 20.0
_SURELY_OPEN = 0.6
"""Of the time for which a breaker is open, which is drawn a little: no request may be let through so long."""


async def break_open(drill: Drill, ground: Ground) -> Finding:
    """Run it; the replica of ``drill`` fails exactly as often as it takes to open the breaker."""
    return await _Breaking(drill, ground).run()


class _Breaking:
    def __init__(self, drill: Drill, ground: Ground) -> None:
        self._drill = drill
        self._ground = ground
        self._routing = ground.settings.routing
        self._heard: list[Heard] = []
        self._opened_s = self._closed_s = 0.0

    async def run(self) -> Finding:
        began_s = time.monotonic()
        verdict, seen = await self._run()
        return Finding(
            drill=self._drill.id,
            says=self._drill.says,
            verdict=verdict,
            took_s=time.monotonic() - began_s,
            longest_s=max((one.took_s for one in self._heard), default=0.0),
            seen=seen,
        )

    async def _run(self) -> tuple[Verdict, str]:
        health, failures = self._ground.health, self._routing.breaker_failures
        both = (f"{self._drill.id}@faults", f"{SOUND}@faults")
        if not await health.until(
            lambda: all(health.deployment(one)["state"] == "ready" for one in both), within_s=_READY_S
        ):
            return "failed", f"the replicas did not get ready in {_READY_S:g} s"
        if not await self._fail():
            met = len(self._ground.hit(self._drill))
            return "unmet", f"{met} of {len(self._heard)} requests reached the faulty replica in {_OPEN_S:g} s"
        if not await health.until(lambda: self._breaker() in {"open", "half_open"}, within_s=_TOLD_S):
            return "failed", f"it failed {failures} times in a row, and /health says that its breaker is closed"
        if wrong := await self._recover():
            return "failed", wrong
        for one in self._heard:
            if one.ending != "whole" or one.text != expected_text(one.prompt):
                return "failed", f"a request was not answered whole: {one.ending}: {one.detail}"
        open_s = self._closed_s - self._opened_s
        return "ok", f"opened after {failures} failures, closed after {open_s:.1f} s; {len(self._heard)} answered whole"

    async def _fail(self) -> bool:
        """Ask until it has failed often enough; return whether it has, in the time for that."""
        until_s = time.monotonic() + _OPEN_S
        while time.monotonic() < until_s:
            await self._ask()
            if len(self._ground.hit(self._drill)) >= self._routing.breaker_failures:
                self._opened_s = time.monotonic()
                return True
        return False

    async def _recover(self) -> str:
        """Ask until the breaker is closed; return what goes wrong meanwhile."""
        while self._breaker() != "closed":
            open_s = time.monotonic() - self._opened_s
            if open_s > self._routing.breaker_open_s + _PROBED_S:
                return f"it is sound again, and its breaker is {self._breaker()} after {open_s:.1f} s"
            one = await self._ask()
            away = time.monotonic() - self._opened_s < _SURELY_OPEN * self._routing.breaker_open_s
            if away and one.replica.startswith(f"{self._drill.id}@"):
                return f"a request reached it {open_s:.1f} s after its breaker opened"
        self._closed_s = time.monotonic()
        return ""

    async def _ask(self) -> Heard:
        self._heard.append(await self._ground.ask(self._drill, streamed=False, within_s=_ASK_S))
        return self._heard[-1]

    def _breaker(self) -> str:
        return str(self._ground.replica(self._drill)["breaker"]["state"])
