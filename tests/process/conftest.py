"""What tests of real processes share: a supervisor at work, and a client of its replicas."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from echo_backend.plugin import gateway_backends

from core.api import BackendSettings, BackendSpec, ChatRequest, Content, Message, ModelSpec
from core.registry import Registry, load_registry
from core.routing.table import Declared
from core.settings import BackendTable, DeploymentTable, PluginsTable, Settings
from core.supervisor.local import LocalLauncher
from core.supervisor.loop import SOCKET_NAME, Supervisor
from core.supervisor.store import OverrideStore
from core.wire.control import AdminHello, AdminReply, Change, ControlHello, FromAdmin, FromSupervisor
from core.wire.frames import PROTOCOL, Accepted, Done, FromReplica, Hello, Submit, Welcome
from core.wire.stream import connect

LIMIT_BYTES = 1 << 24
TIMING = {
    "backoff_initial_s": 0.1,
    "backoff_max_s": 0.4,
    "crash_loop_failures": 3,
    "healthy_after_s": 30,
    "failed_retry_s": 60,
    "load_timeout_s": 40,
    "stall_timeout_s": 10,
    "drain_timeout_s": 5,
    "kill_after_s": 1,
    "status_interval_s": 0.05,
}


@pytest.fixture
def folder():
    """A folder with a short path, for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="gw"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def echo():
    """Make a deployment of the echo backend; what is no field of it is a setting of the backend."""
    return _echo


@pytest.fixture
def until():
    """Wait for a condition."""

    async def until(condition, *, within_s=40.0):
        limit = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < limit, "it did not happen in time"
            await asyncio.sleep(0.01)

    return until


@pytest.fixture
def script(folder):
    """Make an interpreter that is none: a shell script."""

    def script(body: str) -> str:
        file = folder / "python.sh"
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
        return str(file)

    return script


@pytest.fixture
def gone():
    """Whether a process has ended."""

    def gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return gone


@pytest.fixture
async def submit():
    """Begin a request at a replica, past ``Accepted``; the answer's ``end`` waits for `Done`."""
    streams = []

    def request(text: str) -> ChatRequest:
        return ChatRequest(id="1", messages=(Message(role="user", content=(Content(text=text),)),))

    async def submit(socket: str, text: str = "hello"):
        stream = await connect(socket, FromReplica, max_frame_bytes=LIMIT_BYTES)
        streams.append(stream)
        stream.send(Hello(protocol=PROTOCOL, fingerprint="f", peer="worker"))
        stream.send(Submit(request=request(text), timeout_s=60))
        seen = []
        while len(seen) < 2:
            seen += await stream.receive()
        assert isinstance(seen[0], Welcome)
        assert isinstance(seen[1], Accepted), seen[1]

        async def end() -> Done:
            last = seen[-1]
            while not isinstance(last, Done):
                last = (await stream.receive())[-1]
            return last

        return end

    submit.request = request("hello")
    yield submit
    for stream in streams:
        stream.close()


@dataclass(frozen=True, kw_only=True)
class Echo:
    """A deployment of the echo backend, as its plugin declares it and as it is configured."""

    model: ModelSpec
    backend: BackendSpec
    table: DeploymentTable
    python: str | None


def _echo(
    name="echo",
    *,
    load="startup",
    source=None,
    preparation=None,
    replicas=1,
    idle_unload_s=None,
    python=None,
    pinned=False,
    memory_bytes=0,
    **settings,
):
    # Those of an interpreter or a preparation of their own have a backend of their own.
    backend = "echo" if python is None and preparation is None else f"echo_{name}"
    return Echo(
        model=ModelSpec(name=name, backend=backend, load=load, source=source, memory_bytes=memory_bytes),
        backend=replace(gateway_backends()[0], name=backend, preparation=preparation),
        table=DeploymentTable(replicas=replicas, idle_unload_s=idle_unload_s, pinned=pinned, settings=settings),
        python=python,
    )


def _declared(spec):
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


def world(echoes, **settings) -> tuple[Registry, Settings]:
    """What is installed and configured when these deployments are."""
    registry = replace(
        load_registry(PluginsTable(allow=())),
        backends={echo.backend.name: _declared(echo.backend) for echo in echoes},
        models=tuple(_declared(echo.model) for echo in echoes),
    )
    return registry, Settings(
        deployments={echo.model.deployment: echo.table for echo in echoes},
        backends={echo.backend.name: BackendTable(python=echo.python) for echo in echoes},
        **settings,
    )


