"""GGUF files: converted once, kept, never half."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_backend import gguf
from torch_backend.gguf import converted
from torch_backend.sources import find_folder

from core.api import EngineLoadError
from core.testing import demo_weights


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "m.gguf"
    made.write_bytes(b"GGUF" + b"\0" * 60)
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The conversions made, each of which writes a file after a moment."""
    made: list[Path] = []

    def convert(_file: Path, dtype: torch.dtype, folder: Path) -> None:
        made.append(folder)
        threading.Event().wait(0.05)
        (folder / "config.json").write_text(str(dtype))

    monkeypatch.setattr(gguf, "_convert", convert)
    return made


def test_once_a_file(file: Path, calls: list[Path], tmp_path: Path) -> None:
    """Two that ask at once wait for one conversion; what changes the result is converted again."""
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(converted(file, "bfloat16", tmp_path / "cache"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(calls) == 1
    assert (found[0] / "config.json").read_text() == "torch.bfloat16"
    assert converted(file, "float32", tmp_path / "cache") != found[0]
    os.utime(file, ns=(1, 1))
    assert converted(file, "bfloat16", tmp_path / "cache") != found[0]
    assert len(calls) == 3


def test_nothing_half_made(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A conversion that fails leaves no folder behind, and the next one begins anew."""

    def fail(_file: Path, _dtype: Any, folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "_convert", fail)
    with pytest.raises(OSError, match="No space"):
        converted(file, "bfloat16", tmp_path / "cache")
    assert [found.name for found in (tmp_path / "cache").iterdir() if found.suffix != ".lock"] == []


@pytest.mark.parametrize("damage", [lambda whole: whole[:2_000_000], lambda whole: whole[:64] + bytes(64)])
def test_damaged(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Told in a sentence that names the file."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(demo_weights().read_bytes()))
    with pytest.raises(EngineLoadError, match=r"transformers cannot read .*bad\.gguf: .*\.$") as caught:
        converted(bad, "bfloat16", tmp_path / "cache")
    assert caught.value.permanent


def test_which_file(file: Path, calls: list[Path], tmp_path: Path) -> None:
    """A file, or the only one of a folder."""
    assert find_folder(file, "bfloat16", tmp_path / "c") == find_folder(tmp_path, "bfloat16", tmp_path / "c")
    (tmp_path / "n.gguf").write_bytes(file.read_bytes())
    with pytest.raises(EngineLoadError, match="several GGUF files"):
        find_folder(tmp_path, "bfloat16", tmp_path / "c")
