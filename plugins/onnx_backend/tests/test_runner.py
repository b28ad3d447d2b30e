"""The runner of shared buffers against a plain loop over the same graph, whose cache grows: equal answers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_backend import runner as runner_module
from onnx_backend.buffers import DeviceBuffers, HostBuffers, kept_by
from onnx_backend.graph import DecoderGraph, read_decoder
from onnx_backend.runner import SharedBufferRunner
from onnx_backend.testing import CAPACITY, HEADS, LAYERS, SIZE, VOCABULARY, make_decoder

from core.api import RequestError

SLOTS = 4
CONTEXT = 56
NEW = 12
PROMPTS = [[(number * 37 + slot * 11 + 5) % VOCABULARY for number in range(3 + 9 * slot)] for slot in range(SLOTS)]
KINDS: dict[str, dict[str, Any]] = {
    "pruned": {},
    "whole": {"logits": "all"},
    "asked": {"logits": "asked"},
    "positions": {"positions": True},
    "bare": {"hidden": False, "positions": True, "logits": "all"},
    "float16": {"dtype": np.float16},
}


def open_graph(folder: Path, kind: str) -> DecoderGraph:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    file = make_decoder(folder, **KINDS[kind])
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return read_decoder(session, file, folder)


@pytest.fixture(scope="module", params=KINDS)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DecoderGraph:
    return open_graph(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> DecoderGraph:
    return open_graph(tmp_path_factory.mktemp("decoder"), "pruned")


@pytest.fixture(params=[HostBuffers, DeviceBuffers])
def buffers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Rows in our memory; and in ONNX Runtime's, as on a GPU, on a device that is here."""
    if request.param is DeviceBuffers:

        def on_device(graph: DecoderGraph, *, rows: int, capacity: int) -> DeviceBuffers:
            where = {"device": "cpu", "device_id": 0}
            return DeviceBuffers(kept_by(graph), graph.cache_format, rows=rows, capacity=capacity, **where)

        monkeypatch.setattr(runner_module, "allocate", on_device)
    return request.param


class Plain:
    """The graph as it is: one row, and a cache that each call returns grown."""

    def __init__(self, graph: DecoderGraph) -> None:
        self.graph = graph
        self.length = 0
        self.cache = {kept.past: np.zeros((1, kept.heads, 0, kept.size), graph.cache_format) for kept in kept_by(graph)}

    def add(self, tokens: Sequence[int]) -> np.ndarray:
        end = self.length + len(tokens)
        given = {"input_ids": np.array([tokens], np.int64), "attention_mask": np.ones((1, end), np.int64)}
        if self.graph.takes_positions:
            given["position_ids"] = np.arange(self.length, end)[None]
        given |= self.graph.constants
        names = [kept.present for kept in kept_by(self.graph)]
        logits, *grown = self.graph.session.run([self.graph.logits, *names], given | self.cache)
        self.cache = dict(zip(self.cache, grown, strict=True))
        self.length = end
        last: np.ndarray = logits[0, -1].astype(np.float32)
        return last


def plain_answer(graph: DecoderGraph, prompt: Sequence[int], new: int = NEW) -> list[int]:
    plain = Plain(graph)
    answer = [int(plain.add(prompt).argmax())]
    while len(answer) < new:
        answer.append(int(plain.add(answer[-1:]).argmax()))
    return answer


def make_runner(graph: DecoderGraph, slots: int = SLOTS) -> SharedBufferRunner:
    return SharedBufferRunner(graph, slots=slots, context_tokens=CONTEXT)


def run(runner: SharedBufferRunner, slot: int, prompt: Sequence[int], chunk: int = 64, start: int = 0) -> list[int]:
    """One answer, alone."""
    logits = np.zeros(0)
    for begin in range(start, len(prompt), chunk):
        logits = runner.prefill(slot, prompt[begin : begin + chunk], begin)
    answer = [int(logits.argmax())]
    while len(answer) < NEW:
        answer.append(int(runner.decode([slot], answer[-1:], [len(prompt) + len(answer) - 1])[0].argmax()))
    return answer