class CountingLauncher(LocalLauncher):
    """The real one; remembers what it launched."""

    def __init__(self) -> None:
        super().__init__(BackendSettings())
        self.launches: Counter[str] = Counter()
        self.pids: list[int] = []
        self.weights: dict[str, str | None] = {}

    async def launch(self, config, *, python):
        self.launches[config.replica] += 1
        self.weights[config.replica] = config.weights
        process = await super().launch(config, python=python)
        self.pids.append(process.pid)
        return process


class House:
    """A supervisor at work, and a way to see what it says."""

    def __init__(self, folder: Path, deployments, timing, observers=()) -> None:
        self.settings_now = None  # what a reload reads; an exception is raised
        self.run_dir = folder / "run"
        self.log_dir = folder / "logs"
        self.launcher = CountingLauncher()
        self.registry, self.configured = world(
            deployments, supervisor={**TIMING, "log_dir": str(self.log_dir), **timing}
        )
        self.supervisor = Supervisor(
            registry=self.registry,
            configured=self.configured,
            store=OverrideStore(folder / "overrides.sqlite3"),
            launcher=self.launcher,
            observers=observers,
            run_dir=self.run_dir,
            read_settings=self._read,
        )
        self.running = asyncio.create_task(self.supervisor.run())

    def _read(self) -> Settings:
        if isinstance(self.settings_now, Exception):
            raise self.settings_now
        return self.settings_now or self.configured

    def with_deployment(self, name="echo@echo", **changes) -> Settings:
        """The settings with some keys of a deployment changed."""
        table = self.configured.deployments[name].model_copy(update=changes)
        return self.configured.model_copy(update={"deployments": {**self.configured.deployments, name: table}})

    async def ask(self, command) -> AdminReply:
        """Send a command as an operator's process does."""
        stream = await connect(str(self.run_dir / SOCKET_NAME), FromAdmin, max_frame_bytes=LIMIT_BYTES)
        stream.send(AdminHello(protocol=PROTOCOL))
        stream.send(command)
        (reply,) = await stream.receive()
        stream.close()
        return reply

    async def change(self, name="echo@echo", **keys) -> AdminReply:
        """Change a deployment; this must be possible."""
        reply = await self.ask(Change(deployments={name: keys}))
        assert reply.status == 200, reply.message
        return reply

    def replicas(self, name="echo"):
        """What a snapshot lists of a deployment."""
        deployments = {one.deployment.partition("@")[0]: one for one in self.supervisor.snapshot().deployments}
        return deployments[name].replicas if name in deployments else ()

    def replica(self, name="echo", index=0):
        return self.replicas(name)[index]

    async def until(self, state, name="echo", *, within_s=40.0, restarts=0):
        """Wait until the replica is in ``state``, after so many restarts or more; return its status."""
        limit = time.monotonic() + within_s
        while True:
            replica = self.replica(name)
            if replica.state == state and replica.restarts >= restarts:
                return replica
            assert time.monotonic() < limit, f"not {state} but {replica}; it said:\n{self.log(name)}"
            await asyncio.sleep(0.01)

    def log(self, name) -> str:
        return "".join(file.read_text() for file in self.log_dir.glob(f"{name}@*#0.log"))

    async def control(self):
        """Connect as an HTTP worker does."""
        stream = await connect(str(self.run_dir / SOCKET_NAME), FromSupervisor, max_frame_bytes=LIMIT_BYTES)
        stream.send(ControlHello(protocol=PROTOCOL, fingerprint="f", pid=os.getpid()))
        return stream

    async def stop(self) -> None:
        self.supervisor.stop()
        await asyncio.wait_for(self.running, 15)


@pytest.fixture
async def house(folder):
    """Start a supervisor; at the end nothing of it may be left."""
    houses = []

    async def build(*deployments, observers=(), **timing):
        houses.append(House(folder, deployments, timing, observers))
        while not (houses[-1].run_dir / SOCKET_NAME).exists():
            await asyncio.sleep(0.005)
        return houses[-1]

    yield build
    for one in houses:
        one.supervisor.kill()
        await asyncio.wait_for(one.running, 15)
    for one in houses:
        assert not [pid for pid in one.launcher.pids if psutil.pid_exists(pid)], "a process was left behind"
        assert not list((one.run_dir / "r").iterdir()), "a socket or scratch folder was left behind"
