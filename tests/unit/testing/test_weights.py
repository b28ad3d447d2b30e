"""Weights for the tests of plugins are what an engine loads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest

from core.api import BackendSettings, BackendSpec, ModelSpec
from core.testing import weights_of
from core.testing.suites.base import Suite

PREPARATION = """
class Preparation:
    def __init__(self, context):
        self.made = context.cache_dir / context.settings.name

    def find(self, weights):
        return self.made if self.made.exists() else None

    def make(self, weights, report):
        report("copying", 1.0)
        self.made.parent.mkdir(parents=True, exist_ok=True)
        self.made.write_bytes(weights.read_bytes())
        return self.made
"""


class PlainSettings(BackendSettings):
    name: str = "plain"


BACKEND = BackendSpec(name="plain", engine="x:Y", settings=PlainSettings, preparation="plain_preparation:Preparation")
"""Copies weights to where its settings say."""


@pytest.fixture(scope="class", autouse=True)
def folder(tmp_path_factory):
    """Where the backend's preparation is, fetched weights, and the cache folder."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "plain_preparation.py").write_text(PREPARATION)
    (folder / "w").write_bytes(b"w")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        patch.setenv("GATEWAY_WEIGHTS__CACHE_DIR", str(folder / "cache"))
        yield folder
    sys.modules.pop("plain_preparation", None)


def test_weights_are_prepared_for_the_backend_that_is_named(folder):
    model = ModelSpec(name="m", backend="plain", source="./w")
    prepared = folder / "cache" / "prepared" / "plain"

    assert weights_of(model) == Path("w")
    assert not prepared.exists()
    assert weights_of(model, BACKEND) == prepared / "plain"
    assert weights_of(model, BACKEND, {"name": "other"}) == prepared / "other"
    assert weights_of(ModelSpec(name="m", backend="plain"), BACKEND) is None


class TestKit(Suite):
    backend = BACKEND
    model = ModelSpec(name="m", backend="plain", source="./w")
    settings: ClassVar = {"name": "mine"}

    async def test_the_conformance_kit_loads_prepared_weights(self, folder, weights_path):
        """Made with the settings that the engine gets."""
        assert weights_path == folder / "cache" / "prepared" / "plain" / "mine"
