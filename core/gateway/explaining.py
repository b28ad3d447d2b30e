"""Where a request would go and why, without sending it anywhere: the dry run of `core.gateway.search`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from core.api.protocols import RouteRequest
from core.api.requests import Task
from core.api.specs import Capability
from core.errors import GatewayError
from core.gateway.able import able_tiers, lacking
from core.gateway.fleet import Fleet
from core.gateway.ranking import Explanation, Ranker
from core.gateway.replica import Replica
from core.routing.table import Deployment, Route
from core.wire.control import ReplicaStatus

__all__ = ["ExplainedCandidate", "ExplainedRoute", "Options", "explain"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of the route fail over; null: never, or no limit."""

    attempt_timeout_s: float | None
    continuation: Literal["off", "same_backend", "any_backend"]
    hedge_after_s: float | None


class ExplainedCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A replica, or a deployment that has none, and what becomes of it.

    Attributes:
        tier: 1 is tried first; null: it is in none.
        rank: in its tier, 1 is the best; null: it is not asked. After a failed attempt those that are left are ranked
            anew.
        score: by what the policy ranks, lower is better; null where it does not say.
        chosen: this is where the request would go now.
        reason: why it is not asked; null when it would be, in its turn.
    """

    deployment: str
    replica: str | None = None
    tier: int | None = None
    rank: int | None = None
    score: float | None = None
    chosen: bool = False
    reason: str | None = None


class ExplainedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request would go.

    Attributes:
        policy: its name; ``policy_from`` is the table of the configuration that chose it.
        policy_problem: why it would not be followed, or could not be asked; null when it works.
        tiers: ids of the enabled deployments, best tier first.
        chosen: the replica that would be asked first, or the deployment that would be loaded; null: nobody.
        error: what the client would be told when nobody could do what is asked, however free and healthy; null
            otherwise, also when nobody can be asked now: the candidates' reasons say why.
        candidates: in the order in which they are ranked, then those that are not asked.
    """

    name: str
    task: Task
    kind: Literal["model", "alias", "deployment"]
    policy: str
    policy_from: str
    policy_problem: str | None
    options: Options
    tiers: list[list[str]]
    chosen: str | None
    error: str | None
    candidates: list[ExplainedCandidate]


def explain(
    fleet: Fleet,
    ranker: Ranker,
    route: Route,
    request: RouteRequest,
    *,
    needs: Mapping[Capability, str],
    behind: Sequence[Deployment],
) -> ExplainedRoute:
    """Say where a request would go. Nothing is changed by it.

    ``needs`` maps a capability to the request field that needs it; ``behind`` are all deployments that the name
    stands for, disabled ones too.
    """
    tiers = [_Tier(number, fleet) for number in range(1, len(route.tiers) + 1)]
    for tier, deployments in zip(tiers, route.tiers, strict=True):
        tier.see(deployments, request, needs)
        tier.rank(ranker, route, request)
    chosen = next((tier.first for tier in tiers if tier.first is not None), None)
    enabled = {one.id for tier in route.tiers for one in tier}
    rows = [row for tier in tiers for row in tier.rows]
    rows += [
        ExplainedCandidate(deployment=one.id, reason=one.disabled_because or "it is disabled")
        for one in behind
        if one.id not in enabled
    ]
    rows = [msgspec.structs.replace(row, chosen=row is chosen) for row in rows]
    return ExplainedRoute(
        name=route.name,
        task=request.task,
        kind=route.kind,
        policy=route.policy,
        policy_from=f'[routes."{route.policy_key}"]' if route.policy_key else "[routing]",
        policy_problem=next((tier.problem for tier in tiers if tier.problem), None),
        options=Options(
            attempt_timeout_s=route.options.attempt_timeout_s,
            continuation=route.options.continuation,
            hedge_after_s=route.options.hedge_after_s,
        ),
        tiers=[[one.id for one in tier] for tier in route.tiers],
        chosen=(chosen.replica or chosen.deployment) if chosen else None,
        error=_error(route, request.task, needs),
        candidates=sorted(rows, key=lambda row: (row.rank is None and not row.chosen, row.tier is None)),
    )


