"""One choice: the tokens that were chosen -> the contract's events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.api import EngineEvent, FinishReason, TokenLogprob
from decoding.reasoning import ReasoningSplitter
from decoding.sampling import Chosen
from decoding.tokens import Vocabulary
from decoding.writer import AnswerWriter

__all__ = ["Answer"]


class Answer:
    """Reads the tokens of one choice until ``finished``.

    Args:
        vocabulary: of the model.
        writer: writes its events.
        splitter: tells reasoning from text; None: all is text.
        shown: special tokens whose text is part of a tool call or of a reasoning mark.
        begins: the text begins here, so the space that some tokenizers put before every word is not part of it;
            False where it continues a raw prompt.

    Attributes:
        tokens: generated so far, the end of text included.
        reasoning_tokens: of those, tokens of reasoning.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        writer: AnswerWriter,
        *,
        splitter: ReasoningSplitter | None = None,
        shown: frozenset[int] = frozenset(),
        begins: bool = False,
    ) -> None:
        self._vocabulary = vocabulary
        self._writer = writer
        self._splitter = splitter
        self._detokenizer = vocabulary.detokenizer(shown, begins=begins)
        self.tokens = 0
        self.reasoning_tokens = 0

    @property
    def finished(self) -> bool:
        """Whether the last event is written."""
        return self._writer.finished

    def push(self, chosen: Chosen) -> list[EngineEvent]:
        """Return the events that one more token gives.

        Raises:
            EngineError: the model left the form of a tool call that was to be enforced.
        """
        self.tokens += 1
        if chosen.token in self._vocabulary.eos:
            return self.end("stop")
        if self._splitter is not None and self._splitter.inside:
            self.reasoning_tokens += 1
        self._writer.count(1, self._logprobs(chosen), (chosen.token,))
        return list(self._write(self._detokenizer.push(chosen.token)))

    def end(self, reason: FinishReason) -> list[EngineEvent]:
        """Return the last events: what was held back, and `Finished`."""
        events = list(self._write(self._detokenizer.flush()))
        if self._splitter is not None and not self.finished:
            for kind, text in self._splitter.flush():
                events += self._writer.reasoning(text) if kind == "reasoning" else self._writer.text(text)
        if not self.finished:
            events += self._writer.end(reason)
        return events

    def _write(self, text: str) -> Iterator[EngineEvent]:
        if not text:
            return
        for kind, part in self._splitter.push(text) if self._splitter else (("text", text),):
            if kind == "reasoning":
                yield from self._writer.reasoning(part)
            elif not self.finished:
                yield from self._writer.text(part)

    def _logprobs(self, chosen: Chosen) -> Sequence[TokenLogprob]:
        if chosen.logprob is None:
            return ()
        top = tuple(self._logprob(token, logprob) for token, logprob in chosen.top)
        own = self._logprob(chosen.token, chosen.logprob)
        return (TokenLogprob(token=own.token, logprob=own.logprob, utf8=own.utf8, top=top),)

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(
            token=self._vocabulary.name_of(token), logprob=logprob, utf8=self._vocabulary.bytes_of(token)
        )
