"""The demo model as graphs: exported once a machine, into the cache that the gateway keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from onnx_backend.plugin import gateway_backends, gateway_models

from core.testing import weights_of

Prepared = Callable[[str], Path]

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
