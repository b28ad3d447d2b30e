"""One replica's life: it listens, loads its engine, serves, drains and closes, and ends with an exit code."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import cast

from core.api.errors import EngineLoadError
from core.api.protocols import Engine, ReplicaConfig
from core.engine.host import Host
from core.engine.loading import make_engine
from core.wire.exits import ExitCode

__all__ = ["CLOSE_S", "Life"]

_log = logging.getLogger("core.engine")

_SAME_ORDER_S = 1.0
CLOSE_S = 3.0
"""How long an engine may take to give back what it holds."""
_LINGER_S = 0.5
"""How long a failed replica stays for its watchers to learn why."""


class Life:
    """Runs one replica in the present loop. Whatever belongs to a process is its caller's: signals, standard streams.

    Attributes:
        last_words: why it ended, where the exit code alone does not say it.
    """

    def __init__(
        self, host: Host, config: ReplicaConfig, *, on_ready: Callable[[], None], over_within: Callable[[float], None]
    ) -> None:
        """``on_ready`` is called when the model is loaded.

        ``over_within`` is called with the seconds within which this life has to be over, even if the engine
        blocks the loop.
        """
        self.last_words = ""
        self._host = host
        self._config = config
        self._on_ready = on_ready
        self._over_within = over_within
        self._engine: Engine | None = None
        self._loading: asyncio.Task[None] | None = None
        self._told_s = -math.inf

    async def run(self) -> ExitCode:
        """Live; returns at the end.

        Raises:
            OSError: the socket cannot be made.
        """
        host = self._host
        await host.listen()
        try:
            code = await self._serve()
            if self.last_words:
                host.fail(self.last_words, permanent=code == ExitCode.LOAD_FAILED_FOR_GOOD)
                await asyncio.sleep(_LINGER_S)
        finally:
            await self._close()
        return code

    def terminate(self) -> None:
        """Drain, then end; a second call ends the drain."""
        # A service manager tells every process of a service, and the supervisor tells its own: that is one order.
        now_s = asyncio.get_running_loop().time()
        again, self._told_s = now_s - self._told_s < _SAME_ORDER_S, now_s
        if again:
            return
        drain_s = 0.0 if self._host.draining else self._config.drain_timeout_s
        self._over_within(drain_s + CLOSE_S)
        self._host.drain(drain_s)
        if self._loading is not None:
            self._loading.cancel()

    async def _serve(self) -> ExitCode:
        host = self._host
        self._loading = asyncio.create_task(self._load())
        if host.draining:
            self._loading.cancel()
        try:
            await self._loading
            self._on_ready()
            await host.ending()
            if host.broken:
                self._over_within(self._config.drain_timeout_s + CLOSE_S)
            await host.drained()
        except asyncio.CancelledError:
            if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
            _log.info("told to end while loading")
        except EngineLoadError as error:
            self.last_words = str(error)
            return ExitCode.LOAD_FAILED_FOR_GOOD if error.permanent else ExitCode.LOAD_FAILED
        except Exception as error:  # noqa: BLE001 - a plugin's bug is reported as a failed load
            _log.exception("loading failed in an unforeseen way")
            self.last_words = f"{type(error).__name__}: {error}"
            return ExitCode.LOAD_FAILED
        self.last_words = host.broken
        return ExitCode.ENGINE_BROKEN if host.broken else ExitCode.DRAINED

    async def _load(self) -> None:
        self._engine = await asyncio.to_thread(make_engine, self._config)
        self._host.ready(self._engine, await self._engine.load())

    async def _close(self) -> None:
        self._over_within(CLOSE_S)
        await self._host.close()
        self._over_within(CLOSE_S)  # what others took of the time is not the engine's fault
        if self._engine is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._engine.close()
            except Exception:  # noqa: BLE001 - it ends all the same
                _log.exception("the engine did not close well")
