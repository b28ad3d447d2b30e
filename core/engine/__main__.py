"""``python -m core.engine``: one replica process.

Standard input carries one line of JSON, a `ReplicaConfig`, and then stays open: its end means that the
parent is gone. SIGTERM and the end of standard input drain; a second SIGTERM ends the drain. For exit codes
see `core.wire.exits.ExitCode`.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import cast

import msgspec

from core.api.protocols import ReplicaConfig
from core.engine.host import Host
from core.engine.life import CLOSE_S, Life
from core.wire.exits import ExitCode

_log = logging.getLogger("core.engine")

_GRACE_S = 1.0


def main() -> int:
    """Read the configuration and be a replica; returns only when there is none to be."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the gateway, which will tell us
    stdin = io.FileIO(0, closefd=False)
    try:
        config = msgspec.json.decode(stdin.readline() or b"", type=ReplicaConfig)
    except msgspec.DecodeError as error:
        sys.stderr.write(f"core.engine expects one line of JSON, a ReplicaConfig, on standard input: {error}\n")
        return ExitCode.UNUSABLE_CONFIGURATION
    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    code: int = ExitCode.LOAD_FAILED
    try:
        code = asyncio.Runner(loop_factory=_loop_factory()).run(_replica(config, stdin))
    except Exception:  # noqa: BLE001 - whatever it is, this process ends now
        _log.exception("the replica broke")
    # Neither threads of the default executor nor those of a native runtime may keep a process that is
    # done: its engine has been closed, and nothing else here needs an orderly end.
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        return cast("Callable[[], asyncio.AbstractEventLoop]", importlib.import_module("uvloop").new_event_loop)
    except ImportError:
        return None


async def _replica(config: ReplicaConfig, stdin: io.FileIO) -> ExitCode:
    loop = asyncio.get_running_loop()
    host = Host(config)

    def heed_sigterm() -> None:
        loop.add_signal_handler(signal.SIGTERM, life.terminate)

    def ready() -> None:
        heed_sigterm()  # again, as native runtimes install their own
        gc.collect()
        gc.freeze()  # a runtime's hundred thousand objects stay: collections need not walk them under load

    life = Life(host, config, on_ready=ready, over_within=_exit_within)
    heed_sigterm()
    threading.Thread(target=_await_parents_end, args=(stdin, config, host, loop, life.terminate), daemon=True).start()
    code = await life.run()
    with contextlib.suppress(OSError):  # who read our standard error may be gone
        sys.stderr.write(f"{life.last_words}\n" if life.last_words else "")
        sys.stderr.flush()
    return code


def _await_parents_end(
    stdin: io.FileIO, config: ReplicaConfig, host: Host, loop: asyncio.AbstractEventLoop, terminate: Callable[[], None]
) -> None:
    """Run in a thread of its own, so that the end is seen also while the engine blocks the loop."""
    while stdin.read(4096):
        pass
    if not host.draining:
        _exit_within(config.drain_timeout_s + CLOSE_S)
        loop.call_soon_threadsafe(terminate)


def _exit_within(seconds: float) -> None:
    """End this process by then, with a dump of its stacks: a C thread does it, whoever holds the interpreter."""
    faulthandler.dump_traceback_later(seconds + _GRACE_S, exit=True)


if __name__ == "__main__":
    sys.exit(main())
