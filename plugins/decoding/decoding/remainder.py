"""What an answer that is continued says beyond what its client has already."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import NoReturn

import msgspec

from core.api import ChatRequest, CompletionRequest, Continued, EngineEvent, ReasoningDelta, RequestError, TextDelta

__all__ = ["Remainder", "beyond", "check_alone", "refuse"]

Events = AsyncGenerator[EngineEvent, None]


def refuse(why: str) -> NoReturn:
    """Raise the error of an answer that cannot be continued here."""
    msg = f"This answer cannot be continued: {why}."
    raise RequestError(msg, code="cannot_continue")


def check_alone(request: ChatRequest | CompletionRequest) -> None:
    """Refuse to continue what consists of more than one text.

    Raises:
        RequestError: it has several choices, or log probabilities.
    """
    prompts = 1 if isinstance(request, ChatRequest) else len(request.prompts)
    if request.n * prompts > 1:
        refuse("it has several choices")
    if request.sampling.logprobs is not None:
        refuse("its log probabilities would have to be told again")


async def beyond(request: ChatRequest | CompletionRequest, continued: Continued, events: Events) -> Events:
    """Yield what ``events``, the whole answer from its beginning, say beyond what was ``continued``.

    Raises:
        RequestError: it cannot be continued (``cannot_continue``); always before the first event.
    """
    async with contextlib.aclosing(events):
        check_alone(request)
        remainder = Remainder(continued)
        async for event in events:
            for new in remainder.see(event):
                yield new


class Remainder:
    """Drops the beginning of one choice's events, whose text and reasoning somebody has told its client."""

    def __init__(self, continued: Continued) -> None:
        self._text = continued.text
        self._reasoning = continued.reasoning
        self._known_ids = len(continued.token_ids)
        self._ids: tuple[int, ...] = ()

    def see(self, event: EngineEvent) -> tuple[EngineEvent, ...]:
        """Return what is new in the answer's next event.

        Raises:
            RequestError: the answer is another one; never once something new was returned.
        """
        if isinstance(event, TextDelta | ReasoningDelta):
            return self._delta(event)
        self._all_told()
        return (event,)

    def _delta(self, event: TextDelta | ReasoningDelta) -> tuple[EngineEvent, ...]:
        known = self._text if isinstance(event, TextDelta) else self._reasoning
        length = min(len(known), len(event.text))
        if event.text[:length] != known[:length]:
            refuse("it would go another way")
        if isinstance(event, TextDelta):
            self._text = known[length:]
        else:
            self._reasoning = known[length:]
        told = min(self._known_ids, len(event.token_ids))
        self._known_ids -= told
        self._ids += event.token_ids[told:]
        new = event.text[length:]
        if not new and (known or self._text or self._reasoning):
            return ()
        self._all_told()
        ids, self._ids = self._ids, ()
        return (msgspec.structs.replace(event, text=new, token_ids=ids),)

    def _all_told(self) -> None:
        if self._text or self._reasoning:
            refuse("it would end, or go another way, before what was told already")
