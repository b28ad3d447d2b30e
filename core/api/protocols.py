"""What run-time objects of a plugin must be able to do.

Hooks declare, these run. Nothing here is called through pluggy.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
from pydantic import BaseModel

from core.api.messages import EngineEvent, EngineInfo, Load
from core.api.requests import EngineRequest, Task
from core.api.specs import ModelSpec

__all__ = [
    "Candidate",
    "Engine",
    "EngineContext",
    "Launcher",
    "Observer",
    "Policy",
    "ReplicaChange",
    "ReplicaConfig",
    "ReplicaExit",
    "ReplicaProcess",
    "ReplicaState",
    "RequestRecord",
    "RouteRequest",
    "ScoringPolicy",
]

ReplicaState = Literal["absent", "stopped", "starting", "ready", "draining", "failed"]


# --- engines ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineContext:
    """All that an engine is given; its class is called with this one argument.

    Attributes:
        model: the model to load, as the configuration left it.
        weights: file or folder on disk, prepared if the backend has a `Preparation`; None when ``model.source`` is
            None.
        settings: an instance of the backend's own settings model.
        scratch: a private folder for sockets and temporary files, short enough for a unix socket
            path; removed after the replica's end.
    """

    model: ModelSpec
    weights: Path | None
    settings: BaseModel
    scratch: Path


@runtime_checkable
class Engine(Protocol):
    """Holds one loaded model, in a replica process of its own, driven from one asyncio loop.

    The class is called with an `EngineContext`; the constructor must be quick and load nothing.
    Blocking work belongs into threads: the loop must stay free for cancels and load reports.
    """

    async def load(self) -> EngineInfo:
        """Load the model; called once, first.

        Raises:
            EngineLoadError: it cannot be loaded; the message is shown to operators and clients.
        """
        ...

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        """Serve one request; at most ``EngineInfo.slots`` choices run at once, the host queues the rest.

        Yields deltas, exactly one `Finished` per choice (or one `Embedding` per input, one `Score` per
        document), then one `Usage`,
        last. ``aclose()`` on the generator is cancel, at any point: the device is idle of the request
        within one decode step (or one prefill batch).

        Raises:
            RequestError: the request is at fault (before the first event).
            EngineError: this request failed; others go on.
            EngineBrokenError: nothing can be served any more; the replica ends and is started anew. The other
                running requests should be told the same, and soon: they are given a second.
        """
        ...

    def load_now(self) -> Load:
        """How busy the engine is: ``running``, ``kv_used`` and ``steps``; cheap, never blocks.

        ``steps`` must move while ``running`` is above 0, or the supervisor takes the replica for hung.
        """
        ...

    async def close(self) -> None:
        """Give everything back; called once, last, also after a failed load."""
        ...


# --- policies -----------------------------------------------------------------------------------


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy may know of a request.

    Attributes:
        name: the model field as the client wrote it.
        task: which endpoint was called.
        estimated_prompt_tokens: from the length of the text; no tokenizer runs in an HTTP worker.
        user: the request's ``user`` field, or None.
        headers: the HTTP headers, names in lower case.
        request: the parsed request itself; read only.
    """

    name: str
    task: Task
    estimated_prompt_tokens: int = 0
    user: str | None = None
    headers: Mapping[str, str]
    request: EngineRequest


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's ready replica with its last known load.

    Attributes:
        replica: ``<model>@<backend>#<index>``.
        deployment, model, backend: its parts.
        weight: of the deployment.
        slots: requests it can work on at once.
        load: last load it reported, to this HTTP worker or to the supervisor.
        in_flight: requests of this very HTTP worker that are on it now; exact.
        in_flight_prompt_tokens: of those, the estimated prompt tokens of the ones without a first event.
        in_flight_output_tokens: of those, the estimated tokens yet to come.
        ttft_s: moving average of the time to the first event, measured by this worker; None before any.
        token_s: moving average of the time per generated token after the first event; None before any.
        measured_s_ago: seconds since the last of these measurements; 0 before any.
    """

    replica: str
    deployment: str
    model: str
    backend: str
    weight: float = 1.0
    slots: int = 1
    load: Load = Load()
    in_flight: int = 0
    in_flight_prompt_tokens: int = 0
    in_flight_output_tokens: int = 0
    ttft_s: float | None = None
    token_s: float | None = None
    measured_s_ago: float = 0.0


@runtime_checkable
class Policy(Protocol):
    """Ranks the candidates of one priority tier; one object per HTTP worker and route, called in its loop."""

    def rank(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return a subset of ``candidates``, best first; an empty answer means: not this tier.

        Called for each attempt, with those that may be asked then. No I/O, no await, no change of its arguments; under
        100 microseconds for 100 candidates. What raises, returns a candidate that it was not given, or takes longer
        than ``routing.policy_timeout_s``, is logged and counted, and ``least_loaded`` ranks instead.
        """
        ...


