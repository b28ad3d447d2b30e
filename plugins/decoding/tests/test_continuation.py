"""An answer that began in one engine goes on in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from decoding.remainder import Remainder
from decoding.traffic import random_requests

from core.api import (
    ChatRequest,
    CompletionRequest,
    Content,
    Continued,
    EngineEvent,
    Finished,
    Message,
    ReasoningDelta,
    RequestError,
    ResponseFormat,
    Sampling,
    TextDelta,
    Tool,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from core.testing.asking import put_together

MakeEngine = Callable[..., Any]
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
    "{% if false %}</think>{% endif %}"
)


async def events_of(engine: Any, request: Any) -> list[EngineEvent]:
    events = [event async for event in engine.stream(request)]
    put_together(request, events)
    return events


def told(events: Sequence[EngineEvent]) -> Continued:
    """What a client has that saw these events."""
    return Continued(
        token_ids=tuple(token for event in events for token in getattr(event, "token_ids", ())),
        text="".join(event.text for event in events if isinstance(event, TextDelta)),
        reasoning="".join(event.text for event in events if isinstance(event, ReasoningDelta)),
    )


def cuts(events: Sequence[EngineEvent]) -> range:
    """Numbers of events after which an answer may be cut and continued: before its end, and before a tool's call."""
    return range(1, next(n for n, event in enumerate(events) if isinstance(event, ToolCallDelta | Finished)) + 1)


def whole(before: Sequence[EngineEvent], after: Sequence[EngineEvent]) -> Any:
    """All that a client has in the end."""
    both = [*before, *after]
    calls = [msgspec.structs.replace(event, id=None) for event in both if isinstance(event, ToolCallDelta)]
    ends = [event for event in both if isinstance(event, Finished)]
    usage = next(event for event in both if isinstance(event, Usage))
    usage = msgspec.structs.replace(usage, cached_tokens=0)
    return told(both), calls, ends, usage


async def check_every_cut(make_engine: MakeEngine, request: Any, **options: Any) -> int:
    """Cut an answer everywhere: what another engine adds makes it the whole one. Return how often it was cut."""
    events = await events_of(make_engine(**options), request)
    twin = make_engine(**options)
    for cut in cuts(events):
        before = events[:cut]
        rest = await events_of(twin, msgspec.structs.replace(request, continued=told(before)))
        assert whole(before, rest) == whole(events, []), (request, cut)
    return len(cuts(events))


@pytest.mark.parametrize("part", range(4))
async def test_repeatable_answers_are_continued_exactly(make_engine: MakeEngine, part: int) -> None:
    """Greedy ones and those with a seed, with whatever else was asked for: stops, penalties, grammars, tools, echo."""
    drawn = 0
    for request in random_requests(24, part, vocab_size=267):
        sampling = msgspec.structs.replace(request.sampling, logprobs=None)  # type: ignore[union-attr]
        alone = msgspec.structs.replace(request, n=1, sampling=sampling)
        drawn += await check_every_cut(make_engine, alone, context_tokens=1024)
    assert drawn > 100


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stop": ("e", "x")},
        {"presence_penalty": 2.0, "frequency_penalty": 1.5, "repetition_penalty": 1.3},
        {"max_tokens": 40},
    ],
)
async def test_what_is_drawn_anew_goes_on_from_what_was_told(make_engine: MakeEngine, changes: dict[str, Any]) -> None:
    """Without a seed the told tokens join the prompt; with one candidate for every draw the rest is known."""
    fields = {"temperature": 1.0, "top_p": 1.0, "top_k": 1, "min_p": 0.0, "max_tokens": 24} | changes
    request = CompletionRequest(id="c", prompts=("hello you",), sampling=Sampling(**fields))
    assert await check_every_cut(make_engine, request)


async def test_a_bound_answer_that_is_drawn_anew_keeps_its_form(make_engine: MakeEngine) -> None:
    """The grammar stands where the told text ends."""
    schema = '{"type": "object", "properties": {"a": {"type": "integer", "maximum": 999}}, "required": ["a"]}'
    request = ChatRequest(
        id="c",
        messages=(Message(role="user", content=(Content(text="hi"),)),),
        sampling=Sampling(temperature=1.0, top_p=1.0, top_k=1, min_p=0.0, max_tokens=60),
        response_format=ResponseFormat(kind="json_schema", schema=schema),
    )
    assert await check_every_cut(make_engine, request, context_tokens=1024)


@pytest.mark.parametrize("seed", [None, 3])
async def test_reasoning_is_continued(make_engine: MakeEngine, seed: int | None) -> None:
    """In the middle of a thought, and after it; what was thought is counted once."""
    request = ChatRequest(
        id="c",
        messages=(Message(role="user", content=(Content(text="hi"),)),),
        sampling=Sampling(temperature=1.0, top_p=1.0, top_k=1, min_p=0.0, max_tokens=16, seed=seed),
    )
    events = await events_of(make_engine(template=THINKS), request)
    assert any(isinstance(event, ReasoningDelta) for event in events)
    await check_every_cut(make_engine, request, template=THINKS)


