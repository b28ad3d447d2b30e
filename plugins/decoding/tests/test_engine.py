"""The whole library over the reference runner: requests in, events out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from core.api import (
    ChatRequest,
    CompletionRequest,
    Content,
    EmbeddingsRequest,
    EngineBrokenError,
    EngineError,
    Message,
    RequestError,
    RerankRequest,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
)
from core.testing.asking import Answer, collect

MakeEngine = Callable[..., Any]
NUMBER = (
    '{"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"], '
    '"additionalProperties": false}'
)
NO_END = dict.fromkeys(range(262, 267), -100.0)
ADD = Tool(name="add", parameters=NUMBER)


def sampling(**options: Any) -> Sampling:
    """As the host fills it."""
    return Sampling(**({"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 12} | options))


def complete(*prompts: str, n: int = 1, echo: bool = False, **options: Any) -> CompletionRequest:
    return CompletionRequest(id="c", prompts=prompts or ("hello",), sampling=sampling(**options), n=n, echo=echo)


def chat(
    said: str = "hi", *, tools: tuple[Tool, ...] = (), mode: Any = "auto", schema: str | None = None, **options: Any
):
    form = ResponseFormat(kind="json_schema", schema=schema) if schema else ResponseFormat()
    return ChatRequest(
        id="c",
        messages=(Message(role="user", content=(Content(text=said),)),),
        sampling=sampling(**options),
        tools=tools,
        tool_choice=ToolChoice(mode=mode),
        response_format=form,
    )


async def ask(engine: Any, request: Any) -> Answer:
    return await collect(request, engine.stream(request))


async def idle(engine: Any) -> None:
    """Every slot is free again."""
    async with asyncio.timeout(5):
        while engine.load_now().running or engine.load_now().kv_used:
            await asyncio.sleep(0.001)


# --- what comes out


async def test_choices_are_drawn_apart_and_the_prompt_is_counted_once(make_engine: MakeEngine) -> None:
    """Choice i is what the request gives alone with the seed + i."""
    engine = make_engine()
    together = await ask(engine, complete("a prompt of more than a few tokens", n=3, temperature=1.0, seed=5))

    for choice in range(3):
        alone = await ask(engine, complete("a prompt of more than a few tokens", temperature=1.0, seed=5 + choice))
        assert together.texts[choice] == alone.texts[0]
        assert together.usage.prompt_tokens == alone.usage.prompt_tokens
    assert len(set(together.texts.values())) == 3
    assert together.usage.completion_tokens == 36


async def test_a_conversation_finds_its_beginning_cached(make_engine: MakeEngine) -> None:
    """The second time, all but the last two tokens of the prompt."""
    engine = make_engine()
    first = await ask(engine, complete("a long enough prompt to be found again"))
    second = await ask(engine, complete("a long enough prompt to be found again"))

    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 2
    assert second.texts == first.texts


async def test_json_is_what_the_schema_wants(make_engine: MakeEngine) -> None:
    """From a model that was never trained."""
    answer = await ask(make_engine(), chat(schema=NUMBER, temperature=1.0, seed=1, max_tokens=200))

    assert answer.reasons == {0: "stop"}
    assert answer.texts[0].startswith('{"a": ')


async def test_a_required_call_comes_from_any_model(make_engine: MakeEngine) -> None:
    """Even from one that was never trained and whose template knows no tools."""
    engine = make_engine(context_tokens=2048)
    answer = await ask(engine, chat(tools=(ADD,), mode="required", temperature=1.0, seed=2, max_tokens=200))

    calls = answer.calls[0]
    assert calls[0].name == "add"
    assert calls[0].arguments in {f'{{"a": {digit}}}' for digit in range(10)}
    assert answer.reasons == {0: "tool_calls"}
    assert not answer.texts[0]


async def test_max_tokens_counts_what_gives_no_text_yet(make_engine: MakeEngine) -> None:
    """A cut inside a character still counts its tokens."""
    for limit in range(1, 9):
        answer = await ask(make_engine(), complete(max_tokens=limit, temperature=1.0, seed=limit, logit_bias=NO_END))
        assert answer.reasons == {0: "length"}
        assert answer.usage.completion_tokens == answer.tokens[0] == limit


async def test_a_full_context_ends_the_answer(make_engine: MakeEngine) -> None:
    """With the reason length, at exactly the context's size."""
    engine = make_engine(context_tokens=32)
    answer = await ask(engine, complete("abcde", max_tokens=None))

    assert answer.reasons == {0: "length"}
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == 32


