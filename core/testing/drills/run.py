"""Runs drills against a gateway that serves their configuration, all at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from core.routing.routes import RouteOptions
from core.settings import Settings
from core.testing.drills.breaking import break_open
from core.testing.drills.declared import Drill
from core.testing.drills.ground import Finding, Ground
from core.testing.drills.health import health_of
from core.testing.drills.meeting import meet

__all__ = ["run_drills"]

_SETTLED_S = 10.0
_POLICY_FAILURES = re.compile(r'^gateway_policy_failures_total\{policy="(.*)",reason="(.*)"\} (\S+)', re.MULTILINE)


async def run_drills(
    url: str, drills: Sequence[Drill], settings: Settings, options: RouteOptions, folder: Path
) -> list[Finding]:
    """Run them at once and return a finding for each, and those of what they left behind.

    ``folder`` is that of `configuration_of`, whose configuration the gateway at ``url`` serves.
    """
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, trust_env=False) as client, health_of(client) as health:
        ground = Ground(client=client, health=health, settings=settings, options=options, folder=folder)
        findings = await asyncio.gather(*(_find(drill, ground) for drill in drills))
        return [*findings, await _policy(ground), await _left_behind(ground)]


async def _find(drill: Drill, ground: Ground) -> Finding:
    began_s = time.monotonic()
    try:
        return await (break_open if drill.breaker else meet)(drill, ground)
    except (httpx.HTTPError, LookupError, ValueError) as error:
        why = f"the gateway answers strangely: {type(error).__name__}: {error}"
        took_s = time.monotonic() - began_s
        return Finding(drill=drill.id, says=drill.says, verdict="failed", took_s=took_s, seen=why)


async def _policy(ground: Ground) -> Finding:
    """No request had to do without the policy."""
    page = (await ground.client.get("/metrics")).text
    failures = [
        f"{policy}: {reason}, {float(count):.0f} times" for policy, reason, count in _POLICY_FAILURES.findall(page)
    ]
    seen = "it ranked every request" if not failures else f"least_loaded took its place ({'; '.join(failures)})"
    return Finding(drill="policy", says="meanwhile, the policy", verdict="failed" if failures else "ok", seen=seen)


async def _left_behind(ground: Ground) -> Finding:
    """After all of them, nothing is in flight or queued anywhere."""
    began_s = time.monotonic()

    def counts() -> dict[str, int]:
        body = ground.health.body
        found = {"requests_in_flight": body["requests_in_flight"]}
        for name, one in body["deployments"].items():
            found |= {f"{name} {key}": one[key] for key in ("in_flight", "queued")}
        return {name: count for name, count in found.items() if count}

    settled = await ground.health.until(lambda: not counts(), within_s=_SETTLED_S)
    return Finding(
        drill="left-behind",
        says="afterwards",
        verdict="ok" if settled else "failed",
        took_s=time.monotonic() - began_s,
        seen="nothing is in flight" if settled else f"still in flight: {counts()}",
    )
