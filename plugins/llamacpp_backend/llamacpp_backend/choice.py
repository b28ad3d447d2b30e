"""One choice: llama.cpp's chunks -> the contract's events."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import msgspec
from decoding.stops import StopMatcher
from decoding.tools import CallParser, CallPiece
from pydantic_core import from_json

from core.api import (
    EngineError,
    EngineEvent,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from llamacpp_backend.chunks import Chunk, Counts

__all__ = ["Choice"]

_NOT_YET_A_VALUE = "EOF"  # how the JSON parser says that the text ended before it could begin a value


class Choice:
    """Reads the chunks of choice number ``index`` until ``finished``; holds its counts.

    Args:
        index: of the choice.
        stops: stop strings, cut out of plain text.
        echo: what the text begins with, shown as soon as llama.cpp has accepted the prompt.
        parses_calls: the text holds tool calls in our own form.
        bound_to_json: the whole text is JSON that a grammar enforces.
    """

    def __init__(
        self,
        index: int,
        stops: Sequence[str] = (),
        *,
        echo: str = "",
        parses_calls: bool = False,
        bound_to_json: bool = False,
    ) -> None:
        self._index = index
        self._stops = StopMatcher(stops)
        self._echo = echo
        self._parser = CallParser(bound=True) if parses_calls else None
        self._json: list[str] | None = [] if bound_to_json else None
        self._called = False
        self._waiting_tokens = 0
        self._waiting_logprobs: list[TokenLogprob] = []
        self.finished = False
        self.counts = Counts(0, 0, 0)

    def read(self, chunk: Chunk) -> Iterator[EngineEvent]:
        """Yield the events of one chunk.

        Raises:
            EngineError: the model left the form that was to be enforced.
        """
        if self._echo:
            yield TextDelta(choice=self._index, text=self._echo, tokens=0)
            self._echo = ""
        if chunk.counts is not None:
            self._waiting_tokens += chunk.counts.generated - self.counts.generated
            self.counts = chunk.counts
        self._waiting_logprobs += chunk.logprobs
        if chunk.reasoning:
            tokens, logprobs = self._take()
            yield ReasoningDelta(choice=self._index, text=chunk.reasoning, tokens=tokens, logprobs=logprobs)
        if chunk.text:
            yield from self._text(chunk.text)
        for piece in chunk.calls:
            yield self._call(piece)
        if chunk.ended is not None and not self.finished:
            yield from self._end(chunk.ended)

    def _text(self, text: str) -> Iterator[EngineEvent]:
        for piece in self._parser.push(text) if self._parser else (text,):
            if isinstance(piece, CallPiece):
                yield self._call(piece)
            else:
                yield from self._show(self._stops.push(piece))
                if self._stops.stopped:
                    self.finished = True
                    yield Finished(choice=self._index, reason="stop")
                    return
        if self._parser and self._parser.repeated:
            yield from self._end("stop")

    def _show(self, text: str) -> Iterator[EngineEvent]:
        if text:
            if self._json is not None:
                self._json.append(text)
            logprobs = self._within(text) if self._stops.stopped else None
            tokens, waiting = self._take()
            yield TextDelta(
                choice=self._index, text=text, tokens=tokens, logprobs=waiting if logprobs is None else logprobs
            )

    def _within(self, text: str) -> tuple[TokenLogprob, ...]:
        """The waiting log-probabilities of the tokens that begin inside ``text``: a stop string has none."""
        kept, length = [], 0
        for logprob in self._waiting_logprobs:
            if length >= len(text):
                break
            kept.append(logprob)
            length += len(logprob.token)
        return tuple(kept)

    def _call(self, piece: CallPiece) -> ToolCallDelta:
        self._called = True
        tokens, _ = self._take()
        return ToolCallDelta(
            choice=self._index,
            index=piece.index,
            id=f"call_{uuid.uuid4().hex[:24]}" if piece.name is not None else None,
            name=piece.name,
            arguments=piece.arguments,
            tokens=tokens,
        )

    def _end(self, reason: FinishReason) -> Iterator[EngineEvent]:
        held = self._stops.flush()
        if self._parser:
            held += "".join(piece for piece in self._parser.finish() if isinstance(piece, str))
        if held or self._waiting_logprobs:
            tokens, logprobs = self._take()
            if self._json is not None:
                self._json.append(held)
            yield TextDelta(choice=self._index, text=held, tokens=tokens, logprobs=logprobs)
        self._check_json(reason)
        if reason != "length":
            reason = "tool_calls" if self._called else "stop"
        self.finished = True
        yield Finished(choice=self._index, reason=reason)

    def _check_json(self, reason: FinishReason) -> None:
        """Notice a grammar that llama.cpp dropped without a word, as it does with one that is too large for it."""
        if self._json is None or self._called:
            return
        text = "".join(self._json)
        try:
            if reason == "length":
                from_json(text, allow_partial="trailing-strings")
            else:
                msgspec.json.decode(text)
        except (ValueError, msgspec.DecodeError) as error:
            if reason == "length" and str(error).startswith(_NOT_YET_A_VALUE):
                return
            msg = "the model left the grammar that binds its answer; is the schema too large?"
            raise EngineError(msg) from error

    def _take(self) -> tuple[int, tuple[TokenLogprob, ...]]:
        tokens, self._waiting_tokens = self._waiting_tokens, 0
        logprobs, self._waiting_logprobs = tuple(self._waiting_logprobs), []
        return tokens, logprobs
