from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put distributions onto ``sys.path`` as pip would: a module, METADATA and entry_points.txt; no pip, no mocks."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(
        name: str,
        code: str = "",
        *,
        version: str = "1.0",
        distribution: str | None = None,
        requires: tuple[str, ...] = (),
        target: str | None = None,
    ) -> None:
        distribution = distribution or f"ai-gateway-{name}"
        module = f"{distribution.replace('-', '_')}_plugin"
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(metadata) + "\n")
        (info / "entry_points.txt").write_text(f"[gateway.plugins]\n{name} = {target or module}\n")
        imports = "from core.api import *\n"
        (tmp_path / f"{module}.py").write_text(imports + dedent(code))
        importlib.invalidate_caches()

    yield install
    for module in set(sys.modules) - before:
        if module.endswith("_plugin"):
            del sys.modules[module]
