"""The drills: what goes wrong, when, and how long a gateway may take to get over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from core.routing.routes import RouteOptions
from core.settings import Settings

__all__ = ["AFTER_TOKENS", "DRILLS", "TOKENS", "Drill", "limits_of", "time_of"]

TOKENS = 24
"""Words of each answer."""
AFTER_TOKENS = 5
_SOON_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """One way to fail.

    Attributes:
        id: names its deployment, ``<id>@faults``.
        says: for people, of the replica: it ``dies in mid-answer``.
        faults: settings of the faulty deployment.
        breaks: where the answer breaks off: before its first token, after some, or not at all.
        waits: what a gateway must wait for to notice: the time for a first token, or for a stall; or nothing.
        ends_process: the replica's process ends with it, and is started again.
        counts: the replica notes whom it hit; one that nobody reaches cannot.
        alone: there is no sound replica beside it.
        breaker: it fails until its circuit breaker opens, and then no more.
    """

    id: str
    says: str
    faults: Mapping[str, Any] = field(default_factory=dict)
    breaks: Literal["before", "after", "never"]
    waits: Literal["", "first_token", "stall"] = ""
    ends_process: bool = False
    counts: bool = True
    alone: bool = False
    breaker: bool = False


def _both(id_: str, says: str, *, ends_process: bool = False, **faults: Any) -> tuple[Drill, Drill]:
    before = Drill(
        id=f"{id_}-before",
        says=f"{says} before the first token",
        faults={**faults, "after_tokens": 0},
        breaks="before",
        ends_process=ends_process,
    )
    after = Drill(
        id=f"{id_}-after",
        says=f"{says} in mid-answer",
        faults={**faults, "after_tokens": AFTER_TOKENS},
        breaks="after",
        ends_process=ends_process,
    )
    return before, after


DRILLS: tuple[Drill, ...] = (
    Drill(id="fail-load", says="cannot load", faults={"fault": "fail_load"}, breaks="before", counts=False),
    Drill(id="refuse", says="refuses connections", faults={"fault": "refuse"}, breaks="before", counts=False),
    Drill(
        id="hang",
        says="hangs before the first token",
        faults={"fault": "hang"},
        breaks="before",
        waits="first_token",
    ),
    Drill(
        id="stall",
        says="stalls in mid-answer",
        faults={"fault": "stall", "after_tokens": AFTER_TOKENS},
        breaks="after",
        waits="stall",
        ends_process=True,
    ),
    *_both("die", "dies", fault="die", ends_process=True),
    *_both("engine-error", "reports an error", fault="engine_error"),
    *_both("broken", "breaks for good", fault="broken", ends_process=True),
    *_both("garbage", "writes garbage to its sockets", fault="garbage", garbage="bytes"),
    _both("message", "sends a message of no known form", fault="garbage", garbage="message")[1],
    _both("oversized", "sends a message over the limit", fault="garbage", garbage="oversized")[1],
    *_both("memory", "runs out of memory", fault="exhaust_memory", ballast_bytes=32 * 1024 * 1024),
    Drill(
        id="slow",
        says="is slow",
        faults={"fault": "slow", "first_token_s": 0.6, "tokens_per_s": 40.0},
        breaks="never",
    ),
    Drill(
        id="alone-before",
        says="reports an error, and there is no other",
        faults={"fault": "engine_error", "after_tokens": 0},
        breaks="before",
        alone=True,
    ),
    Drill(
        id="alone-after",
        says="dies in mid-answer, and there is no other",
        faults={"fault": "die", "after_tokens": AFTER_TOKENS},
        breaks="after",
        ends_process=True,
        alone=True,
    ),
    Drill(
        id="breaker",
        says="fails again and again, then recovers",
        faults={"fault": "engine_error", "after_tokens": 0},
        breaks="before",
        breaker=True,
    ),
)


def limits_of(drill: Drill, settings: Settings, options: RouteOptions) -> list[tuple[float, str]]:
    """What ends a request of this drill by these settings: seconds, and the setting that says so; the soonest first."""
    stall = (settings.supervisor.stall_timeout_s, "supervisor.stall_timeout_s")
    if drill.waits == "stall":
        return [stall]
    if drill.waits == "first_token":
        limits = [stall, (settings.limits.first_token_timeout_s, "limits.first_token_timeout_s")]
        if options.attempt_timeout_s is not None:
            limits.append((options.attempt_timeout_s, "attempt_timeout_s"))
        if options.hedge_after_s is not None:
            limits.append((options.hedge_after_s, "hedge_after_ms"))
        return sorted(limits)
    if drill.breaker:
        return [(settings.routing.breaker_open_s, "routing.breaker_open_s")]
    return [(_SOON_S, "")]


def time_of(drill: Drill, settings: Settings, options: RouteOptions) -> tuple[float, str]:
    """Seconds that a request of this drill takes at the longest by these settings, and the setting that says so."""
    return limits_of(drill, settings, options)[0]
