"""``python -m core.supervisor``: the supervisor's process, a child of the gateway's main process.

Standard input carries one line of JSON, an `Order`, and then stays open: its end means that the main
process is gone. That and SIGTERM drain; a second SIGTERM kills; SIGHUP reads the configuration again; SIGINT is the
main process's business.
Exit codes: 0 every replica has ended, 2 no usable order, settings or plugins.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil

from core.observe import configure_logging
from core.registry import RegistryError, load_registry, make_launcher, make_observers
from core.settings import Settings, hand_over, settings_reader
from core.supervisor.loop import Supervisor
from core.supervisor.store import OverrideStore

_log = logging.getLogger("core.supervisor")


class Order(msgspec.Struct, frozen=True):
    """What the main process wants.

    Attributes:
        run_dir: where the sockets are; removed here when the main process can no longer do it.
        settings: all settings, as JSON values.
        may_reload: whether there is a configuration that can be read again.
        orphans: process ids of the main process's helpers, which do not notice its death; killed here then.
    """

    run_dir: str
    settings: dict[str, Any]
    may_reload: bool = True
    orphans: tuple[int, ...] = ()


def main() -> int:
    """Be the supervisor until told to stop; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    configure_logging("INFO")
    parent = os.getppid()
    stdin = io.FileIO(0, closefd=False)
    try:
        order = msgspec.json.decode(stdin.readline() or b"", type=Order)
        # Values, not a source of settings: neither the environment nor a file is read again.
        settings = Settings.model_validate_json(msgspec.json.encode(order.settings))
        configure_logging(settings.log_level)
        registry = load_registry(settings.plugins)
        launcher, observers = make_launcher(registry, settings), make_observers(registry)
        run_dir = Path(order.run_dir)
        supervisor = Supervisor(
            registry=registry,
            configured=settings,
            store=OverrideStore(settings.admin.database.expanduser()),
            launcher=launcher,
            observers=observers,
            run_dir=run_dir,
            read_settings=settings_reader() if order.may_reload else None,
            configuration_replaced=lambda settings: hand_over(settings, run_dir),
        )
    except (msgspec.DecodeError, ValueError, RegistryError) as error:
        _log.error("the supervisor cannot start: %s", error)
        return 2
    # Remembered as processes, not as numbers: a number may belong to somebody else by then.
    orphans = list(_processes(order.orphans))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        abandoned = runner.run(_serve(supervisor, stdin))
    if abandoned or os.getppid() != parent:
        for orphan in orphans:
            with contextlib.suppress(psutil.Error):
                orphan.kill()
        shutil.rmtree(run_dir, ignore_errors=True)
    return 0


async def _serve(supervisor: Supervisor, stdin: io.FileIO) -> bool:
    """Run the supervisor; return whether the main process was gone before it asked us to end."""
    loop = asyncio.get_running_loop()
    told, abandoned = False, False

    def terminate() -> None:
        nonlocal told
        if told:
            _log.warning("told to end a second time: killing every replica")
            supervisor.kill()
        else:
            supervisor.stop()
        told = True

    class Parent(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            nonlocal abandoned
            if not told:
                _log.warning("the gateway's main process is gone; shutting down")
                abandoned = True
                supervisor.stop()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    transport, _ = await loop.connect_read_pipe(Parent, stdin)
    await supervisor.run()
    told = True  # closing standard input ourselves is no news
    transport.close()
    return abandoned


def _processes(pids: tuple[int, ...]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        return cast("Callable[[], asyncio.AbstractEventLoop]", importlib.import_module("uvloop").new_event_loop)
    except ImportError:
        return None


if __name__ == "__main__":
    sys.exit(main())
