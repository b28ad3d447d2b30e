"""The supervisor's loop: feeds events to the decisions of `core.supervisor.state`, performs their effects."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.api.errors import PreparationError, SpecError
from core.api.protocols import Launcher, Observer, ReplicaChange, ReplicaConfig, ReplicaExit, ReplicaProcess
from core.registry import DeploymentWeights
from core.routing.table import Deployment
from core.settings import Settings
from core.supervisor.control import ControlServer
from core.supervisor.launch import make_scratch, new_replicas, remove_scratch, replica_config
from core.supervisor.replica import (
    Effect,
    Event,
    Exited,
    Launched,
    LaunchFailed,
    Overslept,
    Replica,
    Reported,
    RetireAnswered,
    Stop,
    Tick,
    Wanted,
    WeightsFound,
    WeightsMissing,
)
from core.supervisor.snapshot import deployment_status, replica_status
from core.supervisor.state import decide, due_s
from core.supervisor.watch import Watcher
from core.supervisor.words import log_line
from core.wire.control import Snapshot
from core.wire.frames import RetireReply, Status

__all__ = ["SOCKET_NAME", "Supervisor"]

SOCKET_NAME = "supervisor.sock"

_log = logging.getLogger(__name__)
_TICK_S = 1.0
_WEIGHTS_EVERY_S = 2.0
_PAUSED_S = 1.0


@dataclass(slots=True, eq=False)
class _Slot:
    """A replica's place: what is decided about it, and its present process."""

    deployment: Deployment
    weights: DeploymentWeights
    replica: Replica
    socket: str | None = None
    process: ReplicaProcess | None = None
    watcher: Watcher | None = None


