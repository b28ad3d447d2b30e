"""Folders that are made once a machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from filelock import FileLock
from onnx_backend.made_once import make_once


def made_of(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.parent.iterdir() if found.suffix != ".lock")


def test_one_makes_and_the_others_wait(tmp_path: Path) -> None:
    """However many ask at once."""
    folder = tmp_path / "cache" / "m"
    made, waited = [], []
    begun = threading.Event()
    go = threading.Event()

    def make(place: Path) -> None:
        begun.set()
        made.append(place)
        assert go.wait(10)
        assert not folder.exists()
        (place / "whole").touch()

    def wait() -> None:
        waited.append(1)
        go.set()

    def ask() -> None:
        make_once(folder, (folder / "whole").exists, make, wait)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert waited
    assert made_of(folder) == ["m"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """And what was there but not whole is replaced by the next one that does not fail."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "old").touch()

    def fail(place: Path) -> None:
        (place / "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        make_once(folder, lambda: False, fail, lambda: None)
    assert made_of(folder) == ["m"]
    make_once(folder, lambda: False, lambda place: (place / "new").touch(), lambda: None)
    assert [found.name for found in folder.iterdir()] == ["new"]


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    """They are removed, except those of a folder that somebody makes at present."""
    folder = tmp_path / "m"
    for left in (".making-m~1", ".making-gone~2", ".making-busy~3"):
        (tmp_path / left).mkdir()
    with FileLock(tmp_path / "busy.lock"):
        make_once(folder, folder.exists, lambda place: None, lambda: None)
    assert made_of(folder) == [".making-busy~3", "m"]