def test_alone_and_in_chunks(graph: DecoderGraph, buffers: type) -> None:
    """Each prompt in a slot of its own, in chunks of any size; a slot is used again."""
    runner = make_runner(graph)
    assert isinstance(runner._buffers, buffers)
    expected = [plain_answer(graph, prompt) for prompt in PROMPTS]
    for chunk in (64, 5, 1):
        assert [run(runner, slot, prompt, chunk) for slot, prompt in enumerate(PROMPTS)] == expected
    assert len({token for answer in expected for token in answer}) > NEW, "the model says always the same"


def test_staggered(graph: DecoderGraph, buffers: type) -> None:
    """Rows join and leave between any two steps, in any slots and any order."""
    runner = make_runner(graph)
    expected = [plain_answer(graph, prompt) for prompt in PROMPTS]
    rng = random.Random(5)  # noqa: S311
    for _ in range(3):
        slots = rng.sample(range(SLOTS), len(PROMPTS))
        joins = [rng.randrange(NEW) for _ in PROMPTS]
        answers: list[list[int]] = [[] for _ in PROMPTS]
        for step in range(3 * NEW):
            for number, prompt in enumerate(PROMPTS):
                if joins[number] == step:
                    answers[number].append(int(runner.prefill(slots[number], prompt, 0).argmax()))
            going = [number for number, answer in enumerate(answers) if 0 < len(answer) < NEW]
            rng.shuffle(going)
            if going:
                logits = runner.decode(
                    [slots[number] for number in going],
                    [answers[number][-1] for number in going],
                    [len(PROMPTS[number]) + len(answers[number]) - 1 for number in going],
                )
                for number, row in zip(going, logits, strict=True):
                    answers[number].append(int(row.argmax()))
        assert answers == expected


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_schedule(pruned: DecoderGraph, data: st.DataObject) -> None:
    """Whatever is asked in whatever order, a slot's logits are those of its own tokens computed plainly."""
    runner = make_runner(pruned)
    held: list[list[int]] = [[] for _ in range(SLOTS)]
    tokens = st.integers(0, VOCABULARY - 1)
    slots = st.integers(0, SLOTS - 1)

    def check(logits: np.ndarray, slot: int) -> None:
        assert np.allclose(logits, Plain(pruned).add(held[slot]), atol=1e-4)

    for _ in range(data.draw(st.integers(1, 10))):
        match data.draw(st.sampled_from(("prefill", "prefill", "decode", "decode", "decode", "copy", "clear"))):
            case "prefill":
                slot = data.draw(slots)
                start = data.draw(st.integers(0, min(len(held[slot]), CONTEXT - 1)))
                new = data.draw(st.lists(tokens, min_size=1, max_size=min(20, CONTEXT - start)))
                held[slot][start:] = new
                check(runner.prefill(slot, new, start), slot)
            case "decode":
                able = [slot for slot in range(SLOTS) if 0 < len(held[slot]) < CONTEXT]
                if able:
                    chosen = data.draw(st.lists(st.sampled_from(able), min_size=1, unique=True))
                    new = [data.draw(tokens) for _ in chosen]
                    logits = runner.decode(chosen, new, [len(held[slot]) for slot in chosen])
                    for row, slot in enumerate(chosen):
                        held[slot].append(new[row])
                        check(logits[row], slot)
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


def test_copied_prefix(graph: DecoderGraph, buffers: type) -> None:
    """A slot goes on from the beginning of another's prompt, wherever rows were moved meanwhile."""
    runner = make_runner(graph)
    prompt, other = PROMPTS[3], PROMPTS[1]
    runner.prefill(3, prompt, 0)
    runner.prefill(1, other, 0)
    runner.decode([3], [5], [len(prompt)])  # brings slot 3 to the front
    shared = 11
    runner.copy_slot(3, 0, shared)
    assert run(runner, 0, prompt, start=shared) == plain_answer(graph, prompt)
    assert run(runner, 3, prompt, start=len(prompt) - 1) == plain_answer(graph, prompt)
    assert run(runner, 1, other, start=len(other) - 1) == plain_answer(graph, other)


