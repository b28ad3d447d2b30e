"""From a route to an answer: tiers, ranking, failing over.

A request is tried on one candidate after another until the first event has arrived; from then on the
answer belongs to that replica, and it ends whole or with an error. docs/failover.md has the rules.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from core.api.messages import EngineEvent
from core.api.protocols import RouteRequest
from core.api.requests import EngineRequest
from core.api.specs import Capability
from core.errors import GatewayError
from core.gateway.able import able_tiers
from core.gateway.answer import Answer, Deadline, FailureReason, ReplicaFailedError
from core.gateway.fleet import Fleet
from core.gateway.hedge import hedged
from core.gateway.metrics import count_retry
from core.gateway.ranking import Ranker
from core.gateway.replica import Replica
from core.gateway.retries import RetryBudget, backoff_s
from core.gateway.work import Work
from core.routing.table import Deployment, Route
from core.settings import RoutingTable
from core.wire.frames import Rejected, Submit

__all__ = ["Search"]

_log = logging.getLogger("gateway.search")
# A request may be what kills a replica: it shall not do so to each successor.
_MOST_PROCESSES = 2
_MOST_BEGUN_ANEW = 2
_RETRY_AFTER_S = 1.0
# A snapshot comes every second.
_LEAVING_S = 2.0


class Search:
    """The hunt of one request for an answer. Remembers whom it tried, so that it never asks one process twice.

    Attributes:
        attempts: candidates tried so far.
        replica: who answers, else the last one tried, or None.
    """

    def __init__(
        self,
        fleet: Fleet,
        ranker: Ranker,
        route: Route,
        request: RouteRequest,
        *,
        needs: Mapping[Capability, str],
        deadline: Deadline,
        routing: RoutingTable,
        budget: RetryBudget,
    ) -> None:
        """``needs`` maps a capability to the request field that needs it.

        Raises:
            GatewayError: no enabled deployment of the route can do what is asked.
        """
        self._fleet = fleet
        self._ranker = ranker
        self._request = request
        self._route = route
        self._deadline = deadline
        self._routing = routing
        self._budget = budget
        self._now_s = asyncio.get_running_loop().time
        self._tiers: Sequence[Sequence[Deployment]] = able_tiers(route, request.task, needs)
        self._tried: set[str] = set()
        self._failed: Counter[str] = Counter()
        self._rejections: list[Rejected] = []
        self._leaving: dict[str, float] = {}
        self._left_out = False
        self._attempt_timeout_s = route.options.attempt_timeout_s
        self._may_wait = True
        self._may_hedge = route.options.hedge_after_s is not None
        self._failure: GatewayError | None = None
        self._unpaid: FailureReason | None = None
        self._retries = 0
        self.attempts = 0
        self.replica: Replica | None = None
        budget.earn(routing)

    async def next_answer(self, *, whole: bool = False) -> Answer:
        """Return an answer that has begun, from the best candidate not yet tried.

        ``whole`` allows the replica to send it in fewer pieces.

        Raises:
            GatewayError: nobody is left, or no more attempts are allowed; the most helpful of what was met.
        """
        for index, tier in enumerate(self._tiers):
            while True:
                if self._unpaid is not None and self._has_askable(tier):
                    await self._pay(self._unpaid)
                # For each attempt: others may have become ready, and to stand in for one that failed is a turn.
                if candidates := self._ranked(tier):
                    answer = await self._next_of(self._tiers[index:], candidates[0], whole=whole)
                    if answer is not None:
                        self.replica, self._unpaid = answer.replica, None
                        return answer
                elif not await self._loaded_on_demand(tier):
                    break
        raise self._exhausted()

    async def whole_answer(self) -> tuple[Answer, list[EngineEvent]]:
        """Return an answer with all its events; one that breaks midway is begun anew elsewhere, a few times.

        Raises:
            GatewayError: nobody is left, or no more attempts are allowed.
        """
        for _ in range(1 + _MOST_BEGUN_ANEW):
            answer = await self.next_answer(whole=True)
            try:
                return answer, [event async for events in answer for event in events]
            except ReplicaFailedError as failure:
                self.note(answer.replica, failure)
            finally:
                answer.close()
        raise self._given_up()

    async def answer_instead(
        self, broken: Answer, failure: ReplicaFailedError, request: EngineRequest, able: Callable[[Deployment], bool]
    ) -> Answer:
        """Return an answer to another ``request``, which goes on where ``failure`` cut ``broken`` off.

        Only deployments that are ``able`` are asked, the same one first, and only those that are ready. It is a retry:
        it needs the budget, and waits. What was told may take as long again, so no limit on the first event holds.

        Raises:
            GatewayError: as of `next_answer`.
        """
        self.note(broken.replica, failure)
        self._request = msgspec.structs.replace(self._request, request=request)
        self._deadline = replace(self._deadline, first_event_s=math.inf)
        self._attempt_timeout_s = None
        self._may_hedge = self._may_wait = False
        same = broken.replica.deployment
        tiers = [[one for one in tier if able(one) and one.id != same.id] for tier in self._tiers]
        self._tiers = [[same] if able(same) else [], *tiers]
        return await self.next_answer()

    def note(self, replica: Replica, failure: ReplicaFailedError) -> None:
        """Remember how a replica failed; the next attempt is a retry, unless nothing had been done."""
        rejected = failure.rejected
        if rejected is None:
            _log.warning("%s", failure)
            self._failure, self._unpaid = failure.error, failure.reason
            self._failed[replica.name] += 1
        elif rejected.reason == "busy":
            replica.turned_away(rejected, self._request.estimated_prompt_tokens, self._now_s())
            self._rejections.append(rejected)
        else:
            self._leaving[replica.deployment.id] = self._now_s()

    # --- one tier

    def _ready(self, tiers: Iterable[Sequence[Deployment]]) -> list[Replica]:
        return [
            replica for tier in tiers for deployment in tier for replica in self._fleet.ready(deployment.id).values()
        ]

    def _is_askable(self, replica: Replica) -> bool:
        now_s = self._now_s()
        return (
            replica.socket not in self._tried
            and self._failed[replica.name] < _MOST_PROCESSES
            and replica.breaker.admits(now_s)
            and not replica.busy_for_s(self._request.estimated_prompt_tokens, now_s)
        )

    def _has_askable(self, tier: Sequence[Deployment]) -> bool:
        return any(self._is_askable(replica) for replica in self._ready([tier]))

    def _ranked(self, tier: Sequence[Deployment]) -> list[Replica]:
        replicas = {replica.name: replica for replica in self._ready([tier]) if self._is_askable(replica)}
        if not replicas:
            return []
        candidates = [replica.candidate() for replica in replicas.values()]
        ranked = self._ranker.rank(self._route, self._request, candidates)
        self._left_out = self._left_out or not ranked
        return [replicas[candidate.replica] for candidate in ranked]

    async def _next_of(self, tiers: Sequence[Sequence[Deployment]], first: Replica, *, whole: bool) -> Answer | None:
        """Ask ``first``, and perhaps another one of the first of ``tiers`` that has any; None: nobody could answer."""
        after_s = self._route.options.hedge_after_s
        if after_s is None or not self._may_hedge:
            return await self._ask(self._work(first), whole=whole)

        def another() -> Work | None:
            tier = next(filter(self._has_askable, tiers), None)
            if tier is None or not self._budget.take(self._routing, self._now_s()):
                return None
            self._may_hedge = False
            ranked = self._ranked(tier)
            return self._work(ranked[0]) if ranked else None

        return await hedged(
            self._work(first), lambda work: self._ask(work, whole=whole), after_s=after_s, another=another
        )

    async def _pay(self, reason: FailureReason) -> None:
        """Take a retry from the budget, and wait before it.

        Raises:
            GatewayError: the budget is empty.
        """
        if not self._budget.take(self._routing, self._now_s()):
            raise self._given_up()
        self._unpaid = None
        count_retry(reason)
        wait_s = min(backoff_s(self._retries, self._routing), self._deadline.at_s - self._now_s())
        self._retries += 1
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def _work(self, replica: Replica) -> Work:
        self._tried.add(replica.socket)
        self.attempts += 1
        self.replica = replica
        return Work(self._fleet, replica, self._request, self._routing)

    async def _ask(self, work: Work, *, whole: bool) -> Answer | None:
        """Ask one replica; None: it could not answer.

        Raises:
            GatewayError: the request is at fault.
        """
        replica, answer = work.replica, None
        limit = asyncio.timeout(self._attempt_timeout_s)
        try:
            async with limit:
                stream = await self._fleet.acquire(replica)
                answer = Answer(self._fleet, work, stream, self._deadline)
                left_s = max(0.0, self._deadline.at_s - self._now_s())
                await answer.begin(Submit(request=self._request.request, timeout_s=left_s, whole=whole))
                return answer
        except ReplicaFailedError as met:
            failure = met
        except OSError as error:  # a TimeoutError is one
            failure = self._timed_out(work) if limit.expired() else _unreachable(work, error)
        except BaseException:
            _give_back(work, answer)
            raise
        _give_back(work, answer)
        self.note(replica, failure)
        return None

    def _timed_out(self, work: Work) -> ReplicaFailedError:
        work.failed("timeout")
        limit_s = self._attempt_timeout_s
        message = f"{work.replica.name} gave no first token within {limit_s:g} s (routing.attempt_timeout_s)."
        return ReplicaFailedError(GatewayError.timeout(message), "timeout")

    async def _loaded_on_demand(self, tier: Sequence[Deployment]) -> bool:
        """Wait until a deployment of the tier that is loaded on demand has a replica that may be asked.

        Returns False when there is nothing to wait for.
        """
        waited = False
        while True:
            if self._has_askable(tier):
                return waited
            coming = [
                one
                for one in tier
                if self._may_wait
                and (self._fleet.is_coming(one) or self._is_leaving(one))
                and not self._is_given_up(one)
            ]
            if not coming:
                return False
            for deployment in coming:
                if self._fleet.status(deployment.id).state == "stopped":
                    self._fleet.ensure_ready(deployment.id)
            waited = True
            await self._fleet.changed()

    def _is_leaving(self, deployment: Deployment) -> bool:
        """Whether its replica told us a moment ago that it is going; the snapshot that says so is on its way."""
        told_at_s = self._leaving.get(deployment.id, -math.inf)
        return self._now_s() - told_at_s < _LEAVING_S and self._fleet.status(deployment.id).state == "ready"

    def _is_given_up(self, deployment: Deployment) -> bool:
        """Whether this request has failed in so many processes of each of its replicas that it tries no further."""
        replicas = self._fleet.status(deployment.id).replicas
        return bool(replicas) and all(self._failed[one.replica] >= _MOST_PROCESSES for one in replicas)

    # --- nobody left

    def _given_up(self) -> GatewayError:
        """What is told of the last failure when no more attempts are allowed."""
        error = self._failure or GatewayError.internal()
        if error.retry_after_s is None:
            error.retry_after_s = _RETRY_AFTER_S
        return error

    def _exhausted(self) -> GatewayError:
        if self._failure is not None:
            return self._given_up()
        now_s, name = self._now_s(), self._route.name
        untried = [replica for replica in self._ready(self._tiers) if replica.socket not in self._tried]
        waits = [replica.busy_for_s(self._request.estimated_prompt_tokens, now_s) for replica in untried]
        waits = [wait for wait in waits if wait] + [one.retry_after_s for one in self._rejections]
        if waits:
            said = self._rejections[0].message if self._rejections else "each of them has said so a moment ago."
            return GatewayError.busy(f"Every queue of '{name}' is full: {said}", retry_after_s=min(waits))
        reasons, retries = [], []
        statuses = [self._fleet.status(deployment.id) for tier in self._tiers for deployment in tier]
        for one in statuses:
            retries += [replica.retry_in_s for replica in one.replicas if replica.retry_in_s is not None]
            if one.state != "ready":
                reasons.append(f"{one.deployment} is {one.state}" + (f" ({one.reason})" if one.reason else ""))
        for replica in untried:
            if not replica.breaker.admits(now_s):
                reasons.append(f"{replica.name} is left out by its circuit breaker ({replica.breaker.reason})")
                retries.append(replica.breaker.probe_in_s(now_s) or _RETRY_AFTER_S)
        reasons += [f"{one} is disabled" for one in self._fleet.table.disabled_behind(name)]
        if self._left_out:
            reasons.append(f"the routing policy {self._route.policy} left every candidate of a tier out")
        told = f"The model '{name}' cannot be served now: {'; '.join(reasons)}."
        only_absent = all(one.state == "absent" for one in statuses)  # then it takes an operator, and not a while
        return GatewayError.not_ready(told, retry_after_s=min(retries, default=None if only_absent else 2.0))


def _unreachable(work: Work, error: OSError) -> ReplicaFailedError:
    work.failed("connect")
    _log.warning("cannot reach %s: %s", work.replica.name, error)
    message = f"{work.replica.name} cannot be reached; it is being restarted."
    return ReplicaFailedError(GatewayError.not_ready(message, retry_after_s=2.0), "connect")


def _give_back(work: Work, answer: Answer | None) -> None:
    if answer is not None:
        answer.close()
    work.end()
