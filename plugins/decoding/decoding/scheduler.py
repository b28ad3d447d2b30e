"""What runs in the next step: decided by `plan`, a pure function of the `State`; no runtime is known here."""

from __future__ import annotations

import collections.abc
from collections import deque
from dataclasses import dataclass, field

from decoding.slots import LEAST_CHUNK_TOKENS, Content, Place, choose_slot, most_shared

__all__ = ["Admission", "Chunk", "Limits", "Sequence", "State", "Step", "plan"]


@dataclass(eq=False, slots=True)
class Sequence:
    """One choice that is generated.

    Attributes:
        prompt: its tokens; the same object for several choices of one prompt.
        tokens: the prompt and what was generated; the last generated one is not computed yet.
        computed: how many of ``tokens`` have their keys and values in the slot.
        cached: how many of the prompt were found there, or copied.
        slot: where it works; None while it waits and after it was released.
    """

    prompt: tuple[int, ...]
    tokens: list[int] = field(init=False)
    computed: int = 0
    cached: int = 0
    slot: int | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def in_prefill(self) -> bool:
        """Whether a part of the prompt is not computed yet."""
        return self.computed < len(self.prompt)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Most prompt tokens of one step.

    Attributes:
        prefill_tokens: while rows decode, which have to wait for them.
        prefill_tokens_alone: while none does; a cancel waits for them.
    """

    prefill_tokens: int
    prefill_tokens_alone: int

    def __post_init__(self) -> None:
        if min(self.prefill_tokens, self.prefill_tokens_alone) < 1:
            msg = f"a step must be allowed at least one prompt token: {self}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence gets a slot, whose first ``length`` positions are its own already, or are copied from another."""

    sequence: Sequence
    slot: int
    copy_from: int | None
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a sequence's prompt, computed in one step; the one that ends it yields logits."""

    sequence: Sequence
    start: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step does, in this order: admissions (with their copies), chunks, one token for each of ``decodes``."""

    admissions: tuple[Admission, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    decodes: tuple[Sequence, ...] = ()


class State:
    """Who waits, who runs, and what the slots hold.

    Attributes:
        waiting: in order of arrival.
        running: in order of admission.
    """

    def __init__(self, slots: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._holders: list[Sequence | None] = [None] * slots
        self._left: list[list[int]] = [[] for _ in range(slots)]
        self._left_at: list[int] = [0] * slots
        self._clock = 0

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits for a slot."""
        self.waiting.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """A sequence is finished or cancelled, in whatever phase; what is computed of it stays in its slot."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        slot = sequence.slot
        self.running.remove(sequence)
        self._holders[slot] = None
        self._left[slot] = sequence.tokens[: sequence.computed]
        self._clock += 1
        self._left_at[slot] = self._clock
        sequence.slot = None

    def forget(self, slot: int) -> None:
        """What a free slot holds is not to be used again."""
        self._left[slot] = []

    def apply(self, step: Step) -> None:
        """Take note of a step that is about to be done."""
        for admission in step.admissions:
            sequence = admission.sequence
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self._holders[admission.slot] = sequence
            self._left[admission.slot] = []
            sequence.slot = admission.slot
            sequence.computed = sequence.cached = admission.length
        for chunk in step.chunks:
            chunk.sequence.computed += len(chunk.tokens)
        for sequence in step.decodes:
            sequence.computed += 1

    def holder(self, slot: int) -> Sequence | None:
        """Return the sequence that works in a slot."""
        return self._holders[slot]

    def contents(self) -> list[Content]:
        """Return what every slot holds."""
        return [
            Content(slot, self._left[slot], free=True, last_used=self._left_at[slot])
            if (holder := self._holders[slot]) is None
            else Content(slot, holder.tokens[: holder.computed], free=False)
            for slot in range(len(self._holders))
        ]

    @property
    def free_slots(self) -> int:
        """Slots that no sequence works in."""
        return len(self._holders) - len(self.running)

    @property
    def used_tokens(self) -> int:
        """Tokens that the running sequences hold in their slots."""
        return sum(sequence.computed for sequence in self.running)


def plan(state: State, limits: Limits) -> Step:
    """Return the next step; empty when there is nothing to do. Changes nothing.

    Every sequence that decodes does so in every step. Of the step's prompt tokens half are for the one that was
    admitted first, so that nobody is passed by for ever, and the others go where least is missing: a short prompt
    does not wait for a long one, equal ones are finished one after the other, and there are few chunks, each of which
    costs a pass over all weights.
    """
    admissions = _admit(state)
    decodes = tuple(sequence for sequence in state.running if not sequence.in_prefill)
    prefills = [(sequence, sequence.computed) for sequence in state.running if sequence.in_prefill]
    prefills += [(admission.sequence, admission.length) for admission in admissions]
    budget = limits.prefill_tokens if decodes else limits.prefill_tokens_alone
    needs = [len(sequence.tokens) - start for sequence, start in prefills]
    shares = _share(budget, needs)
    whole = [_whole_chunk(share, need) for share, need in zip(shares, needs, strict=True)]
    if any(whole):  # else the step is allowed so little that it cannot be had
        shares = whole
    chunks = tuple(
        Chunk(sequence, start, tuple(sequence.tokens[start : start + share]))
        for (sequence, start), share in zip(prefills, shares, strict=True)
        if share
    )
    return Step(tuple(admissions), chunks, decodes)


def _admit(state: State) -> list[Admission]:
    """Give free slots to those who wait, in order.

    A sequence whose very prompt is being computed elsewhere waits until it can be copied, and lets others pass.
    """
    if not state.waiting or not state.free_slots:
        return []
    contents = {content.slot: content for content in state.contents()}
    begun = {id(sequence.prompt) for sequence in state.running if sequence.in_prefill}
    begun -= {id(sequence.prompt) for sequence in state.running if sequence.computed >= most_shared(sequence.prompt)}
    admissions: list[Admission] = []
    for sequence in state.waiting:
        if id(sequence.prompt) in begun:
            continue
        place = choose_slot(sequence.prompt, contents.values())
        if place is None:
            break
        admissions.append(Admission(sequence, place.slot, place.copy_from, place.length))
        if place.length < most_shared(sequence.prompt):
            begun.add(id(sequence.prompt))
        contents[place.slot] = _taken(place, sequence)
    return admissions


def _taken(place: Place, sequence: Sequence) -> Content:
    """What the slot holds for those admitted later in the same step.

    What is copied there in this step is not copied on: should the copy fail, only its own sequence may be lost.
    """
    return Content(place.slot, sequence.prompt[: place.length] if place.copy_from is None else (), free=False)


def _share(budget: int, needs: collections.abc.Sequence[int]) -> list[int]:
    """Divide prompt tokens, as `plan` says, among sequences in the order of their admission."""
    shares = [0] * len(needs)
    if needs:
        shares[0] = min(needs[0], -(-budget // 2))
        budget -= shares[0]
    for index in sorted(range(len(needs)), key=lambda index: (needs[index], index)):
        more = min(needs[index] - shares[index], budget)
        shares[index] += more
        budget -= more
    return shares


def _whole_chunk(share: int, need: int) -> int:
    """Make a share one that neither is a single token nor leaves one, if it is not all there is."""
    if need - share in range(1, LEAST_CHUNK_TOKENS):
        share = need - LEAST_CHUNK_TOKENS
    return share if share >= min(need, LEAST_CHUNK_TOKENS) else 0
