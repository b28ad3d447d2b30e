"""An HTTP worker in this very loop, with the echo plugin and a supervisor that only pretends."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from sanic import Sanic

from core.gateway.admin import Management
from core.gateway.fleet import Fleet
from core.http import routes
from core.http.gateway import Gateway
from core.http.openapi import document
from core.registry import Registry, build_generation, load_registry, make_policies
from core.routing.overrides import effective
from core.settings import PluginsTable, Settings, SettingsError
from core.wire.control import (
    AdminEvent,
    AdminHello,
    AdminReply,
    Change,
    Configuration,
    DeploymentOverride,
    DeploymentStatus,
    Listen,
    Operate,
    Overrides,
    Reload,
    ReplicaStatus,
    Snapshot,
    ToSupervisor,
)
from core.wire.frames import PROTOCOL
from core.wire.stream import FrameStream, PeerGoneError, serve

LIMIT = 1 << 20
PID = 4242


@dataclass
class Supervisor:
    """Takes commands as the real one does, changes overrides, and tells the one worker at once."""

    registry: Registry
    settings: Settings
    gateway: Gateway = None  # type: ignore[assignment]
    overrides: Overrides = Overrides()  # noqa: RUF009 - frozen
    commands: list[Any] = field(default_factory=list)
    listeners: list[FrameStream[Any]] = field(default_factory=list)
    events: list[AdminEvent] = field(default_factory=list)
    replicas: dict[str, tuple[ReplicaStatus, ...]] = field(default_factory=dict)
    replies: list[AdminReply] = field(default_factory=list)
    on_operate: Callable[[Operate], None] | None = None
    generation: int = 1
    streams: list[FrameStream[Any]] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def welcome(self, stream: FrameStream[Any]) -> None:
        self.streams.append(stream)
        task = asyncio.get_running_loop().create_task(self.converse(stream))
        self.tasks.add(task)

    async def converse(self, stream: FrameStream[Any]) -> None:
        with contextlib.suppress(PeerGoneError):
            frames: list[Any] = []
            while len(frames) < 2:
                frames += await stream.receive()
            hello, command = frames
            assert hello == AdminHello(protocol=PROTOCOL)
            self.commands.append(command)
            if isinstance(command, Listen):
                self.listeners.append(stream)
                for event in self.events:
                    if command.after is not None and event.id > command.after:
                        stream.send(event)
                return
            stream.send(self.replies.pop(0) if self.replies else self.answer(command))

    def answer(self, command: Change | Operate | Reload) -> AdminReply:
        if isinstance(command, Change):
            try:
                self.change(command)
            except SettingsError as error:
                return AdminReply(status=400, message=str(error), code="invalid_value")
            return AdminReply(body=msgspec.json.encode(self.overrides))
        if isinstance(command, Operate):
            if self.on_operate is not None:
                self.on_operate(command)
            replicas = self.replicas.get(command.deployment, ())
            states = [{"replica": one.replica, "state": one.state} for one in replicas]
            return AdminReply(body=msgspec.json.encode({"replicas": states}))
        return AdminReply(
            body=b'{"generation": 3, "changed": [], "restart_needed": [], "overridden": [], "warnings": [], '
            b'"restarts": [], "starts": [], "ends": []}'
        )

    def change(self, command: Change) -> None:
        deployments = {} if "*" in command.reset else dict(self.overrides.deployments)
        aliases = {} if "*" in command.reset else dict(self.overrides.aliases)
        backends = {} if "*" in command.reset else dict(self.overrides.backends)
        for name, changes in command.deployments.items():
            changed = msgspec.structs.replace(deployments.pop(name, DeploymentOverride()), **changes)
            if changed != DeploymentOverride():
                deployments[name] = changed
        for given, kept in ((command.aliases, aliases), (command.backends, backends)):
            for name, value in given.items():
                kept.pop(name, None)
                if value is not None:
                    kept[name] = value  # type: ignore[index]
        for name in command.reset:
            deployments.pop(name, None)
            aliases.pop(name, None)
            backends.pop(name.removeprefix("@"), None)
        overrides = Overrides(deployments=deployments, backends=backends, aliases=aliases)
        build_generation(self.registry, self.settings, overrides)
        self.overrides, self.generation = overrides, self.generation + 1
        self.publish()

    def publish(self) -> None:
        """Tell the worker, as the control socket would."""
        settings = self.settings.model_dump_json().encode()
        self.gateway.take_over(Configuration(generation=self.generation, settings=settings, overrides=self.overrides))
        statuses = []
        for name in effective(self.settings, self.overrides).deployments.keys() | {"echo@echo"}:
            replicas = self.replicas.get(name, ())
            state = replicas[0].state if replicas else "stopped"
            reason = replicas[0].reason if replicas else ""
            on_demand = self.gateway.table.deployments[name].on_demand
            statuses.append(
                DeploymentStatus(deployment=name, state=state, reason=reason, on_demand=on_demand, replicas=replicas)
            )
        fingerprint = self.gateway.table.fingerprint
        self.gateway.fleet.connected = True
        self.gateway.fleet.update(
            Snapshot(number=1, fingerprint=fingerprint, supervisor_pid=PID, deployments=tuple(statuses))
        )

    def set(self, *replicas: ReplicaStatus) -> None:
        """Let a deployment have these replicas."""
        self.replicas[replicas[0].replica.partition("#")[0]] = replicas
        self.publish()

    def tell(self, *events: AdminEvent) -> None:
        """Something happened."""
        self.events += events
        for stream in self.listeners:
            for event in events:
                stream.send(event)


@dataclass
class Lab:
    """A worker, its pretended supervisor, and a client of it."""

    gateway: Gateway
    supervisor: Supervisor
    client: httpx.AsyncClient
    configure: Callable[..., None]


Start = Callable[..., contextlib.AbstractAsyncContextManager[Lab]]


@contextlib.asynccontextmanager
async def worker(folder: Path, **tables: Any) -> AsyncIterator[Lab]:
    """Serve a configuration, given as tables."""
    tables = {"limits": {"keepalive_s": 0.2}, **tables}
    settings = Settings.model_validate(tables)
    registry = load_registry(PluginsTable(allow=("echo",)))
    path = folder / "s"
    supervisor = Supervisor(registry, settings)
    server = await serve(str(path), ToSupervisor, supervisor.welcome, max_frame_bytes=LIMIT)  # type: ignore[arg-type]
    generation = build_generation(registry, settings)
    gateway = supervisor.gateway = Gateway(
        registry=registry,
        generation=generation,
        policies=make_policies(registry, settings),
        fleet=Fleet(generation.table, path, max_frame_bytes=LIMIT),
        management=Management(path, max_frame_bytes=LIMIT),
        observers=(),
        started_unix_s=1,
    )
    supervisor.publish()
    app: Sanic[Any, Any] = Sanic(f"test_{uuid.uuid4().hex}", configure_logging=False)
    app.config.TOUCHUP = False  # it rewrites Sanic's own code, which works once in a process
    app.ctx.gateway = gateway
    routes.install(app)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    http = await app.create_server(sock=listening, return_asyncio_server=True)
    assert http is not None
    await http.startup()
    await http.start_serving()

    def configure(**more: Any) -> None:
        supervisor.settings = Settings.model_validate(tables | more)
        supervisor.generation += 1
        supervisor.publish()

    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=f"{url}/admin/v1/", trust_env=False, timeout=10) as client:
            yield Lab(gateway, supervisor, client, configure)
    finally:
        http.close()
        gateway.fleet.close()
        for stream in supervisor.streams:
            stream.close()
        server.close()
        await asyncio.gather(*supervisor.tasks, return_exceptions=True)
        await _handlers_end()


async def _handlers_end() -> None:
    """Let requests whose client has left come to their end, and with them the processes that they have started."""
    async with asyncio.timeout(20):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
    for _ in range(10):  # the ends of a process and of its pipes are told by one turn of the loop after another
        await asyncio.sleep(0)


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Serve a configuration: ``async with start(admin={...}) as lab``."""
    return lambda **tables: worker(tmp_path_factory.mktemp("a"), **tables)


@pytest.fixture
async def lab(start: Start) -> AsyncIterator[Lab]:
    """A worker with two deployments, one of them with a slash in its name, and an alias."""
    config = {
        "deployments": {"org/big@echo": {"source": "/dev/null", "priority": 7, "max_waiting": 3}},
        "aliases": {"gpt-4": "echo"},
    }
    async with start(**config) as running:
        yield running


def _closed(value: Any) -> Any:
    """Schemas that allow nothing that they do not name, so that a field nobody wrote down is found."""
    if isinstance(value, dict):
        made = {key: _closed(one) for key, one in value.items()}
        if "properties" in made:
            made.setdefault("additionalProperties", False)
        return made
    return [_closed(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def holds() -> Callable[[str, Any], None]:
    """Assert that a body is what the schema of that name says, and nothing more: ``holds("Error", body)``."""
    components = _closed(copy.deepcopy(document()["components"]["schemas"]))

    def check(name: str, body: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}}
        jsonschema.Draft202012Validator(schema).validate(body)

    return check
