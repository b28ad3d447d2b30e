"""Streams whose replica fails at any frame: continued without a seam, or ended by an error; never anything else."""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api.messages import (
    EngineEvent,
    Finished,
    Load,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from core.api.requests import ChatRequest, CompletionRequest, Content, Continued, Message, Sampling
from core.dialects import openai
from core.errors import GatewayError
from core.gateway import continuation
from core.gateway.answer import Deadline, ReplicaFailedError
from core.gateway.continuation import Continuous, Told
from core.gateway.fleet import Fleet
from core.routing.table import RouteOptions
from core.wire.frames import Accepted, Done, Failed, Rejected, Submit
from core.wire.stream import FrameStream

from .conftest import LIMIT, FakeTable, Lab

CAN = frozenset({"continuation"})
REQUEST = ChatRequest(id="r", messages=(Message(role="user", content=(Content(text="hi"),)),))
WHOLE: list[EngineEvent] = [
    ReasoningDelta(text="Hm. ", token_ids=(7,)),
    ReasoningDelta(text="Well.", token_ids=(8, 9), tokens=2),
    TextDelta(text="Once ", token_ids=(1,)),
    TextDelta(text="upon ", token_ids=(2,)),
    TextDelta(text="a ", token_ids=(3,)),
    TextDelta(text="time.", token_ids=(4,)),
    Finished(reason="stop"),
    Usage(prompt_tokens=3, completion_tokens=8, reasoning_tokens=3),
]
TEXT, REASONING = "Once upon a time.", "Hm. Well."
# Two choices: the second ends while the first goes on.
TWO: list[EngineEvent] = [
    ReasoningDelta(text=REASONING, tokens=3),
    TextDelta(text="Once ", tokens=2),
    ReasoningDelta(text=REASONING, choice=1),
    TextDelta(text=TEXT, choice=1),
    Finished(reason="stop", choice=1),
    TextDelta(text="upon a time."),
    Finished(reason="stop"),
    Usage(prompt_tokens=3, completion_tokens=8, reasoning_tokens=3),
]


@dataclass(frozen=True)
class Fate:
    """What becomes of one attempt: ``how`` it ends, after so many events of its own; perhaps all in one write."""

    how: str
    after: int = 0
    together: bool = False


def rest(request: Any) -> list[EngineEvent]:
    """What an engine has to say beyond what was told."""
    continued: Continued | None = request.continued
    if continued is None:
        return TWO if getattr(request, "n", 1) == 2 else WHOLE
    ids = itertools.accumulate((getattr(event, "token_ids", ()) for event in WHOLE), initial=())
    (told,) = (count for count, known in enumerate(ids) if known == continued.token_ids and count <= 6)
    assert continued.text == "".join(event.text for event in WHOLE[:told] if isinstance(event, TextDelta))
    assert continued.reasoning == "".join(event.text for event in WHOLE[:told] if isinstance(event, ReasoningDelta))
    return WHOLE[told:]


def player(fates: Iterator[Fate]) -> Any:
    """A script that plays one fate after another; then all goes well."""

    async def run(stream: FrameStream[Any], submit: Submit) -> None:
        fate = next(fates, Fate("well"))
        continued = submit.request.continued  # type: ignore[union-attr]
        if fate.how == "reject":
            stream.send(Rejected(reason="busy", message="full"))
            return
        stream.send(Accepted(load=Load()))
        if fate.how == "refuse" and continued is not None:
            stream.send(Failed(reason="invalid", message="no", code="cannot_continue"))
            return
        events = rest(submit.request)
        for event in events[: fate.after if fate.how in {"die", "fail", "drain"} else None]:
            stream.send(event)
            if not fate.together:
                await asyncio.sleep(0)
        if not fate.together:
            await asyncio.sleep(0.002)  # so that they are read before what follows
        if fate.how == "die":
            stream.close()
        elif fate.how in {"fail", "drain"}:
            stream.send(Failed(reason="engine" if fate.how == "fail" else "draining", message="oh"))
        else:
            stream.send(Done(load=Load()))

    return run


async def streamed(lab: Lab, request: Any = REQUEST, *, usage: bool = True, **options: Any) -> tuple[list[Any], bool]:
    """What a client gets, by the gateway's own steps: the data of its events, and whether there was a stream at all."""
    parsed = openai.Parsed(
        name="asked",
        request=request,
        task="chat",
        stream=True,
        include_usage=usage,
        needs={},
        estimated_prompt_tokens=1,
    )
    search = lab.search(*([name] for name in lab.deployments), request=request)
    try:
        first = await search.next_answer()
    except GatewayError as error:
        return [error.body()], False
    answer = Continuous(search, first, request, RouteOptions(**options))
    dialect, sent = openai.Stream(parsed, "asked"), b""
    try:
        async with asyncio.timeout(5):
            async for events in answer:
                sent += dialect.chunks(events)
        sent += dialect.end()
    except ReplicaFailedError as failure:
        sent += dialect.error(failure.error)
    except GatewayError as error:
        sent += dialect.error(error)
    finally:
        answer.close()
    assert all(replica.in_flight == 0 for name in lab.deployments for replica in lab.fleet.ready(name).values())
    lines = [line.removeprefix("data: ") for line in sent.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines], True


def check(lines: list[Any], number: int = 1) -> bool:
    """Hold a stream of so many choices to the one of its two ways that it took; return whether it is whole."""
    chunks = [line for line in lines if line != "[DONE]" and "error" not in line]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any(line == "[DONE]" or "error" in line for line in lines[:-1])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    ended = [check_choice([choice for choice in choices if choice["index"] == index]) for index in range(number)]
    if lines[-1] == "[DONE]":
        assert all(ended)
        assert choices[-1]["finish_reason"] == "stop"
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")] in ([8], [])
        return True
    assert "error" in lines[-1]
    assert not all(ended)
    return False


def check_choice(chunks: list[Any]) -> bool:
    """Hold what was told of a choice to its text; return whether it was told to the end."""
    text = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    reasoning = "".join(chunk["delta"].get("reasoning_content") or "" for chunk in chunks)
    assert (TEXT.startswith(text), REASONING.startswith(reasoning)) == (True, True)
    assert ["role" in chunk["delta"] for chunk in chunks] == [True, *[False] * (len(chunks) - 1)][: len(chunks)]
    ends = [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]]
    if not ends:
        return False
    assert (text, reasoning, ends, chunks[-1]["finish_reason"]) == (TEXT, REASONING, ["stop"], "stop")
    return True


