"""A drill in which requests meet a faulty replica once: a stream, and one for the whole answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence

from core.testing.drills.asking import Heard, expected_text
from core.testing.drills.configuration import SOUND
from core.testing.drills.declared import AFTER_TOKENS, Drill, limits_of
from core.testing.drills.ground import Finding, Ground, Verdict

__all__ = ["meet"]

_GRACE_S = 15.0
"""What a request may take beyond the time that the settings name: a machine may be busy."""
_READY_S = 60.0
_MEET_S = 15.0
_SETTLED_S = 10.0
_REQUESTS_UNCOUNTED = 6
_APART_S = 2.0
_AT_ONCE = 3
"""Requests where each is kept for long: policies send the next ones elsewhere meanwhile."""


async def meet(drill: Drill, ground: Ground) -> Finding:
    """Run one drill."""
    return await _Meeting(drill, ground).run()


class _Meeting:
    """One drill at work."""

    def __init__(self, drill: Drill, ground: Ground) -> None:
        self._drill = drill
        self._ground = ground
        (self._longest_s, self._limit), *later = limits_of(drill, ground.settings, ground.options)
        # What would help where the first limit did not; too near, and the two cannot be told apart.
        self._next_s = next((at_s for at_s, _ in later if at_s >= self._longest_s + _APART_S), math.inf)
        # A replica that ends may have to come back before the second kind of request meets it.
        self._meet_s = _MEET_S + self._longest_s + 2 * ground.settings.supervisor.backoff_initial_s

    async def run(self) -> Finding:
        began_s = time.monotonic()
        drill = self._drill
        if not await self._ground.health.until(self._begun, within_s=_READY_S):
            seen = f"the replicas did not get ready in {_READY_S:g} s: {self._ground.faulty(drill)}"
            return Finding(drill=drill.id, says=drill.says, verdict="failed", took_s=_READY_S, seen=seen)
        kinds = await asyncio.gather(*(self._meet(streamed=streamed) for streamed in (True, False)))
        heard = [one for kind in kinds for one in kind]
        known = set(self._ground.hit(drill))
        hit = [one for one in heard if one.id in known]
        verdict: Verdict = "ok"
        seen = self._summary(heard, hit)
        if complaint := self._complaint(heard) or await self._still_there() or await self._lie():
            verdict, seen = "failed", complaint
        elif drill.counts and len({one.streamed for one in hit}) < len(kinds):
            verdict, seen = "unmet", f"of {len(heard)} requests {len(hit)} reached the faulty replica"
        return Finding(
            drill=drill.id,
            says=drill.says,
            verdict=verdict,
            took_s=time.monotonic() - began_s,
            longest_s=max(one.took_s for one in heard),
            seen=seen,
        )

    async def _meet(self, *, streamed: bool) -> list[Heard]:
        """Ask until the faulty replica was met, or the time for that is over."""
        until_s = time.monotonic() + self._meet_s
        heard: list[Heard] = []
        while not heard or time.monotonic() < until_s:
            if self._drill.ends_process:
                await self._ground.health.until(self._begun, within_s=until_s - time.monotonic())
            new = await asyncio.gather(
                *(self._ask(streamed=streamed) for _ in range(_AT_ONCE if self._drill.waits else 1))
            )
            heard += new
            enough = len(heard) >= _REQUESTS_UNCOUNTED
            if self._drill.counts:
                enough = not {one.id for one in new}.isdisjoint(self._ground.hit(self._drill))
            if enough or any(one.ending in {"late", "illegal"} for one in new):
                break
        return heard

    async def _ask(self, *, streamed: bool) -> Heard:
        return await self._ground.ask(self._drill, streamed=streamed, within_s=self._longest_s + _GRACE_S)

    def _begun(self) -> bool:
        """Whether all is as it should be before a request."""
        faulty, sound = self._ground.faulty(self._drill), self._ground.health.deployment(f"{SOUND}@faults")
        expected = {"starting", "failed"} if self._drill.faults["fault"] == "fail_load" else {"ready"}
        return faulty["state"] in expected and (sound["state"] == "ready" or self._drill.alone)

    # --- judging

    def _complaint(self, heard: Sequence[Heard]) -> str:
        """What is wrong with an answer; empty when nothing is with any."""
        hit = set(self._ground.hit(self._drill))
        return next((why for one in heard for why in self._wrong(one, hit=one.id in hit)), "")

    def _wrong(self, one: Heard, *, hit: bool) -> Iterator[str]:
        kind = "a stream" if one.streamed else "a request"
        expected = expected_text(one.prompt)
        if one.ending == "late":
            yield f"{kind} hung: {one.detail}"
        elif one.took_s > self._next_s:
            yield f"{kind} took {one.took_s:.1f} s, although {self._limit} is {self._longest_s:g} s"
        elif one.ending == "illegal":
            yield f"{kind} ended in no legal way: {one.detail}"
        elif one.ending == "whole" and one.text != expected:
            yield f"{kind} ended as if it were whole, with {one.text!r} instead of {expected!r}"
        elif not expected.startswith(one.text):
            yield f"{kind} had {one.text!r} before its error, which is no beginning of {expected!r}"
        elif one.ending == "error" and not self._may_fail(one, hit=hit):
            yield f"{kind} failed although a sound replica was up: {one.detail}"
        elif one.ending == "whole" and self._drill.alone:
            yield f"{kind} was answered although nobody could"

    def _may_fail(self, one: Heard, *, hit: bool) -> bool:
        if self._drill.alone:
            return True
        broken_off = hit and one.streamed and self._drill.breaks == "after"
        return broken_off and self._ground.options.continuation == "off" and len(one.text.split()) <= AFTER_TOKENS

    async def _still_there(self) -> str:
        """What goes on in a replica that lives, although its request was given up."""
        if math.isinf(self._next_s):
            return ""
        within_s = (self._next_s - self._longest_s) / 2
        if await self._ground.health.until(
            lambda: not self._ground.faulty(self._drill)["in_flight"], within_s=within_s
        ):
            return ""
        return f"a request that was given up after {self._limit} still runs in the faulty replica"

    async def _lie(self) -> str:
        """What ``/health`` does not say of the faulty replica although it is so."""
        drill = self._drill

        def truth() -> bool:
            replica = self._ground.replica(drill)
            if drill.faults["fault"] == "fail_load":
                return replica["state"] != "ready" and "fail_load" in (replica["reason"] or "")
            if drill.ends_process and self._ground.hit(self._drill):
                return bool(replica["restarts"]) or (replica["state"] != "ready" and bool(replica["reason"]))
            return True

        if await self._ground.health.until(truth, within_s=_SETTLED_S):
            return ""
        return f"/health does not tell: {self._ground.faulty(self._drill)}"

    def _summary(self, heard: Sequence[Heard], hit: Sequence[Heard]) -> str:
        errors = [one for one in heard if one.ending == "error"]
        answered = f"{len(heard) - len(errors)} of {len(heard)} answered whole"
        met = f", {len(hit)} of them hit" if self._drill.counts else ""
        ended = f"; {len(errors)} ended with an error, as they must" if errors else ""
        return f"{answered}{met}{ended}; the longest took {max((one.took_s for one in heard), default=0.0):.2f} s"
