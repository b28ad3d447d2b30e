"""From a route to an answer: tiers, ranking, failover, deadlines.

A request is tried on one candidate after another until the first event has arrived; from then on the
answer belongs to that replica, and it ends whole or with an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from core.api.messages import EngineEvent
from core.api.protocols import Policy, RouteRequest
from core.api.specs import Capability
from core.errors import GatewayError
from core.gateway.able import able_tiers
from core.gateway.answer import Answer, ReplicaFailedError
from core.gateway.fleet import Fleet, Replica
from core.routing.table import Deployment, Route
from core.wire.frames import Rejected, Submit

__all__ = ["Search"]

_log = logging.getLogger("gateway.search")


class Search:
    """The hunt of one request for an answer. Remembers whom it tried, so that it never asks one twice.

    Attributes:
        attempts: candidates tried so far.
        replica: the last of them, or None.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        route: Route,
        request: RouteRequest,
        *,
        needs: Mapping[Capability, str],
        deadline_s: float,
    ) -> None:
        """``needs`` maps a capability to the request field that needs it; ``deadline_s`` is in loop time.

        Raises:
            GatewayError: no enabled deployment of the route can do what is asked.
        """
        self._fleet = fleet
        self._policy = policy
        self._request = request
        self._route = route
        self._deadline_s = deadline_s
        self._tiers = able_tiers(route, request.task, needs)
        self._tried: set[str] = set()
        self._busy: list[Rejected] = []
        self._leaving: set[str] = set()
        self._left_out = False
        self._failure: GatewayError | None = None
        self.attempts = 0
        self.replica: Replica | None = None

    async def next_answer(self, *, whole: bool = False) -> Answer:
        """Return an answer that has begun, from the best candidate not yet tried.

        ``whole`` allows the replica to send it in fewer pieces.

        Raises:
            GatewayError: nobody is left; the error is the most helpful of what was met.
        """
        for tier in self._tiers:
            while True:
                for replica in self._ranked(tier):
                    answer = await self._try(replica, whole=whole)
                    if answer is not None:
                        return answer
                if not await self._loaded_on_demand(tier):
                    break
        raise self._exhausted()

    async def whole_answer(self) -> tuple[Answer, list[EngineEvent]]:
        """Return an answer with all its events; one that breaks midway is begun anew elsewhere.

        Raises:
            GatewayError: nobody is left.
        """
        while True:
            answer = await self.next_answer(whole=True)
            try:
                return answer, [event async for events in answer for event in events]
            except ReplicaFailedError as failure:
                _log.warning("%s Trying elsewhere.", failure)
                self._failure = failure.error
            finally:
                answer.close()

    # --- one tier

    def _ranked(self, tier: Sequence[Deployment]) -> list[Replica]:
        replicas = {
            replica.status.replica: replica
            for deployment in tier
            for socket, replica in self._fleet.ready(deployment.id).items()
            if socket not in self._tried
        }
        if not replicas:
            return []
        try:
            ranked = self._policy.rank(self._request, [replica.candidate() for replica in replicas.values()])
            best_first = [replicas[name] for name in dict.fromkeys(candidate.replica for candidate in ranked)]
        except Exception:  # noqa: BLE001 - a policy is somebody else's code; the request goes on without it
            _log.exception(
                "the routing policy %s failed; using the candidates as they are", type(self._policy).__name__
            )
            return list(replicas.values())
        self._left_out = self._left_out or not best_first
        return best_first

    async def _try(self, replica: Replica, *, whole: bool) -> Answer | None:
        self._tried.add(replica.socket)
        self.attempts += 1
        self.replica = replica
        try:
            stream = await self._fleet.acquire(replica)
        except OSError as error:
            _log.warning("cannot reach %s: %s", replica.status.replica, error)
            self._failure = GatewayError.not_ready(
                f"{replica.status.replica} cannot be reached; it is being restarted.", retry_after_s=2.0
            )
            return None
        answer = Answer(self._fleet, replica, stream)
        left_s = self._deadline_s - asyncio.get_running_loop().time()
        try:
            await answer.begin(Submit(request=self._request.request, timeout_s=max(left_s, 0.0), whole=whole))
        except ReplicaFailedError as failure:
            answer.close()
            if failure.rejected is None:
                _log.warning("%s Trying elsewhere.", failure)
                self._failure = failure.error
            elif failure.rejected.reason == "busy":
                self._busy.append(failure.rejected)
            else:
                self._leaving.add(replica.deployment.id)
            return None
        except BaseException:
            answer.close()
            raise
        return answer

    async def _loaded_on_demand(self, tier: Sequence[Deployment]) -> bool:
        """Wait until a deployment of the tier that is loaded on demand has a replica not yet tried.

        Returns False when there is nothing to wait for.
        """
        waited = False
        while True:
            coming = [one for one in tier if self._fleet.is_coming(one) or self._is_leaving(one)]
            if any(socket not in self._tried for one in tier for socket in self._fleet.ready(one.id)):
                return waited
            if not coming:
                return False
            for deployment in coming:
                if self._fleet.status(deployment.id).state == "stopped":
                    self._fleet.ensure_ready(deployment.id)
            waited = True
            await self._fleet.changed()

    def _is_leaving(self, deployment: Deployment) -> bool:
        """Whether its replica told us that it is being unloaded; the snapshot that says so is on its way."""
        leaving = deployment.id in self._leaving and deployment.on_demand
        return leaving and self._fleet.status(deployment.id).state == "ready"

    # --- nobody left

    def _exhausted(self) -> GatewayError:
        if self._busy and self._failure is None:
            return GatewayError.busy(
                f"Every queue of '{self._route.name}' is full: {self._busy[0].message}",
                retry_after_s=min(one.retry_after_s for one in self._busy),
            )
        if self._failure is not None:
            return self._failure
        reasons, retries = [], []
        for tier in self._tiers:
            for deployment in tier:
                status = self._fleet.status(deployment.id)
                reasons.append(f"{deployment.id} is {status.state}" + (f" ({status.reason})" if status.reason else ""))
                retries += [one.retry_in_s for one in status.replicas if one.retry_in_s is not None]
        if self._left_out:
            reasons.append(f"the routing policy {type(self._policy).__name__} left every candidate of a tier out")
        return GatewayError.not_ready(
            f"The model '{self._route.name}' cannot be served now: {'; '.join(reasons)}.",
            retry_after_s=min(retries, default=2.0),
        )
