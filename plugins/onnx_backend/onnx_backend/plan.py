"""What a model is exported to: what the settings leave open, settled; and the name of the result."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnx_backend.settings import OnnxSettings
from onnx_backend.sources import Source

__all__ = ["Export", "plan_export"]

_FORMAT = 1
"""To be raised when what the exporting package writes changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What is to be exported, and to what. ``block_size`` is 0 where nothing is quantised."""

    source: Source
    quantization: Literal["none", "int8", "int4"]
    block_size: int
    target: Literal["cpu", "cuda"]

    def name(self, requirements: Sequence[str]) -> str:
        """Another one for everything that changes the result; ``requirements`` are of the exporting environment."""
        told = (self.source.identity(), self.quantization, self.block_size, self.target, _FORMAT, *requirements)
        readable = re.sub(
            r"[^\w.-]+", "-", self.source.path.stem if self.source.path.is_file() else self.source.path.name
        )
        return f"{readable}-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"


def plan_export(source: Source, settings: OnnxSettings, *, gpu_installed: bool) -> Export:
    """Settle what the settings leave open; ``gpu_installed``: onnxruntime-gpu is."""
    cuda = settings.export_for == "cuda" or (
        settings.export_for == "auto"
        and (settings.device.startswith(("cuda", "tensorrt")) or (settings.device == "auto" and gpu_installed))
    )
    quantization = settings.quantization
    if quantization == "auto":
        quantization = "int8" if source.kind == "decoder" and not cuda else "none"
    return Export(
        source=source,
        quantization=quantization,
        block_size=0 if quantization == "none" else settings.block_size,
        target="cuda" if cuda else "cpu",
    )