async def test_embeddings_do_not_disturb_a_stream(make_engine: MakeEngine) -> None:
    """They are computed between its steps, and each is the vector its text has alone."""
    engine = make_engine()
    alone = [await ask(engine, EmbeddingsRequest(id="e", inputs=(text,))) for text in ("one", "another one")]
    undisturbed = await ask(engine, complete(max_tokens=40))

    stream = asyncio.create_task(ask(engine, complete(max_tokens=40)))
    together = await ask(engine, EmbeddingsRequest(id="e", inputs=("one", "another one")))

    assert [together.vectors[index] for index in (0, 1)] == [one.vectors[0] for one in alone]
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert (await stream).texts == undisturbed.texts


# --- refusals


@pytest.mark.parametrize(
    ("request_", "param", "code"),
    [
        (complete("x" * 300), "prompt", "context_length_exceeded"),
        (complete(""), "prompt", None),
        (CompletionRequest(id="c", prompts=((1, 100_000),), sampling=sampling()), "prompt", None),
        (complete(logit_bias={100_000: 1.0}), "logit_bias", None),
        (complete(echo=True, logprobs=1), "logprobs", None),
        (chat(schema='{"type": "nonsense"}'), "response_format", None),
        (chat("x" * 300), "messages", "context_length_exceeded"),
        (EmbeddingsRequest(id="e", inputs=("x" * 300,)), "input", "context_length_exceeded"),
        (EmbeddingsRequest(id="e", inputs=("x",), dimensions=1000), "dimensions", None),
    ],
)
async def test_bad_requests(make_engine: MakeEngine, request_: Any, param: str, code: str | None) -> None:
    """Refused before anything runs, naming the field."""
    engine = make_engine()

    with pytest.raises(RequestError) as refused:
        await ask(engine, request_)
    assert refused.value.param == param
    assert refused.value.code == code


async def test_a_model_without_a_template_cannot_chat(make_engine: MakeEngine) -> None:
    """The error names the remedy; completions go on."""
    engine = make_engine(template=None)

    with pytest.raises(RequestError, match="chat_template"):
        await ask(engine, chat())
    assert (await ask(engine, complete())).tokens[0] == 12


async def test_what_the_model_was_not_loaded_for(make_engine: MakeEngine) -> None:
    """Never reached through a gateway, which knows the model's tasks."""
    with pytest.raises(EngineError, match="not loaded for"):
        await ask(make_engine(), RerankRequest(id="r", query="q", documents=("d",)))


# --- failures of the runtime


class Faults:
    """Makes a runner's calls fail: ``left`` calls of ``method`` after ``passing`` ones, or all after ``lost_after``."""

    def __init__(self) -> None:
        self.method, self.passing, self.left, self.lost_after = "", 0, 0, 1_000_000

    def __call__(self, method: str) -> None:
        self.lost_after -= 1
        if self.lost_after < 0:
            msg = "device lost"
            raise RuntimeError(msg)
        if method == self.method and self.left:
            if self.passing:
                self.passing -= 1
                return
            self.left -= 1
            msg = f"{method} failed"
            raise RuntimeError(msg)


async def test_a_failing_prefill_ends_its_own_request_only(make_engine: MakeEngine) -> None:
    """A neighbour's text is as if nothing had happened."""
    faults = Faults()
    engine = make_engine(on_call=faults)
    expected = await ask(engine, complete("neighbour", max_tokens=60))
    neighbour = engine.stream(complete("neighbour", max_tokens=60))
    first = await anext(neighbour)
    faults.method, faults.left = "prefill", 1

    with pytest.raises(EngineError, match="prefill failed"):
        await ask(engine, complete("victim"))
    texts = [first.text, *[event.text async for event in neighbour if hasattr(event, "text")]]
    assert "".join(texts) == expected.texts[0]
    await idle(engine)


