"""Captured decode steps, with a stand-in for CUDA that computes again what was captured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch_backend import cuda_graphs
from torch_backend.architecture import probe
from torch_backend.runner import TorchRunner
from torch_backend.testing import make_model

PROMPTS = [[5, 6, 7, 8, 9], [11, 12, 13], [21, 22, 23, 24, 25, 26, 27]]


def test_only_where_it_pays() -> None:
    """On CUDA, if wanted."""
    assert cuda_graphs.usable("cuda:1", wanted=True)
    assert not cuda_graphs.usable("cuda:1", wanted=False)
    assert not cuda_graphs.usable("cpu", wanted=True)
    assert not cuda_graphs.usable("mps", wanted=True)


def test_rounding_up() -> None:
    """To a power of two, within bounds; a bound need not be one."""
    found = [cuda_graphs.round_up(number, least=1, most=12) for number in (1, 2, 3, 5, 8, 9, 12)]
    assert found == [1, 2, 4, 8, 8, 12, 12]
    assert cuda_graphs.round_up(3, least=256, most=1000) == 256


@pytest.mark.parametrize("name", ["qwen2-sliding", "gpt2"])
def test_same_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded up or not: rows that fill up change nothing, and no other slot's content."""
    captured: list[tuple[int, int]] = []

    def capture(step: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        logits = step().clone()
        captured.append((len(logits), graphed._cache.step.end))
        kept = graphed._cache.step

        def replay() -> None:
            # A graph's kernels read what the step's tensors hold now, the masks made of them included.
            graphed._cache.step = kept
            logits.copy_(step())

        return logits, replay

    monkeypatch.setattr(cuda_graphs, "_capture", capture)
    monkeypatch.setattr(cuda_graphs, "_LEAST_POSITIONS", 8)
    changes = {"n_positions": 40} if name == "gpt2" else {}  # a table without a place for what fills up
    shapes = probe(make_model(name)).shapes
    plain = TorchRunner(make_model(name, **changes), shapes, slots=5, context_tokens=40)
    graphed = TorchRunner(make_model(name, **changes), shapes, slots=5, context_tokens=40, graphs=True)
    for runner in (plain, graphed):
        for slot, prompt in enumerate(PROMPTS):
            runner.prefill(slot, prompt, 0)
    for slots in ([0, 1, 2], [1], [2, 0], [2, 1, 0]):
        lengths = [len(PROMPTS[slot]) for slot in slots]
        for step in range(4):
            tokens = [30 + slot + step for slot in slots]
            positions = [length + step for length in lengths]
            wanted = torch.from_numpy(plain.decode(slots, tokens, positions))
            assert torch.allclose(torch.from_numpy(graphed.decode(slots, tokens, positions)), wanted, atol=1e-4)
    assert set(captured) == {(4, 8), (4, 16), (1, 8), (2, 8), (2, 16)}
    assert len(captured) == len(set(captured)), "a shape is captured once"
