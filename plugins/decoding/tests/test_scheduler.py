"""What runs in the next step."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from decoding.scheduler import Limits, Sequence, State, Step, plan
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

LIMITS = Limits(prefill_tokens=8, prefill_tokens_alone=32)


def prompt(length: int, first: int = 0) -> tuple[int, ...]:
    return tuple(range(first, first + length))


def done(state: State, step: Step) -> None:
    """Perform a step: whoever has logits gets token 7."""
    state.apply(step)
    for sequence in [*(chunk.sequence for chunk in step.chunks), *step.decodes]:
        if sequence.computed == len(sequence.tokens):
            sequence.tokens.append(7)


def run(state: State, steps: int, limits: Limits = LIMITS) -> list[Step]:
    taken = []
    for _ in range(steps):
        taken.append(plan(state, limits))
        done(state, taken[-1])
    return taken


def sizes(step: Step) -> dict[int, int]:
    """Length of each chunk by the length of its prompt."""
    return {len(chunk.sequence.prompt): len(chunk.tokens) for chunk in step.chunks}


def test_nothing_to_do() -> None:
    """An empty state gives an empty step."""
    assert plan(State(2), LIMITS) == Step()


def test_a_prompt_is_computed_in_chunks_and_then_decoded() -> None:
    """In order, without a gap, the last chunk ending at the prompt's end; then a token a step."""
    state = State(1)
    state.add(one := Sequence(prompt(70)))

    first, second, third, fourth = run(state, 4)

    assert [(chunk.start, len(chunk.tokens)) for step in (first, second, third) for chunk in step.chunks] == [
        (0, 32),
        (32, 32),
        (64, 6),
    ]
    assert first.admissions[0].sequence is one
    assert third.chunks[0].tokens == prompt(70)[64:]
    assert fourth == Step(decodes=(one,))


def test_a_long_prompt_does_not_stall_who_decodes() -> None:
    """While it is computed, every step also decodes, and takes fewer prompt tokens."""
    state = State(2)
    state.add(one := Sequence(prompt(4)))
    run(state, 2)
    state.add(Sequence(prompt(100, 1000)))

    for step in run(state, 12):
        assert step.decodes == (one,)
        assert sum(sizes(step).values()) == 8


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """It gets what it needs in the first step; the long one gets the rest."""
    state = State(3)
    state.add(Sequence(prompt(4000)))
    run(state, 1)
    state.add(Sequence(prompt(10, 9000)))

    assert sizes(plan(state, LIMITS)) == {4000: 22, 10: 10}


def test_equal_prompts_are_finished_one_after_the_other() -> None:
    """In the order of their arrival, in chunks as large as can be: the first need not wait for the last."""
    state = State(3)
    for number in range(3):
        state.add(Sequence(prompt(40, 1000 * number)))

    steps = run(state, 6)

    first = [[(chunk.sequence.prompt[0], len(chunk.tokens)) for chunk in step.chunks] for step in steps]
    assert first[:3] == [[(0, 32)], [(0, 8), (1000, 24)], [(1000, 8)]]


def test_the_oldest_prompt_gets_half_whoever_else_comes() -> None:
    """Shorter ones get the other half, the shortest first."""
    state = State(3)
    for number, length in enumerate((400, 50, 20)):
        state.add(Sequence(prompt(length, 1000 * number)))

    assert sizes(plan(state, LIMITS)) == {400: 16, 20: 16}


def test_short_prompts_do_not_pass_a_long_one_for_ever() -> None:
    """Even where a step has a single prompt token: it goes to who came first."""
    state = State(2)
    state.add(long := Sequence(prompt(30)))
    for number in range(40):
        state.add(Sequence(prompt(1, 1000 + number)))
    for _ in range(40):
        done(state, plan(state, Limits(prefill_tokens=1, prefill_tokens_alone=1)))
        for sequence in list(state.running):
            if sequence is not long and not sequence.in_prefill:
                state.release(sequence)

    assert not long.in_prefill


