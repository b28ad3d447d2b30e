"""Which runner serves a decoder: each is tried on a few tokens before it serves anybody."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from decoding.runner import Floats, Runner

from core.api import EngineLoadError
from onnx_backend.graph import DecoderGraph
from onnx_backend.growing import GrowingRunner
from onnx_backend.pooling import Way
from onnx_backend.runner import SharedBufferRunner

__all__ = ["Probe", "choose_runner"]

_TOKENS = 7
_CHUNK = 4
_BEHIND = 1  # how much shorter the row beside it is
# Relative error of all logits together. Measured on the demo model: 6e-6 in float32, and 0.07 with weights of 4 and 8
# bits, whose kernels round otherwise for one token than for several; a wrong mask or position makes 0.67 and more.
_TOLERANCE = 1e-3
_TOLERANCE_ROUNDED = 0.4


class Probe:
    """What a graph computes by itself for a few tokens; a runner over it must compute the same.

    Raises:
        EngineLoadError: it computes nothing without a past; trying again cannot help.
    """

    def __init__(self, graph: DecoderGraph) -> None:
        self._tokens = [(number * 7919 + 11) % graph.vocab_size for number in range(_TOKENS)]
        self._tolerance = _TOLERANCE_ROUNDED if graph.rounds or graph.cache_format == np.float16 else _TOLERANCE
        try:
            self._expected = {
                place: _last_logits(graph, self._tokens[: place + 1]) for place in range(_CHUNK - _BEHIND, _TOKENS)
            }
        except Exception as error:
            msg = f"This graph cannot compute a text from its beginning, with a past of no tokens: {_said(error)}."
            raise EngineLoadError(msg, permanent=True) from error

    def error(self, runner: Runner) -> float:
        """Return how far a runner's logits are from the graph's own, relative to how much these vary.

        Two chunks in one slot, a copy of some of it, and then one by one in both, which are of different lengths.
        """
        tokens = self._tokens
        runner.prefill(0, tokens[:2], 0)
        found = [(_CHUNK - 1, runner.prefill(0, tokens[2:_CHUNK], 2))]
        beside = runner.slots - 1
        if beside:
            runner.copy_slot(0, beside, _CHUNK - _BEHIND)
        for place in range(_CHUNK, _TOKENS):
            rows, places = ([beside, 0], [place - _BEHIND, place]) if beside else ([0], [place])
            logits = runner.decode(rows, [tokens[one] for one in places], places)
            found += [(one, row.copy()) for one, row in zip(places, logits, strict=True)]
        given = np.stack([logits for _, logits in found])
        wanted = np.stack([self._expected[place] for place, _ in found])
        return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted - wanted.mean(-1, keepdims=True)))

    def check(self, runner: Runner) -> None:
        """Let a runner compute the tokens.

        Raises:
            EngineLoadError: it fails, or its logits differ; trying again cannot help.
        """
        try:
            error = self.error(runner)
        except MemoryError:
            raise
        except Exception as failure:
            raise EngineLoadError(_said(failure), permanent=True) from failure
        if not error < self._tolerance:  # nan is no less than anything
            msg = f"the logits differ from those of one plain call (relative error {error:.2g})"
            raise EngineLoadError(msg, permanent=True)


def choose_runner(graph: DecoderGraph, *, slots: int, context_tokens: int, pooling: Way = "mean") -> tuple[Runner, str]:
    """Return the fastest runner that computes what the graph computes by itself, and what keeps faster ones from it.

    Args:
        graph: the model.
        slots: rows of the cache.
        context_tokens: most tokens of a row.
        pooling: how an embedding is made.

    Raises:
        EngineLoadError: none does; trying again cannot help.
    """
    growing = partial(GrowingRunner, graph, slots=slots, context_tokens=context_tokens, pooling=pooling)
    shared = partial(SharedBufferRunner, graph, slots=slots, context_tokens=context_tokens, pooling=pooling)
    ways: list[tuple[str, Callable[[], Runner], bool, str]] = [
        ("cache in place", shared, graph.shares_buffer, "the graph has no GroupQueryAttention"),
        ("rows in one call", growing, not graph.mixes_rows, "one scale rounds the activations of all rows"),
        ("rows one by one", partial(growing, together=False), True, ""),
    ]
    probe = Probe(graph)
    obstacles: list[str] = []
    for what, make, possible, obstacle in ways:
        if not possible:
            obstacles.append(f"{what}: {obstacle}")
            continue
        runner = make()
        try:
            probe.check(runner)
        except EngineLoadError as error:
            obstacles.append(f"{what}: {error}")
        else:
            return runner, "; ".join(f"not {obstacle}" for obstacle in obstacles)
    msg = f"This graph cannot be served by any runner: {'; '.join(obstacles)}."
    raise EngineLoadError(msg, permanent=True)


def _last_logits(graph: DecoderGraph, tokens: list[int]) -> Floats:
    """Logits of the last token, as one plain call computes them."""
    logits = graph.session.run([graph.logits], graph.whole(tokens))[0]
    return np.asarray(logits[0, -1], np.float32)


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")[:300]
