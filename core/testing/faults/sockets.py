"""What a process can do to its own unix sockets behind the back of whoever uses them.

A native library that prints to a descriptor which is no longer its own does just that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["refuse_connections", "scribble"]


def scribble(data: bytes) -> None:
    """Write to every connection that was made to this process; neither side expects it."""
    for connection in _connections():
        with contextlib.suppress(OSError):
            connection.send(data, socket.MSG_DONTWAIT)


def refuse_connections() -> bool:
    """Refuse all further connections; those that there are live on.

    Another socket, on which nobody listens, takes the path of the one that does. Does nothing and returns False
    before the first connection, which is the supervisor's: afterwards the replica passes for ready and yet nobody
    can reach it.
    """
    paths = {connection.getsockname() for connection in _connections()}
    for path in paths:
        Path(path).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(path)
    return bool(paths)


def _connections() -> Iterator[socket.socket]:
    """Duplicates of the connections to this process's unix sockets, which bear the name that was connected to."""
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(entry.stat().st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if one.family == socket.AF_UNIX and one.getsockname() and not listens:
                    yield one
