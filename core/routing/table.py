"""The alias table: from a name in a request to deployments in the order in which they are tried.

A pure function of installed plugins and configuration, so that every process of the gateway builds the
same one; ``fingerprint`` proves it. docs/routing.md has the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from core.api.specs import BackendSpec, ModelSpec
from core.errors import GatewayError
from core.routing.aliases import AliasRow, Tiers, build_aliases
from core.routing.deployments import Declared, Deployment, Deployments, build_deployments
from core.routing.routes import Route, RouteOptions, build_routes
from core.settings import Settings, SettingsError

__all__ = ["AliasRow", "Declared", "Deployment", "Route", "RouteOptions", "Table", "Tiers", "assemble"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The assembled table; every mapping is sorted by its keys. Build it with `assemble`.

    Attributes:
        deployments: by id, disabled ones too.
        models: model name -> its deployments, best priority first, disabled ones too.
        aliases: by name; one that a model's name hides is not among them.
        routes: every name that is known, with its route; tiers are empty when all is disabled.
        warnings: for the operator; none of them stops the gateway.
        fingerprint: hex SHA-256 of all that decides where requests go and how replicas run.
        built: the deployments, and what they were built of.
    """

    deployments: Mapping[str, Deployment]
    models: Mapping[str, tuple[Deployment, ...]]
    aliases: Mapping[str, AliasRow]
    routes: Mapping[str, Route]
    warnings: tuple[str, ...]
    fingerprint: str
    built: Deployments = field(repr=False, compare=False)

    def resolve(self, name: str) -> Route:
        """Return the route of a model, alias or deployment; exact and case-sensitive.

        Raises:
            GatewayError: ``model_not_found``; ``model_disabled``: known, but every deployment is disabled.
        """
        route = self.routes.get(name)
        if route is None:
            raise GatewayError.model_not_found(name)
        if not route.tiers:
            because = dict.fromkeys(one.disabled_because for one in self.behind(name) if one.disabled_because)
            raise GatewayError.model_disabled(name, ", ".join(because))
        return route

    def behind(self, name: str) -> Sequence[Deployment]:
        """Return all deployments that a known name leads to: as they would be tried, then the disabled ones."""
        if name in self.deployments:
            return [self.deployments[name]]
        targets = [name] if name in self.models else self.aliases[name].targets
        found = {one.id: one for tier in self.routes[name].tiers for one in tier}
        found |= {one.id: one for target in targets for one in self.models.get(target) or (self.deployments[target],)}
        return list(found.values())

    def disabled_behind(self, name: str) -> list[str]:
        """Return the ids of the disabled deployments that ``name`` would lead to; none for a name that is gone."""
        if name not in self.routes:
            return []
        return [one.id for one in self.behind(name) if not one.spec.enabled]


def assemble(
    *,
    backends: Mapping[str, Declared[BackendSpec]],
    models: Sequence[Declared[ModelSpec]],
    settings: Settings,
    not_loaded: Mapping[str, str] | None = None,
    before: Table | None = None,
) -> Table:
    """Build the table; ``models`` holds each deployment at most once (the registry sees to it).

    ``not_loaded`` tells of each plugin that is installed but not loaded why, by its name: error messages
    quote it. With another table, ``before``, it is built sooner, and comes out the same.

    Raises:
        SettingsError: the configuration names what is not there, or holds a value that its owner refuses;
            all mistakes, one a line.
    """
    not_loaded = not_loaded or {}
    built = build_deployments(backends, models, settings, not_loaded, before=before.built if before else None)
    deployments = built.by_id
    by_model = _by_model(deployments)
    aliases = build_aliases(deployments, by_model, settings, left_out=built.left_out, not_loaded=not_loaded)
    if mistakes := built.mistakes + aliases.mistakes:
        raise SettingsError("\n".join(mistakes))
    return Table(
        deployments=deployments,
        models=by_model,
        aliases=aliases.rows,
        routes=build_routes(deployments, by_model, aliases, settings),
        warnings=(*built.left_out.values(), *aliases.warnings),
        fingerprint=_fingerprint(built.digests, settings),
        built=built,
    )


def _by_model(deployments: Mapping[str, Deployment]) -> dict[str, tuple[Deployment, ...]]:
    found: dict[str, list[Deployment]] = {}
    for one in deployments.values():  # by id, so that those of one priority stay in this order
        found.setdefault(one.spec.name, []).append(one)
    return {name: tuple(sorted(found[name], key=lambda one: -one.spec.priority)) for name in sorted(found)}


def _fingerprint(digests: Mapping[str, str], settings: Settings) -> str:
    content = {
        "deployments": digests,
        "aliases": settings.aliases,
        "routing": settings.model_dump(mode="json", include={"routing", "routes", "policies"}),
    }
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