def expected(fates: list[Fate], replicas: int, *, continued: bool = True) -> bool | None:
    """Whether the stream is whole in the end, by what the rules say; None: there is none."""
    told = 0
    for fate in itertools.islice(itertools.chain(fates, itertools.repeat(Fate("well"))), replicas):
        if fate.how == "reject":
            continue
        if fate.how == "refuse" and told:
            continue
        if fate.how in {"refuse", "well"}:
            return True
        seen = told + fate.after
        if seen >= len(WHOLE):
            return True
        told = max(told, min(seen, 6))  # an end is told together with the usage
        if told and not continued:
            return False
    return False if told else None


fates = st.lists(
    st.builds(
        Fate,
        st.sampled_from(["die", "die", "die", "fail", "drain", "reject", "refuse", "well"]),
        st.integers(0, len(WHOLE)),
        st.sampled_from([False, False, False, True]),
    ).filter(lambda fate: fate.how != "drain" or fate.after),  # else a snapshot is waited for, and none comes here
    max_size=5,
)


@pytest.mark.parametrize("mode", ["continued", "off", "logprobs", "choices"])
@settings(max_examples=200, deadline=None)
@given(fates=fates, replicas=st.integers(1, 4), usage=st.booleans())
def test_every_stream_ends_in_one_legal_way(mode: str, fates: list[Fate], replicas: int, usage: bool) -> None:
    """Deaths at every frame, failures, full queues and refusals, one after the other, drawn at random."""
    sampling = Sampling(logprobs=0 if mode == "logprobs" else None)
    request = msgspec.structs.replace(REQUEST, n=2 if mode == "choices" else 1, sampling=sampling)
    goes_on: Any = "off" if mode == "off" else "same_backend"

    async def example() -> None:
        with tempfile.TemporaryDirectory() as folder:
            lab = Lab(Path(folder))
            lab.fleet = Fleet(FakeTable(), Path(folder) / "none", max_frame_bytes=LIMIT)  # type: ignore[arg-type]
            lab.deployment("m@b", capabilities=CAN)
            script = player(iter(fates))
            for _ in range(replicas):
                await lab.replica("m@b", script)
            lines, began = await streamed(lab, request, usage=usage, continuation=goes_on)
            for stream in lab.streams:
                stream.close()
            for server in lab.servers:
                server.close()
            lab.fleet.close()
        whole = check(lines, request.n) if began else None
        # What is written together with a failure may be lost, so then either end is right.
        together = any(fate.together for fate in fates)
        assert whole == expected(fates, replicas, continued=mode == "continued") or together

    asyncio.run(example())


