"""The events of one choice, from its text: stop strings cut out, tool calls read, token counts attached."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from core.api import EngineEvent, Finished, FinishReason, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from decoding.stops import StopMatcher
from decoding.tools.parser import CallParser, CallPiece

__all__ = ["AnswerWriter"]


class AnswerWriter:
    """Writes choice number ``choice`` until ``finished``.

    Args:
        choice: index of the choice.
        stops: stop strings, cut out of plain text.
        parser: reads tool calls out of the text; None: the text holds none.

    Attributes:
        finished: its `Finished` was written.
        called: it called a tool.
    """

    def __init__(self, choice: int, stops: Sequence[str] = (), parser: CallParser | None = None) -> None:
        self._choice = choice
        self._stops = StopMatcher(stops)
        self._parser = parser
        self._tokens = 0
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self.finished = False
        self.called = False

    def count(self, tokens: int, logprobs: Sequence[TokenLogprob] = (), ids: Sequence[int] = ()) -> None:
        """Note generated tokens; the next event stands for them, and the next text tells their ids."""
        self._tokens += tokens
        self._ids += ids
        self._logprobs += logprobs

    def reasoning(self, text: str) -> Iterator[EngineEvent]:
        """Write reasoning text."""
        if text:
            tokens, logprobs = self._take()
            yield ReasoningDelta(
                choice=self._choice, text=text, tokens=tokens, logprobs=logprobs, token_ids=self._take_ids()
            )

    def text(self, text: str) -> Iterator[EngineEvent]:
        """Write text as the model wrote it; look at ``finished`` afterwards.

        Raises:
            EngineError: the model left the form of a tool call that was to be enforced.
        """
        for piece in self._parser.push(text) if self._parser else (text,):
            if isinstance(piece, CallPiece):
                yield self.call(piece)
            else:
                yield from self._show(self._stops.push(piece))
                if self._stops.stopped:
                    self.finished = True
                    yield Finished(choice=self._choice, reason="stop")
                    return
        if self._parser and self._parser.repeated:
            yield from self.end("stop")

    def call(self, piece: CallPiece) -> ToolCallDelta:
        """Write a piece of a tool call."""
        self.called = True
        tokens, _ = self._take()
        return ToolCallDelta(
            choice=self._choice,
            index=piece.index,
            id=f"call_{uuid.uuid4().hex[:24]}" if piece.name is not None else None,
            name=piece.name,
            arguments=piece.arguments,
            tokens=tokens,
        )

    def end(self, reason: FinishReason) -> Iterator[EngineEvent]:
        """Write what was held back, and the end: ``stop`` becomes ``tool_calls`` if a tool was called."""
        held = ""
        for piece in self._parser.finish() if self._parser else ():
            if isinstance(piece, CallPiece):
                yield self.call(piece)
            elif not self._stops.stopped:
                held += self._stops.push(piece)
        if self._stops.stopped:
            reason = "stop"
        else:
            held += self._stops.flush()
        cut = reason == "length" and self._tokens and not self.called
        if held or self._logprobs or cut:
            yield self._text_delta(held)
        if reason == "stop" and self.called:
            reason = "tool_calls"
        self.finished = True
        yield Finished(choice=self._choice, reason=reason)

    def _show(self, text: str) -> Iterator[EngineEvent]:
        if text:
            yield self._text_delta(text)

    def _text_delta(self, text: str) -> TextDelta:
        kept = self._within(text) if self._stops.stopped else None
        tokens, waiting = self._take()
        return TextDelta(
            choice=self._choice,
            text=text,
            tokens=tokens,
            logprobs=waiting if kept is None else kept,
            token_ids=self._take_ids(),
        )

    def _within(self, text: str) -> tuple[TokenLogprob, ...]:
        """The waiting log-probabilities of the tokens that begin inside ``text``: a stop string has none."""
        kept, length = [], 0
        for logprob in self._logprobs:
            if length >= len(text):
                break
            kept.append(logprob)
            length += len(logprob.token)
        return tuple(kept)

    def _take(self) -> tuple[int, tuple[TokenLogprob, ...]]:
        tokens, self._tokens = self._tokens, 0
        logprobs, self._logprobs = tuple(self._logprobs), []
        return tokens, logprobs

    def _take_ids(self) -> tuple[int, ...]:
        ids, self._ids = tuple(self._ids), []
        return ids
