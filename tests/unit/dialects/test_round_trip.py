"""A stream, joined by a client, is the whole reply: for any answer that the contract allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.api.messages import EngineEvent, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, Usage

USAGE = Usage(prompt_tokens=11, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)
TEXT = st.text(max_size=6)
LOGPROBS = st.lists(
    st.builds(
        TokenLogprob,
        token=TEXT,
        logprob=st.floats(max_value=0, allow_nan=False),
        utf8=st.none() | st.binary(max_size=3),
        top=st.lists(st.builds(TokenLogprob, token=TEXT, logprob=st.floats(-9, 0)), max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)


@st.composite
def answers(draw: st.DrawFn, *, with_calls: bool) -> tuple[int, list[EngineEvent]]:
    """A number of choices and a stream as the contract has it: deltas in any order, each choice's end, usage."""
    n = draw(st.integers(1, 3))
    waiting: dict[int, list[EngineEvent]] = {}
    for choice in range(n):
        kinds: list[st.SearchStrategy[EngineEvent]] = [
            st.builds(TextDelta, choice=st.just(choice), text=TEXT, logprobs=LOGPROBS)
        ]
        if with_calls:
            kinds += [
                st.builds(ReasoningDelta, choice=st.just(choice), text=TEXT),
                st.builds(ToolCallDelta, choice=st.just(choice), index=st.integers(0, 1), arguments=TEXT),
            ]
        deltas = draw(st.lists(st.one_of(kinds), max_size=5))
        reason = draw(st.sampled_from(["stop", "length"]))
        waiting[choice] = [*_named(deltas), Finished(choice=choice, reason=reason)]  # type: ignore[arg-type]
    events: list[EngineEvent] = []
    while waiting:
        choice = draw(st.sampled_from(sorted(waiting)))
        events.append(waiting[choice].pop(0))
        if not waiting[choice]:
            del waiting[choice]
    return n, [*events, USAGE]


def _named(deltas: list[EngineEvent]) -> Iterator[EngineEvent]:
    """The first delta of a call has its id and name."""
    seen: set[int] = set()
    for delta in deltas:
        if isinstance(delta, ToolCallDelta) and delta.index not in seen:
            seen.add(delta.index)
            yield ToolCallDelta(choice=delta.choice, index=delta.index, id="c", name="f", arguments=delta.arguments)
        else:
            yield delta


def joined_chat(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client makes of a chat stream."""
    choices: dict[int, dict[str, Any]] = defaultdict(
        lambda: {"content": "", "reasoning": "", "calls": {}, "logprobs": [], "reason": None}
    )
    for chunk in chunks:
        for choice in chunk["choices"]:
            to, delta = choices[choice["index"]], choice["delta"]
            assert to["reason"] is None, "nothing follows the finish reason"
            to["content"] += delta.get("content") or ""
            to["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                function = call["function"]
                known = to["calls"].setdefault(call["index"], [call.get("id"), function.get("name"), ""])
                known[2] += function["arguments"]
            to["logprobs"] += (choice["logprobs"] or {}).get("content", [])
            to["reason"] = choice["finish_reason"]
    return dict(choices)


@settings(max_examples=150, deadline=None)
@given(answer=answers(with_calls=True), batch=st.integers(1, 8))
def test_a_chat_stream_joined_is_the_whole_reply(
    dialect: Any, answer: tuple[int, list[EngineEvent]], batch: int
) -> None:
    n, events = answer
    parsed = dialect.chat(n=n)
    parts = joined_chat(dialect.streamed(parsed, *events, batch=batch))
    for choice in dialect.whole(parsed, *events)["choices"]:
        message, part = choice["message"], parts.pop(choice["index"])
        calls = [[c["id"], c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls", [])]
        assert part == {
            "content": message["content"] or "",
            "reasoning": message.get("reasoning_content", ""),
            "calls": part["calls"],
            "logprobs": (choice["logprobs"] or {}).get("content", []),
            "reason": choice["finish_reason"],
        }
        assert [call for _, call in sorted(part["calls"].items())] == calls
    assert not parts


@settings(max_examples=100, deadline=None)
@given(answer=answers(with_calls=False), batch=st.integers(1, 8), k=st.integers(0, 2))
def test_a_legacy_stream_joined_is_the_whole_reply(
    dialect: Any, answer: tuple[int, list[EngineEvent]], batch: int, k: int
) -> None:
    n, events = answer
    parsed = dialect.completion(n=n, logprobs=k)
    parts: dict[int, dict[str, Any]] = defaultdict(lambda: {"text": "", "logprobs": None, "finish_reason": None})
    for chunk in dialect.streamed(parsed, *events, batch=batch):
        for choice in chunk["choices"]:
            part = parts[choice["index"]]
            part["text"] += choice["text"]
            part["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"] and part["logprobs"]:
                part["logprobs"] = {
                    name: known if known is None else known + choice["logprobs"][name]
                    for name, known in part["logprobs"].items()
                }
            else:
                part["logprobs"] = choice["logprobs"] or part["logprobs"]
    body = dialect.whole(parsed, *events)
    assert {choice.pop("index"): choice for choice in body["choices"]} == dict(parts)
