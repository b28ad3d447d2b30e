"""What the engine makes of an answer that another replica began, on the real demo model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import pytest_asyncio
from llamacpp_backend.continuation import Told
from llamacpp_backend.engine import LlamaCppEngine

from core.api import ChatRequest, CompletionRequest, Continued, RequestError, ResponseFormat, Sampling, Tool, Usage
from core.engine.defaults import with_defaults
from core.testing import Answer, chat, collect

from .conftest import MODEL, LoadEngine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SAMPLED = Sampling(temperature=0.9, max_tokens=16)
GREEDY = Sampling(temperature=0.0, max_tokens=16)
SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)
JSON = ResponseFormat(kind="json_schema", schema=SCHEMA)
TOOLS = (Tool(name="look_up"),)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(load_engine: LoadEngine) -> LlamaCppEngine:
    return await load_engine(slots=1, context_tokens=256)


async def ask(engine: LlamaCppEngine, request: Any, told: str | None = None) -> Answer:
    if told is not None:
        request = msgspec.structs.replace(request, continued=Continued(token_ids=(), text=told))
    return await collect(request, engine.stream(with_defaults(request, MODEL.sampling)))


async def test_told_text_goes_on_where_it_is_drawn_anew(engine: LlamaCppEngine) -> None:
    """From its last token, with the counts of the whole answer; with one candidate for every draw it is known how."""
    request = chat("Tell me a story.", sampling=msgspec.structs.replace(SAMPLED, top_k=1))
    whole = await ask(engine, request)
    for tokens in (3, 8, 15):
        told = "".join(whole.pieces[:tokens])
        rest = await ask(engine, request, told)
        assert told + rest.text == whole.text
        assert rest.usage.prompt_tokens == whole.usage.prompt_tokens
        assert rest.usage.completion_tokens == 16
        assert rest.reasons == whole.reasons


async def test_what_is_repeated_otherwise_goes_on_all_the_same(engine: LlamaCppEngine) -> None:
    """A tie that fell the other way on the dead replica must not end the stream."""
    rest = await ask(engine, chat("Tell me a story.", sampling=GREEDY), "My name is Otto, and I")
    assert rest.text
    assert rest.usage.completion_tokens == 16


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
async def test_told_text_that_fills_the_answer_ends_it(engine: LlamaCppEngine, sampling: Sampling) -> None:
    """By max_tokens, or by the context."""
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    for told, limit in ((long, 16), (long * 16, None)):
        request = chat("Count.", sampling=msgspec.structs.replace(sampling, max_tokens=limit))
        rest = await ask(engine, request, told)
        assert (rest.text, rest.reasons) == ("", {0: "length"})
        assert rest.usage.completion_tokens >= 16


async def test_an_echoed_prompt_is_told_once(engine: LlamaCppEngine) -> None:
    request = CompletionRequest(id="x", prompts=("The sky is",), echo=True, sampling=SAMPLED)
    rest = await ask(engine, request, "The sky is blue and")
    assert not rest.text.startswith("The sky is")
    assert rest.usage.prompt_tokens == (await ask(engine, request)).usage.prompt_tokens
    with pytest.raises(RequestError) as refused:
        await ask(engine, request, "The s")
    assert refused.value.code == "cannot_continue"


async def test_bound_answers_are_repeated_from_their_beginning(engine: LlamaCppEngine) -> None:
    """A greedy one, and one with a seed: llama.cpp cannot enter a grammar midway, but it can begin again."""
    for sampling in (GREEDY, Sampling(temperature=1.0, seed=4, max_tokens=40)):
        request = chat("Give me a number.", response_format=JSON, sampling=sampling)
        whole = await ask(engine, request)
        rest = await ask(engine, request, whole.text[:4])
        assert whole.text[:4] + rest.text == whole.text
        assert rest.usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (chat("Hi", response_format=JSON, sampling=SAMPLED), Continued(token_ids=(), text='{"a"')),
        (chat("Hi", response_format=JSON, sampling=GREEDY), Continued(token_ids=(), text="Never")),
        (chat("Hi", tools=TOOLS, sampling=SAMPLED), Continued(token_ids=(), text="Hello")),
        (chat("Hi", sampling=SAMPLED), Continued(token_ids=(), text="Hello", reasoning="Hm")),
        (chat("Hi", sampling=SAMPLED, n=2), Continued(token_ids=(), text="Hello")),
        (chat("Hi", sampling=msgspec.structs.replace(GREEDY, logprobs=0)), Continued(token_ids=(), text="Hello")),
        (CompletionRequest(id="x", prompts=("a", "b"), sampling=GREEDY), Continued(token_ids=(), text="Hello")),
    ],
)
async def test_what_cannot_go_on_is_refused(engine: LlamaCppEngine, request_: ChatRequest, told: Continued) -> None:
    """By its code, before the first event; the slot is free again."""
    request = with_defaults(msgspec.structs.replace(request_, continued=told), MODEL.sampling)
    events = engine.stream(request)
    with pytest.raises(RequestError) as refused:
        await anext(events)
    assert refused.value.code == "cannot_continue"
    assert (await ask(engine, chat("Hi", sampling=GREEDY))).text


async def test_a_model_that_may_have_thought_is_not_taken_at_its_word(load_engine: LoadEngine, tmp_path: Any) -> None:
    """What it thought is not in the text that was told."""
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    thinker = await load_engine(slots=1, context_tokens=256, chat_template=template)
    with pytest.raises(RequestError) as refused:
        await ask(thinker, chat("Hi", sampling=SAMPLED), "Hello")
    assert refused.value.code == "cannot_continue"


async def test_the_counts_of_a_whole_answer() -> None:
    """What was found in the cache of the told text is no cached prompt."""
    begun = Told(prompt=[1, 2, 3], answer=[4, 5])
    assert begun.usage(Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=4)) == Usage(
        prompt_tokens=3, completion_tokens=9, cached_tokens=3
    )
    assert (begun.left(None, 10), begun.left(3, 10), begun.left(30, 10)) == (5, 1, 5)
