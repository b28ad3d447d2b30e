"""One choice: llama.cpp's chunks -> the contract's events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from decoding.tools import CallParser
from decoding.writer import AnswerWriter
from pydantic_core import from_json

from core.api import EngineError, EngineEvent, Finished, FinishReason, TextDelta
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
        self._echo = echo
        self._writer = AnswerWriter(index, stops, CallParser(bound=True) if parses_calls else None)
        self._json: list[str] | None = [] if bound_to_json else None
        self.counts = Counts(0, 0, 0)

    @property
    def finished(self) -> bool:
        """Whether the last event is written."""
        return self._writer.finished

    def read(self, chunk: Chunk) -> Iterator[EngineEvent]:
        """Yield the events of one chunk.

        Raises:
            EngineError: the model left the form that was to be enforced.
        """
        if self._echo:
            yield TextDelta(choice=self._index, text=self._echo, tokens=0)
            self._echo = ""
        generated = 0
        if chunk.counts is not None:
            generated = chunk.counts.generated - self.counts.generated
            self.counts = chunk.counts
        self._writer.count(generated, chunk.logprobs)
        for event in self._written(chunk):
            if self._json is not None and isinstance(event, TextDelta):
                self._json.append(event.text)
            if isinstance(event, Finished):
                self._check_json(event.reason)
            yield event

    def _written(self, chunk: Chunk) -> Iterator[EngineEvent]:
        yield from self._writer.reasoning(chunk.reasoning)
        if chunk.text:
            yield from self._writer.text(chunk.text)
        for piece in chunk.calls:
            yield self._writer.call(piece)
        if chunk.ended is not None and not self.finished:
            yield from self._writer.end("length" if chunk.ended == "length" else "stop")

    def _check_json(self, reason: FinishReason) -> None:
        """Notice a grammar that llama.cpp dropped without a word, as it does with one that is too large for it."""
        if self._json is None or self._writer.called:
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
