"""Changes at run time: what a command makes of them, and which of them still make sense. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from pydantic import ValidationError

from core.registry import Generation
from core.settings import DeploymentTable, SettingsError
from core.wire.control import Change, DeploymentOverride, Overrides
from core.words import closest, describe, did_you_mean

__all__ = [
    "Known",
    "RefusedError",
    "apply",
    "how_to_enable",
    "joined",
    "left_out",
    "parted",
    "sensible",
    "why_disabled",
    "woken",
]

_KEYS = DeploymentOverride.__struct_fields__
_ValueT = TypeVar("_ValueT")


class RefusedError(Exception):
    """A command is refused; the fields are those of `core.wire.control.AdminReply`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The names that there are without any change; ``aliases``: declared or configured.

    ``configured``: what the names of a command have without any change, written as changes.
    """

    deployments: Iterable[str]
    backends: Iterable[str]
    aliases: Iterable[str]
    configured: Overrides = field(default_factory=Overrides)


def apply(overrides: Overrides, change: Change, known: Known) -> Overrides:
    """Return ``overrides`` after ``change``. What is set to what is configured is no override: it is taken back.

    Raises:
        RefusedError: names that are not known, else keys or values that are wrong; all of them, one a line.
    """
    deployments, backends, aliases = dict(overrides.deployments), dict(overrides.backends), dict(overrides.aliases)
    there = {*known.aliases, *aliases}
    unknown = [
        *_strangers("override of", change.reset, {*_resettable(known, overrides), "*"}, listed=_changed(overrides)),
        *_strangers("deployment", change.deployments, {*known.deployments, *deployments}),
        *_strangers("backend", change.backends, {*known.backends, *backends}),
        *_strangers("alias", [name for name, targets in change.aliases.items() if not targets], there),
    ]
    if unknown:
        raise RefusedError(404, "not_found", "\n".join(unknown))
    if mistakes := [line for id_, keys in change.deployments.items() for line in _mistakes(id_, keys)]:
        raise RefusedError(400, "invalid_value", "\n".join(mistakes))
    for name in change.reset:
        if name == "*":
            deployments, backends, aliases = {}, {}, {}
        deployments.pop(name, None)
        aliases.pop(name, None)
        if name.startswith("@"):
            backends.pop(name[1:], None)
    for id_, keys in change.deployments.items():
        configured = known.configured.deployments.get(id_)
        others = {key: None if value == getattr(configured, key, None) else value for key, value in keys.items()}
        before = msgspec.structs.asdict(deployments.get(id_) or DeploymentOverride())
        deployments[id_] = msgspec.convert({**before, **others}, DeploymentOverride)
        if deployments[id_] == DeploymentOverride():
            del deployments[id_]
    for name, enabled in change.backends.items():
        _put(backends, name, None if enabled == known.configured.backends.get(name) else enabled)
    for name, targets in change.aliases.items():
        wanted = targets or (targets is not None and name in known.aliases)
        _put(aliases, name, targets if wanted and targets != known.configured.aliases.get(name) else None)
    return Overrides(deployments=deployments, backends=backends, aliases=aliases)


def sensible(
    build: Callable[[Overrides, Generation | None], Generation], overrides: Overrides
) -> tuple[Generation, Overrides, dict[str, str]]:
    """Build a generation with as many of ``overrides`` as make sense.

    ``build`` is given some of them, and a generation that was built before, as `core.registry.build_generation` is.
    Returns the generation, the overrides that were left out, and of each of those what is wrong, by its name. They are
    tried in the order of their names, so that what is in effect follows from what is configured and what is kept.

    Raises:
        SettingsError: not even without any override can it be built.
    """
    wrong = {
        f"deployment {id_}": "\n".join(mistakes)
        for id_, one in overrides.deployments.items()
        if (mistakes := list(_mistakes(id_, msgspec.structs.asdict(one))))
    }
    ones = sorted(_single(overrides), key=lambda one: one[0])
    never, waiting = [one for one in ones if one[0] in wrong], [one for one in ones if one[0] not in wrong]
    try:
        generation, waiting = build(joined(*(one for _, one in waiting)), None), []
    except SettingsError:
        generation = build(Overrides(), None)

    def put(ones: list[tuple[str, Overrides]]) -> list[tuple[str, Overrides]]:
        """Put in effect what makes sense, by halves where the whole does not; return the rest."""
        nonlocal generation
        try:
            generation = build(joined(generation.overrides, *(one for _, one in ones)), generation)
        except SettingsError as error:
            if len(ones) > 1:
                half = len(ones) // 2
                return put(ones[:half]) + put(ones[half:])
            wrong[ones[0][0]] = str(error)
            return ones
        return []

    while waiting and (left := put(waiting)) != waiting:  # an alias may need another one that is yet to be tried
        waiting = left
    left_out = [*never, *waiting]
    return generation, joined(*(one for _, one in left_out)), {name: wrong[name] for name, _ in left_out}


def joined(*some: Overrides) -> Overrides:
    """Return all of them; of what is in several, the last one's."""
    deployments: dict[str, DeploymentOverride] = {}
    backends: dict[str, bool] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for one in some:
        deployments |= one.deployments
        backends |= one.backends
        aliases |= one.aliases
    return Overrides(deployments=deployments, backends=backends, aliases=aliases)


