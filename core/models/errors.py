"""The one exception that fetching weights raises, and what is said of a disk that fails."""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = ["PullError", "describe_disk_error"]


class PullError(Exception):
    """Weights cannot be fetched; the message says why and what to do about it."""


def describe_disk_error(error: OSError, folder: Path) -> str:
    """Return what happened in ``folder``, below ``weights.cache_dir``, and what to do about it."""
    where = error.filename or folder
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"The disk of {folder} is full: make room, or set weights.cache_dir to a folder on a larger disk."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{where} cannot be written: correct its permissions, or set weights.cache_dir to a folder of yours."
        case _:
            return f"{where}: {error.strerror or error}."
