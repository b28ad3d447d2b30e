"""What the engine makes of llama.cpp's server, on the real demo model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
import pytest_asyncio
from llamacpp_backend.engine import LlamaCppEngine

from core.api import (
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    EngineRequest,
    RequestError,
    RerankRequest,
    Sampling,
    Tool,
)
from core.engine.defaults import with_defaults
from core.testing import Answer, chat, collect

from .conftest import MODEL, LoadEngine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

_GREEDY = Sampling(temperature=0.0, max_tokens=24)
_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Functions: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(load_engine: LoadEngine) -> LlamaCppEngine:
    """Four slots."""
    return await load_engine(slots=4)


async def _ask(engine: LlamaCppEngine, request: EngineRequest) -> Answer:
    return await collect(request, engine.stream(with_defaults(request, MODEL.sampling)))


def _completion(*prompts: str | tuple[int, ...], **fields: object) -> CompletionRequest:
    return CompletionRequest(id="x", prompts=prompts, **({"sampling": _GREEDY} | fields))


async def test_greedy_text_is_llama_cpp_s_own(engine: LlamaCppEngine) -> None:
    """Token for token what its /completion gives for the prompt that its template renders."""
    for text in ("Tell me a story about a fox.", "Was ist 2 + 2? 🐍"):
        body = {"messages": [{"role": "user", "content": text}]}
        rendered = json.loads(await engine._client.call("/apply-template", body))["prompt"]
        own = {"prompt": rendered, "n_predict": 48, "temperature": 0.0, "cache_prompt": False}
        direct = json.loads(await engine._client.call("/completion", own))
        answer = await _ask(engine, chat(text, sampling=Sampling(temperature=0.0, max_tokens=48)))
        assert answer.text == direct["content"]
        assert answer.usage.completion_tokens == direct["tokens_predicted"]
        assert answer.usage.prompt_tokens == direct["tokens_evaluated"]


async def test_abandoned_prompts_free_their_slots(engine: LlamaCppEngine) -> None:
    """Sixteen long prompts are given up; the next request does not wait for any of them."""
    words = " ".join(f"word{number}" for number in range(600))
    started = time.monotonic()
    await _ask(engine, chat("0 " + words, sampling=Sampling(max_tokens=1)))
    one_prompt_s = time.monotonic() - started
    requests = [with_defaults(chat(f"{n} {words}", sampling=_GREEDY), MODEL.sampling) for n in range(1, 17)]
    streams = [engine.stream(request) for request in requests]
    readers = [asyncio.ensure_future(anext(stream)) for stream in streams]
    while engine.load_now().running < 16:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert engine.load_now().running == 0
    started = time.monotonic()
    await _ask(engine, chat("Hello!", sampling=Sampling(max_tokens=1)))
    # Sixteen prompts, or the four in the slots, would take far longer than one.
    assert time.monotonic() - started < one_prompt_s


async def test_steps_move_in_a_long_prompt(engine: LlamaCppEngine) -> None:
    """Before any chunk has come, so that the supervisor does not take it for hung."""
    words = " ".join(f"step{number}" for number in range(900))
    stream = engine.stream(with_defaults(chat(words, sampling=_GREEDY), MODEL.sampling))
    before = engine.load_now().steps
    reader = asyncio.ensure_future(anext(stream))
    async with asyncio.timeout(60):
        while engine.load_now().steps == before:
            assert not reader.done(), "the prompt was too short to see anything"
            await asyncio.sleep(0.05)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await stream.aclose()


async def test_one_request_may_use_the_whole_context_while_others_run(load_engine: LoadEngine) -> None:
    """Each slot has a cache of its own: long requests do not end each other."""
    small = await load_engine(slots=3, context_tokens=256)
    requests = [_completion("Once upon a time", sampling=Sampling(temperature=1.0, seed=n)) for n in range(3)]
    for answer in await asyncio.gather(*(_ask(small, request) for request in requests)):
        assert answer.reasons[0] in {"stop", "length"}
        if answer.reasons[0] == "length":
            assert answer.usage.prompt_tokens + answer.usage.completion_tokens >= 255


async def test_a_prompt_over_the_context_names_both_numbers(engine: LlamaCppEngine) -> None:
    """For chat, completion, one of several prompts, and embeddings, which must fit into one batch."""
    long = "word " * 5000
    for request, param in (
        (chat(long, sampling=_GREEDY), "messages"),
        (_completion(long), "prompt"),
        (_completion("Hello", long), "prompt"),
        (EmbeddingsRequest(id="x", inputs=("Hello", long)), "input"),
    ):
        stream = engine.stream(with_defaults(request, MODEL.sampling))
        with pytest.raises(RequestError, match=r"\d+ tokens.*50\d\d tokens") as caught:
            await anext(stream)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (_completion((49152,)), "prompt"),
        (_completion((-1,)), "prompt"),
        (_completion(()), "prompt"),
        (_completion("a", sampling=Sampling(logit_bias={49152: 1.0})), "logit_bias"),
        (_completion("\ud800"), "prompt"),
        (_completion("a", echo=True, sampling=Sampling(logprobs=1)), "logprobs"),
        (chat("\ud800"), "messages"),
        (RerankRequest(id="x", query="a", documents=("b",)), "model"),
        (EmbeddingsRequest(id="x", inputs=((),)), "input"),
        (EmbeddingsRequest(id="x", inputs=("\ud800",)), "input"),
        (EmbeddingsRequest(id="x", inputs=("a",), dimensions=577), "dimensions"),
    ],
)
async def test_faults_of_a_request(engine: LlamaCppEngine, request_: EngineRequest, param: str) -> None:
    """Refused before the first event, by name, and the engine lives on."""
    with pytest.raises(RequestError) as caught:
        await _ask(engine, request_)
    assert caught.value.param == param
    assert (await _ask(engine, chat("Hi", sampling=Sampling(max_tokens=1)))).usage.completion_tokens == 1


async def test_several_prompts_and_draws(engine: LlamaCppEngine) -> None:
    """Each prompt is counted once, echoed to each of its choices, and token ids are as good as text."""
    tokens = tuple(json.loads(await engine._client.call("/tokenize", {"content": "The sky is"}))["tokens"])
    request = _completion(tokens, "One, two", n=2, echo=True, sampling=Sampling(temperature=0.0, max_tokens=4))
    answer = await _ask(engine, request)
    assert answer.texts[0] == answer.texts[1]
    assert answer.texts[0].startswith("The sky is")
    assert answer.texts[2].startswith("One, two")
    assert answer.usage.completion_tokens == 16
    assert answer.usage.prompt_tokens == len(tokens) + 3


async def test_an_empty_prompt_begins_at_the_first_token(engine: LlamaCppEngine) -> None:
    """llama.cpp answers it with nothing at all."""
    assert (await _ask(engine, _completion(""))).usage.completion_tokens > 0


async def test_native_tools(load_engine: LoadEngine, tmp_path: Path) -> None:
    """A template that knows tools shows them; a forced call is bound all the same."""
    template = tmp_path / "template.jinja"
    template.write_text(_TEMPLATE)
    native = await load_engine(slots=1, chat_template=template)
    parameters = '{"type":"object","properties":{"city":{"enum":["Paris","Rome"]}},"required":["city"]}'
    tools = (Tool(name="get_weather", parameters=parameters),)
    asked = chat("The weather in Paris?", tools=tools, sampling=_GREEDY)
    shown = (await _ask(native, asked)).usage.prompt_tokens
    hidden = (await _ask(native, chat("The weather in Paris?", sampling=_GREEDY))).usage.prompt_tokens
    assert shown > hidden + 20
    choice = type(asked.tool_choice)(mode="named", name="get_weather")
    forced = await _ask(native, ChatRequest(id="y", messages=asked.messages, tools=tools, tool_choice=choice))
    assert json.loads(forced.calls[0][0].arguments)["city"] in {"Paris", "Rome"}
    assert forced.reasons == {0: "tool_calls"}


async def test_signals_stay_ours(engine: LlamaCppEngine) -> None:
    """llama.cpp installs handlers of its own; the host's must still be called."""
    called = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, called.set)
    await engine._client.call("/props")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(called.wait(), 5)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
