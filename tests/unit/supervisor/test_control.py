"""The socket between supervisor and HTTP workers: newest news, bounded memory, no trust."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from core.supervisor.control import ControlServer
from core.supervisor.events import Events
from core.wire.control import (
    AdminHello,
    AdminReply,
    BreakerChanged,
    Change,
    Configuration,
    ControlHello,
    DeploymentStatus,
    EnsureReady,
    FromAdmin,
    FromSupervisor,
    Listen,
    Operate,
    Overrides,
    Reload,
    Snapshot,
    TookOver,
)
from core.wire.frames import PROTOCOL, FrameDecoder, encode
from core.wire.stream import PeerGoneError, connect

ADMIN_HELLO = AdminHello(protocol=PROTOCOL)
HELLO = ControlHello(protocol=PROTOCOL, fingerprint="f", pid=1)
LIMIT_BYTES = 1 << 20


class Desk:
    """A control server with a counter for a world."""

    def __init__(self, path) -> None:
        self.path = path
        self.built = 0
        self.state = 0
        self.padding = ""
        self.configuration = Configuration(generation=1, settings=b"{}", overrides=Overrides())
        self.wanted: list[str] = []
        self.breakers: list[tuple[BreakerChanged, int]] = []
        self.asked = asyncio.Event()
        self.events = Events(5)
        self.commands: list[object] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.server = ControlServer(path, self, max_frame_bytes=LIMIT_BYTES)

    def present(self):
        return self.configuration, self.snapshot()

    def breaker_changed(self, change: BreakerChanged, pid: int) -> None:
        self.breakers.append((change, pid))

    async def execute(self, command) -> AdminReply:
        await self.may_answer.wait()
        self.commands.append(command)
        return AdminReply(status=409, message="no")

    def snapshot(self) -> Snapshot:
        self.built += 1
        deployment = DeploymentStatus(deployment="m@b", state="ready", reason=self.padding)
        return Snapshot(number=self.state, fingerprint="f", supervisor_pid=1, deployments=(deployment,))

    def ensure_ready(self, deployment: str) -> None:
        self.wanted.append(deployment)
        self.asked.set()

    async def client(self, *frames):
        stream = await connect(str(self.path), FromSupervisor, max_frame_bytes=LIMIT_BYTES)
        for frame in frames:
            stream.send(frame)
        return stream


@pytest.fixture
async def desk(tmp_path):
    desk = Desk(tmp_path / "s.sock")
    await desk.server.start()
    yield desk
    await desk.server.close()
    assert not desk.path.exists()


async def newest(stream) -> int:
    """The number of the newest snapshot, when one has come."""
    while not isinstance(frame := (await stream.receive())[-1], Snapshot):
        pass
    return frame.number


async def test_a_worker_gets_a_snapshot_at_once_and_at_each_publication(desk):
    stream = await desk.client(HELLO)
    assert await newest(stream) == 0
    for state in (1, 2, 3):
        desk.state = state
        desk.server.publish()
        assert await newest(stream) == state
    stream.close()


async def test_without_workers_nothing_is_built(desk):
    desk.server.publish()
    await asyncio.sleep(0)
    assert desk.built == 0


async def test_every_worker_gets_its_own(desk):
    streams = [await desk.client(HELLO) for _ in range(5)]
    assert [await newest(stream) for stream in streams] == [0] * 5
    streams.pop().close()
    desk.state = 7
    desk.server.publish()
    assert [await newest(stream) for stream in streams] == [7] * 4
    for stream in streams:
        stream.close()


async def test_what_a_worker_wants_is_handed_on(desk):
    stream = await desk.client(HELLO, EnsureReady(deployment="a@b"))
    await desk.asked.wait()
    assert desk.wanted == ["a@b"]
    stream.close()


@pytest.mark.parametrize(
    "first",
    [
        EnsureReady(deployment="a@b"),
        ControlHello(protocol=PROTOCOL + 1, fingerprint="f", pid=1),
        Snapshot(number=1, fingerprint="f", supervisor_pid=1),
    ],
)
async def test_who_does_not_begin_with_a_hello_we_understand_is_hung_up_on(desk, first):
    stream = await desk.client(first)
    with pytest.raises(PeerGoneError):
        await stream.receive()
    assert desk.wanted == []
    other = await desk.client(HELLO)
    assert await newest(other) == 0
    other.close()


async def test_a_snapshot_follows_the_configuration_that_it_belongs_to(desk):
    """The configuration comes first, once, and again exactly when it is another one."""
    stream = await desk.client(HELLO)
    seen = []
    for state in (0, 1, 2):
        if state == 2:
            desk.configuration = Configuration(generation=2, settings=b"{}", overrides=Overrides())
        desk.state = state
        desk.server.publish()
        while not seen or seen[-1] != ("snapshot", state):
            seen += [
                ("configuration", frame.generation) if isinstance(frame, Configuration) else ("snapshot", frame.number)
                for frame in await stream.receive()
            ]
    assert list(dict.fromkeys(seen)) == [
        ("configuration", 1),
        ("snapshot", 0),
        ("snapshot", 1),
        ("configuration", 2),
        ("snapshot", 2),
    ]
    assert [kind for kind, _ in seen].count("configuration") == 2
    stream.close()


async def test_what_a_worker_says_of_its_breakers_is_handed_on(desk):
    changed = BreakerChanged(replica="a@b#0", state="open", reason="it died")
    stream = await desk.client(HELLO, changed, EnsureReady(deployment="a@b"))
    await desk.asked.wait()
    assert desk.breakers == [(changed, 1)]
    stream.close()


async def test_a_worker_that_does_not_read_costs_no_memory_and_then_gets_the_newest(desk):
    desk.padding = "x" * 50_000
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setblocking(False)
        await loop.sock_connect(slow, str(desk.path))
        await loop.sock_sendall(slow, encode(HELLO))
        other = await desk.client(HELLO)
        built_for_other = 0
        for state in range(1, 1001):
            desk.state = state
            desk.server.publish()
            while await newest(other) != state:
                pass
            built_for_other += 1
        assert desk.built - built_for_other < 50  # what fits into the kernel's and the transport's buffers

        decoder, generation = FrameDecoder(FromSupervisor, LIMIT_BYTES), 0
        while generation != 1000:
            for snapshot in decoder.feed(await loop.sock_recv(slow, 1 << 16)):
                if isinstance(snapshot, Configuration):
                    continue
                assert snapshot.number >= generation
                generation = snapshot.number
        other.close()


async def test_the_socket_of_a_dead_supervisor_is_replaced(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    desk = Desk(path)
    await desk.server.start()
    stream = await desk.client(HELLO)
    assert await newest(stream) == 0
    await desk.server.close()
    with pytest.raises(PeerGoneError):
        await stream.receive()


# --- those who manage


async def manage(desk, command, *, hello=ADMIN_HELLO):
    stream = await connect(str(desk.path), FromAdmin, max_frame_bytes=LIMIT_BYTES)
    stream.send(hello)
    stream.send(command)
    return stream


@pytest.mark.parametrize(
    "command",
    [
        Change(deployments={"a@b": {"priority": 5, "weight": None}}, aliases={"x": ()}, reset=("*",)),
        Operate(deployment="a@b", action="drain"),
        Reload(dry_run=True),
    ],
)
async def test_a_command_gets_its_reply(desk, command):
    stream = await manage(desk, command)
    assert await stream.receive() == [AdminReply(status=409, message="no")]
    assert desk.commands == [command]
    stream.close()


async def test_a_command_is_done_although_nobody_waits_for_the_reply(desk):
    desk.may_answer.clear()
    stream = await manage(desk, Reload())
    await asyncio.sleep(0.05)  # it has arrived
    stream.close()
    await asyncio.sleep(0.05)
    desk.may_answer.set()
    async with asyncio.timeout(5):
        while desk.commands != [Reload()]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("hello", "command"),
    [
        (AdminHello(protocol=PROTOCOL + 1), Reload()),
        (Reload(), Reload()),
        (ADMIN_HELLO, EnsureReady(deployment="a@b")),
        (HELLO, Reload()),
    ],
)
async def test_who_commands_without_the_right_hello_is_hung_up_on(desk, hello, command):
    stream = await manage(desk, command, hello=hello)
    async with asyncio.timeout(5):
        while not stream.gone:
            with contextlib.suppress(PeerGoneError):
                await stream.receive()
    assert desk.commands == []
    assert desk.wanted == []


async def test_a_change_waits_for_every_worker_to_take_it_over(desk):
    streams = [await desk.client(HELLO) for _ in range(2)]
    for stream in streams:
        await newest(stream)
    waiting = asyncio.create_task(desk.server.taken_over(3, timeout_s=20))
    streams[0].send(TookOver(generation=3))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    streams[1].send(TookOver(generation=2))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    streams[1].send(TookOver(generation=3))
    assert await waiting
    assert not await desk.server.taken_over(4, timeout_s=0.01)
    streams[0].close()
    waiting = asyncio.create_task(desk.server.taken_over(4, timeout_s=20))
    streams[1].close()  # who is gone is not waited for
    assert await waiting


async def test_why_a_worker_cannot_go_over_is_known_until_it_can_or_is_gone(desk):
    for ends in (True, False):
        stream = await desk.client(HELLO)
        await newest(stream)
        stream.send(TookOver(generation=3, problem="stays at generation 2: boom"))
        assert await desk.server.taken_over(3, timeout_s=20)
        assert desk.server.problems() == ("HTTP worker 1 stays at generation 2: boom",)
        if ends:
            stream.close()
        else:
            stream.send(TookOver(generation=4))
        assert await desk.server.taken_over(4, timeout_s=20)
        assert desk.server.problems() == ()


async def test_a_listener_gets_kept_events_and_then_new_ones(desk):
    begin = desk.events.newest
    for name in "abc":
        desk.events.add("replica", name)
    stream = await manage(desk, Listen(after=begin + 1))
    seen = []
    while len(seen) < 2:
        seen += await stream.receive()
    desk.events.add("replica", "d")
    seen += await stream.receive()
    assert [(one.subject, one.missed) for one in seen] == [("b", 0), ("c", 0), ("d", 0)]
    stream.close()


async def test_a_listener_that_names_no_number_gets_only_new_ones(desk):
    desk.events.add("replica", "old")
    stream = await manage(desk, Listen())
    seen = []

    async def hear():
        while not seen:
            seen.extend(await stream.receive())

    hearing = asyncio.create_task(hear())
    await asyncio.sleep(0.1)  # until it listens
    desk.events.add("replica", "new")
    await asyncio.wait_for(hearing, 5)
    assert [one.subject for one in seen] == ["new"]
    stream.close()


async def test_a_listener_that_does_not_read_misses_events_and_is_told_how_many(desk):
    """Five events are kept; thousands of large ones go by."""
    loop = asyncio.get_running_loop()
    begin = desk.events.newest
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setblocking(False)
        await loop.sock_connect(slow, str(desk.path))
        await loop.sock_sendall(slow, encode(ADMIN_HELLO) + encode(Listen(after=begin)))
        for number in range(2000):
            desk.events.add("replica", str(number), {"reason": "x" * 5000})
            if number % 20 == 0:
                await asyncio.sleep(0)
        decoder, seen = FrameDecoder(FromAdmin, LIMIT_BYTES), []
        while not seen or seen[-1].id != desk.events.newest:
            seen += decoder.feed(await loop.sock_recv(slow, 1 << 16))
    assert len(seen) < 1000
    assert len(seen) + sum(one.missed for one in seen) == 2000
    before = begin
    for one in seen:
        assert one.id == before + one.missed + 1
        before = one.id
