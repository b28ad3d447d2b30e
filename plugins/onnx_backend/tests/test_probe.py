"""Which runner a graph gets, and what is refused: each is tried before it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from decoding.runner import Floats
from onnx_backend import probe
from onnx_backend.graph import DecoderGraph, read_decoder
from onnx_backend.growing import GrowingRunner
from onnx_backend.probe import Probe, choose_runner
from onnx_backend.runner import SharedBufferRunner
from onnx_backend.testing import make_decoder
from onnx_backend.testing_growing import make_growing

from core.api import EngineLoadError


def opened(file: Path) -> DecoderGraph:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return read_decoder(ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]), file, file.parent)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("logits", ["last", "all", "asked"])
def test_in_place(tmp_path: Path, slots: int, logits: Any) -> None:
    """A graph of GroupQueryAttention keeps its cache in place, and nothing speaks against it."""
    graph = opened(make_decoder(tmp_path, logits=logits))
    runner, reason = choose_runner(graph, slots=slots, context_tokens=32)
    assert isinstance(runner, SharedBufferRunner)
    assert reason == ""
    assert Probe(graph).error(runner) < 1e-4


@pytest.mark.parametrize("slots", [1, 3])
def test_growing(tmp_path: Path, slots: int) -> None:
    """A graph of plain operators gets the other one, and it is said why."""
    runner, reason = choose_runner(opened(make_growing(tmp_path)), slots=slots, context_tokens=32)
    assert isinstance(runner, GrowingRunner)
    assert runner._together
    assert reason == "not cache in place: the graph has no GroupQueryAttention"


@pytest.mark.parametrize("without", ["positions", "mask"])
def test_rows_apart(tmp_path: Path, without: str) -> None:
    """Graphs that cannot tell padding from tokens compute their rows one by one."""
    graph = opened(make_growing(tmp_path, **{without: False}))  # type: ignore[arg-type]
    runner, reason = choose_runner(graph, slots=3, context_tokens=32)
    assert isinstance(runner, GrowingRunner)
    assert not runner._together
    assert "not rows in one call: the logits differ" in reason
    assert Probe(graph).error(runner) < 1e-4


def test_rows_that_would_be_rounded_together(tmp_path: Path) -> None:
    """No row's tokens depend on the others' by a scale that they share."""
    runner, reason = choose_runner(opened(make_growing(tmp_path, rounds=True)), slots=3, context_tokens=32)
    assert isinstance(runner, GrowingRunner)
    assert not runner._together
    assert "one scale" in reason


def test_an_empty_past_is_refused(tmp_path: Path) -> None:
    """It is said at load that a graph cannot begin."""
    with pytest.raises(EngineLoadError, match="from its beginning") as refused:
        choose_runner(opened(make_growing(tmp_path, needs_past=True)), slots=3, context_tokens=32)
    assert refused.value.permanent


class _WrongPosition(SharedBufferRunner):
    def decode(self, slots: Any, tokens: Any, positions: Any) -> Floats:
        return super().decode(slots, tokens, [position - 1 for position in positions])


class _NoCopy(SharedBufferRunner):
    def copy_slot(self, source: int, target: int, length: int) -> None:
        pass


class _SameLengths(SharedBufferRunner):
    def decode(self, slots: Any, tokens: Any, positions: Any) -> Floats:
        return super().decode(slots, tokens, [max(positions)] * len(slots))


class _NoNumber(SharedBufferRunner):
    def decode(self, slots: Any, tokens: Any, positions: Any) -> Floats:
        logits = super().decode(slots, tokens, positions)
        return np.full_like(logits, np.nan)


class _Broken(SharedBufferRunner):
    def decode(self, slots: Any, tokens: Any, positions: Any) -> Floats:
        msg = "the device is on fire"
        raise RuntimeError(msg)


@pytest.mark.parametrize("wrong", [_WrongPosition, _NoCopy, _SameLengths, _NoNumber, _Broken])
def test_wrong_runners_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: type) -> None:
    """A wrong position, slot, mask or number, or a failure: the next runner serves, and the reason is told."""
    graph = opened(make_decoder(tmp_path))
    with pytest.raises(EngineLoadError) as refused:
        Probe(graph).check(wrong(graph, slots=3, context_tokens=32))
    assert refused.value.permanent
    monkeypatch.setattr(probe, "SharedBufferRunner", wrong)
    runner, reason = choose_runner(graph, slots=3, context_tokens=32)
    assert isinstance(runner, GrowingRunner)
    assert reason.startswith("not cache in place: ")
    assert ("on fire" in reason) == (wrong is _Broken)


def test_what_no_runner_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all differ from the graph itself, the model is refused with every reason."""
    graph = opened(make_growing(tmp_path))
    monkeypatch.setattr(Probe, "error", lambda *_: 0.5)
    with pytest.raises(EngineLoadError, match=r"cannot be served by any runner.*rows one by one: .*0\.5") as refused:
        choose_runner(graph, slots=3, context_tokens=32)
    assert refused.value.permanent
