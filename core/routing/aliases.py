"""Alias rows: declared offers, replaced row by row by what the configuration says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from core.routing.deployments import CONFIGURATION, Deployment
from core.routing.words import list_not_loaded
from core.settings import Settings
from core.words import did_you_mean

__all__ = ["AliasRow", "Aliases", "Tiers", "build_aliases", "tiers_of"]

_DEEPEST = 32
Tiers = tuple[tuple[Deployment, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasRow:
    """One alias.

    Attributes:
        name: what a client writes.
        targets: names of models (or ids of deployments) in order; aliases among them are resolved.
        declared_by: `Declared.source` of everybody who offers it, or ``configuration``.
        explicit: it is configured, so its order counts before priorities.
    """

    name: str
    targets: tuple[str, ...]
    declared_by: tuple[str, ...]
    explicit: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Aliases:
    """What `build_aliases` found; ``rows`` and ``tiers`` have the same keys, sorted.

    ``configured`` is what the configuration says aliases stand for, in ``[aliases]`` or ``[routes]``, as written.
    """

    rows: Mapping[str, AliasRow]
    tiers: Mapping[str, Tiers]
    configured: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...]
    mistakes: tuple[str, ...]


def tiers_of(deployments: Iterable[Deployment]) -> Tiers:
    """Group the enabled ones by priority, best tier first; inside a tier by id."""
    enabled = sorted((one for one in deployments if one.spec.enabled), key=lambda one: (-one.spec.priority, one.id))
    return tuple(tuple(tier) for _, tier in groupby(enabled, key=lambda one: one.spec.priority))


def build_aliases(
    deployments: Mapping[str, Deployment],
    models: Mapping[str, tuple[Deployment, ...]],
    settings: Settings,
    *,
    left_out: Mapping[str, str],
    not_loaded: Mapping[str, str],
) -> Aliases:
    """Merge what models offer, then let ``[aliases]`` and the ``models`` of ``[routes]`` replace whole rows.

    ``left_out`` tells of declared deployments that are not there, by id, why; ``not_loaded`` of plugins.
    """
    builder = _Builder(deployments, models, settings, left_out, not_loaded)
    for name in sorted(builder.offers.keys() | builder.configured.keys()):
        builder.add(name)
    builder.check_routes()
    return Aliases(
        rows=builder.rows,
        tiers=builder.tiers,
        configured=builder.configured,
        warnings=tuple(builder.warnings),
        mistakes=tuple(dict.fromkeys(builder.mistakes)),
    )


class _Builder:
    def __init__(
        self,
        deployments: Mapping[str, Deployment],
        models: Mapping[str, tuple[Deployment, ...]],
        settings: Settings,
        left_out: Mapping[str, str],
        not_loaded: Mapping[str, str],
    ) -> None:
        self.rows: dict[str, AliasRow] = {}
        self.tiers: dict[str, Tiers] = {}
        self.warnings: list[str] = []
        self.mistakes: list[str] = []
        self._deployments = deployments
        self._models = models
        self._left_out = left_out
        self._not_loaded = not_loaded
        self._settings = settings
        self._by_route = {name: table.models for name, table in settings.routes.items() if table.models is not None}
        self.configured: Mapping[str, tuple[str, ...]] = {**settings.aliases, **self._by_route}
        self._meant: dict[str, tuple[tuple[str, ...], Tiers]] = {}
        self._depth: dict[str, int] = {}
        self.offers: dict[str, list[Deployment]] = {}
        for deployment in deployments.values():
            for alias in deployment.spec.aliases:
                self.offers.setdefault(alias, []).append(deployment)

    def add(self, name: str) -> None:
        if name in self._models:
            self.warnings.append(
                f"alias {name!r} ({', '.join(self._declared_by(name))}) is hidden by the model {name!r}"
            )
            return
        if "@" in name:
            self.mistakes.append(f"{self._where(name)}: an alias holds no @, which is for deployments")
            return
        explicit = name in self.configured
        if explicit and not self.configured[name]:
            return  # an empty list takes a declared alias away
        targets, tiers = self._meaning(name, ())
        self.tiers[name] = tiers
        self.rows[name] = AliasRow(name=name, targets=targets, declared_by=self._declared_by(name), explicit=explicit)

    def check_routes(self) -> None:
        """Each ``[routes."name"]`` is of a name that is known, and defines it only if ``[aliases]`` does not."""
        known = self._known()
        for name, table in sorted(self._settings.routes.items()):
            if table.models is not None and name in self._settings.aliases:
                self.mistakes.append(f"{self._where(name)}: [aliases] defines {name!r} too; keep one of the two")
            elif name not in known:
                self.mistakes.append(f'[routes."{name}"]: without models, it must be of a name: {self._unknown(name)}')

    def _where(self, name: str) -> str:
        return f'[routes."{name}"] models' if name in self._by_route else f'[aliases] "{name}"'

    def _known(self) -> set[str]:
        return self._models.keys() | self._deployments.keys() | self.offers.keys() | self.configured.keys()

    def _declared_by(self, name: str) -> tuple[str, ...]:
        if name in self.configured:
            return (CONFIGURATION,)
        tables = self._settings.deployments
        return tuple(
            sorted(
                {
                    CONFIGURATION if (table := tables.get(one.id)) and table.aliases is not None else one.declared_by
                    for one in self.offers[name]
                }
            )
        )

    def _meaning(self, name: str, path: tuple[str, ...]) -> tuple[tuple[str, ...], Tiers]:
        """Return targets and tiers of a model, a deployment or an alias; ``path`` is how we came here."""
        if name in self._models:
            return (name,), tiers_of(self._models[name])
        if name in self._deployments:
            return (name,), tiers_of([self._deployments[name]])
        if name in path:
            cycle = path[path.index(name) :]
            first = cycle.index(min(cycle))  # so that it is told once, however it was entered
            told = " -> ".join((*cycle[first:], *cycle[: first + 1]))
            self.mistakes.append(f"[aliases] {told}: a cycle; an alias must lead to a model")
            return (), ()
        if self.configured.get(name):
            return self._written(name, path)
        if name in self.offers and name not in self.configured:
            return self._offered(name)
        self.mistakes.append(f"{self._where(path[-1])}: {self._unknown(name)}")
        return (), ()

    def _written(self, name: str, path: tuple[str, ...]) -> tuple[tuple[str, ...], Tiers]:
        """What a configured row means; found out once, since rows may share what they lead to.

        Each step down is a call within a call, and processes may not rely on how many of them they have left.
        """
        if name not in self._meant and len(path) <= _DEEPEST:
            self._meant[name] = self._in_order(name, (*path, name))
            self._depth[name] = 1 + max(self._depth.get(entry, 0) for entry in self.configured[name])
        if self._depth.get(name, _DEEPEST + 1) > _DEEPEST:
            self.mistakes.append(f"{self._where(name)}: it leads over more than {_DEEPEST} aliases to its models")
        return self._meant.get(name, ((), ()))

    def _in_order(self, name: str, path: tuple[str, ...]) -> tuple[tuple[str, ...], Tiers]:
        """A configured row: what each entry means, one after another; who comes twice keeps the better place."""
        targets: dict[str, None] = {}
        tiers: list[tuple[Deployment, ...]] = []
        placed: set[str] = set()
        for entry in self.configured[name]:
            entry_targets, entry_tiers = self._meaning(entry, path)
            targets |= dict.fromkeys(entry_targets)
            for tier in entry_tiers:
                if fresh := tuple(one for one in tier if one.id not in placed):
                    tiers.append(fresh)
                    placed |= {one.id for one in fresh}
        return tuple(targets), tuple(tiers)

    def _offered(self, name: str) -> tuple[tuple[str, ...], Tiers]:
        """A declared row: all deployments of every model that offers it, by priority."""
        models = {one.spec.name for one in self.offers[name]}
        best = {model: max(one.spec.priority for one in self._models[model]) for model in models}
        targets = tuple(sorted(models, key=lambda model: (-best[model], model)))
        return targets, tiers_of(one for model in targets for one in self._models[model])

    def _unknown(self, name: str) -> str:
        for deployment, why in sorted(self._left_out.items()):
            if name in (deployment, deployment.partition("@")[0]):
                return why
        taken_away = {one for one, targets in self.configured.items() if not targets} - self._models.keys()
        if name in taken_away:
            return f"{name!r} was taken away; it stands for nothing"
        hint = did_you_mean(name, self._known() - taken_away) + list_not_loaded(self._not_loaded)
        return f"there is no model, alias or deployment {name!r}; {hint}"