async def two(lab: Lab, *fates: Fate, names: tuple[str, ...] = ("m@b", "m@b"), **changes: Any) -> None:
    """Replicas of these deployments that share their fates, in the order in which they are asked."""
    script = player(iter(fates))
    for name in names:
        if name not in lab.deployments:
            lab.deployment(name, **{"capabilities": CAN, **changes})
        await lab.replica(name, script)


async def outcome(lab: Lab, monkeypatch: pytest.MonkeyPatch, request: Any = REQUEST, **options: Any) -> Any:
    """Whether the stream is whole, and what was counted."""
    counted: list[str] = []
    monkeypatch.setattr(continuation, "count_continuation", counted.append)
    lines, _ = await streamed(lab, request, **options)
    return lines[-1] == "[DONE]", counted


async def test_a_twin_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await two(lab, Fate("die", 4))
    assert await outcome(lab, monkeypatch) == (True, ["continued"])
    assert lab.submitted == ["m@b#0", "m@b#1"]


async def test_it_goes_on_as_often_as_there_are_twins(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await two(lab, Fate("die", 2), Fate("die", 1), Fate("die", 2), names=("m@b",) * 4)
    assert await outcome(lab, monkeypatch) == (True, ["continued"] * 3)


async def test_the_dead_replica_s_own_deployment_is_asked_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before one of the same weights in a better tier, which became ready meanwhile."""

    async def die(stream: FrameStream[Any], submit: Submit) -> None:
        await lab.replica("best@b", player(iter(())))
        await player(iter([Fate("die", 2)]))(stream, submit)

    lab.deployment("best@b", capabilities=CAN, source="/w")
    lab.deployment("m@b", capabilities=CAN, source="/w")
    await lab.replica("m@b", die)
    await lab.replica("m@b", player(iter(())))
    assert await outcome(lab, monkeypatch) == (True, ["continued"])
    assert lab.submitted == ["m@b#0", "m@b#1"]


@pytest.mark.parametrize(
    ("source", "other", "mode", "goes_on"),
    [
        ("/w", "/w", "same_backend", True),
        ("/w", "/x", "same_backend", False),
        (None, None, "same_backend", False),
        (None, None, "any_backend", False),
        ("/w", "/w", "off", False),
    ],
)
async def test_twins_are_deployments_of_the_same_weights(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, source: str | None, other: str | None, mode: Any, goes_on: bool
) -> None:
    lab.deployment("m@b", capabilities=CAN, source=source)
    lab.deployment("n@b", capabilities=CAN, source=other)
    await two(lab, Fate("die", 3), names=("m@b", "n@b"))
    counted = [] if mode == "off" else ["continued" if goes_on else "nobody"]
    assert await outcome(lab, monkeypatch, continuation=mode) == (goes_on, counted)


@pytest.mark.parametrize(
    ("mode", "able", "goes_on"),
    [("same_backend", CAN, False), ("any_backend", CAN, True), ("any_backend", frozenset(), False)],
)
async def test_other_backends_only_where_the_operator_wants_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, mode: Any, able: frozenset[Any], goes_on: bool
) -> None:
    lab.deployment("m@b", capabilities=CAN, source="/w")
    lab.deployment("m@c", capabilities=able, source="/w")
    await two(lab, Fate("die", 3), names=("m@b", "m@c"))
    assert (await outcome(lab, monkeypatch, continuation=mode))[0] == goes_on


LOGPROB = TokenLogprob(token="x", logprob=-1.0)  # noqa: S106 - no password


@pytest.mark.parametrize(
    "request_",
    [
        msgspec.structs.replace(REQUEST, n=2),
        msgspec.structs.replace(REQUEST, sampling=Sampling(logprobs=0)),
        CompletionRequest(id="r", prompts=("a", "b")),
    ],
)
async def test_what_is_not_one_text_is_not_continued(lab: Lab, monkeypatch: pytest.MonkeyPatch, request_: Any) -> None:
    await two(lab, Fate("die", 3))
    assert await outcome(lab, monkeypatch, request_) == (False, [])
    assert len(lab.submitted) == 1


async def test_no_budget_no_continuation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A continuation is a retry, and retries must not become a storm."""
    await two(lab, Fate("die", 3))
    lab.routing = lab.routing.model_copy(update={"retry_burst": 0.0})
    assert await outcome(lab, monkeypatch) == (False, ["nobody"])


async def test_who_refuses_is_followed_by_the_next_twin(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has done nothing, so that costs no retry."""
    await two(lab, Fate("die", 3), Fate("refuse"), names=("m@b",) * 3)
    lab.routing = lab.routing.model_copy(update={"retry_burst": 1.0})
    assert await outcome(lab, monkeypatch) == (True, ["continued"])
    assert lab.submitted == ["m@b#0", "m@b#1", "m@b#2"]


@pytest.mark.parametrize("other", ["refuse", "reject", "die"])
async def test_a_refusal_counts_where_nobody_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    await two(lab, Fate("die", 3), Fate("refuse"), Fate(other), names=("m@b",) * 3)
    assert await outcome(lab, monkeypatch) == (False, ["refused"])
    assert len(lab.submitted) == 3


async def test_nobody_waits_for_the_dead_replica(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the deployment is loaded on demand, and is being loaded again."""

    async def die(stream: FrameStream[Any], submit: Submit) -> None:
        lab.set("m@b", "starting")
        await player(iter([Fate("die", 3)]))(stream, submit)

    lab.deployment("m@b", capabilities=CAN, load="on_demand")
    await lab.replica("m@b", die)
    async with asyncio.timeout(2):
        assert await outcome(lab, monkeypatch) == (False, ["nobody"])


async def test_no_limit_on_the_first_token_ends_a_continuation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin repeats in silence what was told."""

    async def slow(stream: FrameStream[Any], submit: Submit) -> None:
        await asyncio.sleep(0.2)
        await player(iter(()))(stream, submit)

    lab.deployment("m@b", capabilities=CAN)
    await lab.replica("m@b", player(iter([Fate("die", 3)])))
    await lab.replica("m@b", slow)
    before = lab.search

    def search(*tiers: Any, **changes: Any) -> Any:
        return before(*tiers, **changes, options={"attempt_timeout_s": 0.1, "hedge_after_s": 0.05})

    monkeypatch.setattr(lab, "search", search)
    assert await outcome(lab, monkeypatch) == (True, ["continued"])
    twin = next(replica for replica in lab.fleet.ready("m@b").values() if replica.name == "m@b#1")
    assert twin.ttft_s.value is None, "a repetition says nothing of how soon a replica answers"


async def test_who_leaves_during_a_continuation_leaves_no_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on the first token is long past then, but it was another replica's."""

    async def silent(_stream: FrameStream[Any], _submit: Submit) -> None:
        asked.set()
        await asyncio.Event().wait()

    asked, failures = asyncio.Event(), []
    monkeypatch.setattr("core.gateway.work.count_replica_failure", lambda *failure: failures.append(failure))
    lab.deployment("m@b", capabilities=CAN)
    await lab.replica("m@b", player(iter([Fate("die", 3)])))
    await lab.replica("m@b", silent)
    before, now_s = lab.search, asyncio.get_running_loop().time()
    deadline = Deadline(at_s=now_s + 9, first_event_s=now_s + 0.1)
    monkeypatch.setattr(lab, "search", lambda *tiers, **changes: before(*tiers, **changes, deadline=deadline))
    client = asyncio.create_task(streamed(lab))
    await asked.wait()
    await asyncio.sleep(0.15)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    assert failures == [("m@b#0", "death")]


def test_what_was_told_is_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond them, and once a tool was called, nothing is kept."""
    monkeypatch.setattr(continuation, "_MOST_REMEMBERED", 10)
    told = Told()
    told.add([TextDelta(text="12345", token_ids=(1, 2)), ReasoningDelta(text="12345", token_ids=(3,))])
    assert told.as_continued() == Continued(token_ids=(1, 2, 3), text="12345", reasoning="12345")
    told.add([TextDelta(text="6")])
    assert told.as_continued() is None
    assert not told._text
    called = Told()
    called.add([TextDelta(text="a"), ToolCallDelta(name="f")])
    called.add([TextDelta(text="b")])
    assert called.as_continued() is None
