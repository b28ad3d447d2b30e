"""From a function that loads a model to an engine: what the backends of this library have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.api import (
    EngineContext,
    EngineEvent,
    EngineInfo,
    EngineLoadError,
    EngineRequest,
    Load,
    ModelSpec,
    Task,
)
from decoding.engine import DecodingEngine
from decoding.kind import Kind
from decoding.runner import Embedder, Runner, Scorer
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.tokens import Vocabulary

__all__ = ["LoadedModel", "LoadingEngine", "check_tasks"]

_TASKS: Mapping[Kind, frozenset[Task]] = MappingProxyType(
    {
        "decoder": frozenset({"chat", "completion", "embeddings"}),
        "encoder": frozenset({"embeddings"}),
        "cross_encoder": frozenset({"rerank"}),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """What `DecodingEngine` is made of, and what the model became."""

    vocabulary: Vocabulary
    template: ChatTemplate
    limits: Limits
    runner: Runner | None = None
    embedder: Embedder | None = None
    scorer: Scorer | None = None
    info: EngineInfo


def check_tasks(spec: ModelSpec, kind: Kind) -> None:
    """Refuse a model that is declared for what its kind cannot do.

    Raises:
        EngineLoadError: with the remedy; trying again cannot help.
    """
    if others := set(spec.tasks) - _TASKS[kind]:
        possible = ", ".join(f'"{task}"' for task in sorted(_TASKS[kind]))
        msg = (
            f"{spec.name} is declared for {', '.join(sorted(others))}, but it is of the kind {kind}: "
            f"choose the tasks of {spec.deployment} from [{possible}]."
        )
        raise EngineLoadError(msg, permanent=True)


class LoadingEngine(ABC):
    """An engine over a `DecodingEngine` that comes to be in `load`; see `core.api.Engine`."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._engine: DecodingEngine | None = None

    @abstractmethod
    def load_model(self, context: EngineContext) -> LoadedModel:
        """Load the model; called once, in a thread of its own, where it may block for minutes.

        Raises:
            EngineLoadError: it cannot be loaded; the message says why in a sentence.
        """

    async def load(self) -> EngineInfo:
        """See `core.api.Engine.load`."""
        loaded = await asyncio.to_thread(self.load_model, self._context)
        self._engine = DecodingEngine(
            vocabulary=loaded.vocabulary,
            template=loaded.template,
            limits=loaded.limits,
            runner=loaded.runner,
            embedder=loaded.embedder,
            scorer=loaded.scorer,
        )
        return loaded.info

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        """Serve one request; see `core.api.Engine.stream`."""
        return self._loaded().stream(request)

    def load_now(self) -> Load:
        """See `core.api.Engine.load_now`."""
        return self._loaded().load_now()

    async def close(self) -> None:
        """End the device's thread; the memory goes with the process."""
        if self._engine is not None:
            await self._engine.close()

    def _loaded(self) -> DecodingEngine:
        if self._engine is None:
            msg = "load() has not been called, or failed"
            raise RuntimeError(msg)
        return self._engine
