"""Forms of an answer: JSON, tool calls, log probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.api.requests import ResponseFormat, Sampling, Tool, ToolChoice
from core.testing.asking import Answer, chat
from core.testing.suites.base import STORY, LoadedEngine, Suite

__all__ = ["FormatSuite"]

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
_WEATHER = Tool(name="get_weather", description="The weather of a city.", parameters=json.dumps(_SCHEMA))
_TIME = Tool(
    name="get_time",
    description="The time in a city.",
    parameters='{"type":"object","properties":{"city":{"type":"string","maxLength":12}},"required":["city"]}',
)
_ASK = "What is the weather in Paris for the next 3 days, in celsius?"
_GREEDY = Sampling(temperature=0.0, max_tokens=160)


class FormatSuite(Suite):
    """Each is a promise when its capability is declared: what is asked for is what comes."""

    async def test_json_object(self, loaded: LoadedEngine) -> None:
        """The text is one JSON object."""
        self.need("json_object")
        self.need_task("chat")
        request = chat(
            "Answer with a small JSON object with the key name.",
            sampling=_GREEDY,
            response_format=ResponseFormat(kind="json_object"),
        )
        answer = await loaded.ask(request)
        if answer.reasons[0] == "length":
            pytest.skip("the model found no end of its object; a cut one cannot be parsed")
        assert isinstance(json.loads(answer.text), dict), f"json_object must give one JSON object: {answer.text!r}"

    async def test_json_schema(self, loaded: LoadedEngine) -> None:
        """The text is valid for the schema."""
        self.need("json_schema")
        self.need_task("chat")
        form = ResponseFormat(kind="json_schema", name="weather", schema=json.dumps(_SCHEMA), strict=True)
        answer = await loaded.ask(chat(_ASK, sampling=_GREEDY, response_format=form))
        assert answer.reasons == {0: "stop"}, f"JSON that is whole ends with the reason stop: {answer.reasons}"
        _validate(answer.text, _SCHEMA)

    async def test_required_tool(self, loaded: LoadedEngine) -> None:
        """``required`` makes the model call one of the tools, with valid arguments and no text."""
        self.need("tools", "tool_choice")
        self.need_task("chat")
        answer = await loaded.ask(
            chat(_ASK, sampling=_GREEDY, tools=(_WEATHER, _TIME), tool_choice=ToolChoice(mode="required"))
        )
        _check_calls(answer, {"get_weather", "get_time"})

    async def test_named_tool(self, loaded: LoadedEngine) -> None:
        """A named tool is the one that is called, although another would suit better."""
        self.need("tools", "tool_choice")
        self.need_task("chat")
        choice = ToolChoice(mode="named", name="get_time")
        answer = await loaded.ask(chat(_ASK, sampling=_GREEDY, tools=(_WEATHER, _TIME), tool_choice=choice))
        _check_calls(answer, {"get_time"})

    async def test_one_call_when_parallel_calls_are_off(self, loaded: LoadedEngine) -> None:
        """``parallel_tool_calls = false`` means one call at most."""
        self.need("tools", "tool_choice")
        self.need_task("chat")
        answer = await loaded.ask(
            chat(
                "The weather in Paris, in Rome and in Oslo?",
                sampling=_GREEDY,
                tools=(_WEATHER,),
                tool_choice=ToolChoice(mode="required"),
                parallel_tool_calls=False,
            )
        )
        assert len(answer.calls[0]) == 1, f"without parallel calls there must be one: {dict(answer.calls[0])}"

    async def test_no_tool_when_none_may_be_called(self, loaded: LoadedEngine) -> None:
        """``none`` gives text, whatever tools there are."""
        self.need("tools", "tool_choice")
        self.need_task("chat")
        choice = ToolChoice(mode="none")
        answer = await loaded.ask(chat(STORY, sampling=_GREEDY, tools=(_WEATHER,), tool_choice=choice))
        assert not answer.calls, "tool_choice none forbids calls"
        assert answer.text.strip(), "tool_choice none must give text"

    async def test_logprobs(self, loaded: LoadedEngine) -> None:
        """One entry per token, whose texts make the text; the most likely ones best first."""
        self.need("logprobs")
        answer = await loaded.ask(self.text_request("Tell a short story.", max_tokens=8, logprobs=2))
        entries = answer.logprobs[0]
        assert len(entries) == answer.tokens[0], "every token needs one entry of logprobs"
        spelt = b"".join(entry.token.encode() if entry.utf8 is None else entry.utf8 for entry in entries)
        assert spelt.decode(errors="ignore").strip() == answer.text.strip(), (
            "the tokens of the logprobs, put together, must be the text"
        )
        for entry in entries:
            chances = [other.logprob for other in entry.top]
            assert len(chances) == 2, f"logprobs=2 asks for the two most likely tokens: {entry}"
            assert chances == sorted(chances, reverse=True), f"the most likely token comes first: {entry}"
            assert entry.logprob <= 1e-3, f"a log probability is not above 0: {entry}"
            assert entry.logprob <= chances[0] + 1e-3, f"no token is likelier than the most likely: {entry}"

    async def test_no_logprobs_unless_asked(self, loaded: LoadedEngine) -> None:
        """They cost time and bytes."""
        answer = await loaded.ask(self.text_request(STORY, max_tokens=4))
        assert not answer.logprobs[0], "nobody asked for logprobs"


def _check_calls(answer: Answer, allowed: set[str]) -> None:
    schemas = {tool.name: json.loads(tool.parameters) for tool in (_WEATHER, _TIME)}
    calls = list(answer.calls[0].values())
    assert calls, f"a forced tool must be called; there was only text: {answer.text!r}"
    assert answer.reasons == {0: "tool_calls"}, f"calls end with the reason tool_calls: {answer.reasons}"
    assert not answer.text.strip(), f"a forced call comes without text: {answer.text!r}"
    assert len({call.id for call in calls} - {None}) == len(calls), f"every call needs an id of its own: {calls}"
    for call in calls:
        assert call.name in allowed, f"only {sorted(allowed)} may be called: {call}"
        _validate(call.arguments, schemas[str(call.name)])


def _validate(text: str, schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(text), schema)
