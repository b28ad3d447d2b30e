"""What fits: `plan(need, holders, limits)` says whether a replica may be loaded, and who has to leave first.

Pure. Host memory and device memory are two budgets. A deployment leaves as a whole or not at all, and only while all
of its replicas are idle. docs/memory.md explains the order in which they leave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bytes", "Evict", "Fits", "Holder", "Limits", "Need", "Plan", "Refuse", "Wait", "plan", "readable"]

_LEAST_LOAD_S = 1.0
"""No load is cheaper than this: a process has to be started."""
_LEAST_IDLE_S = 0.1
_MIB, _GIB = 1 << 20, 1 << 30


# --- what is known ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bytes:
    """An amount of memory, in bytes: on the host and on devices with memory of their own."""

    host: int = 0
    device: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.host + other.host, self.device + other.device)

    def at_least(self, other: Bytes) -> Bytes:
        """The larger of both, each kind by itself."""
        return Bytes(max(self.host, other.host), max(self.device, other.device))


@dataclass(frozen=True, slots=True)
class Limits:
    """What all replicas together may take, in bytes; None: as much as they like."""

    host: int | None = None
    device: int | None = None

    def excess(self, used: Bytes) -> Bytes:
        """By how much ``used`` is over them."""
        return Bytes(
            0 if self.host is None else max(0, used.host - self.host),
            0 if self.device is None else max(0, used.device - self.device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What somebody wants to load.

    Attributes:
        deployment: whose replica it is.
        memory: what it will take.
        known: where that figure comes from, for people: ``as measured``.
        may_evict: whether somebody waits for it, so that others may be unloaded for it.
    """

    deployment: str
    memory: Bytes
    known: str = ""
    may_evict: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A replica that holds memory, or was promised it.

    Attributes:
        deployment: whose it is.
        memory: what it takes now, or will have taken once it is loaded.
        kept: why it must not be unloaded, for people: ``pinned``, ``2 requests run``; empty when it is idle.
        doubtful: ``kept`` is older news than the need and may be over: a better report is about to come.
        leaving: it ends anyway, and gives its memory back.
        idle_s: how long it has had no request.
        load_s: how long it took to load.
    """

    deployment: str
    memory: Bytes
    kept: str = ""
    doubtful: bool = False
    leaving: bool = False
    idle_s: float = 0.0
    load_s: float = 0.0


# --- what to do ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fits:
    """Load it."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload these deployments, most dispensable first; when they are gone, it fits."""

    deployments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Something is about to change that may make room; ``reason`` says what."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It does not fit, and nobody may be unloaded for it.

    Attributes:
        reason: a sentence with the figures.
        alone: it would not fit if it were the only one either.
    """

    reason: str
    alone: bool = False


Plan = Fits | Evict | Wait | Refuse


def plan(need: Need, holders: Sequence[Holder], limits: Limits) -> Plan:
    """Return what to do about ``need``, given everything that holds memory."""
    short = limits.excess(_total(holders) + need.memory)
    if not _any(short):
        return Fits()
    if _any(limits.excess(need.memory)):
        return Refuse(_refusal(need, holders, limits, short), alone=True)
    leaving = [holder for holder in holders if holder.leaving]
    staying = [holder for holder in holders if not holder.leaving]
    short = limits.excess(_total(staying) + need.memory)
    if not _any(short):
        return Wait(f"unloading {_names(leaving)}")
    if need.may_evict:
        if victims := _victims(short, _units(staying, need.deployment, lambda one: not one.kept)):
            return Evict(victims)
        if _victims(short, _units(staying, need.deployment, lambda one: not one.kept or one.doubtful)):
            doubtful = [holder for holder in staying if holder.doubtful]
            return Wait(f"asking whether {_names(doubtful)} can be unloaded")
    return Refuse(_refusal(need, holders, limits, short))


# --- who leaves ---------------------------------------------------------------------------------


def _units(
    staying: Iterable[Holder], wanted: str, dispensable: Callable[[Holder], bool]
) -> Mapping[str, Sequence[Holder]]:
    """The deployments that may leave: all of each one's replicas are ``dispensable``."""
    units: dict[str, list[Holder]] = defaultdict(list)
    for holder in staying:
        units[holder.deployment].append(holder)
    return {name: unit for name, unit in units.items() if name != wanted and all(map(dispensable, unit))}