def test_who_waits_is_admitted_in_order() -> None:
    """No more than there are slots."""
    state = State(2)
    sequences = [Sequence(prompt(5, 100 * number)) for number in range(4)]
    for sequence in sequences:
        state.add(sequence)

    step = plan(state, LIMITS)

    assert [admission.sequence for admission in step.admissions] == sequences[:2]


def test_choices_of_one_prompt_compute_it_once() -> None:
    """The others wait for the first, let strangers pass, and then copy all but the last two tokens."""
    state = State(4)
    shared = prompt(40)
    first, second, third = (Sequence(shared) for _ in range(3))
    stranger = Sequence(prompt(5, 500))
    for sequence in (first, second, third, stranger):
        state.add(sequence)

    steps = run(state, 4)

    assert [admission.sequence for admission in steps[0].admissions] == [first, stranger]
    copied = [admission for step in steps[1:] for admission in step.admissions]
    assert [(admission.sequence, admission.length) for admission in copied] == [(second, 38), (third, 38)]
    assert copied[0].copy_from == first.slot
    assert copied[1].copy_from in {first.slot, second.slot}
    assert (first.cached, second.cached) == (0, 38)


def test_what_was_computed_is_found_again() -> None:
    """A conversation's next turn starts where the last one ended."""
    state = State(2)
    state.add(one := Sequence(prompt(20)))
    run(state, 4)
    state.release(one)
    state.add(Sequence((*one.tokens, 50, 51)))

    step = plan(state, LIMITS)

    assert step.admissions[0].copy_from is None
    assert step.admissions[0].length == len(one.tokens) - 1  # the last token was chosen, but never computed
    assert step.chunks[0].tokens == (7, 50, 51)


def filled(*prompts: tuple[int, ...]) -> tuple[State, list[Sequence]]:
    """A state whose slots hold these prompts and a token more, in order; nobody has left yet."""
    state = State(len(prompts))
    sequences = [Sequence(one) for one in prompts]
    for sequence in sequences:
        state.add(sequence)
        while sequence.computed <= len(sequence.prompt):
            run(state, 1)
    assert [sequence.slot for sequence in sequences] == list(range(len(prompts)))
    return state, sequences


def test_what_is_copied_in_a_step_is_not_copied_on_in_it() -> None:
    """Should the copy fail, another sequence would go on from what is not there."""
    state, (first, second, source) = filled(prompt(20, 100), prompt(20, 200), prompt(40))
    state.release(first)
    state.release(second)
    state.add(Sequence((*prompt(40), 90)))
    state.add(Sequence((*prompt(40), 91)))

    step = plan(state, LIMITS)

    assert [(admission.slot, admission.copy_from) for admission in step.admissions] == [(0, 2), (1, 2)]
    assert source.slot == 2


def test_what_is_given_away_in_a_step_is_not_found_in_it() -> None:
    """The second would copy what the first has just been copied over."""
    state, (first, second, _) = filled(prompt(20, 100), prompt(20, 200), prompt(40))
    state.release(first)
    state.release(second)
    state.add(Sequence((*prompt(40), 90, 91)))
    state.add(Sequence((*prompt(20, 100), 92, 93)))

    step = plan(state, LIMITS)

    assert [(a.slot, a.copy_from, a.length) for a in step.admissions] == [(0, 2, 40), (1, None, 0)]


def test_what_is_not_trusted_is_not_found_again() -> None:
    """After a failure of the runtime in its slot."""
    state = State(1)
    state.add(one := Sequence(prompt(20)))
    run(state, 2)
    slot = one.slot
    state.release(one)
    assert slot is not None
    state.forget(slot)
    state.add(Sequence(prompt(20)))

    assert plan(state, LIMITS).admissions[0].length == 0


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cancel_in_any_phase(steps: int) -> None:
    """Waiting, in prefill, decoding: the next step knows nothing of it."""
    state = State(1)
    state.add(one := Sequence(prompt(60)))
    state.add(two := Sequence(prompt(3, 100)))
    run(state, steps)
    state.release(one)

    step = plan(state, LIMITS)

    assert [admission.sequence for admission in step.admissions] == [two]
    assert [chunk.sequence for chunk in step.chunks] == [two]
    assert step.decodes == ()


