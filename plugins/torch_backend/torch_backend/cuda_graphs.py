"""Decode steps as captured CUDA graphs: one launch instead of a thousand.

A graph is of one shape, so steps are rounded up: rows to a power of two, positions read to a power of two. Rows that
only fill up write to a place of their slot that no sequence uses (`SlotCache` keeps one more than its capacity).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from torch_backend.cache import SlotCache

__all__ = ["DecodeGraphs", "round_up", "usable"]

_log = logging.getLogger(__name__)
_LEAST_POSITIONS = 256
_WARM_UPS = 2

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Capture = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, Callable[[], None]]]


def usable(device: str, *, wanted: bool) -> bool:
    """Whether decode steps are captured: where launching a kernel costs more than many a kernel."""
    return wanted and device.startswith("cuda")


def round_up(number: int, *, least: int, most: int) -> int:
    """Return the next power of two that is at least ``least``, but no more than ``most``."""
    return min(most, max(least, 1 << (number - 1).bit_length()))


@dataclass(frozen=True, slots=True)
class _Graph:
    tokens: torch.Tensor
    positions: torch.Tensor
    logits: torch.Tensor
    replay: Callable[[], None]


class DecodeGraphs:
    """Computes decode steps over the first rows of a cache.

    Args:
        forward: tokens and positions, ``[rows, 1]`` each, to logits ``[rows, vocab]``, over the cache's step.
        cache: the cache.
        capture: records what a function launches; returns its output and what launches it again.
    """

    def __init__(self, forward: Forward, cache: SlotCache, capture: Capture | None = None) -> None:
        self._forward = forward
        self._cache = cache
        self._capture = capture or _capture
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor, end: int) -> torch.Tensor:
        """Return the logits of ``tokens`` at ``positions``, ``[rows, 1]`` each and below ``end``."""
        rows = len(tokens)
        shape = (
            round_up(rows, least=1, most=self._cache.slots),
            round_up(end, least=_LEAST_POSITIONS, most=self._cache.capacity),
        )
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = self._make(*shape)
        graph.tokens[:rows] = tokens
        graph.positions[:rows] = positions
        graph.positions[rows:] = self._cache.spare_position
        graph.replay()
        return graph.logits[:rows]

    def _make(self, rows: int, end: int) -> _Graph:
        device = self._cache.device
        tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        positions = torch.full((rows, 1), self._cache.spare_position, device=device)

        def step() -> torch.Tensor:
            self._cache.begin_fixed(positions, end)
            # A table of learned positions has no entry for the spare one.
            return self._forward(tokens, positions.clamp(max=self._cache.capacity - 1))

        logits, replay = self._capture(step)
        _log.info("captured a decode step of %d rows and %d positions", rows, end)
        return _Graph(tokens, positions, logits, replay)


def _capture(step: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):  # kernels choose their algorithms and workspaces at the first calls
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()
    return logits, graph.replay
