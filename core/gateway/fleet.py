"""The live view that one HTTP worker has of all replicas, and its connections to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from core.api.messages import Load
from core.gateway.breaker import Breaker
from core.gateway.metrics import breaker_changed
from core.gateway.replica import Average, Replica, ReplicaStream
from core.routing.table import Deployment, Table
from core.wire.control import (
    BreakerChanged,
    Configuration,
    ControlHello,
    DeploymentStatus,
    EnsureReady,
    FromSupervisor,
    ReplicaStatus,
    Snapshot,
    TookOver,
)
from core.wire.frames import PROTOCOL, FromReplica, Hello, Welcome
from core.wire.stream import FrameStream, PeerGoneError, connect

__all__ = ["Fleet", "Replica"]

_log = logging.getLogger("gateway.fleet")
_MOST_IDLE_CONNECTIONS = 32
_RECONNECT_S = 0.1
_HELLO_TIMEOUT_S = 5.0
# The supervisor sends a snapshot every second; one that is silent this long is stopped or hung.
_SILENCE_S = 10.0


class Fleet:
    """Follows the supervisor's snapshots, and opens connections to replicas.

    Attributes:
        table: the alias table this worker routes by; `take_table` replaces it.
        on_configuration: called with each configuration that the supervisor sends, before its first snapshot; returns
            why this worker cannot go over to it, or nothing.
        snapshot: the last one received, or None before the first.
        connected: whether the supervisor is there now.
        breakers: by replica, of all that were ever ready and are in the table; they outlive processes.
    """

    def __init__(self, table: Table, supervisor_socket: Path, *, max_frame_bytes: int) -> None:
        self.table = table
        self.on_configuration: Callable[[Configuration], str] = lambda _: ""
        self.snapshot: Snapshot | None = None
        self.connected = False
        self.draining = False
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)
        self._output_tokens: defaultdict[str, Average] = defaultdict(Average)
        self._socket = supervisor_socket
        self._max_frame_bytes = max_frame_bytes
        self._mismatch = ""
        self._statuses: dict[str, DeploymentStatus] = {}
        self._replicas: dict[str, dict[str, Replica]] = {}
        self._control: FrameStream[FromSupervisor] | None = None
        self._changed = asyncio.Event()

    # --- what is known

    def status(self, deployment: str) -> DeploymentStatus:
        """What the supervisor last said of a deployment; ``stopped`` before it said anything."""
        if status := self._statuses.get(deployment):
            return status
        known = self.table.deployments.get(deployment)
        return DeploymentStatus(
            deployment=deployment,
            state="stopped",
            reason="the supervisor is away; it is being restarted",
            on_demand=known is not None and known.on_demand,
        )

    def ready(self, deployment: str) -> Mapping[str, Replica]:
        """The deployment's ready replicas by socket."""
        return self._replicas.get(deployment, {})

    def load(self, replica: ReplicaStatus) -> Load:
        """The freshest load known of a replica: of its last word to this worker, or of the snapshot."""
        known = self.ready(replica.replica.rpartition("#")[0]).get(replica.socket or "")
        return known.load if known else replica.load

    def is_coming(self, deployment: Deployment) -> bool:
        """Whether a request may wait for it: it is loaded when one asks for it, and no failure holds the load up."""
        status = self.status(deployment.id)
        held_up = bool(status.replicas) and all(replica.retry_in_s is not None for replica in status.replicas)
        return status.on_demand and status.state in {"stopped", "starting", "draining"} and not held_up

    @property
    def fingerprint_matches(self) -> bool:
        """Whether the supervisor was built from the same plugins and configuration as this worker."""
        return self.snapshot is None or self.snapshot.fingerprint == self.table.fingerprint

    def ensure_ready(self, deployment: str) -> None:
        """Ask the supervisor to load a stopped deployment; lost silently while there is no supervisor."""
        if self._control is not None:
            with contextlib.suppress(PeerGoneError):
                self._control.send(EnsureReady(deployment=deployment))

    def tell_breaker(self, replica: str) -> None:
        """Tell the operator, the metrics and the supervisor that the circuit breaker of a replica changed."""
        breaker = self.breakers[replica]
        probe_in_s = breaker.probe_in_s(asyncio.get_running_loop().time())
        if probe_in_s:
            _log.warning("%s gets no requests of this HTTP worker for %.1f s: %s", replica, probe_in_s, breaker.reason)
        else:
            _log.info("the circuit breaker of %s is %s", replica, breaker.state)
        breaker_changed(replica, breaker.state, probe_in_s)
        if self._control is not None:
            with contextlib.suppress(PeerGoneError):
                self._control.send(BreakerChanged(replica=replica, state=breaker.state, reason=breaker.reason))

    async def changed(self) -> None:
        """Wait for the next snapshot."""
        await self._changed.wait()

    def take_table(self, table: Table) -> None:
        """Route by another table from now on; replicas that it still knows keep all that they have."""
        self.table = table
        self._replace(self._statuses.values())
        for replica in [one for one in self.breakers if not self._is_foreseen(one)]:
            del self.breakers[replica]
            breaker_changed(replica, "closed", 0.0)

    def _is_foreseen(self, replica: str) -> bool:
        deployment, _, index = replica.rpartition("#")
        known = self.table.deployments.get(deployment)
        return known is not None and int(index) < known.replicas

    # --- connections to replicas

    async def acquire(self, replica: Replica) -> ReplicaStream:
        """Lend a connection to a replica; closing it in the middle of a conversation cancels the request.

        Raises:
            OSError: the replica cannot be reached, or did not greet.
        """
        return self._pooled(replica) or await self._connect(replica)

    def release(self, replica: Replica, stream: ReplicaStream) -> None:
        """Give back a connection whose conversation is complete; it is pooled."""
        known = self._replicas.get(replica.deployment.id, {}).get(replica.socket)
        if known is replica and not stream.gone and len(replica.idle) < _MOST_IDLE_CONNECTIONS:
            replica.idle.append(stream)
        else:
            stream.close()

    @staticmethod
    def _pooled(replica: Replica) -> ReplicaStream | None:
        while replica.idle:
            stream = replica.idle.pop()
            if not stream.gone:
                return stream
        return None

    async def _connect(self, replica: Replica) -> ReplicaStream:
        stream: ReplicaStream = await connect(
            replica.socket,
            FromReplica,  # type: ignore[arg-type]  # a union stands for its members
            max_frame_bytes=self._max_frame_bytes,
        )
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                stream.send(Hello(protocol=PROTOCOL, fingerprint=self.table.fingerprint, peer="worker"))
                (welcome,) = await stream.receive()
        except BaseException:
            stream.close()
            raise
        if not isinstance(welcome, Welcome) or welcome.protocol != PROTOCOL:
            stream.close()
            msg = f"{replica.status.replica} speaks another protocol; are two versions of ai-gateway installed?"
            raise ConnectionError(msg)
        replica.breaker.greeted(replica.socket)
        return stream

    # --- following the supervisor

    async def follow(self) -> None:
        """Receive snapshots for ever; reconnects when the supervisor comes back."""
        while True:
            try:
                await self._follow_once()
            except OSError as error:
                if self.connected:
                    _log.warning("lost the supervisor (%s); nothing can be served until it is back", error)
            finally:
                self._forget()
            await asyncio.sleep(_RECONNECT_S)

    def _forget(self) -> None:
        """Without a supervisor every replica drains, so none of them takes requests; running answers go on."""
        if self.connected:
            self.connected, self._control = False, None
            self.snapshot = None
            self._replace(())

    async def _follow_once(self) -> None:
        control: FrameStream[FromSupervisor] = await connect(
            str(self._socket),
            FromSupervisor,  # type: ignore[arg-type]  # a union stands for its members
            max_frame_bytes=self._max_frame_bytes,
        )
        try:
            control.send(ControlHello(protocol=PROTOCOL, fingerprint=self.table.fingerprint, pid=os.getpid()))
            self._control = control
            while True:
                async with asyncio.timeout(_SILENCE_S):  # TimeoutError is an OSError
                    frames = await control.receive()
                self.connected = True
                for frame in frames:
                    if isinstance(frame, Configuration):
                        problem = self.on_configuration(frame)
                        control.send(TookOver(generation=frame.generation, problem=problem))
                    else:
                        self.update(frame)
        finally:
            control.close()

    def update(self, snapshot: Snapshot) -> None:
        """Take over a snapshot: new replicas appear, gone ones disappear, loads are refreshed."""
        self.snapshot = snapshot
        mismatch = "" if self.fingerprint_matches else snapshot.fingerprint
        if mismatch and mismatch != self._mismatch:
            _log.error("the supervisor runs with other plugins or another configuration; restart the whole gateway")
        self._mismatch = mismatch
        self._replace(snapshot.deployments)

    def _replace(self, deployments: Iterable[DeploymentStatus]) -> None:
        statuses = {status.deployment: status for status in deployments}
        known, self._replicas = self._replicas, {}
        for name, deployment in self.table.deployments.items():
            status = statuses.get(name)
            before = known.pop(name, {})
            now: dict[str, Replica] = {}
            for one in status.replicas if status else ():
                if one.state != "ready" or one.socket is None:
                    continue
                replica = before.pop(one.socket, None)
                if replica is None:
                    replica = Replica(
                        deployment=deployment,
                        status=one,
                        socket=one.socket,
                        load=one.load,
                        breaker=self.breakers[one.replica],
                        output_tokens=self._output_tokens[name],
                    )
                    if replica.breaker.began(one.socket, asyncio.get_running_loop().time()):
                        breaker_changed(one.replica, "open", 0.0)
                replica.deployment, replica.status = deployment, one
                if one.load.steps >= replica.load.steps:  # else it is older than the replica's last word to us
                    replica.load = one.load
                now[one.socket] = replica
            self._replicas[name] = now
            for gone in before.values():
                gone.close_idle()
        for gone in (replica for replicas in known.values() for replica in replicas.values()):
            gone.close_idle()
        self._statuses = statuses
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Close every connection."""
        if self._control is not None:
            self._control.close()
        self._replace(())

    def ready_backends(self) -> list[str]:
        """Names of the backends with a ready replica of an enabled deployment, sorted."""
        return sorted(
            {
                replica.deployment.spec.backend
                for replicas in self._replicas.values()
                for replica in replicas.values()
                if replica.deployment.spec.enabled
            }
        )