def parted(wanted: Overrides, dormant: Overrides, change: Change) -> tuple[Overrides, Overrides]:
    """Part what was ``dormant``, and ``change`` did not touch, from the rest: what must be in effect, and that."""

    def untouched(
        wanted: Mapping[str, object], dormant: Mapping[str, _ValueT], changed: Mapping[str, object]
    ) -> dict[str, _ValueT]:
        return {name: value for name, value in dormant.items() if name in wanted and name not in changed}

    still = Overrides(
        deployments=untouched(wanted.deployments, dormant.deployments, change.deployments),
        backends=untouched(wanted.backends, dormant.backends, change.backends),
        aliases=untouched(wanted.aliases, dormant.aliases, change.aliases),
    )
    active = Overrides(
        deployments={name: one for name, one in wanted.deployments.items() if name not in still.deployments},
        backends={name: one for name, one in wanted.backends.items() if name not in still.backends},
        aliases={name: one for name, one in wanted.aliases.items() if name not in still.aliases},
    )
    return active, still


def left_out(wrong: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each override that is left out; ``wrong`` is what is wrong, by its name."""
    for name, why in wrong.items():
        kind, _, whose = name.partition(" ")
        yield (
            f"what was changed at run time of {name} makes no sense any more and is left out. It is kept, and taken "
            f"back with: python -m core reset {'@' * (kind == 'backend')}{whose} ({why})"
        )


def woken(dormant: Overrides, overrides: Overrides) -> Iterator[str]:
    """Yield a sentence for each override that was ``dormant`` and is in effect again."""
    there = dict(_single(overrides))
    for name, one in _single(dormant):
        if there.get(name) == one:
            yield f"what was changed at run time of {name} makes sense again and is in effect"


def why_disabled(generation: Generation, deployment: str) -> str:
    """Return by what a deployment is disabled, for people; empty when it is enabled."""
    found = generation.table.deployments[deployment]
    if found.spec.enabled:
        return ""
    backend, overrides = found.spec.backend, generation.overrides
    table = generation.settings.backends.get(backend)
    if table is not None and not table.enabled:
        where = "at run time" if backend in overrides.backends else "in the configuration"
        return f"its backend {backend} is disabled {where}"
    own = overrides.deployments.get(deployment)
    return "disabled at run time" if own and own.enabled is False else "disabled in the configuration"


def how_to_enable(generation: Generation, deployment: str) -> str:
    """Return the commands that enable a deployment."""
    spec, settings = generation.table.deployments[deployment].spec, generation.settings
    backend, own = settings.backends.get(spec.backend), settings.deployments.get(deployment)
    commands = []
    if backend is not None and not backend.enabled:
        commands.append(f"python -m core enable --backend {spec.backend}")
    if not commands or (own is not None and own.enabled is False):
        commands.append(f"python -m core enable {deployment}")
    return " && ".join(commands)


def _single(overrides: Overrides) -> Iterator[tuple[str, Overrides]]:
    for id_, override in overrides.deployments.items():
        yield f"deployment {id_}", Overrides(deployments={id_: override})
    for name, enabled in overrides.backends.items():
        yield f"backend {name}", Overrides(backends={name: enabled})
    for name, targets in overrides.aliases.items():
        yield f"alias {name}", Overrides(aliases={name: targets})


def _resettable(known: Known, overrides: Overrides) -> set[str]:
    backends = {*known.backends, *overrides.backends}
    return {
        *known.deployments,
        *overrides.deployments,
        *known.aliases,
        *overrides.aliases,
        *(f"@{name}" for name in backends),
    }


def _changed(overrides: Overrides) -> set[str]:
    return {*overrides.deployments, *overrides.aliases, *(f"@{name}" for name in overrides.backends)}


def _strangers(
    what: str, names: Iterable[str], known: Collection[str], *, listed: Collection[str] | None = None
) -> Iterator[str]:
    """``listed``: what is listed instead of all that is known, where none of that resembles the name."""
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known if listed is None or closest(name, known) else listed)
            yield f"there is no {what} {name!r}; {hint}"


def _mistakes(id_: str, keys: Mapping[str, object]) -> Iterator[str]:
    where = f'deployments."{id_}"'
    for key in keys.keys() - set(_KEYS):
        close = closest(key, _KEYS)
        hint = f"did you mean {close!r}?" if close else f"keys are {', '.join(_KEYS)}"
        yield f"{where}: {key}: it cannot be changed at run time; {hint}"
    given = {key: value for key, value in keys.items() if key in _KEYS and value is not None}
    try:
        DeploymentTable.model_validate(given, strict=True)
    except ValidationError as error:
        yield from describe(error, model=DeploymentTable, where=where).splitlines()


def _put(overrides: dict[str, _ValueT], name: str, value: _ValueT | None) -> None:
    if value is None:
        overrides.pop(name, None)
    else:
        overrides[name] = value
