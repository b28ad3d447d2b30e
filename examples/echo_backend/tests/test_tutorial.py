"""The backend that README.md teaches holds to the contract, and the commands of the page exist."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from core import cli

README = Path(__file__).parents[1] / "README.md"
COMMANDS = re.findall(r"^\$ python -m core (.+)$", README.read_text(), flags=re.MULTILINE)


def test_the_tutorials_backend_passes_the_kit(tmp_path: Path) -> None:
    """Its files, written out and put on the path as if installed."""
    files = re.findall(r"```\w+\n# (\S+)\n(.*?)```", README.read_text(), flags=re.DOTALL)
    for name, text in files:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert {name for name, _ in files} == {
        "pyproject.toml",
        "upper_backend/plugin.py",
        "upper_backend/engine.py",
        "tests/test_conformance.py",
    }
    info = tmp_path / "ai_gateway_upper-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: ai-gateway-upper\nVersion: 0.1.0\nRequires-Dist: ai-gateway~=0.1.0\n")
    (info / "entry_points.txt").write_text("[gateway.plugins]\nupper = upper_backend.plugin\n")
    tests = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--import-mode=importlib",
            "-p",
            "no:cacheprovider",
            str(tmp_path / "tests"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_exist(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is understood; what is said goes to a model that the page is about."""
    said: list[argparse.Namespace] = []
    monkeypatch.setattr("core.cli.chat.chat", lambda arguments: said.append(arguments) or 0)

    assert cli.main(shlex.split(command, comments=True)) == 0
    assert [arguments.model in {"echo", "loud"} for arguments in said] == [True] * command.startswith("chat")
