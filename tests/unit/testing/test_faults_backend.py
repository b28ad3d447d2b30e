"""The backend that fails to order: a good engine while nothing is ordered, and each order kept."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from core.api import Continued, ModelSpec, Sampling, TextDelta
from core.testing import EngineConformance, Replica, ReplicaClient, chat, start_replica
from core.testing.faults.plugin import gateway_backends
from core.wire.frames import Accepted, Done, Failed, FromReplica
from core.wire.stream import PeerGoneError

BACKEND = gateway_backends()[0]
MODEL = ModelSpec(name="drill", backend="faults", source=__file__, tasks=("chat", "completion"))
SAMPLING = Sampling(max_tokens=12)


class TestFaultlessEngine(EngineConformance):
    """With ``fault = none`` it is an engine as it should be."""

    backend = BACKEND
    model = MODEL
    weights = Path(__file__)
    settings: ClassVar = {"tokens": 400, "tokens_per_s": 200.0, "first_token_s": 0.02}
    batch_invariant = True


async def heard(replica: Replica, prompt: str = "Tell me", **more: Any) -> tuple[list[FromReplica], bool]:
    """What a replica said to a request, and whether the connection outlived it."""
    frames: list[FromReplica] = []
    await replica.ready()
    async with replica.connected() as client:
        assert isinstance(await client.submit(chat(prompt, sampling=SAMPLING, **more)), Accepted)
        try:
            while not (frames and isinstance(frames[-1], Done | Failed)):
                frames.append(await client.receive())
        except PeerGoneError:
            return frames, False
    return frames, True


def faulty(fault: str, **settings: Any) -> Any:
    return start_replica(BACKEND, MODEL, settings={"fault": fault, **settings}, weights=Path(__file__))


def text(frames: list[FromReplica]) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, TextDelta))


async def whole_text() -> str:
    async with faulty("none") as replica:
        frames, _ = await heard(replica)
        return text(frames)


# --- what goes wrong


@pytest.mark.parametrize("after", [0, 5])
async def test_it_dies_after_so_many_tokens(after: int) -> None:
    """What was said before has left the process, and nothing else has."""
    async with faulty("die", after_tokens=after) as replica:
        frames, alive = await heard(replica)
        assert not alive
        assert await replica.wait() == -signal.SIGKILL
    assert len(text(frames).split()) == after
    assert (await whole_text()).startswith(text(frames))


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize(("fault", "says"), [("engine_error", "as configured"), ("exhaust_memory", "unforeseen")])
async def test_requests_fail_and_the_replica_lives(fault: str, says: str, after: int) -> None:
    """A request that fails ends with the reason; the next one meets the same process."""
    async with faulty(fault, after_tokens=after, ballast_bytes=32 * 1024 * 1024) as replica:
        for _ in range(2):
            frames, alive = await heard(replica)
            assert alive
            assert isinstance(frames[-1], Failed)
            assert says in frames[-1].message
            assert len(text(frames).split()) == after


async def test_exhausted_memory_is_taken_for_real_and_no_more_of_it() -> None:
    """What a person sees of a leak is the resident memory, and it stays within what was ordered."""
    ballast_bytes = 64 * 1024 * 1024
    async with faulty("exhaust_memory", ballast_bytes=ballast_bytes) as replica:
        before = (await replica.until(lambda status: status.info is not None)).rss_bytes
        for _ in range(3):
            await heard(replica)
        after = (await replica.until(lambda _: True)).rss_bytes
    assert 0.9 * ballast_bytes < after - before < 1.5 * ballast_bytes


async def test_a_broken_engine_ends_its_replica() -> None:
    """The host is told and ends with the code for it."""
    async with faulty("broken", after_tokens=3) as replica:
        frames, _ = await heard(replica)
        assert isinstance(frames[-1], Failed)
        assert len(text(frames).split()) == 3
        assert await replica.wait() == 4


@pytest.mark.parametrize("garbage", ["bytes", "message", "oversized"])
@pytest.mark.parametrize("after", [0, 5])
async def test_garbage_breaks_the_connection_and_not_the_process(garbage: str, after: int) -> None:
    """It comes through the socket itself, and the peer hangs up."""
    async with faulty("garbage", garbage=garbage, after_tokens=after) as replica:
        frames, alive = await heard(replica)
        assert not alive
        assert len(text(frames).split()) == after
        idle = await replica.until(lambda status: status.load.running == 0, timeout_s=5.0)
        assert idle.info is not None


@pytest.mark.parametrize(("fault", "said"), [("hang", 0), ("stall", 5)])
async def test_a_hang_stands_still(fault: str, said: int) -> None:
    """Nothing comes, the steps do not move, and who hangs up makes room."""
    async with faulty(fault, after_tokens=5) as replica, replica.connected() as client:
        await replica.ready()
        assert isinstance(await client.submit(chat("Tell me", sampling=SAMPLING)), Accepted)
        for _ in range(said):
            assert isinstance(await client.receive(), TextDelta)
        stuck = await replica.until(lambda status: status.load.running == 1)
        again = await replica.until(lambda status: status.load.running == 1)
        assert stuck.load.steps == again.load.steps
        client.close()
        await replica.until(lambda status: status.load.running == 0, timeout_s=5.0)


async def reached(replica: Replica) -> bool:
    """Whether a new connection is taken."""
    try:
        client = await ReplicaClient.connect(replica.config)
    except ConnectionRefusedError:
        return False
    client.close()
    return True


async def test_a_refusing_replica_passes_for_ready_and_takes_nobody() -> None:
    """The first connection, the supervisor's, lives on and hears that all is well."""
    async with faulty("refuse") as replica, replica.connected() as supervisor:
        watch = supervisor.watch()
        async for status in watch:
            if status.info is not None:
                break
        while await reached(replica):
            pass
        assert (await anext(watch)).error is None


