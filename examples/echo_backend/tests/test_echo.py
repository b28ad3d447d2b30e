"""What the echo engine says, and how it fails on order."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from echo_backend.engine import EchoEngine
from echo_backend.plugin import EchoSettings, gateway_backends, gateway_models

from core.api import (
    EngineBrokenError,
    EngineContext,
    EngineError,
    RequestError,
    RerankRequest,
    Sampling,
    Tool,
    ToolChoice,
)
from core.testing import Answer, chat, collect, start_replica
from core.wire.stream import PeerGoneError

BACKEND, MODEL = gateway_backends()[0], gateway_models()[0]


def engine(**settings: Any) -> EchoEngine:
    return EchoEngine(
        EngineContext(model=MODEL, weights=None, settings=EchoSettings(**settings), scratch=Path("unused"))
    )


async def say(text: str, *, settings: dict[str, Any] | None = None, **fields: Any) -> Answer:
    request = chat(text, **fields)
    return await collect(request, engine(**settings or {}).stream(request))


async def test_says_it_back() -> None:
    """Word for word, one word a token."""
    answer = await say("Hello big,\n world!")
    assert answer.text == "Hello big,\n world!"
    assert answer.pieces == ["Hello ", "big,\n ", "world!"]
    assert answer.reasons == {0: "stop"}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)


async def test_repeats_to_the_configured_length() -> None:
    """``tokens`` words, unless max_tokens says less."""
    assert (await say("a b", settings={"tokens": 5})).text == "a b a b a "
    short = await say("a b", settings={"tokens": 5}, sampling=Sampling(max_tokens=3))
    assert (short.text, short.reasons) == ("a b a ", {0: "length"})


async def test_the_context_is_the_last_limit() -> None:
    """An answer that would not fit ends as length."""
    answer = await say("x " * (MODEL.context_tokens - 2), settings={"tokens": 10})
    assert answer.reasons == {0: "length"}
    assert answer.usage.completion_tokens == 2


async def test_calls_with_the_least_that_the_schema_accepts() -> None:
    """One value for each kind that is required."""
    properties = {
        "text": {"type": "string"},
        "whole": {"type": "integer"},
        "part": {"type": "number"},
        "yes": {"type": "boolean"},
        "list": {"type": "array"},
        "nothing": {"type": "null"},
        "one_of": {"enum": ["a", "b"]},
        "fixed": {"const": 7},
        "inner": {"type": "object", "properties": {"deep": {"type": "integer"}}, "required": ["deep"]},
    }
    schema = {
        "type": "object",
        "properties": {**properties, "optional": {"type": "string"}},
        "required": list(properties),
    }
    tool = Tool(name="f", parameters=json.dumps(schema))
    answer = await say("go", tools=(tool,), tool_choice=ToolChoice(mode="required"))
    assert json.loads(answer.calls[0][0].arguments) == {
        "text": "echo",
        "whole": 0,
        "part": 0.0,
        "yes": True,
        "list": [],
        "nothing": None,
        "one_of": "a",
        "fixed": 7,
        "inner": {"deep": 0},
    }


async def test_ranks_by_shared_words() -> None:
    """Whatever their case and punctuation; tokens are counted pair by pair."""
    request = RerankRequest(id="r", query="Big cats?", documents=("cats, big CATS", "big dogs", "nothing", "?!"))
    answer = await collect(request, engine().stream(request))
    assert answer.scores == {0: 1.0, 1: pytest.approx(1 / 3), 2: 0.0, 3: 0.0}
    assert answer.usage.prompt_tokens == 4 * 2 + 3 + 2 + 1 + 1


async def test_a_pair_must_fit_into_the_context() -> None:
    """The longest decides, before anything is scored."""
    request = RerankRequest(id="r", query="q", documents=("short", "x " * MODEL.context_tokens))
    with pytest.raises(RequestError) as refused:
        await collect(request, engine().stream(request))
    assert (refused.value.param, refused.value.code) == ("documents", "context_length_exceeded")


async def test_keeps_its_speed() -> None:
    """Fifty tokens at 500 a second take a tenth of a second."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await say("x", settings={"tokens": 50, "tokens_per_s": 500.0})
    assert 0.09 <= loop.time() - began < 1.0


async def test_fails_each_request_on_order() -> None:
    """After so many tokens, which were said."""
    events = engine(raise_after_tokens=2).stream(chat("a b c"))
    said = [await anext(events), await anext(events)]
    assert [event.text for event in said] == ["a ", "b "]
    with pytest.raises(EngineError, match="raise_after_tokens = 2"):
        await anext(events)


async def test_breaks_for_good_on_order() -> None:
    """The first to get so far tells all others, whatever they have said."""
    breaking = engine(break_after_tokens=2)
    first, second = breaking.stream(chat("a b c")), breaking.stream(chat("d e f"))
    said = [await anext(first), await anext(second), await anext(first)]
    assert [event.text for event in said] == ["a ", "d ", "b "]
    for events in (first, second):
        with pytest.raises(EngineBrokenError, match="break_after_tokens = 2"):
            await anext(events)


async def test_hangs_on_order() -> None:
    """Nothing more comes, and the steps stand still although a request runs: what a supervisor must notice."""
    hanging = engine(hang_after_tokens=1)
    events = hanging.stream(chat("a b c"))
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.02)
    before = hanging.load_now()
    await asyncio.sleep(0.12)
    assert hanging.load_now() == before
    assert before.running == 1
    assert not waiting.done()
    waiting.cancel()


async def test_dies_on_order() -> None:
    """By SIGKILL, in the middle of an answer."""
    async with start_replica(BACKEND, MODEL, settings={"die_after_tokens": 2}) as replica:
        await replica.ready()
        async with replica.connected() as client:
            with pytest.raises(PeerGoneError):
                await client.ask(chat("a b c"))
        assert await replica.wait() == -signal.SIGKILL
