"""Runs drills against a gateway that serves their configuration, all at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from core.routing.routes import RouteOptions
from core.settings import Settings
from core.testing.drills.asking import Heard, ask, expected_text
from core.testing.drills.configuration import journal_of
from core.testing.drills.declared import AFTER_TOKENS, Drill, time_of

__all__ = ["Finding", "Verdict", "run_drills"]

Verdict = Literal["ok", "failed", "unmet", "skipped"]

_GRACE_S = 15.0
"""What a request may take beyond the time that the settings name: a machine may be busy."""
_MEET_S = 15.0
_POLL_S = 0.1
_SETTLED_S = 10.0
_REQUESTS_UNCOUNTED = 6
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of one drill.

    Attributes:
        drill: its id.
        says: what went wrong with the replica, for people.
        verdict: ``unmet``: the policy sent nothing to the faulty replica, so nothing was learnt; ``skipped``: it would
            take too long.
        took_s: of the drill as a whole.
        longest_s: of a request.
        seen: what came of the requests.
    """

    drill: str
    says: str
    verdict: Verdict
    took_s: float = 0.0
    longest_s: float = 0.0
    seen: str


async def run_drills(
    url: str, drills: Sequence[Drill], settings: Settings, options: RouteOptions, folder: Path
) -> list[Finding]:
    """Run them at once and return a finding for each, and one for what they left behind.

    ``folder`` is that of `configuration_of`, whose configuration the gateway at ``url`` serves.
    """
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits) as client, _health_of(client) as health:
        ground = _Ground(client=client, health=health, settings=settings, options=options, folder=folder)
        findings = list(await asyncio.gather(*(_Run(drill, ground).run() for drill in drills)))
        findings.append(await _left_behind(health))
        return findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ground:
    """What all drills share."""

    client: httpx.AsyncClient
    health: _Health
    settings: Settings
    options: RouteOptions
    folder: Path