def test_a_copy_moves_with_its_slot(graph: DecoderGraph, buffers: type) -> None:
    """What was copied into a slot is exchanged in full, also where nobody computed anything in it since."""
    runner = make_runner(graph)
    prompt = PROMPTS[3]
    runner.prefill(0, prompt, 0)
    runner.copy_slot(0, 2, 25)
    runner.clear_slot(0)
    plain = Plain(graph)
    plain.add(prompt[:25])
    assert np.allclose(runner.decode([2], [7], [25])[0], plain.add([7]), atol=1e-2)


def test_to_the_last_position(graph: DecoderGraph) -> None:
    """A row is as long as was said, beside a short one; a token more is refused, and no memory is written for it."""
    runner = make_runner(graph, slots=2)
    long = [number % VOCABULARY for number in range(CONTEXT - 2)]
    plain, short = Plain(graph), Plain(graph)
    assert np.allclose(runner.prefill(0, long, 0), plain.add(long), atol=1e-2)
    short.add([9, 8])
    runner.prefill(1, [9, 8], 0)
    for step in range(2):
        logits = runner.decode([0, 1], [3, 4], [CONTEXT - 2 + step, 2 + step])
        assert np.allclose(logits, [plain.add([3]), short.add([4])], atol=1e-2)
    with pytest.raises(ValueError):
        runner.decode([0, 1], [3, 4], [CONTEXT, 4])
    with pytest.raises(ValueError, match="do not fit"):
        runner.prefill(0, [1] * 5, CONTEXT - 1)
    assert np.allclose(runner.decode([1], [7], [4])[0], short.add([7]), atol=1e-2)


def test_a_context_that_the_graph_cannot_count(pruned: DecoderGraph) -> None:
    """Rows may be longer than the graph's table of angles; what lies beyond it fails, and the runner goes on."""
    runner = SharedBufferRunner(pruned, slots=1, context_tokens=2 * CAPACITY)
    tokens = [1] * CAPACITY
    expected = runner.prefill(0, tokens, 0)
    assert np.allclose(expected, Plain(pruned).add(tokens), atol=1e-4)
    with pytest.raises(Exception, match="cos_cache"):
        runner.decode([0], [1], [CAPACITY])
    assert np.array_equal(runner.prefill(0, tokens, 0), expected)


def test_results_are_the_callers(graph: DecoderGraph) -> None:
    """Logits are float32, one row a slot in the order asked for; those of prompts stay what they are."""
    runner = make_runner(graph)
    first = [runner.prefill(slot, prompt, 0) for slot, prompt in enumerate(PROMPTS)]
    kept = [logits.copy() for logits in first]
    positions = [len(prompt) for prompt in PROMPTS]
    together = runner.decode([2, 0, 3], [7, 8, 9], [positions[2], positions[0], positions[3]]).copy()
    for row, (slot, token) in enumerate([(2, 7), (0, 8), (3, 9)]):
        alone = runner.decode([slot], [token], [positions[slot]])
        assert alone.dtype == together.dtype == np.float32
        assert alone.shape == (1, VOCABULARY)
        assert np.allclose(alone[0], together[row], atol=1e-2)
    assert np.array_equal(first, kept)
    assert first[0].dtype == np.float32


def test_a_row_does_not_depend_on_the_length_of_others(graph: DecoderGraph) -> None:
    """As many rows give a row the same bits, be they long or short, and whichever row it is."""
    runner = make_runner(graph)
    for slot, prompt in enumerate(PROMPTS):
        runner.prefill(slot, prompt, 0)
    one = runner.decode([1, 0], [7, 8], [len(PROMPTS[1]), len(PROMPTS[0])])[0].copy()
    other = runner.decode([3, 1], [9, 7], [len(PROMPTS[3]), len(PROMPTS[1])])[1]
    assert np.array_equal(one, other)


def test_a_cleared_slot(graph: DecoderGraph, buffers: type) -> None:
    """What is no number is gone from a slot that was cleared, and never was in another's result."""
    runner = make_runner(graph)
    expected = runner.prefill(1, PROMPTS[1], 0)
    poison(runner, 0)

    runner.clear_slot(0)

    assert not any(np.any(memory) for memory in memories(runner, 0))
    assert np.array_equal(runner.prefill(0, PROMPTS[1], 0), expected)
    assert np.isfinite(runner.decode([0, 1], [7, 7], [len(PROMPTS[1])] * 2)).all()


