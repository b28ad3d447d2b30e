"""Finds memory for who wants to load: grants it, has others unloaded for it, or refuses.

Nothing is launched without a grant, and what was granted counts from that moment, so that two that load at once
are not given the same memory. Who asks first is served first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from core.routing.table import Deployment
from core.settings import SupervisorTable
from core.supervisor.footprint import counted, holder, measured
from core.supervisor.machine import guess, has_device, host_bytes, size_on_disk
from core.supervisor.memory import Bytes, Evict, Fits, Holder, Limits, Need, Plan, Refuse, Wait, plan, readable
from core.supervisor.replica_events import AwaitsRoom, Event, GiveWay, MayAskAgain, NoRoom, RoomFound, RoomFree
from core.supervisor.slots import Slot

__all__ = ["Room", "limits_of"]

_log = logging.getLogger(__name__)
_HOLD_S = 1.0
_HOLD_ALONE_S = 60.0
"""Nothing that happens here can help who would not fit alone."""


@dataclass(slots=True, eq=False)
class _Wish:
    """Somebody who wants to load."""

    slot: Slot
    start: int
    weights: Path | None
    memory: Bytes
    known: str
    asked_s: float
    over: asyncio.Future[bool]
    told: str = ""

    @property
    def holds(self) -> bool:
        """Whether it still wants to."""
        replica = self.slot.replica
        process = replica.process
        current = process is not None and process.start == self.start and not process.killed
        return current and replica.state == "starting"

    def need(self) -> Need:
        process = self.slot.replica.process
        return Need(
            deployment=self.slot.deployment.id,
            memory=self.memory,
            known=self.known,
            may_evict=process is not None and process.demanded,
        )


class Room:
    """Who has which memory.

    Args:
        slots: all places of replicas.
        feed: what happens to a replica is told to it.
    """

    def __init__(
        self, limits: Limits, slots: Callable[[], Iterable[Slot]], feed: Callable[[Slot, Event], None]
    ) -> None:
        self.limits = limits
        self._slots = slots
        self._feed = feed
        self._on_device = limits.device is not None or has_device()
        self._wishes: list[_Wish] = []
        self._refused: dict[Slot, _Wish] = {}
        self._seen: dict[str, tuple[str, Bytes]] = {}
        self._looking = False
        self._warned = False

    async def find(self, slot: Slot, weights: Path | None) -> bool:
        """Wait until the process that ``slot`` is about to launch has its memory; False: it shall not be launched.

        Either way the replica has been told.
        """
        process = slot.replica.process
        assert process is not None  # noqa: S101 - it was made for this launch
        memory, known = await self._estimate(slot.deployment, process.recipe, weights)
        loop = asyncio.get_running_loop()
        wish = _Wish(slot, process.start, weights, memory, known, loop.time(), loop.create_future())
        self._refused.pop(slot, None)
        self._wishes.append(wish)
        self.look()
        try:
            return await wish.over
        finally:
            if wish in self._wishes:
                self._wishes.remove(wish)

    def look(self) -> None:
        """Something has happened: see whether it helps anybody who waits. Cheap when nobody does."""
        if self._wishes and not self._looking:
            self._looking = True
            try:
                for wish in tuple(self._wishes):
                    self._consider(wish)
            finally:
                self._looking = False

    def note(self, slot: Slot) -> None:
        """Remember what the replica takes now, for the next time that its deployment is loaded."""
        process = slot.replica.process
        if process is not None and process.ready_s is not None:
            recipe, most = self._seen.get(slot.deployment.id, ("", Bytes()))
            most = most if recipe == process.recipe else Bytes()
            self._seen[slot.deployment.id] = process.recipe, most.at_least(measured(process))

    def used(self) -> Bytes:
        """What counts against the limits now."""
        return sum((counted(slot.replica) for slot in self._slots()), Bytes())

    async def forget_refusals(self) -> None:
        """What there is, or what is needed, has changed: what was refused may ask again at once."""
        for slot, wish in tuple(self._refused.items()):
            wish.memory, wish.known = await self._estimate(slot.deployment, slot.replica.recipe, wish.weights)
            if self._refused.get(slot) is wish:
                self._feed(slot, MayAskAgain())
                self._reconsider(slot, wish)

    def tick(self) -> None:
        """Call it every second: load what was refused and fits now, and look whether anybody has grown."""
        for slot, wish in tuple(self._refused.items()):
            self._reconsider(slot, wish)
        self._warn_of_growth()

    def _warn_of_growth(self) -> None:
        """Say once when replicas have grown beyond the limits; nobody is ended for it."""
        used = self.used()
        over = self.limits.excess(used)
        if over == Bytes():
            self._warned = False
        elif not self._warned:
            self._warned = True
            largest = max(self._slots(), key=lambda slot: counted(slot.replica).host + counted(slot.replica).device)
            _log.warning(
                "the replicas take %s of memory and %s of device memory, which is more than they may "
                "(supervisor.memory_limit_bytes, device_memory_limit_bytes); nothing is ended for it; the largest: %s",
                readable(used.host),
                readable(used.device),
                largest.replica.name,
            )

    # --- one who wants to load

    def _consider(self, wish: _Wish) -> None:
        if not wish.holds:
            self._end(wish, NoRoom(wish.start, "it was told to end", 0.0), granted=False)
            return
        decided = self._plan(wish)
        match decided:
            case Fits():
                self._end(wish, RoomFound(wish.start, wish.memory), granted=True)
            case Evict(deployments):
                self._tell(wish, f"waiting for memory: unloading {', '.join(deployments)}")
                for slot in tuple(self._slots()):
                    if slot.deployment.id in deployments:
                        self._feed(slot, GiveWay(wish.slot.deployment.id))
            case Wait(reason):
                self._tell(wish, f"waiting for memory: {reason}")
            case Refuse(reason, alone):
                self._refused[wish.slot] = wish
                hold_s = _HOLD_ALONE_S if alone else _HOLD_S
                self._end(wish, NoRoom(wish.start, f"does not fit: {reason}", hold_s), granted=False)

    def _tell(self, wish: _Wish, reason: str) -> None:
        if reason != wish.told:
            wish.told = reason
            self._feed(wish.slot, AwaitsRoom(wish.start, reason))

    def _end(self, wish: _Wish, event: RoomFound | NoRoom, *, granted: bool) -> None:
        self._wishes.remove(wish)
        self._feed(wish.slot, event)
        if not wish.over.done():
            wish.over.set_result(granted)

    def _reconsider(self, slot: Slot, wish: _Wish) -> None:
        """Load what was refused when it fits, if it loads at start-up or others of its deployment are there."""
        replica = slot.replica
        if replica.displaced != "refused" or replica.process is not None or replica.stopping or not replica.enabled:
            del self._refused[slot]
        elif (
            replica.start_at_s is None
            and (replica.at_startup or self._has_others(slot))
            and isinstance(self._plan(wish), Fits)
        ):
            self._feed(slot, RoomFree())

    def _has_others(self, slot: Slot) -> bool:
        return any(
            other.replica.state == "ready" for other in self._slots() if other.deployment.id == slot.deployment.id
        )

    def _plan(self, wish: _Wish) -> Plan:
        now_s = asyncio.get_running_loop().time()
        holders = [
            held for slot in self._slots() if (held := _holder(slot, now_s=now_s, asked_s=wish.asked_s)) is not None
        ]
        for earlier in self._wishes:
            if earlier is wish:
                break
            holders.append(Holder(deployment=earlier.slot.deployment.id, memory=earlier.memory, kept="it is next"))
        return plan(wish.need(), holders, self.limits)

    async def _estimate(self, deployment: Deployment, recipe: str, weights: Path | None) -> tuple[Bytes, str]:
        measured_recipe, most = self._seen.get(deployment.id, (None, Bytes()))
        if measured_recipe == recipe:
            return most, "as measured"
        declared = deployment.spec.memory_bytes
        size = 0 if declared else await asyncio.to_thread(size_on_disk, weights)
        memory, known = guess(declared_bytes=declared, weights_bytes=size, on_device=self._on_device)
        # An engine fits itself into a device, or fails with a reason and harms nobody: a guess alone refuses nothing.
        most_on_device = memory.device if self.limits.device is None else min(memory.device, self.limits.device)
        return Bytes(memory.host, most_on_device), known


def _holder(slot: Slot, *, now_s: float, asked_s: float) -> Holder | None:
    deployment = slot.deployment
    return holder(slot.replica, deployment.id, pinned=deployment.pinned, now_s=now_s, asked_s=asked_s)


def limits_of(table: SupervisorTable) -> Limits:
    """What the configuration allows, or else what the machine has."""
    return Limits(host=table.memory_limit_bytes or host_bytes(), device=table.device_memory_limit_bytes)
