"""Routes: what each known name means, and how ``[routes."name"]`` wants its requests routed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.routing.aliases import Aliases, Tiers, tiers_of
from core.routing.deployments import Deployment
from core.routing.lazy import Lazy
from core.settings import RouteTable, Settings

__all__ = ["Route", "RouteOptions", "build_routes", "has_own_policy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteOptions:
    """How the requests of a route fail over: what its table says, else ``[routing]``.

    Attributes:
        attempt_timeout_s: time to the first event on one candidate; None: no such limit.
        continuation: where a stream goes on whose replica died.
        hedge_after_s: time without a first event after which a second candidate is asked too; None: never.
    """

    attempt_timeout_s: float | None = None
    continuation: Literal["off", "same_backend", "any_backend"] = "same_backend"
    hedge_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What a name means.

    Attributes:
        name: as the client wrote it.
        tiers: the enabled deployments, best tier first; the deployments of a tier are equals, sorted by id.
        policy: name of the policy that ranks the candidates of a tier.
        policy_key: which object of it does: that of the ``[routes]`` entry of this name, or the global one (empty).
        options: how it fails over.
    """

    name: str
    kind: Literal["model", "alias", "deployment"]
    tiers: Tiers
    policy: str = "least_loaded"
    policy_key: str = ""
    options: RouteOptions = RouteOptions()


def build_routes(
    deployments: Mapping[str, Deployment],
    models: Mapping[str, tuple[Deployment, ...]],
    aliases: Aliases,
    settings: Settings,
) -> Mapping[str, Route]:
    """Return the routes of all names, sorted by name, each made when it is used first.

    No two kinds share a name: a model hides an alias, and only the id of a deployment holds an ``@``.
    """
    tables = settings.routes

    def entry(name: str) -> str:
        """The ``[routes]`` entry that governs a name: its own, else that of the one thing it leads to, else none."""
        if name in tables or name in models:
            return name if name in tables else ""
        if name in deployments:
            return entry(deployments[name].spec.name)
        entries = aliases.configured.get(name) or aliases.rows[name].targets
        if len(entries) == 1:
            return entry(entries[0])
        of_models = {target.partition("@")[0] for target in aliases.rows[name].targets}
        return entry(of_models.pop()) if len(of_models) == 1 else ""

    def meaning(name: str) -> tuple[Literal["model", "alias", "deployment"], Tiers]:
        if name in models:
            return "model", tiers_of(models[name])
        if name in deployments:
            return "deployment", tiers_of([deployments[name]])
        return "alias", aliases.tiers[name]

    def route(name: str) -> Route:
        kind, tiers = meaning(name)
        key = entry(name)
        table = tables.get(key) or RouteTable()
        return Route(
            name=name,
            kind=kind,
            tiers=tiers,
            policy=table.policy or settings.routing.policy,
            policy_key=key if has_own_policy(table) else "",
            options=RouteOptions(
                attempt_timeout_s=table.attempt_timeout_s or settings.routing.attempt_timeout_s,
                continuation=table.continuation or settings.routing.continuation,
                hedge_after_s=table.hedge_after_ms and table.hedge_after_ms / 1000,
            ),
        )

    return Lazy({*deployments, *models, *aliases.tiers}, route)


def has_own_policy(table: RouteTable) -> bool:
    """Whether the routes of a ``[routes]`` entry have a policy object of their own."""
    return bool(table.policy or table.settings)
