"""The runner of graphs whose cache grows, against plain calls over whole texts: equal answers in any company."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_backend.graph import DecoderGraph, read_decoder
from onnx_backend.growing import GrowingRunner
from onnx_backend.testing_growing import VOCABULARY, make_growing

from core.api import RequestError

SLOTS = 4
CONTEXT = 56
PROMPTS = [[(number * 37 + slot * 11 + 5) % VOCABULARY for number in range(3 + 9 * slot)] for slot in range(SLOTS)]
CLOSE = 1e-3  # of logits up to 10 in float32, whose last bits differ with how many rows and columns a call has


def open_graph(folder: Path, **kind: bool) -> DecoderGraph:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    file = make_growing(folder, **kind)  # type: ignore[arg-type]
    return read_decoder(ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]), file, folder)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> DecoderGraph:
    return open_graph(tmp_path_factory.mktemp("growing"))


def plain(graph: DecoderGraph, tokens: Sequence[int]) -> np.ndarray:
    """Logits of the last token, as the graph by itself computes them."""
    last: np.ndarray = graph.session.run([graph.logits], graph.whole(tokens))[0][0, -1]
    return last


def make_runner(graph: DecoderGraph, *, together: bool = True) -> GrowingRunner:
    return GrowingRunner(graph, slots=SLOTS, context_tokens=CONTEXT, together=together)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), together=st.booleans())
def test_any_schedule(graph: DecoderGraph, data: st.DataObject, *, together: bool) -> None:
    """Whatever is asked in whatever order, a slot's logits are those of its own tokens computed plainly."""
    runner = make_runner(graph, together=together)
    held: list[list[int]] = [[] for _ in range(SLOTS)]
    tokens = st.integers(0, VOCABULARY - 1)
    slots = st.integers(0, SLOTS - 1)
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(
            st.sampled_from(("prefill", "prefill", "decode", "decode", "decode", "again", "copy", "clear"))
        ):
            case "prefill":
                slot = data.draw(slots)
                start = data.draw(st.integers(0, min(len(held[slot]), CONTEXT - 1)))
                new = data.draw(st.lists(tokens, min_size=1, max_size=min(20, CONTEXT - start)))
                held[slot][start:] = new
                assert np.allclose(runner.prefill(slot, new, start), plain(graph, held[slot]), atol=CLOSE)
            case "decode" | "again" as what:  # again: a token's position is computed a second time
                back = int(what == "again")
                able = [slot for slot in range(SLOTS) if back < len(held[slot]) < CONTEXT]
                if able:
                    chosen = data.draw(st.lists(st.sampled_from(able), min_size=1, unique=True))
                    new = [data.draw(tokens) for _ in chosen]
                    logits = runner.decode(chosen, new, [len(held[slot]) - back for slot in chosen])
                    for row, slot in enumerate(chosen):
                        held[slot][len(held[slot]) - back :] = [new[row]]
                        assert np.allclose(logits[row], plain(graph, held[slot]), atol=CLOSE)
            case "copy":
                source, target = data.draw(slots), data.draw(slots)
                if source != target and held[source]:
                    length = data.draw(st.integers(1, len(held[source])))
                    runner.copy_slot(source, target, length)
                    held[target] = held[source][:length]
            case "clear":
                slot = data.draw(slots)
                runner.clear_slot(slot)
                held[slot] = []


def test_nothing_is_copied_while_the_same_rows_go_on(graph: DecoderGraph) -> None:
    """What a step returned is the next one's past, in the same two buffers, in whatever order the slots are named."""
    runner = make_runner(graph)
    held = [list(prompt) for prompt in PROMPTS[:3]]
    for slot, prompt in enumerate(held):
        runner.prefill(slot, prompt, 0)
    addresses = set()
    put_together = 0
    original = runner._put_together

    def counted(slots: Sequence[int], lengths: Sequence[int]) -> None:
        nonlocal put_together
        put_together += 1
        original(slots, lengths)

    runner._put_together = counted  # type: ignore[method-assign]
    for order in ([2, 0, 1], [0, 1, 2], [1, 2, 0], [0, 2, 1]):
        logits = runner.decode(order, [slot + 7 for slot in order], [len(held[slot]) for slot in order])
        addresses.add(runner._batch.past[0].ctypes.data)
        for row, slot in enumerate(order):
            held[slot].append(slot + 7)
            assert np.allclose(logits[row], plain(graph, held[slot]), atol=CLOSE)
    assert put_together == 1
    assert len(addresses) == 2


