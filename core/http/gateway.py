"""What the handlers of one HTTP worker share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from sanic import Request

from core.api.protocols import Observer, Policy, RequestRecord
from core.gateway import metrics
from core.gateway.admin import Management
from core.gateway.fleet import Fleet
from core.gateway.ranking import Ranker
from core.gateway.retries import RetryBudget
from core.registry import Generation, Registry, make_policies, receive_generation
from core.routing.table import Table
from core.settings import RouteTable, Settings, SettingsError
from core.wire.control import Configuration

__all__ = ["Gateway", "gateway_of"]

_log = logging.getLogger("gateway")


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Built once per worker when its server starts; hangs at ``app.ctx.gateway``.

    Attributes:
        generation: what this worker routes by; another one may take its place between any two turns of the loop.
        policies: those of the generation, by `Route.policy_key`.
        management: the way to the supervisor for those who manage the gateway.
        ranker: asks them.
        budget: for what this worker tries again.
    """

    registry: Registry
    generation: Generation
    policies: Mapping[str, Policy]
    fleet: Fleet
    management: Management
    observers: Sequence[Observer]
    started_unix_s: int
    budget: RetryBudget = field(default_factory=RetryBudget)
    ranker: Ranker = field(init=False)

    def __post_init__(self) -> None:
        """Make the ranker of the policies."""
        self.ranker = Ranker(self.policies, timeout_s=self.settings.routing.policy_timeout_s)

    @property
    def settings(self) -> Settings:
        """Those in effect now."""
        return self.generation.settings

    @property
    def table(self) -> Table:
        """The one in effect now; a request keeps the route that it began with."""
        return self.generation.table

    def take_over(self, configuration: Configuration) -> str:
        """Go on by what the supervisor runs by. If that is not possible here, stay, log why, and return it."""
        try:
            generation = receive_generation(self.registry, configuration, before=self.generation)
            before, after = self.settings, generation.settings
            known = {key: one for key, one in self.policies.items() if _defined(key, before) == _defined(key, after)}
            policies = make_policies(self.registry, after, known=known)
        except Exception as error:  # noqa: BLE001 - plugins check their own settings, and may raise anything
            _log.error(
                "this HTTP worker cannot go over to generation %d of the configuration, and stays at %d; restart the "
                "gateway, so that all its processes have the same plugins: %s",
                configuration.generation,
                self.generation.number,
                error,
                exc_info=None if isinstance(error, SettingsError) else error,
            )
            return f"stays at generation {self.generation.number}: {error}"
        ranker = Ranker(policies, timeout_s=after.routing.policy_timeout_s)
        self.generation, self.policies, self.ranker = generation, policies, ranker
        self.fleet.take_table(generation.table)
        return ""

    def finished(self, record: RequestRecord) -> None:
        """Count a finished request and tell the observers."""
        metrics.observe(record)
        for observer in self.observers:
            try:
                observer.request_finished(record)
            except Exception:  # noqa: BLE001 - somebody else's code; it can change nothing
                _log.exception("the observer %s failed; it is told of the next request all the same", observer)


def _defined(key: str, settings: Settings) -> object:
    """All that decides what the policy of a key is: one of the same definition keeps what it has learnt."""
    route = settings.routes.get(key) or RouteTable()
    name = route.policy or settings.routing.policy
    return name, settings.policies.get(name, {}), route.settings


def gateway_of(request: Request) -> Gateway:
    """The gateway of the worker that serves this request."""
    return cast("Gateway", request.app.ctx.gateway)