class _Tier:
    """One tier: its rows, the one of them that a request would go to, and what is wrong with the policy."""

    def __init__(self, number: int, fleet: Fleet) -> None:
        self.rows: list[ExplainedCandidate] = []
        self.first: ExplainedCandidate | None = None
        self.problem = ""
        self._number = number
        self._fleet = fleet
        self._askable: dict[str, Replica] = {}
        self._coming: list[Deployment] = []

    def see(self, deployments: Sequence[Deployment], request: RouteRequest, needs: Mapping[Capability, str]) -> None:
        """Sort them into those that can be asked now, those that can be loaded, and those that are left out."""
        now_s = asyncio.get_running_loop().time()
        for deployment in deployments:
            lack = lacking(deployment, request.task, needs)
            if lack is not None:
                what = f"the task {lack}" if lack == request.task else f"'{lack}'"
                self._leave_out(deployment, None, f"it does not support {what}")
                continue
            for replica in self._fleet.ready(deployment.id).values():
                if reason := _kept_out(replica, request.estimated_prompt_tokens, now_s):
                    self._leave_out(deployment, replica.status, reason)
                else:
                    self._askable[replica.name] = replica
            if self._fleet.is_coming(deployment):
                self._coming.append(deployment)
            else:
                self._unready(deployment)

    def rank(self, ranker: Ranker, route: Route, request: RouteRequest) -> None:
        """Ask the policy for the order of those that can be asked; those to be loaded come after them."""
        if self._askable:
            told = ranker.explain(route, request, [replica.candidate() for replica in self._askable.values()])
            self.problem = told.problem
            self._take(told)
        for deployment in self._coming:
            self._would_load(deployment)

    def _take(self, told: Explanation) -> None:
        for one in told.candidates:
            row = ExplainedCandidate(
                deployment=self._askable[one.replica].deployment.id,
                replica=one.replica,
                tier=self._number,
                rank=one.rank,
                score=one.score,
                reason=None if one.rank is not None else f"the policy {told.policy} leaves it out",
            )
            self.rows.append(row)
            if one.rank == 1:
                self.first = row

    def _would_load(self, deployment: Deployment) -> None:
        state = self._fleet.status(deployment.id).state
        what = "waits for it" if state == "starting" else "loads it"
        self._leave_out(deployment, None, f"it is {state}; a request that comes this far {what}")
        self.first = self.first or self.rows[-1]

    def _unready(self, deployment: Deployment) -> None:
        status = self._fleet.status(deployment.id)
        for one in status.replicas:
            if one.state != "ready":
                self._leave_out(deployment, one, _told(one.state, one.reason))
        if not status.replicas:
            self._leave_out(deployment, None, _told(status.state, status.reason))

    def _leave_out(self, deployment: Deployment, replica: ReplicaStatus | None, reason: str) -> None:
        self.rows.append(
            ExplainedCandidate(
                deployment=deployment.id,
                replica=replica.replica if replica else None,
                tier=self._number,
                reason=reason,
            )
        )


def _kept_out(replica: Replica, prompt_tokens: int, now_s: float) -> str:
    """Why this HTTP worker would not ask a ready replica now; empty when it would."""
    breaker = replica.breaker
    if not breaker.admits(now_s):
        left_s = breaker.probe_in_s(now_s)
        until = f"open for another {left_s:.1f} s" if left_s else "half open, and another request is the probe"
        return f"its circuit breaker is {until}: {breaker.reason}"
    if busy_s := replica.busy_for_s(prompt_tokens, now_s):
        return f"its queue is full for another {busy_s:.1f} s, by its own word"
    return ""


def _told(state: str, reason: str) -> str:
    return f"it is {state}" + (f": {reason}" if reason else "")


def _error(route: Route, task: Task, needs: Mapping[Capability, str]) -> str | None:
    try:
        if not route.tiers:
            raise GatewayError.model_disabled(route.name)
        able_tiers(route, task, needs)
    except GatewayError as error:
        return error.message
    return None