class Supervisor:
    """Owns every replica from its start to its end.

    Args:
        deployments: by id; disabled ones are shown and never started.
        fingerprint: of the alias table; HTTP workers and replicas compare it with theirs.
        launcher: starts the processes.
        observers: told of each change of state.
        run_dir: private folder for sockets, with a path of at most 80 bytes.
    """

    def __init__(
        self,
        *,
        deployments: Mapping[str, Deployment],
        fingerprint: str,
        settings: Settings,
        launcher: Launcher,
        observers: Sequence[Observer],
        run_dir: Path,
    ) -> None:
        self._fingerprint = fingerprint
        self._settings = settings
        self._timing = settings.supervisor
        self._launcher = launcher
        self._observers = observers
        self._sockets = run_dir / "r"
        self._slots: dict[str, list[_Slot]] = {}
        for id_, deployment in deployments.items():
            weights = DeploymentWeights(deployment, settings.weights)
            replicas = new_replicas(deployment, missing=_what_is_missing(weights))
            self._slots[id_] = [_Slot(deployment, weights, replica) for replica in replicas]
        self._lives: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = math.inf
        self._ticked_s = 0.0
        self._looked_s = -math.inf
        self._snapshots = 0
        self._running = False
        self._stopping = False
        self._ended = asyncio.Event()
        self._control = ControlServer(
            run_dir / SOCKET_NAME,
            snapshot=self.snapshot,
            ensure_ready=self.ensure_ready,
            fingerprint=fingerprint,
            max_frame_bytes=settings.limits.max_frame_bytes,
        )

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
            if self._stopping:
                self.stop()
            else:
                self._tick()
                self._log_absent()
            await self._ended.wait()
        finally:
            self.kill()
            await asyncio.gather(*self._lives, return_exceptions=True)
            self._running = False
            if self._timer is not None:
                self._timer.cancel()
            await self._control.close()

    def stop(self) -> None:
        """Drain every replica, then let `run` return, after ``drain_timeout_s + kill_after_s`` at most. Idempotent."""
        if not self._stopping:
            _log.info("shutting down: running requests may go on for %g s", self._timing.drain_timeout_s)
        self._stop(Stop())

    def kill(self) -> None:
        """End every replica at once, then let `run` return."""
        self._stop(Stop(now=True))

    def ensure_ready(self, deployment: str) -> None:
        """A request wants this deployment: all of its replicas that are stopped are started."""
        for slot in self._slots.get(deployment, ()):
            self._feed(slot, Wanted())

    def snapshot(self) -> Snapshot:
        """Return how everything is now."""
        self._snapshots += 1
        now_s = _now_s()
        return Snapshot(
            number=self._snapshots,
            fingerprint=self._fingerprint,
            supervisor_pid=os.getpid(),
            draining=self._stopping,
            deployments=tuple(
                deployment_status(
                    slots[0].deployment,
                    [replica_status(slot.replica, socket=slot.socket, now_s=now_s) for slot in slots],
                )
                for slots in self._slots.values()
            ),
        )

    # --- events

    def _stop(self, event: Stop) -> None:
        self._stopping = True
        if self._running:
            self._feed_all(event)
            self._control.publish()
            self._end_if_over()

    def _feed_all(self, event: Event) -> None:
        for slot in self._all():
            self._feed(slot, event)

    def _feed(self, slot: _Slot, event: Event) -> None:
        before = slot.replica
        now_s = _now_s()
        slot.replica, effects = decide(before, event, now_s, self._timing)
        if (before.state, before.reason) != (slot.replica.state, slot.replica.reason):
            self._tell(before, slot.replica, now_s)
        for effect in effects:
            self._perform(slot, effect)
        self._end_if_over()
        self._arm()

    def _end_if_over(self) -> None:
        if self._stopping and not any(slot.replica.process for slot in self._all()):
            self._ended.set()

    def _all(self) -> list[_Slot]:
        return [slot for slots in self._slots.values() for slot in slots]

    def _tell(self, before: Replica, after: Replica, now_s: float) -> None:
        self._control.publish()
        _log.log(*log_line(before, after, now_s=now_s, log_dir=self._timing.log_dir))
        if before.state == after.state:
            return
        change = ReplicaChange(replica=after.name, before=before.state, after=after.state, reason=after.reason)
        for observer in self._observers:
            try:
                observer.replica_changed(change)
            except Exception:  # noqa: BLE001 - whatever a plugin raises
                _log.exception("observer %r failed; nothing else is touched", observer)

    # --- effects

    def _perform(self, slot: _Slot, effect: Effect) -> None:
        match effect:
            case Effect.LAUNCH:
                life = asyncio.get_running_loop().create_task(self._live(slot, slot.replica.starts))
                self._lives.add(life)
                life.add_done_callback(self._lives.discard)
            case Effect.ASK_TO_RETIRE if slot.watcher is not None:
                slot.watcher.ask_to_retire()
            case Effect.TERMINATE if slot.process is not None:
                slot.process.terminate()
            case Effect.KILL if slot.process is not None:
                slot.process.kill()
            case _:
                pass  # not launched yet: decided again when it is

    async def _live(self, slot: _Slot, generation: int) -> None:
        """One process, from its launch to its end."""
        scratch = None
        try:
            weights = slot.weights.find()
            if weights.missing:
                self._feed(slot, WeightsMissing(generation, weights.missing))
                return
            scratch = make_scratch(self._sockets)
            config = replica_config(
                slot.deployment,
                slot.replica.name,
                weights=weights.path,
                scratch=scratch,
                settings=self._settings,
                fingerprint=self._fingerprint,
            )
            event: Event = Exited(generation, await self._watch_over(slot, generation, config), _jitter())
        except (OSError, PreparationError) as error:
            event = LaunchFailed(generation, str(error), _jitter())
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises must not leave it starting for ever
            _log.exception("%s: the launch failed in an unforeseen way", slot.replica.name)
            event = LaunchFailed(generation, repr(error), _jitter())
        if isinstance(event, LaunchFailed) and slot.process is not None:
            slot.process.kill()
        slot.process = slot.watcher = slot.socket = None
        self._feed(slot, event)
        if scratch is not None:
            await asyncio.to_thread(remove_scratch, scratch)

    async def _watch_over(self, slot: _Slot, generation: int, config: ReplicaConfig) -> ReplicaExit:
        slot.process = process = await self._launcher.launch(config, python=slot.deployment.python)
        slot.socket = config.socket
        self._feed(slot, Launched(generation, process.pid))

        def hear(frame: Status | RetireReply) -> None:
            if isinstance(frame, Status):
                self._feed(slot, Reported(generation, frame))
            else:
                self._feed(slot, RetireAnswered(generation, frame.retired))

        slot.watcher = Watcher(
            config.socket,
            hear,
            replica=config.replica,
            fingerprint=self._fingerprint,
            interval_s=self._timing.status_interval_s,
            max_frame_bytes=config.max_frame_bytes,
        )
        watching = asyncio.create_task(slot.watcher.run())
        try:
            return await process.wait()
        finally:
            watching.cancel()

    # --- time

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        dues = (due_s(slot.replica, self._timing) for slot in self._all())
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
        finally:
            self._arm()

    def _look_for_weights(self) -> None:
        for slots in self._slots.values():
            absent = [slot for slot in slots if slot.replica.state == "absent"]
            if absent:
                missing = _what_is_missing(slots[0].weights)
                for slot in absent:
                    self._feed(slot, WeightsMissing(None, missing) if missing else WeightsFound())

    def _log_absent(self) -> None:
        for slot in self._all():
            if slot.replica.state == "absent" and slot.replica.enabled:
                _log.warning("%s: absent: %s", slot.replica.name, slot.replica.reason)


def _what_is_missing(weights: DeploymentWeights) -> str:
    try:
        return weights.find().missing
    except (SpecError, PreparationError, OSError):
        return ""  # so the launch fails on it, and says why


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 - spreads restarts; guards nothing