def test_what_was_in_a_row_before_is_not_seen(graph: DecoderGraph) -> None:
    """Positions that a row does not hold yet are hidden, whatever is in them."""
    runner = make_runner(graph)
    poison(runner, 0)
    assert run(runner, 0, PROMPTS[2], chunk=5) == plain_answer(graph, PROMPTS[2])


def test_nothing_is_made_anew_in_a_step(pruned: DecoderGraph) -> None:
    """Bindings are kept, and no more of them than there are ranges of rows to bind; so is the memory of results."""
    runner = make_runner(pruned)
    for slot, prompt in enumerate(PROMPTS):
        runner.prefill(slot, prompt, 0)
    for count in (1, 2, 3, 4):
        for first in range(SLOTS):
            chosen = [(first + number) % SLOTS for number in range(count)]
            runner.decode(chosen, [1] * count, [len(PROMPTS[slot]) for slot in chosen])
            runner.prefill(first, [1], len(PROMPTS[first]))
    assert set(runner._bindings) == {(row, 1) for row in range(SLOTS)} | {(0, count) for count in range(1, SLOTS + 1)}
    kept = list(runner._bindings.values())
    one = runner.decode([2, 1], [1, 1], [4, 4]).ctypes.data
    assert runner.decode([2, 1], [1, 1], [5, 5]).ctypes.data == one
    assert list(runner._bindings.values()) == kept


@pytest.mark.parametrize(
    ("way", "expected"),
    [("mean", lambda states: states.mean(0)), ("last", lambda states: states[-1]), ("cls", lambda states: states[0])],
)
def test_embeddings(graph: DecoderGraph, way: Any, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    """Made of the last layer's vectors; the same bits in any company, and the slots stay as they are."""
    if graph.hidden is None:
        pytest.skip("no vectors")
    runner = SharedBufferRunner(graph, slots=2, context_tokens=CONTEXT, pooling=way)
    logits = runner.prefill(0, PROMPTS[2], 0)
    runner.prefill(1, PROMPTS[1], 0)
    before = [memory.copy() for slot in range(2) for memory in memories(runner, slot)]

    together = runner.embed(PROMPTS)

    for given_tokens, vector in zip(PROMPTS, together, strict=True):
        states = graph.session.run([graph.hidden], graph.whole(given_tokens))[0][0].astype(np.float32)
        assert np.allclose(vector, expected(states), atol=1e-5)
    assert together.dtype == np.float32
    assert np.array_equal(np.concatenate([runner.embed([tokens]) for tokens in PROMPTS]), together)
    after = [memory for slot in range(2) for memory in memories(runner, slot)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert np.allclose(runner.prefill(0, PROMPTS[2][-1:], len(PROMPTS[2]) - 1), logits, atol=1e-2)


def test_no_embeddings_without_hidden_states(pruned: DecoderGraph) -> None:
    """It is said what the graph lacks."""
    runner = make_runner(dataclasses.replace(pruned, hidden=None))
    with pytest.raises(RequestError, match="no vectors"):
        runner.embed(PROMPTS)


def memories(runner: SharedBufferRunner, slot: int) -> list[np.ndarray]:
    """A slot's row in all buffers."""
    held = runner._buffers
    row = runner._rows[slot]
    assert len(kept_by(runner._graph)) == 2 * LAYERS
    if isinstance(held, HostBuffers):
        return [array[row] for array in held.arrays]
    assert isinstance(held, DeviceBuffers)
    shape = runner.slots, HEADS, CONTEXT, SIZE
    return [buffer.numpy().view(runner._graph.cache_format).reshape(shape)[row] for buffer in held._buffers]


def poison(runner: SharedBufferRunner, slot: int) -> None:
    """Write what is no number into all of a slot."""
    held = runner._buffers
    for number, memory in enumerate(memories(runner, slot)):
        bad = np.full_like(memory, np.nan)
        if isinstance(held, HostBuffers):
            memory[:] = bad
        elif isinstance(held, DeviceBuffers):
            value = ort.OrtValue.ortvalue_from_numpy(bad.view(np.uint8).reshape(-1))
            held._move(number, value.data_ptr(), held.address(number, runner._rows[slot]))
