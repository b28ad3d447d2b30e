"""What may be imported where, and how big a file may grow: rules that a reader relies on."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.api.hooks import ENTRY_POINT_GROUP

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "core").rglob("*.py"))
RUNTIMES = {"torch", "onnxruntime", "onnxruntime_genai", "xllamacpp", "transformers", "numpy", "ray"}
LIBRARIES = {"decoding"}
"""Folders of ``plugins`` that are no plugins: what these share."""
FOLDERS = [folder.parent for parent in ("plugins", "examples") for folder in (ROOT / parent).glob("*/pyproject.toml")]
_MOST_LINES = 350


def loaded_by(*modules: str, path: str = "") -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing ``modules``, and the preparations they name."""
    code = f"""
import pkgutil
import sys
for name in {modules}:
    module = pkgutil.resolve_name(name)
    for backend in getattr(module, "gateway_backends", tuple)():
        if backend.preparation:
            pkgutil.resolve_name(backend.preparation)
print(*{{name.partition('.')[0] for name in sys.modules}})
"""
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["core.api", "core.registry", "core.app", "core.engine.host", "core.__main__"])
def test_importing_the_core_imports_no_runtime(module: str) -> None:
    """Not even through somebody else: numpy alone would cost every HTTP worker 30 MB."""
    assert loaded_by(module) & RUNTIMES == set()


def declarations() -> list[tuple[Path, str]]:
    """Folder and module of every plugin of this repository, installed or not."""
    projects = {folder: tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in FOLDERS}
    return [
        (folder, module)
        for folder, project in sorted(projects.items())
        for module in project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {}).values()
    ]


@pytest.mark.parametrize(("folder", "module"), declarations(), ids=lambda value: getattr(value, "name", value))
def test_importing_declarations_imports_no_runtime(folder: Path, module: str) -> None:
    """HTTP workers and the supervisor import these modules, and nothing that they need may be missing there.

    The supervisor and the command line also import what prepares a backend's weights.
    """
    assert loaded_by(module, path=str(folder)) & (RUNTIMES | LIBRARIES) == set()


@pytest.mark.parametrize("module", ["core.api", "core.registry", "core.engine.host", "core.supervisor.loop"])
def test_only_the_http_side_knows_sanic(module: str) -> None:
    """A replica and the supervisor do without it."""
    assert "sanic" not in loaded_by(module)


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_the_core(path: Path) -> None:
    """Names no runtime, not even inside a function, and is short enough to be read at a sitting."""
    assert {name.partition(".")[0] for name in imported(path)} & RUNTIMES == set()
    assert len(path.read_text().splitlines()) <= _MOST_LINES


def plugin_files() -> list[Path]:
    return sorted(
        path
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        if not {"tests", "build"} & set(path.relative_to(folder).parts)
    )


@pytest.mark.parametrize("path", plugin_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_a_plugin(path: Path) -> None:
    """Imports ``core.api`` of the core and nothing of another plugin, so it could live in a repository of its own.

    The libraries may be imported too, and obey the same rules.
    """
    mine = path.relative_to(ROOT).parts[1]
    others = {folder.name for folder in FOLDERS} - LIBRARIES - {mine}
    names = set(imported(path))

    assert {name for name in names if name.partition(".")[0] == "core" and not name.startswith("core.api")} == set()
    assert {name for name in names if name.partition(".")[0] in others} == set()
    assert len(path.read_text().splitlines()) <= _MOST_LINES


@pytest.mark.parametrize(
    "path",
    [path for path in plugin_files() if path.relative_to(ROOT).parts[1] in LIBRARIES],
    ids=lambda path: path.name,
)
def test_a_file_of_a_library(path: Path) -> None:
    """Names no runtime, not even inside a function: several share it."""
    assert {name.partition(".")[0] for name in imported(path)} & (RUNTIMES - {"numpy", "transformers"}) == set()
