"""What is asked of a loader, and what one kind of model becomes: between `loading` and the loaders of the kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from decoding.runner import Embedder, Runner, Scorer
from decoding.tokens import Vocabulary

from core.api import ModelSpec
from onnx_backend.device import DeviceChoice
from onnx_backend.model_folder import ModelFolder
from onnx_backend.session import Opened, open_session
from onnx_backend.settings import OnnxSettings

__all__ = ["UNBOUNDED", "Details", "Parts", "Wanted"]

Details = dict[str, str | int | float | bool]
UNBOUNDED = 1 << 30
_NOTHING_FIXED: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to be loaded, and how.

    Attributes:
        spec: as the configuration left it.
        folder: with the graph.
        settings: of the backend.
        choice: where to run it.
        threads: that compute one operator.
        cache_dir: where compiled parts of the graph are kept.
    """

    spec: ModelSpec
    folder: ModelFolder
    settings: OnnxSettings
    choice: DeviceChoice
    threads: int
    cache_dir: Path

    def open(self, choice: DeviceChoice | None = None, *, fixed: Mapping[str, int] = _NOTHING_FIXED) -> Opened:
        """Open the graph; see `onnx_backend.session.open_session`.

        Args:
            choice: where to run it, if not where it was wanted.
            fixed: sizes of dimensions that the graph leaves open.
        """
        return open_session(
            self.folder.graph,
            choice or self.choice,
            self.settings,
            self.threads,
            cache_dir=self.cache_dir,
            fixed=fixed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """In what kinds of models differ.

    Attributes:
        opened: where it runs.
        slots: requests that are worked on at once.
        kv_bytes: size of the KV cache.
        details: for `core.api.EngineInfo`.
    """

    opened: Opened
    vocabulary: Vocabulary
    runner: Runner | None = None
    embedder: Embedder | None = None
    scorer: Scorer | None = None
    context_tokens: int
    slots: int
    kv_bytes: int = 0
    details: Details
