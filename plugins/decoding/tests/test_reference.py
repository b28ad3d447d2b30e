"""The runner that the other tests build on: exact, and particular about what it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decoding.reference import ReferenceRunner
from decoding.runner import Floats
from hypothesis import example, given, settings
from hypothesis import strategies as st

SLOTS = 4
TOKENS = st.lists(st.integers(0, 299), min_size=2, max_size=40)


def alone(tokens: list[int]) -> list[Floats]:
    """Logits after each token, computed one by one in a runner of their own."""
    runner = ReferenceRunner(slots=1)
    return [runner.decode([0], [token], [position])[0] for position, token in enumerate(tokens)]


@settings(deadline=None, max_examples=30)
@given(data=st.data(), rows=st.lists(TOKENS, min_size=SLOTS, max_size=SLOTS))
def test_logits_do_not_depend_on_what_surrounds_them(data: Any, rows: list[list[int]]) -> None:
    """Bit for bit: in chunks of any size, beside others, in any slot, and from a copy."""
    runner = ReferenceRunner(slots=SLOTS)
    slots = data.draw(st.permutations(range(SLOTS)), label="slots")
    expected = [alone(tokens) for tokens in rows]
    copied = data.draw(st.integers(0, len(rows[0]) - 1), label="copied")
    runner.prefill(slots[1], rows[0], 0)
    runner.copy_slot(slots[1], slots[0], copied)
    done = [copied, 0, 0, 0]
    while any(at < len(tokens) for at, tokens in zip(done, rows, strict=True)):
        going = [number for number in range(SLOTS) if done[number] < len(rows[number])]
        one = data.draw(st.sampled_from(going), label="in prefill")
        until = data.draw(st.integers(done[one] + 1, len(rows[one])), label="until")
        found = runner.prefill(slots[one], rows[one][done[one] : until], done[one])
        assert found.tobytes() == expected[one][until - 1].tobytes()
        done[one] = until
        together = [number for number in going if number != one]
        if not together:
            continue
        logits = runner.decode(
            [slots[number] for number in together],
            [rows[number][done[number]] for number in together],
            [done[number] for number in together],
        )
        for number, row in zip(together, logits, strict=True):
            assert row.tobytes() == expected[number][done[number]].tobytes()
            done[number] += 1


@settings(deadline=None, max_examples=30)
@given(tokens=TOKENS, changed=st.integers(0, 38), by=st.integers(1, 299))
@example(tokens=[5] * 250, changed=0, by=1)
def test_every_earlier_token_counts(tokens: list[int], changed: int, by: int) -> None:
    """So a wrong slot or position shows in the logits."""
    changed %= len(tokens) - 1
    other = list(tokens)
    other[changed] = (other[changed] + by) % 300

    assert alone(other)[-1].tobytes() != alone(tokens)[-1].tobytes()


def test_the_seed_makes_the_weights() -> None:
    """The same ones again, or others."""
    one, same, other = (ReferenceRunner(seed=seed).prefill(0, [1, 2, 3], 0) for seed in (1, 1, 2))

    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


def test_what_was_never_computed_shows() -> None:
    """In a prefill, in a decode, and through a copy: beyond its length there is nothing, of neither slot."""
    runner = ReferenceRunner()
    for slot in (0, 1):
        runner.prefill(slot, [1, 2, 3, 4, 5, 6], 0)
    runner.copy_slot(0, 1, 3)

    assert np.isnan(runner.decode([1], [7], [4])).all()
    assert np.isnan(runner.prefill(2, [7], 1)).all()
    assert np.isfinite(runner.decode([0], [7], [6])).all()
    assert np.isfinite(runner.decode([1], [7], [3])).all()


def test_a_slot_decodes_once_in_a_call() -> None:
    """The protocol says that slots are distinct."""
    with pytest.raises(AssertionError, match="distinct"):
        ReferenceRunner().decode([1, 1], [2, 2], [0, 0])


def test_embeddings_leave_the_slots_alone() -> None:
    """One finite vector an input, the same whatever it stands beside."""
    runner = ReferenceRunner()
    runner.prefill(0, [1, 2, 3], 0)

    vectors = runner.embed([[1, 2], [7, 8, 9]])

    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert vectors[1].tobytes() == runner.embed([[7, 8, 9]])[0].tobytes()
    assert runner.decode([0], [4], [3])[0].tobytes() == alone([1, 2, 3, 4])[-1].tobytes()


def test_a_call_can_be_made_to_fail() -> None:
    """Each is announced before it does anything."""
    calls = []

    def third(method: str) -> None:
        calls.append(method)
        if len(calls) == 3:
            raise MemoryError

    runner = ReferenceRunner(on_call=third)
    runner.prefill(0, [1], 0)
    runner.copy_slot(0, 1, 1)
    with pytest.raises(MemoryError):
        runner.decode([0], [2], [1])
    runner.embed([[1]])

    assert calls == ["prefill", "copy_slot", "decode", "embed"]
    assert np.isnan(runner.decode([0], [2], [2])).all()  # the failed call wrote nothing
