"""The log of one replica: a file that the process writes itself, and that is kept small from outside.

The process gets the file, not a pipe: it never blocks on a busy supervisor, its last words are on disk when it
dies, and a supervisor's death costs it nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

__all__ = ["ReplicaLog", "log_path"]

_TAIL_BYTES = 4096
_TAIL_LINES = 20


def log_path(folder: Path, replica: str) -> Path:
    """Return the file that a replica writes to."""
    return folder / f"{quote(replica, safe='@#')}.log"


class ReplicaLog:
    """``<folder>/<replica>.log`` and, once that has grown over ``max_bytes``, one older ``.log.1``.

    One object per start of the process; `tail` shows this start's lines only.
    """

    def __init__(self, folder: Path, replica: str, *, max_bytes: int) -> None:
        self.path = log_path(folder, replica)
        self._max_bytes = max_bytes
        self._begin_bytes = 0

    def open(self) -> int:
        """Return a file descriptor that appends, for the process; the caller closes it.

        Raises:
            OSError: the folder or the file cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._begin_bytes = os.fstat(descriptor).st_size
        return descriptor

    def rotate(self) -> None:
        """Move what there is to the older file if it is too much. Blocks; lines written meanwhile may be lost.

        Raises:
            OSError: the disk is full or the folder is gone.
        """
        if self.path.stat().st_size <= self._max_bytes:
            return
        # The process goes on writing to the same open file, at its end: copy, then empty it.
        shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
        os.truncate(self.path, 0)
        self._begin_bytes = 0

    def tail(self) -> str:
        """Return the last lines of this start, bounded; an empty string when nothing can be read."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._begin_bytes, size), size - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL_LINES:])