async def test_told_tokens_that_join_the_prompt_are_no_prompt_tokens(make_engine: MakeEngine) -> None:
    """Nor are they counted as found in the cache, though they are there the second time."""
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=1, min_p=0.0, max_tokens=40)
    request = CompletionRequest(id="c", prompts=("a prompt of some length",), sampling=sampling)
    engine = make_engine()
    events = await events_of(engine, request)
    again = msgspec.structs.replace(request, continued=told(events[:30]))
    for _ in range(2):
        usage = (await events_of(engine, again))[-1]
        assert isinstance(usage, Usage)
        assert usage.prompt_tokens == events[-1].prompt_tokens  # type: ignore[union-attr]
        assert usage.cached_tokens <= usage.prompt_tokens


async def test_fewer_ids_than_text(make_engine: MakeEngine) -> None:
    """The last ids may not have been told: the text is found again, and the ids that are told make the list whole."""
    request = CompletionRequest(
        id="c", prompts=("hello you",), sampling=Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, max_tokens=20)
    )
    events = await events_of(make_engine(), request)
    full, known = told(events), told(events[:12])
    short = msgspec.structs.replace(known, token_ids=known.token_ids[:-3])
    rest = told(await events_of(make_engine(), msgspec.structs.replace(request, continued=short)))
    assert short.text + rest.text == full.text
    assert short.token_ids + rest.token_ids == full.token_ids


TOOL = Tool(name="add", parameters='{"type": "object"}')


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 2},
        {"prompts": ("hello you", "and you")},
        {"sampling": Sampling(temperature=0.0, max_tokens=9, logprobs=0)},
        {"continued": Continued(token_ids=(5, 6), text="something else")},
        {"continued": Continued(token_ids=(100_000,), text="x")},
        {"continued": Continued(token_ids=(-1,), text="x")},
        {"continued": Continued(token_ids=(), text="x" * 4000)},
        {"continued": Continued(token_ids=(), reasoning="hm")},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_what_cannot_be_continued_is_refused(
    make_engine: MakeEngine, changes: dict[str, Any], temperature: float
) -> None:
    """By its code, before the first event, and nothing of it stays in the engine."""
    engine = make_engine()
    sampling = Sampling(temperature=temperature, top_p=1.0, top_k=1, min_p=0.0, max_tokens=9)
    request = CompletionRequest(id="c", prompts=("hello you",), sampling=sampling, continued=Continued(token_ids=()))
    stream = engine.stream(msgspec.structs.replace(request, **changes))
    with pytest.raises(RequestError) as refused:
        await anext(stream)
    assert refused.value.code == "cannot_continue"
    assert engine.load_now().running == 0
    await events_of(engine, request)


async def test_told_tokens_that_break_the_form_are_refused(make_engine: MakeEngine) -> None:
    """A grammar that would not have allowed them."""
    request = ChatRequest(
        id="c",
        messages=(Message(role="user", content=(Content(text="hi"),)),),
        sampling=Sampling(temperature=1.0, top_p=1.0, top_k=1, min_p=0.0, max_tokens=60),
        tools=(TOOL,),
        tool_choice=ToolChoice(mode="required"),
        continued=Continued(token_ids=(40, 41), text="IJ"),
    )
    with pytest.raises(RequestError) as refused:
        await events_of(make_engine(context_tokens=1024), request)
    assert refused.value.code == "cannot_continue"


def test_remainder_cuts_an_event_in_two() -> None:
    """What is half told is told from there, with the ids that are not known yet."""
    remainder = Remainder(Continued(token_ids=(1, 2), text="Hello", reasoning="Hm"))
    assert remainder.see(ReasoningDelta(text="Hm", token_ids=(1,))) == ()
    assert remainder.see(TextDelta(text="Hel", token_ids=(2,))) == ()
    assert remainder.see(TextDelta(text="l", token_ids=(3,))) == ()
    assert remainder.see(TextDelta(text="o you", tokens=2, token_ids=(4, 5))) == (
        TextDelta(text=" you", tokens=2, token_ids=(3, 4, 5)),
    )
    assert remainder.see(TextDelta(text="!", token_ids=(6,))) == (TextDelta(text="!", token_ids=(6,)),)
    assert remainder.see(Finished()) == (Finished(),)


@pytest.mark.parametrize(
    "event", [TextDelta(text="Help"), TextDelta(text="Hello!"), Finished(), ToolCallDelta(name="f"), Usage()]
)
def test_remainder_refuses_another_answer(event: EngineEvent) -> None:
    """Other text, an end, or a call, where something else was told; text that goes on while reasoning is owed."""
    with pytest.raises(RequestError):
        Remainder(Continued(token_ids=(), text="Hello", reasoning="Hm")).see(event)
