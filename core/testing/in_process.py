"""A launcher whose replicas are tasks of the supervisor's own loop: real sockets and frames, no processes.

For tests of what is around replicas. They load in milliseconds, so thousands of lives and deaths take
seconds. The engine must be one that does its work in the loop and harms nobody else, as the echo backend's.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

from pydantic import BaseModel

from core.api.protocols import ReplicaConfig, ReplicaExit
from core.engine.host import Host
from core.engine.life import Life
from core.wire.exits import ExitCode
from core.wire.frames import ToReplica
from core.wire.stream import FrameStream

__all__ = ["InProcessLauncher", "InProcessReplica"]


class InProcessLauncher:
    """A `core.api.protocols.Launcher`; what it started ends with the loop.

    Attributes:
        running: what lives now, by the replica's name.
        launches: how often each replica was started.
    """

    def __init__(self, settings: BaseModel | None = None) -> None:
        del settings  # there are none
        self.running: dict[str, InProcessReplica] = {}
        self.launches: Counter[str] = Counter()

    async def launch(self, config: ReplicaConfig, *, python: str | None) -> InProcessReplica:
        """See `core.api.protocols.Launcher`.

        Raises:
            AssertionError: the last life of this replica is not over.
        """
        del python  # there is only this one
        name = config.replica
        assert name not in self.running, f"{name} would have two lives"
        self.launches[name] += 1
        replica = self.running[name] = InProcessReplica(config)
        replica.task.add_done_callback(lambda _: self.running.pop(name))
        return replica


class InProcessReplica:
    """A `core.api.protocols.ReplicaProcess` that is none.

    Attributes:
        task: its life.
    """

    def __init__(self, config: ReplicaConfig) -> None:
        self._host = _Host(config)
        self._life = Life(self._host, config, on_ready=lambda: None, over_within=lambda _: None)
        self._begun = self._killed = False
        self.task = asyncio.get_running_loop().create_task(self._live(), name=config.replica)

    @property
    def pid(self) -> int:
        """This very process's."""
        return os.getpid()

    async def wait(self) -> ReplicaExit:
        """See `core.api.protocols.ReplicaProcess`."""
        return await asyncio.shield(self.task)

    def terminate(self) -> None:
        """Drain, as ``python -m core.engine`` does on SIGTERM."""
        if not self.task.done():
            self._life.terminate()

    def kill(self) -> None:
        """End in the middle of whatever it does; nobody is told more than that the connection is gone."""
        if not self.task.done() and not self._killed:
            self._killed = True
            self._host.hang_up()
            if self._begun:  # a task that is cancelled before its first turn would say nothing of its end
                self.task.cancel()

    async def _live(self) -> ReplicaExit:
        if self._killed:
            return ReplicaExit(signal="SIGKILL")
        self._begun = True
        try:
            code = await self._life.run()
        except asyncio.CancelledError:
            return ReplicaExit(signal="SIGKILL")
        except OSError as error:
            return ReplicaExit(code=ExitCode.LOAD_FAILED, stderr_tail=str(error))
        return ReplicaExit(code=code, stderr_tail=self._life.last_words)


class _Host(Host):
    """Knows its connections, to be able to break them all at once."""

    def __init__(self, config: ReplicaConfig) -> None:
        super().__init__(config)
        self._streams: list[FrameStream[ToReplica]] = []
        self._over = False

    async def close(self) -> None:
        """See `Host.close`; in a process, nobody would be let in any more."""
        self._over = True
        await super().close()

    def hang_up(self) -> None:
        """What a killed process's kernel does: every connection is over, and there will be no other."""
        self._over = True
        if self._server is not None:
            self._server.close()
        for stream in self._streams:
            stream.close()

    def _welcome(self, stream: FrameStream[ToReplica]) -> None:
        if self._over:
            stream.close()
            return
        self._streams = [one for one in self._streams if not one.gone]
        self._streams.append(stream)
        super()._welcome(stream)