async def test_a_failing_step_is_tried_row_by_row(make_engine: MakeEngine) -> None:
    """A fault that comes once costs nobody anything."""
    faults = Faults()
    engine = make_engine(on_call=faults)
    requests = [complete(text, max_tokens=30) for text in ("one", "two", "three")]
    expected = [(await ask(engine, request)).texts for request in requests]
    faults.method, faults.passing, faults.left = "decode", 20, 1
    streams = [asyncio.create_task(ask(engine, request)) for request in requests]

    assert [answer.texts for answer in await asyncio.gather(*streams)] == expected
    assert faults.left == 0


async def test_a_failed_slot_is_not_a_prefix_cache(make_engine: MakeEngine) -> None:
    """What a failing call left there is computed again."""
    faults = Faults()
    engine = make_engine(on_call=faults, slots=1)
    expected = await ask(engine, complete("a prompt that is long enough"))
    faults.method, faults.left = "decode", 1
    with pytest.raises(EngineError, match="decode failed"):
        await ask(engine, complete("a prompt that is long enough"))

    again = await ask(engine, complete("a prompt that is long enough"))

    assert again.usage.cached_tokens == 0
    assert again.texts == expected.texts


async def test_what_is_no_number_is_not_a_prefix_cache(make_engine: MakeEngine) -> None:
    """A slot that gave no numbers once is computed again, so that the same prompt does not fail for ever."""
    engine = make_engine(slots=1)
    expected = await ask(engine, complete("a prompt that is long enough"))
    runner = engine._generation._runner
    runner._cache[:, :, 0, 3] = float("nan")
    with pytest.raises(EngineError, match="logits"):
        await ask(engine, complete("a prompt that is long enough"))

    assert (await ask(engine, complete("a prompt that is long enough"))).texts == expected.texts


async def test_a_tokenizer_may_have_more_tokens_than_its_model(make_engine: MakeEngine) -> None:
    """Those that the model does not have are refused by name; nobody else is touched."""
    engine = make_engine(vocab_size=200)
    free = complete("ab", temperature=1.0, seed=1)
    expected = (await ask(engine, free)).texts
    for bad, param in (
        (complete("ab", logit_bias={250: 1.0}), "logit_bias"),
        (CompletionRequest(id="c", prompts=((1, 250),), sampling=sampling()), "prompt"),
    ):
        beside = asyncio.create_task(ask(engine, free))
        with pytest.raises(RequestError, match="250") as refused:
            await ask(engine, bad)
        assert refused.value.param == param
        assert (await beside).texts == expected


async def test_a_lost_device_is_told_at_once(make_engine: MakeEngine) -> None:
    """To all who run, and to all who come; the host then ends the replica."""
    faults = Faults()
    engine = make_engine(on_call=faults)
    faults.lost_after = 40
    streams = [asyncio.create_task(ask(engine, complete(text, max_tokens=100))) for text in ("one", "two")]

    for result in await asyncio.gather(*streams, return_exceptions=True):
        assert isinstance(result, EngineError)
    with pytest.raises(EngineBrokenError, match="device lost"):
        await ask(engine, complete())


async def test_steps_stand_still_when_the_runtime_hangs(make_engine: MakeEngine) -> None:
    """That is how the supervisor sees it; a cancel returns all the same."""
    calls = itertools.count()
    hung, released = threading.Event(), threading.Event()

    def on_call(method: str) -> None:
        if method == "decode" and next(calls) == 5:
            hung.set()
            assert released.wait(10)

    engine = make_engine(on_call=on_call)
    events = engine.stream(complete(max_tokens=200))
    await anext(events)
    assert await asyncio.to_thread(hung.wait, 10)
    steps = engine.load_now().steps
    await asyncio.sleep(0.05)

    assert engine.load_now().steps == steps
    async with asyncio.timeout(1):
        await events.aclose()
    released.set()
    await idle(engine)


async def test_cancel_frees_the_slot_within_a_step(make_engine: MakeEngine) -> None:
    """Whether the request waits, is in prefill or decodes."""
    engine = make_engine(slots=1)
    first = engine.stream(complete("one", max_tokens=None))
    await anext(first)
    waiting = asyncio.create_task(ask(engine, complete("two")))
    in_prefill = asyncio.create_task(ask(engine, complete("x" * 240)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await first.aclose()
    await asyncio.sleep(0.005)
    in_prefill.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await in_prefill

    await idle(engine)
    assert (await ask(engine, complete())).tokens[0] == 12
