"""How a missing plugin is had."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from core.routing.words import PACKAGES, how_to_get

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_suggested_is_there(name: str) -> None:
    """The folder holds the package, under the name that is suggested, with a plugin of that name."""
    project = tomllib.loads((ROOT / PACKAGES[name][-1] / "pyproject.toml").read_text())["project"]
    folders = " ".join(f"./{folder}" for folder in PACKAGES[name])

    assert all((ROOT / folder).is_dir() for folder in PACKAGES[name])
    assert project["name"] == f"ai-gateway-{name}"
    assert name in project["entry-points"]["gateway.plugins"]
    assert how_to_get(name, [], {}) == f"pip install ai-gateway-{name} (in a checkout: pip install {folders})"
