"""The composition root: ``sanic core.app`` serves `app`; `create_app` builds another one.

Importing this module reads the settings and nothing else: plugins are discovered when a server starts,
models are loaded by the supervisor's replicas.

With several processes (Sanic's default) the main process starts the supervisor as a child; with
``--single-process`` the supervisor is a task in the one loop. Either way HTTP handlers reach it and the
replicas over unix sockets in a private folder, the run directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sanic import Sanic

from core.api.protocols import Policy
from core.gateway.admin import Management
from core.gateway.fleet import Fleet
from core.http import admin, routes
from core.http.gateway import Gateway
from core.http.guardian import Guardian, end_with_parent
from core.http.hangup import Hangup
from core.observe import configure_logging
from core.registry import (
    Generation,
    Registry,
    build_generation,
    load_registry,
    make_launcher,
    make_observers,
    make_policies,
)
from core.registry.registry import RegistryError
from core.routing.table import Table
from core.settings import Settings, SettingsError, hand_over, handed_over, load_settings, settings_reader
from core.supervisor.loop import SOCKET_NAME, Supervisor
from core.supervisor.store import OverrideStore
from core.wire.control import Configuration

__all__ = ["app", "create_app"]

_log = logging.getLogger("gateway")
_RUN_DIR_VARIABLE = "AI_GATEWAY_RUN_DIR"
_STANDARD_ERROR = 2
_FIRST_SNAPSHOT_TIMEOUT_S = 10.0


def create_app(settings: Settings | None = None) -> Sanic[Any, Any]:
    """Build the Sanic application.

    ``settings`` default to those of the gateway that this process is a part of, else to `load_settings`. If they are
    given, there is nothing that a reload could read again.

    Raises:
        SettingsError: the configuration is wrong.
    """
    given, run_dir = settings is not None, _inherited_run_dir()
    settings = settings or (handed_over(run_dir) if run_dir else None) or load_settings()
    configure_logging(settings.log_level)
    application: Sanic[Any, Any] = Sanic("ai_gateway", configure_logging=True)
    stop_s = settings.supervisor.drain_timeout_s
    application.config.update(
        REQUEST_MAX_SIZE=settings.limits.max_body_bytes,
        **_timeouts(settings),
        GRACEFUL_SHUTDOWN_TIMEOUT=stop_s,
        KEEP_ALIVE_TIMEOUT=75,
        FALLBACK_ERROR_FORMAT="json",
        ACCESS_LOG=False,
        MOTD=False,
    )
    routes.install(application)
    parts = _Parts(settings, read_settings=None if given else settings_reader())
    application.register_listener(parts.main_process_ready, "main_process_ready")
    application.register_listener(parts.main_process_stop, "main_process_stop")
    application.register_listener(parts.before_server_start, "before_server_start")
    application.register_listener(parts.before_server_stop, "before_server_stop")
    application.register_listener(parts.after_server_stop, "after_server_stop")
    end_with_parent(stop_s + settings.supervisor.kill_after_s)
    return application


def _timeouts(settings: Settings) -> dict[str, float]:
    # It counts silence; the gateway has deadlines of its own, and it must lie beyond them.
    return {"RESPONSE_TIMEOUT": settings.limits.timeout_s + 60}


class _Parts:
    """What is started and stopped with the server, in each of Sanic's processes."""

    def __init__(self, settings: Settings, *, read_settings: Callable[[], Settings] | None) -> None:
        self._settings = settings
        self._read_settings = read_settings
        self._guardian: Guardian | None = None
        self._fleet: Fleet | None = None
        self._following: asyncio.Task[None] | None = None
        self._supervisor: Supervisor | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._own_run_dir: Path | None = None

    # --- main process, when there is one

    async def main_process_ready(self, application: Sanic[Any, Any]) -> None:
        # A mistake in the configuration ends the gateway here, before any process starts.
        _, generation, _ = _load(self._settings)
        _say(generation.table, self._settings.admin.key, application)
        run_dir = _new_run_dir()
        os.environ[_RUN_DIR_VARIABLE] = f"{os.getpid()}:{run_dir}"
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(run_dir / "metrics")
        hand_over(self._settings, run_dir)
        may_reload = self._read_settings is not None
        self._guardian = Guardian(application, self._settings, run_dir, may_reload=may_reload)
        signal.signal(signal.SIGHUP, Hangup(self._guardian.reload))

    async def main_process_stop(self, _application: Sanic[Any, Any]) -> None:
        if self._guardian is not None:
            self._guardian.stop()

    # --- HTTP worker

    async def before_server_start(self, application: Sanic[Any, Any]) -> None:
        settings = self._settings
        registry, generation, policies = _load(settings)
        run_dir = _inherited_run_dir()
        if run_dir is None:
            _say(generation.table, self._settings.admin.key, application)
            _bequeath_nothing()
            run_dir = self._own_run_dir = _new_run_dir()
            self._supervise(registry, run_dir)
        socket, max_frame_bytes = run_dir / SOCKET_NAME, settings.limits.max_frame_bytes
        fleet = self._fleet = Fleet(generation.table, socket, max_frame_bytes=max_frame_bytes)
        gateway = application.ctx.gateway = Gateway(
            registry=registry,
            generation=generation,
            policies=policies,
            fleet=fleet,
            management=Management(socket, max_frame_bytes=max_frame_bytes),
            observers=make_observers(registry),
            started_unix_s=int(time.time()),
        )

        def take_over(configuration: Configuration) -> str:
            problem = gateway.take_over(configuration)
            application.config.update(_timeouts(gateway.settings))
            configure_logging(gateway.settings.log_level)
            return problem

        fleet.on_configuration = take_over
        self._following = asyncio.create_task(fleet.follow())
        with contextlib.suppress(TimeoutError):  # without a supervisor the worker answers too: 503, and why
            async with asyncio.timeout(_FIRST_SNAPSHOT_TIMEOUT_S):
                while fleet.snapshot is None:
                    await fleet.changed()

    async def before_server_stop(self, _application: Sanic[Any, Any]) -> None:
        if self._fleet is not None:
            self._fleet.draining = True

    async def after_server_stop(self, _application: Sanic[Any, Any]) -> None:
        if self._following is not None:
            self._following.cancel()
        if self._fleet is not None:
            self._fleet.close()
        if self._supervisor is not None and self._supervising is not None:
            self._supervisor.stop()
            await self._supervising
        if self._own_run_dir is not None:
            shutil.rmtree(self._own_run_dir, ignore_errors=True)

    def _supervise(self, registry: Registry, run_dir: Path) -> None:
        self._supervisor = Supervisor(
            registry=registry,
            configured=self._settings,
            store=OverrideStore(self._settings.admin.database.expanduser()),
            launcher=make_launcher(registry, self._settings),
            observers=make_observers(registry),
            run_dir=run_dir,
            read_settings=self._read_settings,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, Hangup(self._supervisor.reload))
        self._supervising = asyncio.create_task(self._supervisor.run())


