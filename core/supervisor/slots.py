"""The places of replicas, and the life of the process that is in one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from core.api.errors import PreparationError, SpecError
from core.api.protocols import Launcher, ReplicaConfig, ReplicaExit, ReplicaProcess
from core.registry import DeploymentWeights, Generation
from core.routing.table import Deployment
from core.supervisor.launch import make_scratch, remove_scratch, replica_config
from core.supervisor.replica import Replica
from core.supervisor.replica_events import (
    Configured,
    Event,
    Exited,
    Launched,
    LaunchFailed,
    Reported,
    RetireAnswered,
    WeightsMissing,
)
from core.supervisor.watch import Watcher
from core.wire.frames import RetireReply, SetLimits, Status

__all__ = ["Lives", "Slot", "what_is_missing"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Slot:
    """A replica's place: what is decided about it, and its present process."""

    deployment: Deployment
    weights: DeploymentWeights
    replica: Replica
    socket: str | None = None
    process: ReplicaProcess | None = None
    watcher: Watcher | None = None
    limits: SetLimits | None = None
    """What the process was told of its queue."""
    configured: Configured | None = None
    """What the replica was told last of the configuration, if it was told."""

    @property
    def index(self) -> int:
        """The number behind ``#``."""
        return int(self.replica.name.rpartition("#")[2])

    def tell_limits(self) -> None:
        """Tell the process the bounds of its queue, if they are not what it knows."""
        wanted = SetLimits(
            max_waiting=self.deployment.max_waiting,
            max_waiting_prompt_tokens=self.deployment.max_waiting_prompt_tokens,
        )
        if self.watcher is not None and wanted != self.limits:
            self.limits = wanted
            self.watcher.set_limits(wanted)


class Lives:
    """Runs every process from its launch to its end, and feeds what happens to it to ``feed``.

    ``folder`` is where their sockets and scratch folders are made; ``find_room`` waits for the memory that a slot
    needs for these weights, and returns False when it shall not be launched.
    """

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        feed: Callable[[Slot, Event], None],
        find_room: Callable[[Slot, Path | None], Awaitable[bool]],
    ) -> None:
        self._launcher = launcher
        self._folder = folder
        self._feed = feed
        self._find_room = find_room
        self._lives: set[asyncio.Task[None]] = set()

    def begin(self, slot: Slot, generation: Generation) -> None:
        """Launch a process for ``slot`` as ``generation`` says; its number is ``slot.replica.starts``."""
        # What is configured now, not when its turn comes: the replica says what it was started from.
        living = self._live(slot, slot.replica.starts, slot.deployment, slot.weights, generation)
        life = asyncio.get_running_loop().create_task(living)
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def over(self) -> None:
        """Wait until all have ended; none may begin any more."""
        await asyncio.gather(*self._lives, return_exceptions=True)

    async def _live(
        self, slot: Slot, start: int, deployment: Deployment, of: DeploymentWeights, generation: Generation
    ) -> None:
        scratch = None
        try:
            weights = of.find()
            if weights.missing:
                self._feed(slot, WeightsMissing(start, weights.missing))
                return
            if not await self._find_room(slot, weights.path):
                return
            scratch = make_scratch(self._folder)
            config = replica_config(
                deployment,
                slot.replica.name,
                weights=weights.path,
                scratch=scratch,
                settings=generation.settings,
                fingerprint=generation.table.fingerprint,
            )
            interval_s = generation.settings.supervisor.status_interval_s
            end = await self._watch_over(slot, start, config, deployment.python, interval_s)
            event: Event = Exited(start, end, _jitter())
        except (OSError, PreparationError) as error:
            event = LaunchFailed(start, str(error), _jitter())
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises must not leave it starting for ever
            _log.exception("%s: the launch failed in an unforeseen way", slot.replica.name)
            event = LaunchFailed(start, repr(error), _jitter())
        if isinstance(event, LaunchFailed) and slot.process is not None:
            slot.process.kill()
        slot.process = slot.watcher = slot.socket = None
        self._feed(slot, event)
        if scratch is not None:
            await asyncio.to_thread(remove_scratch, scratch)

    async def _watch_over(
        self, slot: Slot, start: int, config: ReplicaConfig, python: str | None, interval_s: float
    ) -> ReplicaExit:
        slot.process = process = await self._launcher.launch(config, python=python)
        slot.socket = config.socket
        slot.limits = SetLimits(
            max_waiting=config.max_waiting, max_waiting_prompt_tokens=config.max_waiting_prompt_tokens
        )
        self._feed(slot, Launched(start, process.pid))

        def hear(frame: Status | RetireReply) -> None:
            if isinstance(frame, Status):
                self._feed(slot, Reported(start, frame))
            else:
                self._feed(slot, RetireAnswered(start, frame.retired))

        slot.watcher = Watcher(
            config.socket,
            hear,
            replica=config.replica,
            fingerprint=config.fingerprint,
            interval_s=interval_s,
            max_frame_bytes=config.max_frame_bytes,
        )
        slot.tell_limits()  # they may have changed since its configuration was written
        watching = asyncio.create_task(slot.watcher.run())
        try:
            return await process.wait()
        finally:
            watching.cancel()


def what_is_missing(weights: DeploymentWeights) -> str:
    """Return what the weights lack, for people; empty when a launch may be tried."""
    try:
        return weights.find().missing
    except (SpecError, PreparationError, OSError):
        return ""  # so the launch fails on it, and says why


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 - spreads restarts; guards nothing
