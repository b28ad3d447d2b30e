"""The supervisor's loop: feeds events to the decisions of `core.supervisor.state`, performs their effects."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from core.api.protocols import Launcher, Observer, ReplicaChange
from core.observe import configure_logging
from core.registry import Generation, Registry
from core.settings import Settings
from core.supervisor.admin import Administration, Order
from core.supervisor.control import ControlServer
from core.supervisor.events import Events
from core.supervisor.orders import whose_turn
from core.supervisor.places import Places
from core.supervisor.replica import Replica
from core.supervisor.replica_events import (
    Effect,
    Event,
    Overslept,
    Reported,
    Stop,
    Tick,
    TurnCame,
    Wanted,
    WeightsFound,
    WeightsMissing,
)
from core.supervisor.room import Room, limits_of
from core.supervisor.slots import Lives, Slot, what_is_missing
from core.supervisor.snapshot import deployment_status, memory_status
from core.supervisor.state import decide, due_s
from core.supervisor.store import OverrideStore
from core.supervisor.words import log_line
from core.wire.control import AdminReply, BreakerChanged, Change, Configuration, Operate, Reload, Snapshot

__all__ = ["SOCKET_NAME", "Supervisor"]

SOCKET_NAME = "supervisor.sock"

_log = logging.getLogger(__name__)
_TICK_S = 1.0
_WEIGHTS_EVERY_S = 2.0
_PAUSED_S = 1.0
_TAKE_OVER_S = 1.0
"""An HTTP worker that needs longer to take a configuration over is not waited for."""


class Supervisor:
    """Owns every replica from its start to its end.

    Args:
        registry: what is installed.
        configured: the settings, without what was changed at run time.
        store: keeps that.
        launcher: starts the processes.
        observers: told of each change of state.
        run_dir: private folder for sockets, with a path of at most 80 bytes.
        read_settings: reads the configuration again, raising `SettingsError`; None: there is none to be read.
        configuration_replaced: called with the settings that a reload is about to put in effect; may block.

    Attributes:
        generation: what it runs by.
        events: what has changed, for those who listen.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        configured: Settings,
        store: OverrideStore,
        launcher: Launcher,
        observers: Sequence[Observer],
        run_dir: Path,
        read_settings: Callable[[], Settings] | None = None,
        configuration_replaced: Callable[[Settings], None] = lambda _: None,
    ) -> None:
        self.events = Events(configured.admin.events_kept)
        self._admin = Administration(
            registry,
            store,
            self.events,
            read_settings=read_settings,
            configuration_replaced=configuration_replaced,
        )
        self.generation = self._admin.first_generation(configured)
        self._configuration = self.generation.configuration()
        self._timing = configured.supervisor
        self._observers = observers
        self._sockets = run_dir / "r"
        self._places = Places()
        self._places.arrange(self.generation, self._feed)
        self._room = Room(limits_of(configured.supervisor), lambda: self._places, self._feed)
        self._lives = Lives(launcher, self._sockets, self._feed, self._room.find)
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = math.inf
        self._ticked_s = 0.0
        self._looked_s = -math.inf
        self._snapshots = 0
        self._reloads: set[asyncio.Task[AdminReply]] = set()
        self._running = False
        self.stopping = False
        self._ended = asyncio.Event()
        self._control = ControlServer(run_dir / SOCKET_NAME, self, max_frame_bytes=configured.limits.max_frame_bytes)

    # --- for the owner

    async def run(self) -> None:
        """Serve, start what loads at start-up, and return when `stop` was called and every replica has ended.

        Cancelling it kills the replicas.

        Raises:
            OSError: the sockets cannot be made.
        """
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._control.start()
        self._running, self._ticked_s = True, _now_s()
        try:
            if self.stopping:
                self.stop()
            else:
                self._tick()
                self._log_absent()
            await self._ended.wait()
        finally:
            self.kill()
            await self._lives.over()
            self._running = False
            if self._timer is not None:
                self._timer.cancel()
            await self._control.close()

    def stop(self) -> None:
        """Drain every replica, then let `run` return, after ``drain_timeout_s + kill_after_s`` at most. Idempotent."""
        if not self.stopping:
            _log.info("shutting down: running requests may go on for %g s", self._timing.drain_timeout_s)
        self._stop(Stop())

    def kill(self) -> None:
        """End every replica at once, then let `run` return."""
        self._stop(Stop(now=True))

    def ensure_ready(self, deployment: str) -> None:
        """A request wants this deployment: all of its replicas that are stopped are started."""
        for slot in self._places.of(deployment):
            self._feed(slot, Wanted())

    def snapshot(self) -> Snapshot:
        """Return how everything is now."""
        self._snapshots += 1
        now_s = _now_s()
        return Snapshot(
            number=self._snapshots,
            fingerprint=self.generation.table.fingerprint,
            supervisor_pid=os.getpid(),
            draining=self.stopping,
            deployments=tuple(
                deployment_status(slots[0].deployment, [(slot.replica, slot.socket) for slot in slots], now_s=now_s)
                for slots in self._places.by_deployment()
            ),
            memory=memory_status(self._room.used(), self._room.limits),
        )

    def present(self) -> tuple[Configuration, Snapshot]:
        """See `core.supervisor.control.Desk`."""
        return self._configuration, self.snapshot()

    def breaker_changed(self, change: BreakerChanged, pid: int) -> None:
        """See `core.supervisor.control.Desk`."""
        data = {"state": change.state, "reason": change.reason, "worker_pid": pid}
        self.events.add("breaker", change.replica, data)

    # --- for operators

    async def execute(self, command: Change | Operate | Reload) -> AdminReply:
        """Do what is commanded, or say why not; never raises."""
        return await self._admin.execute(command, self)

    def reload(self) -> None:
        """Read the configuration again; the log says what came of it."""
        reloading = asyncio.get_running_loop().create_task(self.execute(Reload()))
        self._reloads.add(reloading)
        reloading.add_done_callback(self._reloads.discard)

    async def take_over(self, generation: Generation) -> tuple[str, ...]:
        """See `core.supervisor.admin.Subordinate`."""
        for warning in sorted(set(generation.table.warnings) - set(self.generation.table.warnings)):
            _log.warning("%s", warning)
        if generation.settings.log_level != self.generation.settings.log_level:
            configure_logging(generation.settings.log_level)
        self.generation = generation
        self._configuration = generation.configuration()
        self._timing = generation.settings.supervisor
        self._room.limits = limits_of(self._timing)
        self._places.arrange(generation, self._decide)
        self._look_for_weights()
        self._settle()
        await self._room.forget_refusals()
        self._control.publish()
        if not await self._control.taken_over(generation.number, timeout_s=_TAKE_OVER_S):
            _log.warning(
                "an HTTP worker has not gone over to generation %d within %g s", generation.number, _TAKE_OVER_S
            )
        return self._control.problems()

    def replicas(self, deployment: str) -> list[Replica]:
        """See `core.supervisor.admin.Subordinate`."""
        return [slot.replica for slot in self._places.of(deployment)]

    def order(self, deployment: str, order: Order) -> None:
        """See `core.supervisor.admin.Subordinate`."""
        for slot in self._places.of(deployment):
            self._decide(slot, order)
        self._settle()

    # --- events

    def _stop(self, event: Stop) -> None:
        self.stopping = True
        self._admin.close()
        if self._running:
            self._feed_all(event)
            self._control.publish()
            self._end_if_over()

    def _feed_all(self, event: Event) -> None:
        for slot in self._places:
            self._decide(slot, event)
        self._settle()

    def _feed(self, slot: Slot, event: Event) -> None:
        self._decide(slot, event)
        if isinstance(event, Reported):
            self._room.note(slot)
        self._settle(slot.deployment.id)

    def _decide(self, slot: Slot, event: Event) -> None:
        before = slot.replica
        now_s = _now_s()
        slot.replica, effects = decide(before, event, now_s, self._timing)
        if (before.state, before.reason) != (slot.replica.state, slot.replica.reason):
            self._tell(before, slot.replica, now_s)
        for effect in effects:
            self._perform(slot, effect)
        if slot.replica.removed and slot.replica.process is None:
            self._places.forget(slot)
            self._control.publish()

    def _settle(self, deployment: str | None = None) -> None:
        """Do what follows from decisions: about replicas of one deployment, or of all."""
        groups = self._places.by_deployment() if deployment is None else [self._places.of(deployment)]
        for slots in groups:
            turn = whose_turn([slot.replica for slot in slots])
            for slot in slots:
                if slot.replica is turn:
                    self._decide(slot, TurnCame())
        self._room.look()
        self._end_if_over()
        self._arm()

    def _end_if_over(self) -> None:
        if self.stopping and not any(slot.replica.process for slot in self._places):
            self._ended.set()

    def _tell(self, before: Replica, after: Replica, now_s: float) -> None:
        self._control.publish()
        _log.log(*log_line(before, after, now_s=now_s, log_dir=self._timing.log_dir))
        if before.state == after.state:
            return
        data = {"before": before.state, "after": after.state, "reason": after.reason}
        self.events.add("replica", after.name, data)
        if after.state == "draining" and after.process is not None and after.process.gives_way_to:
            self.events.add("evicted", after.name, {"needed_for": after.process.gives_way_to})
        change = ReplicaChange(replica=after.name, before=before.state, after=after.state, reason=after.reason)
        for observer in self._observers:
            try:
                observer.replica_changed(change)
            except Exception:  # noqa: BLE001 - whatever a plugin raises
                _log.exception("observer %r failed; nothing else is touched", observer)

    # --- effects

    def _perform(self, slot: Slot, effect: Effect) -> None:
        match effect:
            case Effect.LAUNCH:
                self._lives.begin(slot, self.generation)
            case Effect.ASK_TO_RETIRE if slot.watcher is not None:
                slot.watcher.ask_to_retire()
            case Effect.TERMINATE if slot.process is not None:
                slot.process.terminate()
            case Effect.KILL if slot.process is not None:
                slot.process.kill()
            case _:
                pass  # not launched yet: decided again when it is

    # --- time

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        dues = (due_s(slot.replica, self._timing) for slot in self._places)
        at_s = min((due for due in dues if due is not None), default=self._ticked_s + _TICK_S)
        self._due_s = min(at_s, self._ticked_s + _TICK_S)
        self._timer = asyncio.get_running_loop().call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        now_s = _now_s()
        late_s = now_s - self._due_s
        publish, self._ticked_s = now_s - self._ticked_s >= _TICK_S, now_s
        try:
            if late_s > _PAUSED_S:
                _log.warning("the supervisor did not run for %.1f s (a suspended or overloaded machine?)", late_s)
                self._feed_all(Overslept())
            if publish:
                self._control.publish()
            if now_s - self._looked_s >= _WEIGHTS_EVERY_S:
                self._looked_s = now_s
                self._look_for_weights()
            self._feed_all(Tick())
            if publish:
                self._room.tick()
        finally:
            self._arm()

    def _look_for_weights(self) -> None:
        for slots in self._places.by_deployment():
            absent = [slot for slot in slots if slot.replica.state == "absent"]
            if absent:
                missing = what_is_missing(slots[0].weights)
                for slot in absent:
                    self._decide(slot, WeightsMissing(None, missing) if missing else WeightsFound())

    def _log_absent(self) -> None:
        for slot in self._places:
            if slot.replica.state == "absent" and slot.replica.enabled:
                _log.warning("%s: absent: %s", slot.replica.name, slot.replica.reason)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
