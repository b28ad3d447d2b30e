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
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import cast

import msgspec

from core.api.errors import EngineLoadError
from core.api.protocols import Engine, ReplicaConfig
from core.engine.host import Host
from core.engine.loading import make_engine
from core.wire.exits import ExitCode

_log = logging.getLogger("core.engine")

_SAME_ORDER_S = 1.0
_CLOSE_S = 3.0
"""How long an engine may take to give back what it holds."""
_GRACE_S = 1.0
_LINGER_S = 0.5
"""How long a failed replica stays for its watchers to learn why."""


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
    host = Host(config)
    engine: Engine | None = None
    await host.listen()

    async def load() -> None:
        nonlocal engine
        engine = await asyncio.to_thread(make_engine, config)
        host.ready(engine, await engine.load())

    told_s = -math.inf

    def terminate() -> None:
        nonlocal told_s
        # A service manager tells every process of a service, and the supervisor tells its own: that is one order.
        again = loop.time() - told_s < _SAME_ORDER_S
        told_s = loop.time()
        if again:
            return
        drain_s = 0.0 if host.draining else config.drain_timeout_s
        _exit_within(drain_s + _CLOSE_S)
        host.drain(drain_s)
        loading.cancel()

    loop = asyncio.get_running_loop()
    loading = asyncio.create_task(load())
    loop.add_signal_handler(signal.SIGTERM, terminate)
    threading.Thread(target=_await_parents_end, args=(stdin, config, host, loop, terminate), daemon=True).start()
    last_words, code = "", ExitCode.DRAINED
    try:
        await loading
        loop.add_signal_handler(signal.SIGTERM, terminate)  # again, as native runtimes install their own
        gc.collect()
        gc.freeze()  # a runtime's hundred thousand objects stay: collections need not walk them under load
        await host.ending()
        if host.broken:
            _exit_within(config.drain_timeout_s + _CLOSE_S)
        await host.drained()
        if host.broken:
            last_words, code = host.broken, ExitCode.ENGINE_BROKEN
    except asyncio.CancelledError:
        _log.info("told to end while loading")
    except EngineLoadError as error:
        last_words = str(error)
        code = ExitCode.LOAD_FAILED_FOR_GOOD if error.permanent else ExitCode.LOAD_FAILED
    except Exception as error:  # noqa: BLE001 - a plugin's bug is reported as a failed load
        _log.exception("loading failed in an unforeseen way")
        last_words, code = f"{type(error).__name__}: {error}", ExitCode.LOAD_FAILED
    if last_words:
        host.fail(last_words, permanent=code == ExitCode.LOAD_FAILED_FOR_GOOD)
        await asyncio.sleep(_LINGER_S)
    await _close(host, engine)
    with contextlib.suppress(OSError):  # who read our standard error may be gone
        sys.stderr.write(f"{last_words}\n" if last_words else "")
        sys.stderr.flush()
    return code


def _await_parents_end(
    stdin: io.FileIO, config: ReplicaConfig, host: Host, loop: asyncio.AbstractEventLoop, terminate: Callable[[], None]
) -> None:
    """Run in a thread of its own, so that the end is seen also while the engine blocks the loop."""
    while stdin.read(4096):
        pass
    if not host.draining:
        _exit_within(config.drain_timeout_s + _CLOSE_S)
        loop.call_soon_threadsafe(terminate)


def _exit_within(seconds: float) -> None:
    """End this process by then, with a dump of its stacks: a C thread does it, whoever holds the interpreter."""
    faulthandler.dump_traceback_later(seconds + _GRACE_S, exit=True)


async def _close(host: Host, engine: Engine | None) -> None:
    _exit_within(_CLOSE_S)
    await host.close()
    if engine is not None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await engine.close()
        except Exception:  # noqa: BLE001 - the process ends all the same
            _log.exception("the engine did not close well")


if __name__ == "__main__":
    sys.exit(main())