@pytest.mark.parametrize(("permanent", "code"), [(False, 1), (True, 3)])
async def test_it_fails_to_load(permanent: bool, code: int) -> None:
    """For now, or for good."""
    async with faulty("fail_load", permanent=permanent) as replica:
        assert await replica.wait() == code


async def test_slow_is_slow_and_whole() -> None:
    """The steps go on, so it is not taken for hung."""
    async with faulty("slow", first_token_s=0.3, tokens_per_s=100.0) as replica, replica.connected() as client:
        await replica.ready()
        assert isinstance(await client.submit(chat("Tell me", sampling=SAMPLING)), Accepted)
        first = await replica.until(lambda status: status.load.running == 1)
        moved = await replica.until(lambda status: status.load.steps > first.load.steps)
        assert moved.load.running == 1
        assert isinstance([frame async for frame in client.frames()][-1], Done)


async def outcomes(**settings: Any) -> list[bool]:
    """Of twelve requests, which were hit."""
    async with faulty("engine_error", **settings) as replica:
        return [isinstance((await heard(replica))[0][-1], Failed) for _ in range(12)]


async def test_only_some_requests_are_hit() -> None:
    """Every third, or a share that the seed draws, the same each time."""
    assert await outcomes(only_every=3) == [False, False, True] * 4
    drawn = await outcomes(share=0.5, seed=4)
    assert drawn == await outcomes(share=0.5, seed=4)
    assert 0 < sum(drawn) < 12


# --- continuing


async def test_another_replica_continues_where_one_died() -> None:
    """From the tokens that were told, and from text that reaches further than they do."""
    whole = await whole_text()
    async with faulty("die", after_tokens=5) as replica:
        first, _ = await heard(replica)
    ids = [token for frame in first if isinstance(frame, TextDelta) for token in frame.token_ids]
    assert len(ids) == 5
    async with faulty("none") as replica:
        for known, said in ((5, text(first)), (3, text(first)), (0, ""), (5, text(first)[:-2])):
            rest, _ = await heard(replica, continued=Continued(token_ids=tuple(ids[:known]), text=said))
            assert said + text(rest) == whole
            told = [token for frame in rest if isinstance(frame, TextDelta) for token in frame.token_ids]
            assert len(told) == 12 - known
        wrong = (ids[1], ids[0], *ids[2:])
        rest, _ = await heard(replica, continued=Continued(token_ids=wrong))
        assert not whole.endswith(text(rest)[-20:]), "who continues from wrong tokens must be found out"
        for continued in (Continued(token_ids=wrong, text=text(first)), Continued(token_ids=(10**9,))):
            refused, _ = await heard(replica, continued=continued)
            assert isinstance(refused[-1], Failed)
            assert refused[-1].code == "cannot_continue"


# --- as a plugin


def test_its_declaration_needs_no_test_package() -> None:
    """HTTP workers import it, where pytest is not installed."""
    code = "import sys, core.testing.faults.plugin; print({'pytest', 'httpx', 'sanic'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