def test_limits_must_let_something_pass() -> None:
    """A limit of 0 would hang for ever."""
    with pytest.raises(ValueError, match="at least one"):
        Limits(prefill_tokens=0, prefill_tokens_alone=1)


def everything(state: State) -> Any:
    """All that a state is made of, as values that can be compared."""
    known = {*state.running, *state.waiting}
    return copy.deepcopy((
        [[id(sequence) for sequence in group] for group in (state.waiting, state.running)],
        {id(s): (s.prompt, s.tokens, s.computed, s.cached, s.slot) for s in known},
        [(id(holder) if holder else None) for holder in state._holders],
        state._left,
        state._left_at,
        state._clock,
    ))  # fmt: skip


class Memory:
    """What a runtime's slots hold, token by token; says so when a step builds on what is not there."""

    def __init__(self, slots: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(slots)]

    def perform(self, step: Step, broken: set[int]) -> None:
        """Do a step whose admissions of these numbers fail while they copy."""
        lost = {step.admissions[number].sequence for number in broken}
        for admission in step.admissions:
            if admission.copy_from is not None:
                copied = self.rows[admission.copy_from][: admission.length]
                self.rows[admission.slot] = [-1] * 100 if admission.sequence in lost else copied
            if admission.sequence not in lost:
                found = self.rows[admission.slot][: admission.length]
                assert found == list(admission.sequence.prompt[: admission.length])
        for chunk in step.chunks:
            if chunk.sequence not in lost:
                self._write(chunk.sequence, chunk.start, list(chunk.tokens))
        for sequence in step.decodes:
            self._write(sequence, len(sequence.tokens) - 1, sequence.tokens[-1:])

    def _write(self, sequence: Sequence, start: int, tokens: list[int]) -> None:
        assert sequence.slot is not None
        row = self.rows[sequence.slot]
        assert row[:start] == sequence.tokens[:start]
        assert tokens == sequence.tokens[start : start + len(tokens)]
        row[start:] = tokens


