"""Folders that are made once a machine: one process makes, the others wait, and nothing half made is ever found."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["make_once"]


def make_once(
    folder: Path, is_made: Callable[[], bool], make: Callable[[Path], None], wait: Callable[[], None]
) -> None:
    """Call ``make`` with an empty folder beside ``folder``, which is then renamed to it.

    Args:
        folder: what is to be.
        is_made: whether it is; asked again once nobody else makes it. What is there but not made is removed.
        make: fills the folder that it is given.
        wait: called before waiting for another process that makes it.
    """
    if is_made():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(folder))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        wait()
        lock.acquire()
    try:
        if is_made():
            return
        _remove_leftovers(folder)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_beginning(folder)))
        try:
            make(made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of this folder, whose lock is ours, and of those that nobody makes."""
    for left in folder.parent.glob(".making-*"):
        if left.name.startswith(_beginning(folder)):
            shutil.rmtree(left, ignore_errors=True)
            continue
        owner = folder.parent / left.name.removeprefix(".making-").rpartition("~")[0]
        other = FileLock(_lock_of(owner))
        try:
            with other.acquire(blocking=False):
                shutil.rmtree(left, ignore_errors=True)
        except Timeout:  # at work
            continue


def _beginning(folder: Path) -> str:
    return f".making-{folder.name}~"


def _lock_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.lock"
