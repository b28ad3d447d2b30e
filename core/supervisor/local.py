"""The local launcher: every replica is a process of this machine, in a process group of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec
from pydantic import BaseModel

from core.api.protocols import ReplicaConfig, ReplicaExit, ReplicaProcess
from core.supervisor.replica_log import ReplicaLog

__all__ = ["LocalLauncher"]

_log = logging.getLogger(__name__)
_ROTATE_EVERY_S = 1.0


class LocalLauncher:
    """Starts ``python -m core.engine``; its standard input carries the configuration, then stays open.

    The end of standard input tells a replica that the supervisor is gone, however it went.
    """

    def __init__(self, settings: BaseModel) -> None:
        del settings  # there are none

    async def launch(self, config: ReplicaConfig, *, python: str | None) -> ReplicaProcess:
        """See `core.api.protocols.Launcher`."""
        log = ReplicaLog(Path(config.log_dir or config.scratch), config.replica, max_bytes=config.log_max_bytes)
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        with contextlib.ExitStack() as childs, contextlib.ExitStack() as undo:
            childs.callback(os.close, read_end)
            stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write_end, "wb", buffering=0))
            undo.callback(stdin.close)
            output = log.open()
            childs.callback(os.close, output)
            process = await asyncio.create_subprocess_exec(
                python or sys.executable,
                "-m",
                "core.engine",
                stdin=read_end,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            undo.pop_all()
        stdin.write(msgspec.json.encode(config) + b"\n")
        return _LocalProcess(process, stdin, log)


class _LocalProcess:
    """A `ReplicaProcess` of this machine."""

    def __init__(self, process: asyncio.subprocess.Process, stdin: asyncio.WriteTransport, log: ReplicaLog) -> None:
        self._process = process
        self._stdin = stdin
        self._log = log
        self._ending = asyncio.create_task(self._end())
        self._rotating = asyncio.create_task(self._keep_log_small())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> ReplicaExit:
        return await asyncio.shield(self._ending)

    def terminate(self) -> None:
        if not self._ending.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        if not self._ending.done():
            self._kill_group()

    async def _end(self) -> ReplicaExit:
        code = await self._process.wait()
        self._kill_group()  # children it left behind
        self._stdin.close()
        self._rotating.cancel()
        tail = self._log.tail()
        if code >= 0:
            return ReplicaExit(code=code, stderr_tail=tail)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"  # real-time signals have no names
        return ReplicaExit(signal=name, stderr_tail=tail)

    def _kill_group(self) -> None:
        # PermissionError is what macOS says of a group that holds only dead processes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _keep_log_small(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_EVERY_S)
            try:
                await asyncio.to_thread(self._log.rotate)
            except OSError as error:
                _log.warning("%s: cannot rotate the log: %s", self._log.path, error)
                await asyncio.sleep(60 * _ROTATE_EVERY_S)
