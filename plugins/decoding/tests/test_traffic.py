"""Whatever runs beside it, a request gives what it gives alone."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec
from decoding.generation import Arrival, Generation
from decoding.prompts import Prompts
from decoding.reference import ReferenceRunner
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.testing import byte_level
from decoding.tokens import Vocabulary
from decoding.traffic import play, random_requests
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from core.api import ChatRequest, EngineError, EngineEvent, Usage

CONTEXT_TOKENS = 2048


def comparable(events: list[EngineEvent]) -> Any:
    """Each choice's events in order, but for what is random by nature: how choices interleave, ids, what was cached."""
    kept = [
        msgspec.structs.replace(event, id=None) if getattr(event, "id", None) else event
        for event in events
        if not isinstance(event, Usage)
    ]
    return {choice: list(found) for choice, found in itertools.groupby(sorted(kept, key=_choice), _choice)}


def _choice(event: EngineEvent) -> int:
    return getattr(event, "choice", -1)


async def test_two_hundred_requests_together(make_engine: Callable[..., Any]) -> None:
    """On eight slots, a fifth of them left half-way: the others' events are as alone, and every slot is free again."""
    engine = make_engine(slots=8, context_tokens=CONTEXT_TOKENS)
    requests = random_requests(200, seed=1, vocab_size=266)

    together = await play(engine, requests, seed=2, spread_s=2.0)

    left = [request for request, events in zip(requests, together, strict=True) if events is None]
    assert 20 < len(left) < 80
    async with asyncio.timeout(5):
        while engine.load_now().running or engine.load_now().kv_used:
            await asyncio.sleep(0.001)
    alone = make_engine(slots=1, context_tokens=CONTEXT_TOKENS)
    for request, events in zip(requests, together, strict=True):
        if events is not None:
            expected = [event async for event in alone.stream(request)]
            assert comparable(events) == comparable(expected)


class Desk:
    """A generation without threads: the test says when a step is done."""

    def __init__(self, slots: int) -> None:
        tokenizer = byte_level()
        tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
        self.vocabulary = Vocabulary(tokenizer, eos=[tokenizer.eos_token_id])
        runner = ReferenceRunner(slots=slots, context_tokens=CONTEXT_TOKENS, vocab_size=self.vocabulary.size)
        self.prompts = Prompts(self.vocabulary, ChatTemplate(tokenizer), context_tokens=CONTEXT_TOKENS)
        self.generation = Generation(
            runner,
            vocab_size=self.vocabulary.size,
            limits=Limits(prefill_tokens=16, prefill_tokens_alone=64),
            deliver=self._deliver,
        )
        self.got: dict[Any, list[EngineEvent]] = {}

    def submit(self, request: Any) -> list[Any]:
        make = self.prompts.chat if isinstance(request, ChatRequest) else self.prompts.completion
        rows = [draw.row for draw in make(request)]
        for row in rows:
            self.got[row] = []
            self.generation.add(row)
        return rows

    def _deliver(self, arrivals: list[Arrival]) -> None:
        for row, events in arrivals:
            assert not isinstance(events, EngineError), events
            self.got[row] += events


ALONE = Desk(slots=1)


class Traffic(RuleBasedStateMachine):
    """Random requests come, go on, and leave, in any order, on eight slots."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(slots=8)
        self.rows: dict[int, list[Any]] = {}
        self.requests: dict[int, Any] = {}

    @rule(seed=st.integers(0, 10_000))
    def arrive(self, seed: int) -> None:
        (request,) = random_requests(1, seed, vocab_size=self.desk.vocabulary.size)
        number = len(self.requests)
        self.requests[number] = request
        self.rows[number] = self.desk.submit(request)

    @precondition(lambda self: self.rows)
    @rule(pick=st.randoms(use_true_random=False))
    def leave(self, pick: random.Random) -> None:
        number = pick.choice(sorted(self.rows))
        for row in self.rows.pop(number):
            self.desk.generation.cancel(row)

    @rule(count=st.integers(1, 8))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.desk.generation.step()

    def teardown(self) -> None:
        for _ in range(10_000):
            if not self.desk.generation.step():
                break
        assert self.desk.generation.used_tokens == 0
        assert not self.desk.generation._rows
        for number, rows in self.rows.items():
            expected = ALONE.submit(self.requests[number])
            while ALONE.generation.step():
                pass
            for row, alone in zip(rows, expected, strict=True):
                assert comparable(self.desk.got[row]) == comparable(ALONE.got.pop(alone))
        self.desk.generation.close()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(deadline=None, max_examples=15, stateful_step_count=30)