@runtime_checkable
class ScoringPolicy(Policy, Protocol):
    """A policy that can say, for people, by what it ranks."""

    def scores(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        """Return one number per candidate, in their order; lower is better. Changes nothing."""
        ...


# --- launchers ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaConfig:
    """All that a replica process needs, written to its standard input as one line of JSON.

    Attributes:
        replica: ``<model>@<backend>#<index>``.
        model: the spec as the configuration left it.
        engine: import path of the engine class.
        settings_class: import path of the backend's settings model.
        settings: its values.
        weights: path on disk of what the engine loads, or None.
        socket: unix socket path to listen on.
        scratch: private folder of this replica.
        fingerprint: of the table that the supervisor was built from; compared in the hello.
        max_waiting: most requests that wait, beyond those running; the next is rejected as busy.
        max_waiting_prompt_tokens: most estimated prompt tokens that wait.
        drain_timeout_s: how long running requests may go on after SIGTERM or end of standard input.
        max_frame_bytes: largest frame accepted or sent.
        log_level: of the replica's log.
        log_dir: folder for the process's output, which the launcher connects; None: ``scratch``.
        log_max_bytes: size at which that log is rotated.
    """

    replica: str
    model: ModelSpec
    engine: str
    settings_class: str
    settings: dict[str, Any]
    weights: str | None
    socket: str
    scratch: str
    fingerprint: str
    max_waiting: int = 64
    max_waiting_prompt_tokens: int = 262_144
    drain_timeout_s: float = 30.0
    max_frame_bytes: int = 64 * 1024 * 1024
    log_level: str = "INFO"
    log_dir: str | None = None
    log_max_bytes: int = 10 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaExit:
    """How a replica process ended: ``code`` or ``signal`` (a name such as ``SIGKILL``), and its last words."""

    code: int | None = None
    signal: str | None = None
    stderr_tail: str = ""


class ReplicaProcess(Protocol):
    """A started replica; its life ends exactly once, which `wait` reports."""

    @property
    def pid(self) -> int:
        """Process id, for people; on the host where the launcher put it."""
        ...

    async def wait(self) -> ReplicaExit:
        """Wait for the end; may be called by several tasks."""
        ...

    def terminate(self) -> None:
        """Ask for a graceful end (SIGTERM): no new requests, running ones get ``drain_timeout_s``. Idempotent."""
        ...

    def kill(self) -> None:
        """End the whole process group now (SIGKILL). Idempotent."""
        ...


class Launcher(Protocol):
    """Starts replicas somewhere. Lives in the supervisor; its class is called with its settings."""

    async def launch(self, config: ReplicaConfig, *, python: str | None) -> ReplicaProcess:
        """Start one replica and return at once, before its model is loaded.

        ``python`` is the interpreter to use, None for the gateway's own. It must end when the supervisor
        does, however the supervisor ends.

        Raises:
            OSError: it could not be started.
        """
        ...


# --- observers ----------------------------------------------------------------------------------


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request.

    Attributes:
        id: the id that the client saw, or the ``x-request-id`` of a refused request.
        name: the model field as written.
        replica: which replica answered, or None when none did.
        outcome: a finish reason (``stop``, ``length``, ``tool_calls``, ``content_filter``), the task where nothing is
            generated (``embeddings``, ``rerank``), ``error`` or ``cancelled``.
        error: the error's code when ``outcome`` is ``error``.
        status: HTTP status sent (200 for a stream that broke later).
        attempts: how many candidates were tried.
        ttft_s: seconds to the first event, or None.
        duration_s: seconds from the request's arrival to its end.
        prompt_tokens, completion_tokens, cached_tokens: from usage; 0 when none came.
    """

    id: str
    name: str
    task: Task
    replica: str | None
    outcome: str
    error: str | None = None
    status: int = 200
    attempts: int = 1
    ttft_s: float | None = None
    duration_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaChange:
    """A replica went from one state to another, and why."""

    replica: str
    before: ReplicaState
    after: ReplicaState
    reason: str = ""


class Observer(Protocol):
    """Told of what happened; cannot change anything. What it raises is logged and dropped.

    Both methods are called in an event loop and must not block.
    """

    def request_finished(self, record: RequestRecord) -> None:
        """Called in the HTTP worker once per request, after its last byte."""
        ...

    def replica_changed(self, change: ReplicaChange) -> None:
        """Called in the supervisor at each change of state."""
        ...