def _victims(short: Bytes, units: Mapping[str, Sequence[Holder]]) -> tuple[str, ...]:
    """Choose deployments that free ``short``; none if all of them together do not.

    The chance that somebody asks for a deployment in the next second is taken to fall with the time that nobody has
    asked for it, and to ask for an unloaded one costs its load time. So ``load_s / idle_s`` is what unloading it will
    cost, and the most dispensable is the one that frees the most of what is short for that.
    """

    def worth(name: str) -> float:
        unit = units[name]
        idle_s = max(min(holder.idle_s for holder in unit), _LEAST_IDLE_S)
        load_s = max(*(holder.load_s for holder in unit), _LEAST_LOAD_S)
        return _share(_total(unit), short) * idle_s / load_s

    chosen: list[str] = []
    for name in sorted(units, key=lambda name: (-worth(name), name)):
        if _any(_less(short, _freed(chosen, units))) and _share(_total(units[name]), short) > 0:
            chosen.append(name)
    if _any(_less(short, _freed(chosen, units))):
        return ()
    for name in reversed(chosen.copy()):  # the last one may have made an earlier one needless
        rest = [one for one in chosen if one != name]
        if not _any(_less(short, _freed(rest, units))):
            chosen = rest
    return tuple(chosen)


def _share(frees: Bytes, short: Bytes) -> float:
    """How much of what is short it frees, each kind counting up to 1: more than is short is worth nothing more."""
    kinds = ((frees.host, short.host), (frees.device, short.device))
    return sum(min(freed / missing, 1.0) for freed, missing in kinds if missing)


def _freed(names: Iterable[str], units: Mapping[str, Sequence[Holder]]) -> Bytes:
    return _total(holder for name in names for holder in units[name])


def _total(holders: Iterable[Holder]) -> Bytes:
    return sum((holder.memory for holder in holders), Bytes())


def _less(short: Bytes, freed: Bytes) -> Bytes:
    return Bytes(max(0, short.host - freed.host), max(0, short.device - freed.device))


def _any(amount: Bytes) -> bool:
    return amount.host > 0 or amount.device > 0


# --- words --------------------------------------------------------------------------------------


def readable(size: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"


def _refusal(need: Need, holders: Sequence[Holder], limits: Limits, short: Bytes) -> str:
    used = _total(holders)
    if short.host:
        kind, key, wanted, taken, limit = "memory", "memory_limit_bytes", need.memory.host, used.host, limits.host or 0
    else:
        kind, key, wanted = "device memory", "device_memory_limit_bytes", need.memory.device
        taken, limit = used.device, limits.device or 0
    known = f" ({need.known})" if need.known else ""
    begin = f"it needs {readable(wanted)} of {kind}{known}"
    if wanted > limit:
        return f"{begin}, but all replicas together may take {readable(limit)} (supervisor.{key})"
    units: dict[str, list[Holder]] = defaultdict(list)
    for holder in holders:
        units[holder.deployment].append(holder)
    who = ", ".join(
        f"{name} has {readable(size)} ({'; '.join(sorted({one.kept for one in unit if one.kept})) or 'idle'})"
        for name, unit in sorted(units.items())
        if (size := getattr(_total(unit), "host" if short.host else "device"))
    )
    if need.may_evict:
        idle = _units(holders, need.deployment, lambda one: not (one.kept or one.leaving))
        why = f"{'not enough' if _share(_freed(idle, idle), short) else 'nothing'} can be unloaded for it"
    else:
        why = "nothing is unloaded for what nobody has asked for"
    return f"{begin}; {readable(max(0, limit - taken))} of {readable(limit)} are free, and {why}: {who}"


def _names(holders: Iterable[Holder]) -> str:
    return ", ".join(sorted({holder.deployment for holder in holders}))