class _Run:
    """One drill."""

    def __init__(self, drill: Drill, ground: _Ground) -> None:
        self._drill = drill
        self._client = ground.client
        self._health = ground.health
        self._options = ground.options
        self._journal = journal_of(drill, ground.folder)
        self._longest_s, _ = time_of(drill, ground.settings, ground.options)
        # A replica that ends may have to come back before the second kind of request meets it.
        self._meet_s = _MEET_S + self._longest_s + 2 * ground.settings.supervisor.backoff_initial_s

    async def run(self) -> Finding:
        began_s = time.monotonic()
        drill = self._drill
        try:
            ready = await self._health.until(self._begun, within_s=60.0)
            complaint = "" if ready else "it did not get ready in 60 s"
            kinds = await asyncio.gather(*(self._meet(streamed=streamed) for streamed in (True, False)))
            heard = [one for kind in kinds for one in kind]
            complaint = complaint or self._complaint(heard) or await self._lie()
            hit = [one for one in heard if one.id in self._hit()]
            if complaint:
                verdict: Verdict = "failed"
            elif drill.counts and len({one.streamed for one in hit}) < 2:
                verdict, complaint = "unmet", f"of {len(heard)} requests {len(hit)} reached the faulty replica"
            else:
                verdict = "ok"
        except httpx.HTTPError as error:
            heard, hit, verdict, complaint = [], [], "failed", f"{type(error).__name__}: {error}"
        return Finding(
            drill=drill.id,
            says=drill.says,
            verdict=verdict,
            took_s=time.monotonic() - began_s,
            longest_s=max((one.took_s for one in heard), default=0.0),
            seen=complaint or self._summary(heard, hit),
        )

    async def _meet(self, *, streamed: bool) -> list[Heard]:
        """Ask until the faulty replica was met, or the time for that is over."""
        until_s = time.monotonic() + self._meet_s
        heard: list[Heard] = []
        while time.monotonic() < until_s:
            if self._drill.ends_process:
                await self._health.until(self._begun, within_s=until_s - time.monotonic())
            number = next(_numbers)
            prompt = f"{number * 7919}: tell me of case {number}, and of all that came of it."
            within_s = self._longest_s + _GRACE_S
            heard.append(
                await ask(self._client, f"drill/{self._drill.id}", prompt, streamed=streamed, within_s=within_s)
            )
            enough = heard[-1].id in self._hit() if self._drill.counts else len(heard) >= _REQUESTS_UNCOUNTED
            if enough or heard[-1].ending in {"late", "illegal"}:
                break
        return heard

    def _hit(self) -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return set(self._journal.read_text().split())
        return set()

    def _begun(self) -> bool:
        """Whether the faulty replica is as it should be before a request."""
        faulty, sound = self._deployment(), self._health.deployment("sound@faults")
        expected = {"starting", "failed"} if self._drill.faults["fault"] == "fail_load" else {"ready"}
        return faulty["state"] in expected and (sound["state"] == "ready" or self._drill.alone)

    def _deployment(self) -> dict[str, Any]:
        return self._health.deployment(f"{self._drill.id}@faults")

    # --- judging

    def _complaint(self, heard: Sequence[Heard]) -> str:
        """What is wrong with an answer; empty when nothing is with any."""
        hit = self._hit()
        return next((why for one in heard for why in self._wrong(one, hit=one.id in hit)), "")

    def _wrong(self, one: Heard, *, hit: bool) -> Iterator[str]:
        kind = "a stream" if one.streamed else "a request"
        expected = expected_text(one.prompt)
        if one.ending == "late":
            yield f"{kind} hung: {one.detail}"
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
        return broken_off and self._options.continuation == "off" and len(one.text.split()) <= AFTER_TOKENS

    async def _lie(self) -> str:
        """What ``/health`` does not say of the faulty replica although it is so."""
        drill = self._drill

        def truth() -> bool:
            (replica,) = self._deployment()["replicas"]
            if drill.faults["fault"] == "fail_load":
                return replica["state"] != "ready" and "fail_load" in (replica["reason"] or "")
            if drill.ends_process and self._hit():
                return bool(replica["restarts"]) or (replica["state"] != "ready" and bool(replica["reason"]))
            return True

        if await self._health.until(truth, within_s=_SETTLED_S):
            return ""
        return f"/health does not tell: {self._deployment()}"

    def _summary(self, heard: Sequence[Heard], hit: Sequence[Heard]) -> str:
        errors = [one for one in heard if one.ending == "error"]
        answered = f"{len(heard) - len(errors)} of {len(heard)} answered whole"
        met = f", {len(hit)} of them hit" if self._drill.counts else ""
        ended = f"; {len(errors)} ended with an error, as they must" if errors else ""
        return f"{answered}{met}{ended}; the longest took {max((one.took_s for one in heard), default=0.0):.2f} s"


async def _left_behind(health: _Health) -> Finding:
    """After all of them, nothing is in flight or queued anywhere."""
    began_s = time.monotonic()

    def counts() -> dict[str, int]:
        found = {"requests_in_flight": health.body["requests_in_flight"]}
        for name, one in health.body["deployments"].items():
            found |= {f"{name} {key}": one[key] for key in ("in_flight", "queued")}
        return {name: count for name, count in found.items() if count}

    settled = await health.until(lambda: not counts(), within_s=_SETTLED_S)
    return Finding(
        drill="left-behind",
        says="afterwards",
        verdict="ok" if settled else "failed",
        took_s=time.monotonic() - began_s,
        seen="nothing is in flight" if settled else f"still in flight: {counts()}",
    )


# --- /health


class _Health:
    """The last ``GET /health``."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.body: dict[str, Any] = {"deployments": {}}
        self._news = asyncio.Event()

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                self.body = (await self._client.get("/health", timeout=5.0)).json()
                self._news.set()
                self._news = asyncio.Event()
            await asyncio.sleep(_POLL_S)

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.body["deployments"].get(name, {"state": "unknown", "replicas": []})
        return found

    async def until(self, test: Callable[[], bool], *, within_s: float) -> bool:
        """Wait until what is asked now, or later, passes the test; return whether it did in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    await self._news.wait()
                    if test():
                        return True
        return False


@contextlib.asynccontextmanager
async def _health_of(client: httpx.AsyncClient) -> AsyncIterator[_Health]:
    health = _Health(client)
    following = asyncio.create_task(health.follow())
    try:
        yield health
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
