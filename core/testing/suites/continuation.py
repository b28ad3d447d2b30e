"""Continuation: an answer whose replica died goes on in another one, as if nothing had happened."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from core.api.errors import RequestError
from core.api.messages import EngineEvent, Finished, ReasoningDelta, TextDelta
from core.api.requests import ChatRequest, CompletionRequest, Continued
from core.testing.asking import Answer, put_together
from core.testing.suites.base import STORY, LoadedEngine, Suite

__all__ = ["ContinuationSuite"]

_SHORT_TOKENS = 8


class ContinuationSuite(Suite):
    """Only for backends that declare `continuation`. One engine is both the dead replica and the living one."""

    async def test_a_cut_answer_goes_on(self, loaded: LoadedEngine) -> None:
        """Cut after any delta: what was told and what is told now are the whole answer, its end and its usage."""
        await self._cut(loaded, self._request(max_tokens=_SHORT_TOKENS))

    async def test_a_stop_string_that_was_half_written_still_ends_the_text(self, loaded: LoadedEngine) -> None:
        """A cut leaves no trace in what stops the text."""
        self.need("stop")
        whole = (await loaded.ask(self._request(max_tokens=_SHORT_TOKENS))).text
        stop = whole[len(whole) // 2 :][:6]
        await self._cut(loaded, self._request(max_tokens=_SHORT_TOKENS, stop=(stop,)), every=2)

    async def test_a_seed_holds_over_a_cut(self, loaded: LoadedEngine) -> None:
        """The token after the cut is drawn as if the ones before it had been drawn here."""
        self.need("seed")
        await self._cut(loaded, self._request(max_tokens=_SHORT_TOKENS, temperature=1.0, seed=11), every=3)

    async def test_an_answer_that_is_drawn_anew_goes_on(self, loaded: LoadedEngine) -> None:
        """Without a seed the rest is another one, but it is a rest: nothing is told twice, and the counts are whole."""
        request = self._request(max_tokens=_SHORT_TOKENS, temperature=0.8)
        events = [event async for event in loaded.engine.stream(loaded.filled(request))]
        for cut in _cuts(events)[::4]:
            rest = await self._rest(loaded, request, events[:cut])
            whole = put_together(request, events)
            assert rest.usage.prompt_tokens == whole.usage.prompt_tokens, "what was told is not part of the prompt"
            if rest.reasons == {0: "length"}:
                assert rest.usage.completion_tokens == _SHORT_TOKENS, "max_tokens counts from the answer's beginning"

    async def test_several_choices_are_refused(self, loaded: LoadedEngine) -> None:
        """With the code ``cannot_continue``, before the first event."""
        self.need("n")
        request = self._request(max_tokens=_SHORT_TOKENS)
        refused = msgspec.structs.replace(request, n=2, continued=Continued(token_ids=()))
        async with contextlib.aclosing(loaded.engine.stream(loaded.filled(refused))) as events:
            with pytest.raises(RequestError) as met:
                await anext(events)
        assert met.value.code == "cannot_continue", "what cannot be continued is refused with this code"

    # --- means

    def _request(self, **sampling: Any) -> ChatRequest | CompletionRequest:
        self.need("continuation")
        request = self.text_request(STORY, **sampling)
        assert isinstance(request, ChatRequest | CompletionRequest)
        return request

    async def _cut(self, loaded: LoadedEngine, request: ChatRequest | CompletionRequest, *, every: int = 1) -> None:
        events = [event async for event in loaded.engine.stream(loaded.filled(request))]
        whole = put_together(request, events)
        for cut in _cuts(events)[::every]:
            told = "".join(event.text for event in events[:cut] if isinstance(event, TextDelta))
            rest = await self._rest(loaded, request, events[:cut])
            assert told + rest.text == whole.text, f"cut after {told!r}, the answer went on otherwise"
            assert rest.reasons == whole.reasons, f"cut after {told!r}, the answer ended otherwise"
            for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens"):
                assert getattr(rest.usage, name) == getattr(whole.usage, name), (
                    f"cut after {told!r}, Usage.{name} must still be that of the whole answer"
                )

    async def _rest(
        self, loaded: LoadedEngine, request: ChatRequest | CompletionRequest, told: Sequence[EngineEvent]
    ) -> Answer:
        continued = Continued(
            token_ids=tuple(token for event in told for token in getattr(event, "token_ids", ())),
            text="".join(event.text for event in told if isinstance(event, TextDelta)),
            reasoning="".join(event.text for event in told if isinstance(event, ReasoningDelta)),
        )
        return await loaded.ask(msgspec.structs.replace(request, continued=continued))


def _cuts(events: Sequence[EngineEvent]) -> range:
    """After how many events an answer may be cut: after any but its last ones."""
    return range(1, next(place for place, event in enumerate(events) if isinstance(event, Finished)) + 1)
