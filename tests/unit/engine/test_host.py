"""The host, on a real unix socket in this process, around an engine that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest

from core.api import (
    BackendSpec,
    EngineBrokenError,
    EngineError,
    EngineEvent,
    EngineInfo,
    EngineRequest,
    Finished,
    Load,
    ModelSpec,
    ReplicaConfig,
    RequestError,
    SamplingDefaults,
    TextDelta,
    Usage,
)
from core.engine.host import Host
from core.testing import ReplicaClient, chat, replica_config
from core.wire.frames import (
    PROTOCOL,
    Accepted,
    Done,
    Failed,
    FromReplica,
    Hello,
    Rejected,
    RetireIfIdle,
    RetireReply,
    Status,
    Watch,
    Welcome,
)
from core.wire.stream import PeerGoneError, connect

END = (Finished(), Usage(prompt_tokens=1, completion_tokens=1))
MODEL = ModelSpec(name="m", backend="fake", sampling=SamplingDefaults(temperature=0.5))


class ScriptedEngine:
    """Streams what ``script`` yields; by default a request runs until ``release`` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.script: Callable[[EngineRequest], AsyncGenerator[EngineEvent, None]] = self.hold
        self.running: list[EngineRequest] = []
        self.begun: list[EngineRequest] = []
        self.broken = False

    async def load(self) -> EngineInfo:
        return EngineInfo(slots=2)

    async def hold(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        await self.release.wait()
        for choice in range(request.n):
            yield Finished(choice=choice)
        yield END[-1]

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        self.running.append(request)
        self.begun.append(request)
        try:
            async with contextlib.aclosing(self.script(request)) as events:
                async for event in events:
                    yield event
        finally:
            self.running.remove(request)

    def load_now(self) -> Load:
        if self.broken:
            raise RuntimeError("load_now is broken")
        return Load(running=99, kv_used=0.25, steps=7)

    async def close(self) -> None:
        pass


class Scene:
    """The host, its engine, and clients that are hung up at the end."""

    def __init__(self, host: Host, config: ReplicaConfig) -> None:
        self.host = host
        self.config = config
        self.engine = ScriptedEngine()
        self.clients: list[ReplicaClient] = []

    async def connect(self) -> ReplicaClient:
        self.clients.append(await ReplicaClient.connect(self.config))
        return self.clients[-1]

    async def submitted(self, *, timeout_s: float = 30.0, n: int = 1) -> ReplicaClient:
        """A client whose request is accepted."""
        client = await self.connect()
        assert isinstance(await client.submit(chat("hello", n=n), timeout_s=timeout_s), Accepted)
        return client

    async def rejected(self) -> Rejected:
        """The answer to a request that must not be admitted."""
        answer = await (await self.connect()).submit(chat("hello"))
        assert isinstance(answer, Rejected)
        return answer

    async def load(self) -> Load:
        return (await anext((await self.connect()).watch())).load


async def until(condition: Callable[[], object], *, within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
async def unloaded() -> AsyncIterator[Scene]:
    """A host that listens and has no engine yet."""
    folder = Path(tempfile.mkdtemp(prefix="host-"))
    config = replica_config(BackendSpec(name="fake", engine="tests:Fake"), MODEL, folder, max_waiting=2)
    host = Host(config)
    await host.listen()
    scene = Scene(host, config)
    yield scene
    for client in scene.clients:
        client.close()
    scene.engine.release.set()
    await host.close()
    shutil.rmtree(folder)


@pytest.fixture
async def scene(unloaded: Scene) -> Scene:
    """A host that is ready: two slots, two may wait."""
    unloaded.host.ready(unloaded.engine, await unloaded.engine.load())
    return unloaded


# --- the handshake


async def hello(scene: Scene, *frames) -> list[FromReplica]:
    stream = await connect(scene.config.socket, FromReplica, max_frame_bytes=1 << 20)
    try:
        for frame in frames:
            stream.send(frame)
        async with asyncio.timeout(2):
            return await stream.receive()
    finally:
        stream.close()


async def test_welcome_names_the_replica(scene: Scene) -> None:
    """Also to a peer with another alias table: it must decide what that means."""
    (welcome,) = await hello(scene, Hello(protocol=PROTOCOL, fingerprint="other", peer="worker"))
    assert isinstance(welcome, Welcome)
    assert (welcome.replica, welcome.fingerprint, welcome.protocol) == ("m@fake#0", "test", PROTOCOL)


@pytest.mark.parametrize("first", [Hello(protocol=PROTOCOL + 1, fingerprint="test", peer="worker"), RetireIfIdle()])
async def test_a_peer_of_another_protocol_is_hung_up(scene: Scene, first, caplog) -> None:
    """No answer could be understood; the log says why."""
    with pytest.raises(PeerGoneError), caplog.at_level(logging.WARNING):
        await hello(scene, first)
    assert "protocol" in caplog.text or "instead of Hello" in caplog.text


# --- the straight line


async def test_events_then_done(scene: Scene) -> None:
    """The engine's events arrive as they are, then Done; the connection serves the next request."""
    scene.engine.release.set()
    client = await scene.connect()
    for _ in range(2):
        frames = await client.ask(chat("hello"))
        assert tuple(frames[:-1]) == END
        assert frames[-1] == Done(load=Load(kv_used=0.25, steps=7))


async def test_the_engine_reads_numbers(scene: Scene) -> None:
    """Sampling that the request left open comes from the model's declaration."""
    scene.engine.release.set()
    await (await scene.connect()).ask(chat("hello"))
    assert scene.engine.begun[0].sampling.temperature == 0.5


async def test_a_slow_reader_holds_its_engine_back(scene: Scene) -> None:
    """Back-pressure: what nobody reads is not generated."""
    made = 0

    async def endless(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        nonlocal made
        for _ in range(10_000):
            made += 1
            yield TextDelta(text="x" * 10_000)
            await asyncio.sleep(0)

    scene.engine.script = endless
    client = await scene.submitted()
    client.stream._transport.pause_reading()
    before = -1
    while before != made:
        before = made
        await asyncio.sleep(0.1)
    assert made < 1000


async def test_an_engine_that_never_waits_shares_the_loop(scene: Scene) -> None:
    """Others are answered while it streams, and it learns that its client is gone."""

    async def flood(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        while True:
            yield TextDelta(text="x")

    scene.engine.script = flood
    client = await scene.submitted()
    async with asyncio.timeout(5):
        await client.receive()
        assert (await scene.load()).running == 1
        client.close()
        while (await scene.load()).running:
            pass


# --- admission


async def test_the_surplus_waits_in_order(scene: Scene) -> None:
    """Two run, the next waits, and its turn comes when a slot is free."""
    clients = [await scene.submitted() for _ in range(3)]
    await until(lambda: len(scene.engine.begun) == 2)
    assert await scene.load() == Load(
        running=2,
        waiting=1,
        waiting_prompt_tokens=2,
        kv_used=0.25,
        steps=7,
        outstanding_prompt_tokens=6,
        outstanding_output_tokens=3 * 256,
    )
    scene.engine.release.set()
    for client in clients:
        assert isinstance([frame async for frame in client.frames()][-1], Done)
    assert len(scene.engine.begun) == 3


async def test_a_full_queue_is_busy(scene: Scene) -> None:
    """With the load, and a time to come back that grows with the queue and what requests take."""
    for _ in range(4):
        await scene.submitted()
    answer = await scene.rejected()
    assert answer.reason == "busy"
    assert answer.retry_after_s == 2.0
    assert (answer.load.running, answer.load.waiting) == (2, 2)


async def test_a_broken_load_now_ends_no_request(scene: Scene, caplog) -> None:
    """The log tells; requests go on."""
    scene.engine.broken = True
    scene.engine.release.set()
    assert isinstance((await (await scene.connect()).ask(chat("hello")))[-1], Done)
    assert "load_now is broken" in caplog.text


# --- cancel


async def test_hanging_up_closes_the_engines_stream(scene: Scene) -> None:
    """And the next in the queue begins."""
    first, _, third = [await scene.submitted() for _ in range(3)]
    await until(lambda: len(scene.engine.running) == 2)
    first.close()
    await until(lambda: len(scene.engine.begun) == 3)
    assert len(scene.engine.running) == 2
    third.close()
    await until(lambda: len(scene.engine.running) == 1)


async def test_hanging_up_while_waiting_leaves_the_queue(scene: Scene) -> None:
    """The engine never sees the request."""
    clients = [await scene.submitted() for _ in range(3)]
    await until(lambda: len(scene.engine.begun) == 2)
    clients[2].close()
    watcher = (await scene.connect()).watch(0.01)
    async with asyncio.timeout(2):
        while (await anext(watcher)).load.waiting:
            pass
    assert len(scene.engine.begun) == 2


async def test_the_engines_cleaning_up_is_not_interrupted(scene: Scene, caplog) -> None:
    """A client that leaves after its deadline does not cancel the engine a second time."""
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def careful(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        try:
            await asyncio.Event().wait()
            yield END[0]
        finally:
            cleaning.set()
            await asyncio.sleep(0.05)
            cleaned.set()

    scene.engine.script = careful
    client = await scene.submitted(timeout_s=0.05)
    await asyncio.wait_for(cleaning.wait(), 2)
    client.close()
    await asyncio.wait_for(cleaned.wait(), 2)
    assert not caplog.records


async def test_nor_is_it_after_a_broken_contract(scene: Scene) -> None:
    """The stream is closed because of what it sent; that its client leaves meanwhile changes nothing."""
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def broken(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        try:
            yield Finished()
            yield Finished()
        finally:
            cleaning.set()
            await asyncio.sleep(0.05)
            cleaned.set()

    scene.engine.script = broken
    client = await scene.submitted()
    await asyncio.wait_for(cleaning.wait(), 2)
    client.close()
    await asyncio.wait_for(cleaned.wait(), 2)


async def test_nor_is_it_when_a_slow_reader_leaves(scene: Scene) -> None:
    """The host is then waiting for the reader, not for the engine."""
    cleaned = asyncio.Event()

    async def careful(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        try:
            while True:
                yield TextDelta(text="x" * 100_000)
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()

    scene.engine.script = careful
    client = await scene.submitted()
    client.stream._transport.pause_reading()
    await until(lambda: len(scene.engine.running) == 1)
    client.close()
    await asyncio.wait_for(cleaned.wait(), 2)


# --- deadlines


async def test_a_deadline_ends_a_running_request(scene: Scene) -> None:
    """Its engine's stream is closed."""
    client = await scene.submitted(timeout_s=0.05)
    failed = await client.receive()
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.load.running) == ("timeout", 0)
    assert not scene.engine.running


async def test_a_deadline_ends_a_waiting_request(scene: Scene) -> None:
    """Those that run are left alone; the connection stays usable."""
    await scene.submitted(n=2)
    client = await scene.submitted(timeout_s=0.05)
    failed = await client.receive()
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.load.running, failed.load.waiting) == ("timeout", 1, 0)
    assert isinstance(await client.submit(chat("again")), Accepted)


# --- engines that fail


async def fails(scene: Scene, error: BaseException | None, *events: EngineEvent) -> Failed:
    async def script(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        for event in events:
            yield event
        if error is not None:
            raise error

    scene.engine.script = script
    failed = (await (await scene.connect()).ask(chat("hello")))[-1]
    assert isinstance(failed, Failed)
    scene.engine.script = scene.engine.hold
    scene.engine.release.set()
    assert isinstance((await (await scene.connect()).ask(chat("hello")))[-1], Done), "others must go on"
    return failed


async def test_a_request_error_is_the_clients(scene: Scene) -> None:
    """With its field and code."""
    failed = await fails(scene, RequestError("too long", param="messages", code="context_length_exceeded"))
    assert (failed.reason, failed.message, failed.param, failed.code) == (
        "invalid",
        "too long",
        "messages",
        "context_length_exceeded",
    )


async def test_an_engine_error_is_told(scene: Scene) -> None:
    """After the first event too."""
    failed = await fails(scene, EngineError("out of memory"), TextDelta(text="half"))
    assert (failed.reason, failed.message) == ("engine", "out of memory")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret"), TimeoutError("secret"), asyncio.CancelledError("secret")]
)
async def test_any_other_error_is_logged_and_not_told(scene: Scene, error, caplog) -> None:
    """The client learns that it failed; the traceback is for the operator. A cancel of its own making is one."""
    failed = await fails(scene, error)
    assert failed.reason == "engine"
    assert "secret" not in failed.message
    assert "Traceback" in caplog.text


async def test_an_early_end_is_a_failure(scene: Scene) -> None:
    """Never a clean end to a broken stream."""
    failed = await fails(scene, None, TextDelta(text="half"), Finished())
    assert (failed.reason, failed.message) == ("engine", "the engine ended the stream early")


async def test_a_failing_clean_up_is_a_failure_of_its_request_only(scene: Scene, caplog) -> None:
    """What aclose() raises is logged."""

    async def script(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        try:
            yield TextDelta(text="x")
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError("while cleaning up")

    scene.engine.script = script
    client = await scene.submitted()
    await client.receive()
    client.close()
    await until(lambda: "while cleaning up" in caplog.text)
    assert (await scene.load()).running == 0


# --- an engine that breaks


async def test_a_broken_engine_ends_the_replica(scene: Scene) -> None:
    """Its request is told why, watchers at once, who waits may go elsewhere, and nothing is admitted any more."""
    watcher = (await scene.connect()).watch(1000.0)
    await anext(watcher)
    device_lost = asyncio.Event()

    async def script(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        yield TextDelta(text="half")
        await device_lost.wait()
        raise EngineBrokenError("the device is lost")

    scene.engine.script = script
    running, waiting = [await scene.submitted() for _ in range(2)], await scene.submitted()
    await until(lambda: len(scene.engine.running) == 2)
    device_lost.set()
    async with asyncio.timeout(2):
        status = await anext(watcher)
        assert (status.error, status.error_permanent, status.draining) == ("the device is lost", False, True)
        for client in running:
            failed = [frame async for frame in client.frames()][-1]
            assert isinstance(failed, Failed)
            assert (failed.reason, failed.message) == ("engine", "the device is lost")
        turned_away = await waiting.receive()
        assert isinstance(turned_away, Failed)
        assert turned_away.reason == "draining"
        assert (await scene.rejected()).reason == "draining"
        await scene.host.ending()
        await scene.host.drained()
    assert scene.host.broken == "the device is lost"
    assert len(scene.engine.begun) == 2, "nobody else may get into a broken engine"


async def test_a_broken_engine_that_holds_a_request_back_does_not_keep_it(scene: Scene) -> None:
    """It gets a moment to say the same of the others; then they are failed."""
    holding = await scene.submitted()
    await until(lambda: scene.engine.running)

    async def script(request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        raise EngineBrokenError
        yield

    scene.engine.script = script
    client = await scene.submitted()
    failed = await client.receive()
    assert isinstance(failed, Failed)
    assert failed.message == "EngineBrokenError"
    assert scene.host.broken == "EngineBrokenError"
    assert scene.engine.running, "the others get a moment"
    async with asyncio.timeout(3):
        failed = await holding.receive()
        await scene.host.drained()
    assert isinstance(failed, Failed)
    assert failed.reason == "draining"


# --- loading, watching, retiring, draining


async def test_while_loading_requests_are_turned_away(unloaded: Scene) -> None:
    """And a watcher learns at once when it is over, long before its interval."""
    watcher = (await unloaded.connect()).watch(1000.0)
    first = await anext(watcher)
    assert (first.info, first.error, first.rss_bytes > 0) == (None, None, True)
    answer = await unloaded.rejected()
    assert (answer.reason, answer.message) == ("draining", "The model is still loading.")
    unloaded.host.ready(unloaded.engine, await unloaded.engine.load())
    async with asyncio.timeout(2):
        assert (await anext(watcher)).info == EngineInfo(slots=2)


async def test_a_failed_load_is_told(unloaded: Scene) -> None:
    """To watchers and to requests."""
    watcher = (await unloaded.connect()).watch(1000.0)
    await anext(watcher)
    unloaded.host.fail("no such file", permanent=True)
    async with asyncio.timeout(2):
        status = await anext(watcher)
    assert (status.error, status.error_permanent) == ("no such file", True)
    assert "no such file" in (await unloaded.rejected()).message


async def test_a_watch_reports_again_and_again(scene: Scene) -> None:
    """Without any change, every interval; requests to retire are answered in between."""
    client = await scene.connect()
    client.stream.send(Watch(interval_s=0.01))
    client.stream.send(RetireIfIdle())
    async with asyncio.timeout(2):
        frames = [await client.receive() for _ in range(5)]
    assert sum(isinstance(frame, Status) for frame in frames) == 4
    assert RetireReply(retired=True) in frames


async def test_only_an_idle_replica_retires(scene: Scene) -> None:
    """A request that is in makes it stay; once retired it admits nothing."""
    busy = await scene.submitted()
    supervisor = await scene.connect()
    supervisor.stream.send(RetireIfIdle())
    assert await supervisor.receive() == RetireReply(retired=False)
    scene.engine.release.set()
    assert isinstance([frame async for frame in busy.frames()][-1], Done)
    supervisor.stream.send(RetireIfIdle())
    assert await supervisor.receive() == RetireReply(retired=True)
    assert (await scene.rejected()).reason == "draining"


async def test_drain_lets_the_running_end_and_fails_the_waiting(scene: Scene) -> None:
    """New ones are turned away, watchers learn at once, and `drained` returns when the last is done."""
    watcher = (await scene.connect()).watch(1000.0)
    await anext(watcher)
    running, waiting = await scene.submitted(n=2), await scene.submitted()
    scene.host.drain(30.0)
    async with asyncio.timeout(2):
        assert (await anext(watcher)).draining
        failed = await waiting.receive()
        assert isinstance(failed, Failed)
        assert failed.reason == "draining"
        assert (await scene.rejected()).reason == "draining"
        drained = asyncio.create_task(scene.host.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        scene.engine.release.set()
        assert isinstance([frame async for frame in running.frames()][-1], Done)
        await drained


async def test_the_drains_time_is_kept(scene: Scene) -> None:
    """What still runs is failed as draining; a second drain with less time is sooner."""
    client = await scene.submitted()
    scene.host.drain(1000.0)
    scene.host.drain(0.05)
    async with asyncio.timeout(2):
        failed = await client.receive()
        await scene.host.drained()
    assert isinstance(failed, Failed)
    assert failed.reason == "draining"
    assert not scene.engine.running


async def test_an_earlier_deadline_stays_one(scene: Scene) -> None:
    """A drain gives nobody more time, nor another reason."""
    client = await scene.submitted(timeout_s=0.05)
    scene.host.drain(1000.0)
    async with asyncio.timeout(2):
        failed = await client.receive()
    assert isinstance(failed, Failed)
    assert failed.reason == "timeout"


# --- the end


async def test_who_has_not_heard_that_it_goes_is_turned_away_and_not_cut_off(scene: Scene) -> None:
    """An HTTP worker takes a closed connection for a death."""
    early, late = await scene.connect(), await scene.connect()
    scene.host.drain(30.0)
    closing = asyncio.create_task(scene.host.close())
    early.close()
    async with asyncio.timeout(5):
        answers = [await late.submit(chat("hello")) for _ in range(3)]
        assert [isinstance(one, Rejected) and one.reason for one in answers] == ["draining"] * 3
        assert (await scene.rejected()).reason == "draining"
        assert not closing.done()
        for client in scene.clients:
            client.close()
        await closing


async def test_who_is_connecting_when_the_last_worker_leaves_is_still_greeted(scene: Scene, monkeypatch) -> None:
    """A server that is closed never greets a connection that it has taken."""
    monkeypatch.setattr("core.engine.host._ON_ITS_WAY_S", 0.5)
    monkeypatch.setattr("core.engine.host._FAREWELL_S", 1000.0)
    last = await scene.connect()
    scene.host.drain(30.0)
    closing = asyncio.create_task(scene.host.close())
    last.close()
    await asyncio.sleep(0.005)  # for it to have left
    async with asyncio.timeout(5):
        assert (await scene.rejected()).reason == "draining"
        scene.clients[-1].close()
        await closing


async def test_the_supervisor_does_not_have_to_leave_first(scene: Scene, monkeypatch) -> None:
    """It listens until the end."""
    monkeypatch.setattr("core.engine.host._FAREWELL_S", 1000.0)
    stream = await connect(scene.config.socket, FromReplica, max_frame_bytes=1 << 20)
    stream.send(Hello(protocol=PROTOCOL, fingerprint="test", peer="supervisor"))
    stream.send(Watch(interval_s=1000.0))
    async with asyncio.timeout(5):
        await stream.receive()
        scene.host.drain(30.0)
        await scene.host.close()
    stream.close()


async def test_a_worker_that_stays_does_not_keep_it(scene: Scene, monkeypatch) -> None:
    """It may hang."""
    monkeypatch.setattr("core.engine.host._FAREWELL_S", 0.05)
    client = await scene.connect()
    scene.host.drain(30.0)
    async with asyncio.timeout(5):
        await scene.host.close()
        with pytest.raises(PeerGoneError):
            await client.receive()