class Traffic(RuleBasedStateMachine):
    """Random arrivals, steps and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(3)
        self.memory = Memory(3)
        self.alive: list[Sequence] = []
        self.letters = itertools.count(1000)

    @rule(length=st.integers(1, 60), first=st.sampled_from([0, 0, 5]), n=st.integers(1, 3))
    def arrive(self, length: int, first: int, n: int) -> None:
        shared = prompt(length, first)
        for _ in range(n):
            self._add(Sequence(shared))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), more=st.integers(0, 20))
    def go_on(self, data: Any, more: int) -> None:
        """A conversation's next turn, or another branch of it."""
        before = data.draw(st.sampled_from(self.alive), label="before").tokens
        kept = data.draw(st.integers(1, len(before)), label="kept")
        self._add(Sequence((*before[:kept], *prompt(more, 500))))

    def _add(self, sequence: Sequence) -> None:
        self.alive.append(sequence)
        self.state.add(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        gone = data.draw(st.sampled_from(self.alive), label="gone")
        self.alive.remove(gone)
        self.state.release(gone)

    @rule(broken=st.sets(st.integers(0, 2), max_size=1))
    def step(self, broken: set[int]) -> None:
        """Do a step; where one that is admitted with a copy is chosen, the runtime fails in it."""
        before = everything(self.state)
        deciding = {id(sequence) for sequence in self.state.running if not sequence.in_prefill}
        step = plan(self.state, LIMITS)
        assert before == everything(self.state), "plan() changed the state"

        assert {id(sequence) for sequence in step.decodes} == deciding
        prefilled = sum(len(chunk.tokens) for chunk in step.chunks)
        assert prefilled <= (LIMITS.prefill_tokens if step.decodes else LIMITS.prefill_tokens_alone)
        unfinished = [sequence for sequence in self.state.running if sequence.in_prefill]
        assert prefilled > 0 or not (unfinished or step.admissions)
        for admission in step.admissions:
            assert admission.length < len(admission.sequence.prompt)
        self.state.apply(step)
        broken = {n for n in broken if n < len(step.admissions) and step.admissions[n].copy_from is not None}
        self.memory.perform(step, broken)
        for number in broken:
            self.alive.remove(step.admissions[number].sequence)
            self.state.release(step.admissions[number].sequence)
            self.state.forget(step.admissions[number].slot)
        for sequence in self.state.running:
            if sequence.computed == len(sequence.tokens):
                sequence.tokens.append(next(self.letters))

    @invariant()
    def nobody_shares_a_slot(self) -> None:
        slots = [sequence.slot for sequence in self.state.running]
        assert len(set(slots)) == len(slots)
        assert {id(s) for s in [*self.state.running, *self.state.waiting]} == {id(s) for s in self.alive}
        assert self.state.used_tokens == sum(sequence.computed for sequence in self.alive)

    @invariant()
    def the_state_knows_what_is_held(self) -> None:
        for content in self.state.contents():
            assert self.memory.rows[content.slot][: len(content.tokens)] == list(content.tokens)
        assert self.state.free_slots == sum(content.free for content in self.state.contents())

    @invariant()
    def slots_are_not_left_idle(self) -> None:
        """After a step, who waits is waiting for a slot or for the same prompt's first computation."""
        free = 3 - len(self.state.running)
        admitted = plan(self.state, LIMITS).admissions
        running = [*self.state.running, *(admission.sequence for admission in admitted)]
        twins = {id(sequence.prompt) for sequence in running if sequence.in_prefill}
        strangers = [s for s in self.state.waiting if id(s.prompt) not in twins]
        assert len(admitted) == free or not strangers


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=12),
    budgets=st.tuples(st.integers(4, 40), st.integers(4, 80)),
    slots=st.integers(1, 5),
)
def test_no_chunk_is_a_single_token(lengths: list[int], budgets: tuple[int, int], slots: int) -> None:
    """Unless the prompt is: runtimes round one token otherwise than several. And nobody gets more than is allowed."""
    state, limits = State(slots), Limits(prefill_tokens=budgets[0], prefill_tokens_alone=budgets[1])
    shared = prompt(100)
    sequences = [Sequence(shared[:length]) for length in lengths]
    for sequence in sequences:
        state.add(sequence)
    while any(len(sequence.tokens) < len(sequence.prompt) + 3 for sequence in sequences):
        step = plan(state, limits)
        for chunk in step.chunks:
            left = len(chunk.sequence.tokens) - chunk.start - len(chunk.tokens)
            assert left != 1
            assert len(chunk.tokens) > 1 or len(chunk.sequence.prompt) == 1
        assert sum(len(chunk.tokens) for chunk in step.chunks) <= max(budgets)
        done(state, step)
        for sequence in sequences:
            if sequence.slot is not None and len(sequence.tokens) >= len(sequence.prompt) + 3:
                state.release(sequence)


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=12))
def test_everybody_is_served(lengths: list[int]) -> None:
    """However many there are for three slots, each is decoded in a bounded number of steps."""
    state = State(3)
    waiting = [Sequence(prompt(length, 1000 * number)) for number, length in enumerate(lengths)]
    for sequence in waiting:
        state.add(sequence)
    for _ in range(sum(length // 2 + 3 for length in lengths)):
        done(state, plan(state, LIMITS))
        for sequence in list(state.running):
            if len(sequence.tokens) > len(sequence.prompt) + 1:
                state.release(sequence)
                waiting.remove(sequence)

    assert waiting == []
    assert plan(state, LIMITS) == Step()
