"""What is fastest on this very CPU for this very model's weights, measured instead of guessed."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from torch_backend.device import Dtype
from torch_backend.packing import PackedLinear, can_pack

__all__ = ["Format", "Measured", "linear_shapes", "measure"]

Shape = tuple[int, int]

# Weights that stay in the processor's caches would be measured too fast: as many copies as this are gone through.
_COLD_BYTES = 48 * 2**20
_MOST_OUTPUTS = 16_384


@dataclass(frozen=True, slots=True)
class Format:
    """How weights are kept.

    Attributes:
        dtype: their number format.
        packed: in oneDNN's layout instead of torch's.
    """

    dtype: Dtype
    packed: bool

    def __str__(self) -> str:
        return f"{self.dtype}{' packed' if self.packed else ''}"


@dataclass(frozen=True, slots=True)
class Measured:
    """Times of a decode step's matrix products: format -> rows -> milliseconds."""

    step_ms: Mapping[Format, Mapping[int, float]]

    @property
    def fastest(self) -> Format:
        """The best over all row counts: the least product of its times."""

        def cost(kept: Format) -> float:
            product = 1.0
            for value in self.step_ms[kept].values():
                product *= value
            return product

        return min(self.step_ms, key=cost)

    def __str__(self) -> str:
        return "; ".join(
            f"{kept}: " + ", ".join(f"{value:.1f} ms at {rows}" for rows, value in times.items())
            for kept, times in self.step_ms.items()
        )


def linear_shapes(model: torch.nn.Module) -> Counter[Shape]:
    """Return ``(outputs, inputs)`` of a model's linear layers and how often each occurs; weights may be on ``meta``."""
    linears = (module for module in model.modules() if type(module) is torch.nn.Linear)
    return Counter((linear.out_features, linear.in_features) for linear in linears)


def measure(shapes: Mapping[Shape, int], dtypes: tuple[Dtype, ...], rows: tuple[int, ...], *, pack: bool) -> Measured:
    """Time one step's products in each format that this CPU has, in well under a second for small models."""
    formats = [Format(dtype, packed=False) for dtype in dtypes]
    if pack:
        formats += [Format(dtype, packed=True) for dtype in dtypes if can_pack(getattr(torch, dtype))]
    step_ms: dict[Format, dict[int, float]] = {kept: dict.fromkeys(rows, 0.0) for kept in formats}
    with torch.inference_mode():
        for (outputs, inputs), count in shapes.items():
            for kept in formats:
                for number, spent in _times(kept, min(outputs, _MOST_OUTPUTS), inputs, count, rows).items():
                    step_ms[kept][number] += spent * outputs / min(outputs, _MOST_OUTPUTS)
    return Measured(step_ms)


def _times(kept: Format, outputs: int, inputs: int, count: int, rows: tuple[int, ...]) -> dict[int, float]:
    """Milliseconds for ``count`` layers of one shape."""
    dtype = getattr(torch, kept.dtype)
    copies = max(1, min(count, _COLD_BYTES // (outputs * inputs * dtype.itemsize)))
    weight = torch.full((outputs, inputs), 0.01, dtype=dtype)
    layers = [_layer(weight.clone(), packed=kept.packed) for _ in range(copies)]
    spent = {}
    for number in rows:
        given = torch.full((number, 1, inputs), 0.01, dtype=dtype)
        best = min(_once(layers, given) for _ in itertools.repeat(None, 3))
        spent[number] = best * 1000 * count / copies
    return spent


def _layer(weight: torch.Tensor, *, packed: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return PackedLinear(linear) if packed else linear


def _once(layers: list[Callable[[torch.Tensor], torch.Tensor]], given: torch.Tensor) -> float:
    began = time.perf_counter()
    for layer in layers:
        layer(given)
    return time.perf_counter() - began
