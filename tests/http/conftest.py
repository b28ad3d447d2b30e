"""A real gateway for each file of tests, or for one test; in processes of its own, or all in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sanic import Sanic

from core.testing import Gateway, InProcessLauncher, eventually, start_gateway

PLUGINS = """
[plugins]
allow = ["echo", "sticky"]
"""


@pytest.fixture
def start() -> Callable[..., contextlib.AbstractContextManager[Gateway]]:
    """Start a gateway on a configuration: ``with start(toml, *options) as gateway``."""
    return lambda config, *options, **more: start_gateway(PLUGINS + config, *options, **more)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Any]:
    """Wait for a condition."""
    return eventually


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """One gateway for all tests of a file that do it no harm: echo, with an alias, and one worker."""
    config = """
[aliases]
"gpt-4" = "echo"
[limits]
max_body_bytes = 100000
keepalive_s = 0.3
[deployments."slow@echo"]
source = "/dev/null"
settings = { tokens_per_s = 20, tokens = 200, prefill_s = 1.0, slots = 4 }
[deployments."off@echo"]
source = "/dev/null"
enabled = false
[deployments."absent@echo"]
source = "/nowhere/at/all"
"""
    with start_gateway(PLUGINS + config) as running:
        eventually(lambda: running.health()["status"] == "healthy")
        yield running


@dataclass
class InOneLoop:
    """A whole gateway in the loop of a test: HTTP on a port, supervisor, and replicas that are tasks."""

    port: int
    folder: Path
    launcher: InProcessLauncher
    app: Sanic[Any, Any]


@pytest.fixture
def in_one_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Start one, as ``--single-process`` does: ``async with in_one_loop(toml) as gateway``; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Sanic, "test_mode", True)  # so that one process may make more than one
    loggers = {name: logging.getLogger(name) for name in ("core", "gateway")}
    logged = {name: (one.handlers, one.level, one.propagate) for name, one in loggers.items()}
    gateway = importlib.import_module("core.app")  # makes an application from the settings of the working directory

    @contextlib.asynccontextmanager
    async def start(config: str) -> AsyncIterator[InOneLoop]:
        before = asyncio.all_tasks()
        (folder / "gateway.toml").write_text(config)
        launcher = InProcessLauncher()
        monkeypatch.setattr(gateway, "make_launcher", lambda *_: launcher)
        app = gateway.create_app()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = await app.create_server(sock=listener)
            await server.startup()
            await server.before_start()
            await server.after_start()
            try:
                yield InOneLoop(listener.getsockname()[1], folder, launcher, app)
            finally:
                async with asyncio.timeout(20):
                    await server.before_stop()
                    await server.close()
                    await server.after_stop()
        assert not launcher.running, "a replica outlived its gateway"
        for _ in range(10):  # turns in which what was cancelled ends
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before, "a task outlived its gateway"

    yield start
    for name, one in loggers.items():
        one.handlers, one.level, one.propagate = logged[name]
    shutil.rmtree(folder)
