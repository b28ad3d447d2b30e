"""Generates many sequences together: one step after the other, each row by its own request's rules.

`Generation.step` runs in the device's thread; `add` and `cancel` may be called from any other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from core.api import EngineBrokenError, EngineError, EngineEvent
from decoding.answer import Answer
from decoding.errors import said
from decoding.masks import MaskMaker, Matcher
from decoding.runner import Floats, Runner
from decoding.sampling import Chooser, Chosen, choose
from decoding.scheduler import Limits, Sequence, State, Step, plan

__all__ = ["Arrival", "Generation", "Row"]

_log = logging.getLogger(__name__)

Arrival = tuple["Row", list[EngineEvent] | EngineError]
"""What a step has for a row: its next events, or the error that ends it."""


@dataclass(eq=False, kw_only=True, slots=True)
class Row:
    """One choice that is generated.

    Attributes:
        sequence: its tokens; the prompt is the same object for all choices of one prompt, so that it is computed once.
        chooser: how it chooses tokens.
        answer: what becomes of them.
        matcher: its grammar, None if it is free.
        max_tokens: most tokens to generate.
        reader: whom its events are for; not looked at here.
    """

    sequence: Sequence
    chooser: Chooser
    answer: Answer
    matcher: Matcher | None = None
    max_tokens: int
    reader: Any = None

    def take(self, chosen: Chosen, context_tokens: int) -> list[EngineEvent]:
        """Return the events of one more token; look at ``answer.finished`` afterwards.

        Raises:
            EngineError: the row's grammar does not allow it, or the model left the form of a tool call.
        """
        answer = self.answer
        self.sequence.tokens.append(chosen.token)
        events = answer.push(chosen)
        if not answer.finished and self.matcher is not None:
            self.matcher.advance(chosen.token)
            if self.matcher.stopped:
                events += answer.end("stop")
        full = answer.tokens >= self.max_tokens or len(self.sequence.tokens) >= context_tokens
        if full and not answer.finished:
            events += answer.end("length")
        return events


class Generation:
    """All rows of one runner.

    Args:
        runner: the loaded model.
        vocab_size: tokens that the tokenizer knows.
        limits: on the prompt tokens of a step.
        deliver: called once per step, in the device's thread, with what it has for its rows.
    """

    def __init__(
        self, runner: Runner, *, vocab_size: int, limits: Limits, deliver: Callable[[list[Arrival]], None]
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._deliver = deliver
        self._masks = MaskMaker(vocab_size)
        self._state = State(runner.slots)
        self._rows: dict[Sequence, Row] = {}
        self._inbox: deque[tuple[Row, bool]] = deque()
        self._arrivals: list[Arrival] = []
        self.broken: EngineBrokenError | None = None
        self.used_tokens = 0

    def add(self, row: Row) -> None:
        """Begin a row at the next step that has a free slot."""
        self._inbox.append((row, True))

    def cancel(self, row: Row) -> None:
        """End a row, wherever it is, before the next step; nothing of it is delivered from then on."""
        self._inbox.append((row, False))

    def close(self) -> None:
        """Give the helper thread back; call it after the device's thread has ended."""
        self._masks.close()

    def step(self) -> bool:
        """Do one step; return False if there was nothing to do. Never raises: errors end rows."""
        self._take_in()
        step = plan(self._state, self._limits)
        idle = not (step.admissions or step.chunks or step.decodes)
        if not idle:
            self._state.apply(step)
            try:
                self._perform(step)
            except Exception as error:  # noqa: BLE001 - a fault of this library must end its rows, not the thread
                _log.exception("a step failed")
                touched = (*(admission.sequence for admission in step.admissions), *step.decodes)
                for sequence in {*touched, *(chunk.sequence for chunk in step.chunks)}:
                    self._fail(sequence, error)
        self.used_tokens = self._state.used_tokens
        arrivals, self._arrivals = self._arrivals, []
        if arrivals:
            self._deliver(arrivals)
        return not idle

    def _take_in(self) -> None:
        while self._inbox:
            row, begins = self._inbox.popleft()
            if not begins:
                if self._rows.pop(row.sequence, None):
                    self._state.release(row.sequence)
            elif self.broken:
                self._arrivals.append((row, self.broken))
            else:
                self._rows[row.sequence] = row
                self._state.add(row.sequence)

    # --- one step

    def _perform(self, step: Step) -> None:
        failed: dict[Sequence, Exception] = {}
        due = [chunk.sequence for chunk in step.chunks if chunk.start + len(chunk.tokens) == len(chunk.sequence.tokens)]
        rows = [self._rows[sequence] for sequence in (*due, *step.decodes)]
        masks = self._masks.start([row.matcher for row in rows])
        logits = self._prefill(step, failed) | self._decode(step.decodes, failed)
        allowed = masks.result()
        kept = [index for index, row in enumerate(rows) if row.sequence in logits]
        if kept:
            chosen = choose(
                [logits[rows[index].sequence] for index in kept],
                [rows[index].chooser for index in kept],
                None if allowed is None else [allowed[index] for index in kept],
            )
            for index, token in zip(kept, chosen, strict=True):
                self._take(rows[index], token)
        if failed:
            self._examine(failed)

    def _prefill(self, step: Step, failed: dict[Sequence, Exception]) -> dict[Sequence, Floats]:
        logits = {}
        for admission in step.admissions:
            if admission.copy_from is not None:
                try:
                    self._runner.copy_slot(admission.copy_from, admission.slot, admission.length)
                except Exception as error:  # noqa: BLE001 - whatever a runtime raises ends its row
                    failed[admission.sequence] = error
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence in failed or sequence.slot is None:
                continue
            try:
                logits[sequence] = self._runner.prefill(sequence.slot, chunk.tokens, chunk.start)
            except Exception as error:  # noqa: BLE001 - as above
                failed[sequence] = error
        return logits

    def _decode(self, sequences: Iterable[Sequence], failed: dict[Sequence, Exception]) -> dict[Sequence, Floats]:
        together = [(sequence, sequence.slot) for sequence in sequences if sequence.slot is not None]
        try:
            return self._decode_rows(together)
        except Exception as error:  # noqa: BLE001 - as above
            if len(together) == 1:
                failed[together[0][0]] = error
                return {}
            _log.exception("a step of %d rows failed; each is tried by itself", len(together))
        logits: dict[Sequence, Floats] = {}
        for one in together:
            try:
                logits |= {sequence: row.copy() for sequence, row in self._decode_rows([one]).items()}
            except Exception as error:  # noqa: BLE001 - as above
                failed[one[0]] = error
        return logits

    def _decode_rows(self, rows: list[tuple[Sequence, int]]) -> dict[Sequence, Floats]:
        if not rows:
            return {}
        logits = self._runner.decode(
            [slot for _, slot in rows],
            [sequence.tokens[-1] for sequence, _ in rows],
            [len(sequence.tokens) - 1 for sequence, _ in rows],
        )
        return {sequence: logits[index] for index, (sequence, _) in enumerate(rows)}

    def _take(self, row: Row, chosen: Chosen | EngineError) -> None:
        """Give a row its next token, and end it if it is complete."""
        if isinstance(chosen, EngineError):
            self._fail(row.sequence, chosen)
            return
        try:
            events = row.take(chosen, self._runner.context_tokens)
        except Exception as error:  # noqa: BLE001 - a row whose text cannot be read ends alone
            self._fail(row.sequence, error)
            return
        if events:
            self._arrivals.append((row, events))
        if row.answer.finished:
            del self._rows[row.sequence]
            self._state.release(row.sequence)

    # --- failures

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """End a row with an error; what its slot holds is not trusted any more."""
        row = self._rows.pop(sequence, None)
        if row is None:
            return
        slot = sequence.slot
        self._state.release(sequence)
        if slot is not None:
            self._state.forget(slot)
            self._clear(slot)
        if not isinstance(error, EngineError):
            _log.error("the runtime failed in one request", exc_info=error)
            error = EngineError(f"The model's runtime failed: {said(error)}")
        self._arrivals.append((row, error))

    def _clear(self, slot: int) -> None:
        try:
            self._runner.clear_slot(slot)
        except Exception:  # noqa: BLE001 - a runtime that cannot do this fails at its next call too
            _log.exception("slot %d could not be cleared", slot)

    def _examine(self, failed: dict[Sequence, Exception]) -> None:
        """End the rows that failed; if the runtime cannot compute any more, all rows, who are then told that."""
        freed = next(iter(failed)).slot
        try:
            if freed is not None:
                self._runner.prefill(freed, (0,), 0)
        except Exception as error:  # noqa: BLE001 - as above
            _log.exception("the runtime cannot compute any more; this replica must be started again")
            self.broken = EngineBrokenError(f"The model's runtime is broken: {said(error)}")
            for sequence in list(self._rows):
                self._fail(sequence, self.broken)
        for sequence, reason in failed.items():
            self._fail(sequence, reason)
