"""What all suites share: the attributes that a plugin's author sets, the engine, and the means to ask it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import pytest_asyncio

from core.api.messages import EngineInfo
from core.api.protocols import Engine
from core.api.requests import CompletionRequest, EngineRequest, Sampling, Task
from core.api.specs import BackendSpec, Capability, ModelSpec
from core.engine.defaults import with_defaults
from core.engine.loading import make_engine
from core.testing.asking import Answer, chat, collect, new_id
from core.testing.replica import replica_config
from core.testing.weights import weights_of

__all__ = ["LONG", "STORY", "LoadedEngine", "Suite"]

STORY = "Write a long story about a dragon and a knight. Begin with: once upon a time there was a dragon."
LONG = "The quick brown fox jumps over the lazy dog and runs far away into the deep dark forest. "


class LoadedEngine:
    """An engine in this process, asked as the host asks it."""

    def __init__(self, engine: Engine, info: EngineInfo, model: ModelSpec) -> None:
        self.engine = engine
        self.info = info
        self._model = model

    def filled(self, request: EngineRequest) -> EngineRequest:
        """The request as the host passes it on."""
        return with_defaults(request, self._model.sampling)

    async def ask(self, request: EngineRequest) -> Answer:
        """Serve a request to its end, holding the stream to the contract."""
        return await collect(request, self.engine.stream(self.filled(request)))

    async def idle(self, *, within_s: float) -> None:
        """Wait until nothing runs.

        Raises:
            AssertionError: something still does.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while self.engine.load_now().running:
            assert loop.time() < until, (
                f"a cancelled stream must leave the engine idle within {within_s} s: {self.engine.load_now()}"
            )
            await asyncio.sleep(0.005)


class Suite:
    """Base of the suites. ``backend`` and ``model`` must be set; the rest has defaults that suit most.

    Attributes:
        settings: values for the backend's settings model.
        weights: file or folder that the engine loads; None: fetched from where ``model.source`` says, and prepared.
        batch_invariant: greedy text does not depend on what else runs; true of exact arithmetic only.
    """

    backend: ClassVar[BackendSpec]
    model: ClassVar[ModelSpec]
    settings: ClassVar[Mapping[str, Any]] = {}
    weights: ClassVar[Path | None] = None
    batch_invariant: ClassVar[bool] = False

    pytestmark: ClassVar = [pytest.mark.asyncio(loop_scope="class")]

    @pytest.fixture(scope="class")
    @classmethod
    def weights_path(cls) -> Path | None:
        """The weights on disk."""
        return cls.weights or weights_of(cls.model, cls.backend, cls.settings)

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def loaded(cls, weights_path: Path | None) -> AsyncIterator[LoadedEngine]:
        """The engine, loaded once for all tests of the class."""
        scratch = Path(tempfile.mkdtemp(prefix="engine-"))
        engine = make_engine(
            replica_config(cls.backend, cls.model, scratch, settings=cls.settings, weights=weights_path)
        )
        try:
            yield LoadedEngine(engine, await engine.load(), cls.model)
        finally:
            await engine.close()
            shutil.rmtree(scratch, ignore_errors=True)

    # --- what applies

    def need(self, *capabilities: Capability) -> None:
        """Skip the test unless the backend declares these."""
        if missing := set(capabilities) - self.backend.capabilities:
            pytest.skip(f"{self.backend.name} does not declare {', '.join(sorted(missing))}")

    def need_task(self, *tasks: Task) -> None:
        """Skip the test unless the model does one of these."""
        if not set(tasks) & set(self.model.tasks):
            pytest.skip(f"{self.model.name} does no {' or '.join(tasks)}")

    # --- requests

    def text_request(self, prompt: str, *, n: int = 1, **sampling: Any) -> EngineRequest:
        """A greedy request for text, by chat if the model can, else by completion; skips if it can neither."""
        self.need_task("chat", "completion")
        chosen = msgspec.structs.replace(Sampling(temperature=0.0, max_tokens=16), **sampling)
        if "chat" in self.model.tasks:
            return chat(prompt, n=n, sampling=chosen)
        return CompletionRequest(id=new_id(), prompts=(prompt,), n=n, sampling=chosen)
