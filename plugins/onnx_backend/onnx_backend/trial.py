"""Whether an accelerator is worth it for this very model: first its outputs must be right, then its time counts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.api import EngineLoadError

__all__ = ["Compute", "Feed", "Trial", "try_out"]

Feed = Mapping[str, npt.NDArray[Any]]
Compute = Callable[[Feed], npt.NDArray[np.floating]]

_RUNS = 5
# Of the angle between two outputs: half precision differs by less than a thousandth, a wrong operator by far more.
_LEAST_COSINE = 0.99


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What was found.

    Attributes:
        accelerated: the accelerator is right and faster.
        figures: what says so: ``coreml 1.2, 3.4 ms; cpu 5.0, 9.1 ms``.
    """

    accelerated: bool
    figures: str


def try_out(
    name: str,
    accelerator: Callable[[], Compute],
    cpu: Callable[[], Compute],
    feeds: Sequence[Feed],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Trial:
    """Compute the same on both, in turns, and compare.

    Args:
        name: of the accelerator.
        accelerator: makes what computes there; an `EngineLoadError` of it decides for the CPU.
        cpu: makes what computes on the CPU.
        feeds: inputs that stand for the model's work: a short text, and a long one.
        clock: tells seconds.

    Raises:
        EngineLoadError: it cannot be loaded on the CPU either.
    """
    plain = cpu()
    try:
        fast = accelerator()
        least = np.min([_cosine(fast(feed), plain(feed)) for feed in feeds])  # nan if any is; warms both up
        if not least >= _LEAST_COSINE:
            return Trial(accelerated=False, figures=f"{name}'s outputs are not the CPU's: cosine {least:.3f}")
        pairs = [_times(fast, plain, feed, clock) for feed in feeds]
    except EngineLoadError as error:
        return Trial(accelerated=False, figures=str(error).rstrip("."))
    except Exception as error:  # noqa: BLE001 - whatever a provider raises, it is of no use for this model
        return Trial(accelerated=False, figures=f"{name} failed in a trial run: {' '.join(str(error).split())}")
    # The product of the ratios: a long text is not worth more than a short one.
    gain = math.prod(slow / quick for quick, slow in pairs)
    quick_ms, slow_ms = (", ".join(f"{1000 * spent:.1f}" for spent in column) for column in zip(*pairs, strict=True))
    return Trial(accelerated=gain > 1, figures=f"{name} {quick_ms} ms; cpu {slow_ms} ms")


def _times(fast: Compute, plain: Compute, feed: Feed, clock: Callable[[], float]) -> tuple[float, float]:
    """Median seconds of each."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(_RUNS):
        for compute, times in zip((fast, plain), spent, strict=True):
            begun = clock()
            compute(feed)
            times.append(clock() - begun)
    return statistics.median(spent[0]), statistics.median(spent[1])


def _cosine(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float:
    """Of the angle between all numbers of two outputs; not a number if one of theirs is none."""
    left, right = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    if left.shape != right.shape:
        return 0.0
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    return float(left @ right / lengths) if lengths else float(np.array_equal(left, right))
