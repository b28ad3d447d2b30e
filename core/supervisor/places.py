"""All places of replicas: as many as the generation wants, and those whose process has yet to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from core.registry import DeploymentWeights, Generation
from core.routing.table import Deployment
from core.settings import WeightsTable
from core.supervisor.launch import new_replica, orders
from core.supervisor.overrides import why_disabled
from core.supervisor.replica_events import Event, Removed
from core.supervisor.slots import Slot, what_is_missing

__all__ = ["Places"]

Feed = Callable[[Slot, Event], None]


class Places:
    """Slots by deployment, and inside a deployment by index."""

    def __init__(self) -> None:
        self._slots: dict[str, list[Slot]] = {}
        self._weights: WeightsTable | None = None

    def __iter__(self) -> Iterator[Slot]:
        """Every slot; they may change meanwhile."""
        return iter([slot for slots in self._slots.values() for slot in slots])

    def by_deployment(self) -> Iterable[Sequence[Slot]]:
        """The slots of each deployment, at least one."""
        return tuple(self._slots.values())

    def of(self, deployment: str) -> Sequence[Slot]:
        """The slots of one deployment; none if there is no such."""
        return tuple(self._slots.get(deployment, ()))

    def arrange(self, generation: Generation, feed: Feed) -> None:
        """Have what ``generation`` wants: new places are absent until their weights are found, the rest is told."""
        table, weights = generation.table, generation.settings.weights
        weights_moved = weights != self._weights
        for id_, deployment in table.deployments.items():
            disabled = why_disabled(generation, id_)
            if weights_moved or not self._stands(id_, deployment, disabled):
                self._arrange(deployment, disabled, feed, weights, weights_moved=weights_moved)
        for id_ in self._slots.keys() - table.deployments.keys():
            for slot in self.of(id_):
                _remove(slot, feed)
        self._weights = weights

    def forget(self, slot: Slot) -> None:
        """A slot is wanted no more and has no process."""
        id_ = slot.deployment.id
        slots = self._slots.get(id_, [])
        if slot in slots:
            slots.remove(slot)
        if not slots:
            self._slots.pop(id_, None)

    def _stands(self, id_: str, deployment: Deployment, disabled: str) -> bool:
        """Whether its places are wanted as they are: most, since most changes are of one deployment among many."""
        slots = self._slots.get(id_, ())
        return len(slots) == deployment.replicas and all(
            slot.deployment is deployment and slot.configured is not None and slot.configured.disabled == disabled
            for slot in slots
        )

    def _arrange(
        self, deployment: Deployment, disabled: str, feed: Feed, table: WeightsTable, *, weights_moved: bool
    ) -> None:
        slots = self._slots.setdefault(deployment.id, [])
        known = bool(slots) and slots[0].deployment == deployment and not weights_moved
        weights = slots[0].weights if known else DeploymentWeights(deployment, table)
        told = orders(deployment, disabled=disabled, known_recipe=slots[0].replica.recipe if known else "")
        there = {slot.index: slot for slot in slots}
        missing: str | None = None
        for index in range(deployment.replicas):
            slot = there.pop(index, None)
            anew = slot is None or slot.replica.recipe != told.recipe or not slot.replica.may_run
            if missing is None and anew and (slot is None or slot.replica.process is None):
                missing = what_is_missing(weights)
            if slot is None:
                replica = new_replica(deployment, index, disabled=disabled, missing=missing or "")
                if slots:  # an operator took the deployment out of service, not one of its replicas
                    replica = dataclasses.replace(replica, out=slots[0].replica.out)
                slot = Slot(deployment, weights, replica, configured=told)
                slots.append(slot)
            slot.deployment, slot.weights = deployment, weights
            if told != slot.configured:
                slot.configured = told
                feed(slot, dataclasses.replace(told, missing=missing or ""))
            slot.tell_limits()
        slots.sort(key=lambda slot: slot.index)
        for slot in there.values():
            _remove(slot, feed)


def _remove(slot: Slot, feed: Feed) -> None:
    slot.configured = None
    feed(slot, Removed())
