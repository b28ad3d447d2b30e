"""Embedding vectors: shortened, normalised, packed."""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Sequence

__all__ = ["pack"]


def pack(values: Sequence[float], dimensions: int | None) -> bytes:
    """Return the first ``dimensions`` values (None: all), scaled to length 1, as little-endian float32."""
    kept = values[:dimensions]
    length = math.hypot(*kept) or 1.0
    packed = array.array("f", [value / length for value in kept])
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
