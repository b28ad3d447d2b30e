"""``agreement.json``: what an export was made with, and how well it agrees with the model it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["AGREEMENT", "read_agreement"]

AGREEMENT = "agreement.json"
"""Written last into a prepared folder, so one that has it is whole."""

_PLAIN = str | int | float


def read_agreement(folder: Path) -> dict[str, Any] | None:
    """Return what is known of a prepared folder; None for weights that came as ONNX.

    The keys are ``share`` (of ``tokens`` greedy tokens after ``prompts`` prompts; of encoders, the likeness of their
    vectors), ``first_divergence`` (tokens until the first that differs, the mean; decoders only), ``kind``, ``source``,
    ``quantization``, ``block_size``, ``target`` and the versions of what made it. Fetched weights may have a file of
    that name too, so what else stands in it is left out.
    """
    try:
        read = json.loads((folder / AGREEMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = {name: told for name, told in read.items() if isinstance(told, _PLAIN)} if isinstance(read, dict) else {}
    share = known.get("share")
    return known if isinstance(share, float | int) and 0 <= share <= 1 else None