def _load(settings: Settings) -> tuple[Registry, Generation, Mapping[str, Policy]]:
    try:
        registry = load_registry(settings.plugins)
        generation = build_generation(registry, settings)
        return registry, generation, make_policies(registry, settings)
    except (SettingsError, RegistryError) as error:
        message = f"The gateway cannot start:\n{error}"
        raise SystemExit(message) from None


def _say(table: Table, key: str | None, application: Sanic[Any, Any]) -> None:
    """What the operator should know before the first request."""
    for warning in table.warnings:
        _log.warning("%s", warning)
    _log.info("%s", admin.who_may_manage(key))
    for server in application.state.server_info:
        host = str(server.settings.get("host") or "")
        if host not in {"", "127.0.0.1", "::1", "localhost"}:
            _log.warning("listening on %s without authentication: put a proxy in front of it", host)


def _bequeath_nothing() -> None:
    """Keep Sanic's listening socket from replicas.

    Sanic makes it inheritable, and uvloop closes nothing in the children it spawns: the port would stay
    bound after the gateway's end for as long as a replica drains.
    """
    for descriptor in map(int, os.listdir("/dev/fd")):  # noqa: PTH208 - names, not paths
        if descriptor > _STANDARD_ERROR:
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)  # noqa: FBT003 - the function's own signature


def _new_run_dir() -> Path:
    run_dir = Path(tempfile.mkdtemp(prefix="ai-gateway-"))
    (run_dir / "metrics").mkdir()
    return run_dir


def _inherited_run_dir() -> Path | None:
    """The run directory of the main process that spawned this one; None in a single process."""
    parent = multiprocessing.parent_process()
    pid, _, path = os.environ.get(_RUN_DIR_VARIABLE, "").partition(":")
    return Path(path) if parent is not None and pid == str(parent.pid) else None


def _app_from_settings(create: Callable[[], Sanic[Any, Any]]) -> Sanic[Any, Any]:
    try:
        return create()
    except SettingsError as error:
        print(f"The gateway cannot start:\n{error}", file=sys.stderr)  # noqa: T201 - logging is not set up yet
        raise SystemExit(2) from None


app = _app_from_settings(create_app)
