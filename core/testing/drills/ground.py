"""What the drills of one gateway share, and what comes of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from core.routing.routes import RouteOptions
from core.settings import Settings
from core.testing.drills.asking import Heard, ask
from core.testing.drills.configuration import journal_of
from core.testing.drills.declared import Drill
from core.testing.drills.health import Health

__all__ = ["Finding", "Ground", "Verdict"]

Verdict = Literal["ok", "failed", "unmet", "skipped"]

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """A gateway that serves the configuration of some drills (`core.testing.drills.configuration`)."""

    client: httpx.AsyncClient
    health: Health
    settings: Settings
    options: RouteOptions
    folder: Path

    async def ask(self, drill: Drill, *, streamed: bool, within_s: float) -> Heard:
        """Ask what has never been asked, so that policies that look at the request see a new one."""
        number = next(_numbers)
        prompt = f"{number * 7919}: tell me of case {number}, and of all that came of it."
        return await ask(self.client, f"drill/{drill.id}", prompt, streamed=streamed, within_s=within_s)

    def hit(self, drill: Drill) -> list[str]:
        """Ids of the requests that the faulty replica has noted as hit."""
        journal = journal_of(drill, self.folder)
        return journal.read_text().split() if journal.exists() else []

    def faulty(self, drill: Drill) -> dict[str, Any]:
        """What ``/health`` says of the faulty deployment."""
        return self.health.deployment(f"{drill.id}@faults")

    def replica(self, drill: Drill) -> dict[str, Any]:
        """What it says of the deployment's one replica; all is unknown while the supervisor is away."""
        unknown = {"state": "unknown", "reason": None, "restarts": 0, "breaker": {"state": "unknown"}}
        found: dict[str, Any] = next(iter(self.faulty(drill)["replicas"]), unknown)
        return found
