"""What the OpenAI dialect costs: microseconds per streamed event, per parse and per reply.

    python bench/dialect.py

Best of several rounds, one process; no network and no engine.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable

from core.api.messages import EngineEvent, Finished, TextDelta, TokenLogprob, Usage
from core.dialects import openai
from core.settings import LimitsTable

_ROUNDS = 7
_LIMITS = LimitsTable()
_CHAT = {
    "model": "gpt-4",
    "stream": True,
    "temperature": 0.7,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Tell me a story about a lighthouse. " * 4},
    ],
}


def _best_us(work: Callable[[], object], number: int, per_call: int = 1) -> float:
    work()
    return min(timeit.repeat(work, number=number, repeat=_ROUNDS)) / number / per_call * 1e6


def _body(turns: int) -> bytes:
    return json.dumps(_CHAT | {"messages": _CHAT["messages"] * turns}).encode()  # type: ignore[operator]


def _answer(tokens: int, logprobs: tuple[TokenLogprob, ...] = ()) -> list[EngineEvent]:
    deltas = [TextDelta(text=f" word{i % 10}", logprobs=logprobs) for i in range(tokens)]
    return [*deltas, Finished(reason="stop"), Usage(prompt_tokens=20, completion_tokens=tokens)]


def _stream(events: list[EngineEvent], batch: int) -> bytes:
    stream = openai.Stream(_PARSED, "gpt-4")
    chunks = [stream.chunks(events[i : i + batch]) for i in range(0, len(events), batch)]
    return b"".join([*chunks, stream.end()])


_PARSED = openai.parse_chat(_body(1), _LIMITS)


def main() -> None:
    """Print one line per measurement."""
    token = TokenLogprob(token=" word", logprob=-0.5, utf8=b" word")
    top = (TokenLogprob(token=" word", logprob=-0.5, utf8=b" word", top=(token,) * 5),)
    plain, detailed = _answer(256), _answer(256, top)
    rows = {
        "stream, per text event, one event a call": _best_us(lambda: _stream(plain, 1), 20, 256),
        "stream, per text event, 16 events a call": _best_us(lambda: _stream(plain, 16), 20, 256),
        "stream, per text event with 5 top_logprobs": _best_us(lambda: _stream(detailed, 1), 10, 256),
        "stream of no tokens (fixed cost)": _best_us(lambda: _stream(_answer(0), 1), 500),
        "reply of 256 text events": _best_us(lambda: openai.reply(_PARSED, "gpt-4", plain), 50),
    }
    for turns in (1, 16):
        body = _body(turns)
        name = f"parse_chat of {len(body)} bytes, {2 * turns} messages"
        rows[name] = _best_us(lambda body=body: openai.parse_chat(body, _LIMITS), 500)  # type: ignore[misc]
    long = json.dumps(_CHAT | {"messages": [{"role": "user", "content": "word " * 200_000}]}).encode()
    rows[f"parse_chat of {len(long)} bytes, 1 message"] = _best_us(lambda: openai.parse_chat(long, _LIMITS), 10)
    for name, cost_us in rows.items():
        print(f"{cost_us:10.2f} us  {name}")


if __name__ == "__main__":
    main()
