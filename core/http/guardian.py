"""What the main process does besides Sanic's own work: keep the supervisor and the HTTP workers alive.

Sanic restarts neither a custom process nor a server process that died (25.12: it marks them FAILED),
so a thread of the main process watches both.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from prometheus_client import multiprocess
from sanic import Sanic
from sanic.exceptions import ServerKilled
from sanic.worker.manager import WorkerManager
from sanic.worker.process import WorkerProcess

from core.settings import Settings, handed_over

__all__ = ["Guardian", "end_with_parent"]

_log = logging.getLogger("gateway.guardian")
_POLL_S = 0.2
_RESTART_S = 1.0
_METRICS_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Guardian:
    """Starts the supervisor and restarts it, and HTTP workers, when they die. Lives in Sanic's main process."""

    def __init__(self, app: Sanic[Any, Any], settings: Settings, run_dir: Path, *, may_reload: bool) -> None:
        self._app = app
        # setattr: to a type checker a method cannot be replaced
        setattr(app.manager, "wait_for_ack", functools.partial(_wait_for_ack, app.manager))  # noqa: B010
        setattr(app.manager, "kill", self._hurry)  # noqa: B010
        self._settings = settings
        self._run_dir = run_dir
        self._may_reload = may_reload
        self._stopping = threading.Event()
        self._buried: set[int] = set()
        self._shutting_down_s = 0.0
        self._hurried = False
        self._supervisor = self._start_supervisor()
        self._thread = threading.Thread(target=self._watch, name="guardian", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the supervisor and with it every replica; blocks until they are gone."""
        self._stopping.set()
        self._thread.join()
        table = self._settings.supervisor
        limit_s = time.monotonic() + table.drain_timeout_s + 2 * table.kill_after_s
        self._supervisor.terminate()
        while self._supervisor.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(_POLL_S)
            if time.monotonic() > limit_s:
                _log.error("the supervisor did not end in time; killing it")
                self._supervisor.kill()
            elif self._hurried:
                self._supervisor.terminate()  # told a second time, it kills every replica
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def reload(self) -> None:
        """Have the supervisor read the configuration again; it says in the log what came of it."""
        if self._supervisor.poll() is None:
            self._supervisor.send_signal(signal.SIGHUP)
        else:
            _log.error("the configuration is not read again: the supervisor is away. Try again")

    def _hurry(self) -> None:
        """Kill the HTTP workers, and let `stop` not wait for replicas: a second signal to stop has come.

        Stands in for Sanic's own, which kills the whole process group, whoever else is in it.
        """
        self._hurried = True
        self._kill_workers("was not given the time to end")

    def _start_supervisor(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for the gateway, which then drains its replicas.
        process = subprocess.Popen(
            [sys.executable, "-m", "core.supervisor"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != _METRICS_DIR_VARIABLE},
        )
        order = {
            "run_dir": str(self._run_dir),
            "settings": (handed_over(self._run_dir) or self._settings).model_dump(mode="json"),
            "may_reload": self._may_reload,
            # Sanic's helper process does not notice when the main process is killed; the supervisor ends it then.
            "orphans": [child.pid for child in multiprocessing.active_children()],
        }
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        return process

    def _watch(self) -> None:
        retry_at_s: float | None = None
        while not self._stopping.wait(_POLL_S):
            self._restart_dead_workers()
            if self._supervisor.poll() is None:
                continue
            if retry_at_s is None:
                _log.error(
                    "the supervisor ended (exit code %s); restarting it in %g s",
                    self._supervisor.returncode,
                    _RESTART_S,
                )
                retry_at_s = time.monotonic() + _RESTART_S
            elif time.monotonic() >= retry_at_s:
                self._supervisor = self._start_supervisor()
                retry_at_s = None

    def _restart_dead_workers(self) -> None:
        manager = self._app.manager
        if manager._shutting_down:  # noqa: SLF001 - Sanic has no public word for it
            self._kill_late_workers()
            return
        for worker in list(manager.transient.values()):
            for process in list(worker.processes):
                if not process.name.startswith(f"{worker.WORKER_PREFIX}-{WorkerProcess.SERVER_LABEL}"):
                    continue
                pid, exit_code = process.pid, process.exitcode
                if pid is None or exit_code is None or pid in self._buried:
                    continue
                self._buried.add(pid)
                _log.error("HTTP worker %s (pid %s) ended with code %s; restarting it", process.name, pid, exit_code)
                multiprocess.mark_process_dead(pid, str(self._run_dir / "metrics"))  # type: ignore[no-untyped-call]
                # The manager's own loop does the restart, in its own thread.
                manager.monitor_publisher.send(f"{process.name}:")

    def _kill_late_workers(self) -> None:
        """End a worker that outlasts the drain: its loop is blocked, and Sanic would wait for it for ever."""
        now_s = time.monotonic()
        self._shutting_down_s = self._shutting_down_s or now_s
        table = self._settings.supervisor
        if now_s - self._shutting_down_s < table.drain_timeout_s + table.kill_after_s:
            return
        self._kill_workers("did not end in time")

    def _kill_workers(self, why: str) -> None:
        for process in self._app.manager.processes:
            if process.is_alive():
                _log.error("HTTP worker %s (pid %s) %s; killing it", process.name, process.pid, why)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)


def _wait_for_ack(manager: WorkerManager) -> None:
    """Wait until every HTTP worker has reported that it serves, or the gateway is told to stop.

    Stands in for Sanic's own, which never ends when the signal to stop comes before the workers are up
    (25.12: it hands the stop message back to itself for ever), and which on failure kills the whole
    process group, whoever else is in it.

    Raises:
        ServerKilled: a worker ended, or did not come up in Sanic's time.
    """
    put_off: list[Any] = []
    limit_s = time.monotonic() + manager.THRESHOLD / 10
    while not manager._shutting_down and not manager._all_workers_ack():  # type: ignore[no-untyped-call]  # noqa: SLF001
        message = manager.monitor_subscriber.recv() if manager.monitor_subscriber.poll(0.1) else None
        if message == "__TERMINATE_EARLY__" or time.monotonic() > limit_s:
            _log.error("an HTTP worker did not come up; its messages above say why. Shutting down.")
            manager.shutdown()  # type: ignore[no-untyped-call]
            raise ServerKilled
        if message is not None:
            put_off.append(message)
    for message in [None] if manager._shutting_down else put_off:  # noqa: SLF001
        manager.monitor_publisher.send(message)


def end_with_parent(grace_s: float) -> None:
    """In a process that Sanic spawned: end it when the main process is gone, and leave SIGHUP to that.

    First as SIGTERM does, which lets running requests finish; after ``grace_s`` seconds for certain.
    Does nothing in the main process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
