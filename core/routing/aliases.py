"""Alias rows: declared offers, replaced row by row by what the configuration says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from core.routing.deployments import CONFIGURATION, Deployment
from core.routing.lazy import Lazy
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
    """What `build_aliases` found.

    ``rows`` and ``tiers`` have the same keys, sorted, and may be used only if there are no mistakes. ``configured``
    is what the configuration says aliases stand for, in ``[aliases]`` or ``[routes]``, as written.
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

    ``left_out`` tells of declared deployments that are not there, by id, why; ``not_loaded`` of plugins. All is
    checked now; what a row means is found out when it is used first.
    """
    written = _Written(deployments, models, settings)
    check = _Check(written, settings, left_out, not_loaded)
    for name in sorted(written.offers.keys() | written.configured.keys()):
        check.add(name)
    check.check_routes()
    meanings = _Meanings(written, check.names)
    return Aliases(
        rows=Lazy(check.names, meanings.row),
        tiers=Lazy(check.names, meanings.tiers),
        configured=written.configured,
        warnings=tuple(check.warnings),
        mistakes=tuple(dict.fromkeys(check.mistakes)),
    )


class _Written:
    """What plugins and configuration say, and who says it."""

    def __init__(
        self, deployments: Mapping[str, Deployment], models: Mapping[str, tuple[Deployment, ...]], settings: Settings
    ) -> None:
        self.deployments = deployments
        self.models = models
        self.by_route = {name: table.models for name, table in settings.routes.items() if table.models is not None}
        self.configured: Mapping[str, tuple[str, ...]] = {**settings.aliases, **self.by_route}
        self.offers: dict[str, list[Deployment]] = {}
        for deployment in deployments.values():
            for alias in deployment.spec.aliases:
                self.offers.setdefault(alias, []).append(deployment)
        self._tables = settings.deployments

    def declared_by(self, name: str) -> tuple[str, ...]:
        if name in self.configured:
            return (CONFIGURATION,)
        return tuple(
            sorted(
                {
                    CONFIGURATION
                    if (table := self._tables.get(one.id)) and table.aliases is not None
                    else one.declared_by
                    for one in self.offers[name]
                }
            )
        )


class _Check:
    """Finds which rows there are, and every mistake."""

    def __init__(
        self, written: _Written, settings: Settings, left_out: Mapping[str, str], not_loaded: Mapping[str, str]
    ) -> None:
        self.names: dict[str, None] = {}
        self.warnings: list[str] = []
        self.mistakes: list[str] = []
        self._written = written
        self._settings = settings
        self._left_out = left_out
        self._not_loaded = not_loaded
        self._depth: dict[str, int] = {}

    def add(self, name: str) -> None:
        configured = self._written.configured
        if name in self._written.models:
            told = ", ".join(self._written.declared_by(name))
            self.warnings.append(f"alias {name!r} ({told}) is hidden by the model {name!r}")
        elif "@" in name:
            self.mistakes.append(f"{self._where(name)}: an alias holds no @, which is for deployments")
        elif configured.get(name, True):  # an empty list takes a declared alias away
            self._follow(name, ())
            self.names[name] = None

    def check_routes(self) -> None:
        """Each ``[routes."name"]`` is of a name that is known, and defines it only if ``[aliases]`` does not."""
        routes = self._settings.routes
        known = self._known() if routes else set()
        for name, table in sorted(routes.items()):
            if table.models is not None and name in self._settings.aliases:
                self.mistakes.append(f"{self._where(name)}: [aliases] defines {name!r} too; keep one of the two")
            elif name not in known:
                self.mistakes.append(f'[routes."{name}"]: without models, it must be of a name: {self._unknown(name)}')

    def _where(self, name: str) -> str:
        return f'[routes."{name}"] models' if name in self._written.by_route else f'[aliases] "{name}"'

    def _known(self) -> set[str]:
        written = self._written
        return written.models.keys() | written.deployments.keys() | written.offers.keys() | written.configured.keys()

    def _follow(self, name: str, path: tuple[str, ...]) -> None:
        """See that a name leads to models or deployments; ``path`` is how we came here."""
        written = self._written
        if name in written.models or name in written.deployments:
            return
        if name in path:
            cycle = path[path.index(name) :]
            first = cycle.index(min(cycle))  # so that it is told once, however it was entered
            told = " -> ".join((*cycle[first:], *cycle[: first + 1]))
            self.mistakes.append(f"[aliases] {told}: a cycle; an alias must lead to a model")
        elif written.configured.get(name):
            self._follow_written(name, path)
        elif name in written.configured or name not in written.offers:
            self.mistakes.append(f"{self._where(path[-1])}: {self._unknown(name)}")

    def _follow_written(self, name: str, path: tuple[str, ...]) -> None:
        """A configured row; followed once, since rows may share what they lead to.

        Each step down is a call within a call, and processes may not rely on how many of them they have left.
        """
        if name not in self._depth and len(path) <= _DEEPEST:
            deepest = 0
            for entry in self._written.configured[name]:
                self._follow(entry, (*path, name))
                deepest = max(deepest, self._depth.get(entry, 0))
            self._depth[name] = 1 + deepest
        if self._depth.get(name, _DEEPEST + 1) > _DEEPEST:
            self.mistakes.append(f"{self._where(name)}: it leads over more than {_DEEPEST} aliases to its models")

    def _unknown(self, name: str) -> str:
        for deployment, why in sorted(self._left_out.items()):
            if name in (deployment, deployment.partition("@")[0]):
                return why
        configured = self._written.configured
        taken_away = {one for one, targets in configured.items() if not targets} - self._written.models.keys()
        if name in taken_away:
            return f"{name!r} was taken away; it stands for nothing"
        hint = did_you_mean(name, self._known() - taken_away) + list_not_loaded(self._not_loaded)
        return f"there is no model, alias or deployment {name!r}; {hint}"


class _Meanings:
    """What rows mean that were checked."""

    def __init__(self, written: _Written, names: Collection[str]) -> None:
        self._written = written
        self._aliases = Lazy(names, self._find)

    def row(self, name: str) -> AliasRow:
        targets, _ = self._aliases[name]
        explicit = name in self._written.configured
        return AliasRow(name=name, targets=targets, declared_by=self._written.declared_by(name), explicit=explicit)

    def tiers(self, name: str) -> Tiers:
        return self._aliases[name][1]

    def _find(self, name: str) -> tuple[tuple[str, ...], Tiers]:
        return self._in_order(name) if name in self._written.configured else self._offered(name)

    def _in_order(self, name: str) -> tuple[tuple[str, ...], Tiers]:
        """A configured row: what each entry means, one after another; who comes twice keeps the better place."""
        targets: dict[str, None] = {}
        tiers: list[tuple[Deployment, ...]] = []
        placed: set[str] = set()
        for entry in self._written.configured[name]:
            entry_targets, entry_tiers = self._meaning(entry)
            targets |= dict.fromkeys(entry_targets)
            for tier in entry_tiers:
                if fresh := tuple(one for one in tier if one.id not in placed):
                    tiers.append(fresh)
                    placed |= {one.id for one in fresh}
        return tuple(targets), tuple(tiers)

    def _meaning(self, name: str) -> tuple[tuple[str, ...], Tiers]:
        if name in self._written.models:
            return (name,), tiers_of(self._written.models[name])
        if name in self._written.deployments:
            return (name,), tiers_of([self._written.deployments[name]])
        return self._aliases[name]

    def _offered(self, name: str) -> tuple[tuple[str, ...], Tiers]:
        """A declared row: all deployments of every model that offers it, by priority."""
        models = self._written.models
        offering = {one.spec.name for one in self._written.offers[name]}
        best = {model: max(one.spec.priority for one in models[model]) for model in offering}
        targets = tuple(sorted(offering, key=lambda model: (-best[model], model)))
        return targets, tiers_of(one for model in targets for one in models[model])