def test_who_leaves_takes_its_tokens_along(graph: DecoderGraph) -> None:
    """The longest row lies in the batch as it would alone; what leaves or is copied must not be overwritten there."""
    runner = make_runner(graph)
    for slot in (0, 1):
        runner.prefill(slot, PROMPTS[3 - slot], 0)
    lengths = [len(PROMPTS[3]), len(PROMPTS[2])]
    runner.decode([0, 1], [7, 8], lengths)
    runner.copy_slot(0, 2, lengths[0] + 1)
    for step in range(1, 4):
        runner.decode([1], [9], [lengths[1] + step])
    logits = runner.decode([2, 0], [5, 6], [lengths[0] + 1] * 2)
    assert np.allclose(logits[0], plain(graph, [*PROMPTS[3], 7, 5]), atol=CLOSE)
    assert np.allclose(logits[1], plain(graph, [*PROMPTS[3], 7, 6]), atol=CLOSE)


def test_a_poisoned_neighbour(graph: DecoderGraph) -> None:
    """What is no number in one slot is in no other's result, and gone when the slot is cleared."""
    runner = make_runner(graph)
    runner._batch.next = [np.full(4096, np.nan, np.float32) for _ in runner._batch.next]
    for slot in (0, 1):
        runner.prefill(slot, PROMPTS[slot], 0)
    runner._kept[0] = [np.full_like(tensor, np.nan) for tensor in runner._kept[0]]
    logits = runner.decode([0, 1], [7, 7], [len(PROMPTS[0]), len(PROMPTS[1])])
    assert np.isnan(logits[0]).any()
    assert np.allclose(logits[1], plain(graph, [*PROMPTS[1], 7]), atol=CLOSE)

    runner.clear_slot(0)
    assert np.allclose(runner.prefill(0, PROMPTS[2], 0), plain(graph, PROMPTS[2]), atol=CLOSE)
    logits = runner.decode([1, 0], [8, 9], [len(PROMPTS[1]) + 1, len(PROMPTS[2])])
    assert np.allclose(logits[0], plain(graph, [*PROMPTS[1], 7, 8]), atol=CLOSE)
    assert np.allclose(logits[1], plain(graph, [*PROMPTS[2], 9]), atol=CLOSE)


def test_a_failed_step_changes_nothing(graph: DecoderGraph) -> None:
    """A step that raises can be asked for again, row by row."""
    runner = make_runner(graph)
    for slot in (0, 1):
        runner.prefill(slot, PROMPTS[slot], 0)
    lengths = [len(PROMPTS[0]), len(PROMPTS[1])]
    runner.decode([0, 1], [7, 7], lengths)
    with pytest.raises(Exception, match="indices"):
        runner.decode([0, 1], [8, VOCABULARY], [length + 1 for length in lengths])
    logits = runner.decode([0], [8], [lengths[0] + 1])
    assert np.allclose(logits[0], plain(graph, [*PROMPTS[0], 7, 8]), atol=CLOSE)
    logits = runner.decode([1], [9], [lengths[1] + 1])
    assert np.allclose(logits[0], plain(graph, [*PROMPTS[1], 7, 9]), atol=CLOSE)


def test_tokens_that_a_slot_does_not_hold(graph: DecoderGraph) -> None:
    """A position beyond a slot's tokens is an error, not somebody's memory."""
    runner = make_runner(graph)
    runner.prefill(0, PROMPTS[0], 0)
    with pytest.raises(Exception, match=r"(?i)shape"):
        runner.prefill(0, [1], len(PROMPTS[0]) + 2)
    with pytest.raises(Exception, match=r"(?i)shape|broadcast"):
        runner.decode([0], [1], [len(PROMPTS[0]) + 2])


@pytest.mark.parametrize("way", ["mean", "last", "cls"])
def test_vectors(graph: DecoderGraph, way: str) -> None:
    """Vectors are those of each input alone, and the slots stay as they are."""
    runner = GrowingRunner(graph, slots=2, context_tokens=CONTEXT, pooling=way)  # type: ignore[arg-type]
    runner.prefill(0, PROMPTS[1], 0)
    vectors = runner.embed(PROMPTS)
    for prompt, vector in zip(PROMPTS, vectors, strict=True):
        states = graph.session.run(["hidden_states"], graph.whole(prompt))[0][0]
        expected = {"mean": states.mean(0), "last": states[-1], "cls": states[0]}[way]
        assert np.allclose(vector, expected, atol=1e-6)
    logits = runner.decode([0], [7], [len(PROMPTS[1])])
    assert np.allclose(logits[0], plain(graph, [*PROMPTS[1], 7]), atol=CLOSE)


def test_no_vectors(tmp_path: Path) -> None:
    """A graph without that output makes none, and says so."""
    with pytest.raises(RequestError, match="no vectors"):
        make_runner(open_graph(tmp_path, hidden=False)).embed(PROMPTS)
