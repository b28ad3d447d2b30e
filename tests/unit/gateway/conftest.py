"""A fleet of scripted replicas over real unix sockets, without any process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.api.messages import EngineInfo
from core.api.protocols import Candidate, RouteRequest
from core.api.requests import ChatRequest, Content, Message
from core.api.specs import BackendSettings, BackendSpec, ModelSpec
from core.gateway.answer import Deadline
from core.gateway.fleet import Fleet
from core.gateway.ranking import Ranker
from core.gateway.retries import RetryBudget
from core.gateway.search import Search
from core.routing.table import Deployment, Route, RouteOptions, Table
from core.settings import RoutingTable
from core.wire.control import DeploymentStatus, ReplicaStatus, Snapshot
from core.wire.frames import PROTOCOL, Hello, Submit, ToReplica, Welcome
from core.wire.stream import FrameStream, PeerGoneError, serve

Script = Callable[[FrameStream[Any], Submit], Awaitable[None]]
LIMIT = 1 << 20
REQUEST = ChatRequest(id="r", messages=(Message(role="user", content=(Content(text="hi"),)),))


@dataclass
class Lab:
    """Makes deployments, replicas and searches."""

    folder: Path
    deployments: dict[str, Deployment] = field(default_factory=dict)
    statuses: dict[str, DeploymentStatus] = field(default_factory=dict)
    servers: list[asyncio.Server] = field(default_factory=list)
    streams: list[FrameStream[Any]] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    fleet: Fleet = None  # type: ignore[assignment]
    routing: RoutingTable = field(default_factory=RoutingTable)
    budget: RetryBudget = field(default_factory=RetryBudget)

    def deployment(self, name: str, **changes: Any) -> Deployment:
        capabilities = changes.pop("capabilities", frozenset())
        model, backend = name.split("@")
        made = Deployment(
            spec=ModelSpec(name=model, backend=backend, **changes),
            backend=BackendSpec(name=backend, engine="none:Engine", capabilities=capabilities),
            settings=BackendSettings(),
            python=None,
            replicas=1,
            idle_unload_s=None,
            declared_by="test",
        )
        self.deployments[name] = made
        stopped = DeploymentStatus(deployment=name, state="stopped", on_demand=made.on_demand)
        self.statuses.setdefault(name, stopped)
        return made

    async def replica(self, name: str, script: Script) -> None:
        """Start a scripted replica of a deployment and publish it as ready."""
        index = len(self.statuses[name].replicas)
        replica, path = f"{name}#{index}", str(self.folder / f"{len(self.servers)}.sock")
        tasks: set[asyncio.Task[None]] = set()

        async def converse(stream: FrameStream[Any]) -> None:
            submit: Submit | None = None
            try:
                while True:
                    for frame in await stream.receive():
                        if isinstance(frame, Hello):
                            stream.send(Welcome(protocol=PROTOCOL, fingerprint="f", replica=replica, pid=1))
                        elif isinstance(frame, Submit):
                            submit = frame
                            self.submitted.append(replica)
                            await script(stream, frame)
                            submit = None
            except PeerGoneError:
                if submit is not None:
                    self.cancelled.append(replica)

        def made(stream: FrameStream[Any]) -> None:
            self.streams.append(stream)
            task = asyncio.get_running_loop().create_task(converse(stream))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        self.servers.append(await serve(path, ToReplica, made, max_frame_bytes=LIMIT))  # type: ignore[arg-type]
        status = ReplicaStatus(replica=replica, state="ready", socket=path, info=EngineInfo(slots=4))
        old = self.statuses[name]
        self.set(name, "ready", replicas=(*old.replicas, status))

    def set(self, name: str, state: Any, **changes: Any) -> None:
        """Publish a snapshot in which a deployment has this state."""
        changes.setdefault("on_demand", self.deployments[name].on_demand)
        self.statuses[name] = DeploymentStatus(deployment=name, state=state, **changes)
        self.publish()

    def publish(self) -> None:
        self.fleet.table.deployments = self.deployments
        snapshot = Snapshot(number=1, fingerprint="f", supervisor_pid=1, deployments=tuple(self.statuses.values()))
        self.fleet.update(snapshot)

    def search(self, *tiers: Sequence[str], policy: Any = None, **changes: Any) -> Search:
        """A search over tiers of deployment names."""
        route = Route(
            name="asked",
            kind="alias",
            tiers=tuple(tuple(self.deployments[name] for name in tier) for tier in tiers),
            options=RouteOptions(**changes.pop("options", {})),
        )
        request = changes.pop("request", REQUEST)
        now_s = asyncio.get_running_loop().time()
        asked = RouteRequest(
            name="asked",
            task=changes.pop("task", "chat"),
            estimated_prompt_tokens=changes.pop("prompt_tokens", 1),
            headers={},
            request=request,
        )
        return Search(
            self.fleet,
            Ranker({"": policy or AsTheyAre()}, timeout_s=1.0),
            route,
            asked,
            needs=changes.pop("needs", {}),
            deadline=changes.pop("deadline", Deadline(at_s=now_s + 10)),
            routing=self.routing,
            budget=self.budget,
        )


class AsTheyAre:
    """A policy without an opinion."""

    def rank(self, _request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return sorted(candidates, key=lambda candidate: candidate.replica)


class FakeTable:
    """As much of a table as a fleet needs."""

    fingerprint = "f"
    deployments: dict[str, Deployment] = {}  # noqa: RUF012

    def disabled_behind(self, name: str) -> list[str]:
        return []


@pytest.fixture
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("l"))
    table: Table = FakeTable()  # type: ignore[assignment]
    made.fleet = Fleet(table, made.folder / "none", max_frame_bytes=LIMIT)
    yield made
    made.fleet.close()
    for stream in made.streams:
        stream.close()
    for server in made.servers:
        server.close()
        with contextlib.suppress(Exception):
            await server.wait_closed()
