"""The environment for exports, made by a `venv` and a `pip` that only pretend."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from onnx_backend import environment
from onnx_backend.environment import export_requirements, get_environment, python_of

from core.api import PreparationError

PYTHON = """#!{python}
import os, sys
folder = {folder!r}
def say(text): open(folder + "/said", "a").write(text + "\\n")
arguments = sys.argv[1:]
if arguments[:3] == ["-I", "-m", "venv"]:
    say("venv")
    {venv}
    os.makedirs(arguments[3] + "/bin")
    os.symlink(__file__, arguments[3] + "/bin/python")
elif arguments[:3] == ["-I", "-m", "pip"]:
    say(" ".join(arguments[3:]) + " " + str(os.environ.get("PIP_TARGET")) + " " + str(os.environ.get("PIP_INDEX_URL")))
    {pip}
elif arguments != ["-I", "-c", ""]:
    sys.exit("unforeseen: " + repr(arguments))
"""
PIP = """print("Processing /somewhere/torch-2.13.0-cp311-linux_x86_64.whl")
    print("Collecting Jinja2 (from torch<2.14,>=2.13)")
    print("Collecting nvidia-cublas")
    print("Collecting nvidia-cudnn")
    print("Collecting onnx_ir<2,>=0.1.10")
    print("  Downloading onnx_ir-1.1.0.whl")
    print("Installing collected packages: a, b, c")
    print("a warning", file=sys.stderr)"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make the Python that runs this one that does as it is told; return what it was asked."""

    def fake(venv: str = "pass", pip: str = PIP) -> Path:
        python = tmp_path / "python"
        python.write_text(PYTHON.format(python=sys.executable, folder=str(tmp_path), venv=venv, pip=pip))
        python.chmod(0o755)
        monkeypatch.setattr(environment.sys, "executable", str(python))
        return tmp_path / "said"

    return fake


def get(tmp_path: Path) -> tuple[Path, list[str]]:
    stages: list[str] = []
    found = get_environment(tmp_path / "cache", lambda stage, share: stages.append(stage))
    return found, stages


def test_made_once(fake, tmp_path, monkeypatch):
    """With pip's own settings, but not those that install elsewhere; the second time it is there."""
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "an-index")
    said = fake()
    folder, stages = get(tmp_path)
    assert python_of(folder).exists()
    assert stages == [
        "making an environment to export in",
        "fetching torch",
        "fetching CUDA for torch: gigabytes, which an index of CPU wheels would save",
        "fetching onnx-ir",
        "installing 3 packages",
    ]
    asked = said.read_text()
    assert asked.startswith("venv\ninstall ")
    assert all(requirement in asked for requirement in export_requirements())
    assert asked.endswith(" None an-index\n")
    assert get(tmp_path) == (folder, [])
    assert said.read_text() == asked
    log = (tmp_path / "cache" / f"{folder.name}.log").read_text()
    assert "Downloading onnx_ir" in log
    assert "a warning" in log


def test_other_requirements_make_another(fake, tmp_path, monkeypatch):
    """What exports were made with stays what it is."""
    fake()
    first, _ = get(tmp_path)
    monkeypatch.setattr(environment, "export_requirements", lambda: ("torch>=3",))
    second, _ = get(tmp_path)
    assert first != second
    assert python_of(first).exists()


def test_broken_is_made_anew(fake, tmp_path):
    """Its interpreter may have gone with the Python that it was made by."""
    said = fake()
    folder, _ = get(tmp_path)
    python_of(folder).unlink()
    assert get(tmp_path)[0] == folder
    assert said.read_text().count("venv\n") == 2
    python_of(folder).unlink()
    python_of(folder).symlink_to("/bin/false")
    assert get(tmp_path)[0] == folder
    assert said.read_text().count("venv\n") == 3


@pytest.mark.parametrize(
    ("venv", "pip", "told"),
    [
        ("sys.exit('The virtual environment was not created because ensurepip is not available.')", "", "-venv"),
        ("sys.exit('Bad luck.')", "", "could not make a virtual environment: Bad luck; see "),
        ("pass", "sys.exit('ERROR: No matching distribution found for torch')", "found for torch; check the network"),
        ("pass", "sys.exit('ERROR: Errno 28\\nERROR: No space left on device')", "make room"),
    ],
)
def test_failures_are_told(fake, tmp_path, venv, pip, told):
    """With the remedy and the log's name, and nothing is left behind."""
    fake(venv, pip)
    with pytest.raises(PreparationError, match=told):
        get(tmp_path)
    assert {found.suffix for found in (tmp_path / "cache").iterdir()} == {".lock", ".log"}
