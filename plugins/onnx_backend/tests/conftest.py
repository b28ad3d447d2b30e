"""The demo model as graphs, exported once a machine into the cache that the gateway keeps; and how one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from decoding.loaded import LoadedModel
from onnx_backend.loading import load_model
from onnx_backend.plugin import gateway_backends, gateway_models
from onnx_backend.settings import OnnxSettings

from core.api import EngineContext, ModelSpec
from core.testing import weights_of

Prepared = Callable[[str], Path]
Load = Callable[..., LoadedModel]

_FIRST_EXPORT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a fresh machine, whoever asks first for a graph waits until there is one."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if ("demo" in names or "prepared" in names) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_FIRST_EXPORT_S))


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """Return the folder of the demo model, exported for the CPU with a quantization: none, int8 or int4."""
    (backend,) = gateway_backends()
    model = next(one for one in gateway_models() if one.name == "smollm2-135m")

    @cache
    def prepared(quantization: str) -> Path:
        folder = weights_of(model, backend, {"quantization": quantization, "export_for": "cpu"})
        assert folder is not None
        return folder

    return prepared


@pytest.fixture(scope="session")
def demo(prepared: Prepared) -> Path:
    """The demo model as it is served by default."""
    return prepared("int8")


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., EngineContext]:
    """What an engine is given to load a folder on one thread of the CPU, unless told otherwise."""

    def context(
        weights: Path | None, *, tasks: tuple[Any, ...] = ("chat", "completion"), context_tokens: int = 32, **given: Any
    ) -> EngineContext:
        settings = OnnxSettings(**{"threads": 1, "device": "cpu", "cache_dir": tmp_path / "cache"} | given)
        model = ModelSpec(name="tiny", backend="onnx", tasks=tasks, context_tokens=context_tokens)
        return EngineContext(model=model, weights=weights, settings=settings, scratch=tmp_path)

    return context


@pytest.fixture
def load(context: Callable[..., EngineContext]) -> Load:
    """Load a folder as an engine does."""

    def load(weights: Path | None, **given: Any) -> LoadedModel:
        asked = context(weights, **given)
        assert isinstance(asked.settings, OnnxSettings)
        return load_model(asked, asked.settings)

    return load
