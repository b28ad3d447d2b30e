"""What was changed at run time, kept in one SQLite file that the supervisor alone writes."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import weakref
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.wire.control import DeploymentOverride, Overrides

__all__ = ["OverrideStore", "StoreError"]

_log = logging.getLogger(__name__)
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS overrides (
    kind TEXT NOT NULL CHECK (kind IN ('deployment', 'backend', 'alias')),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""
_LOCKED_S = 1.0


class StoreError(RuntimeError):
    """The file cannot be read or written; the message says why and what to do."""


class OverrideStore:
    """Reads and writes the file ``path``, which is made at the first change. Blocks, for milliseconds.

    A file that cannot be read is left as it is: nothing is ever written over it. One gateway at a time keeps its
    changes in it: a lock on a file beside it, ``<path>.lock``, ends with the process, or with `close`.

    Attributes:
        problem: why nothing can be kept, for people; empty when nothing is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._claim: weakref.finalize[[int], OverrideStore] | None = None
        self.problem = ""

    @property
    def owned(self) -> bool:
        """Whether nobody else has changed the file since it was read, or can."""
        return self._claim is not None and not self.problem

    def load(self, *, to_change: bool = False) -> Overrides:
        """Return what is kept; when something is wrong, the log and `problem` say what.

        Nothing is returned of a file that cannot be read. Unless ``to_change``, nothing is locked that is not there.
        """
        self.problem, kept = "", Overrides()
        there = self._path.exists()
        if (there or to_change) and self._claim is None:
            self._lock()
        if there:
            try:
                with self._opened() as database:
                    kept = _read(database)
            except (sqlite3.Error, OSError, msgspec.MsgspecError, ValueError, TypeError, StoreError) as error:
                self.problem = (
                    f"{self._path} cannot be read: {error}; repair it or move it away, then: python -m core reload"
                )
                _log.error("%s. Until then the gateway runs without what was changed at run time", self.problem)
                return Overrides()
        if self.problem:
            _log.error("%s. Until then this gateway runs by what is kept there, and takes no changes", self.problem)
        return kept

    def close(self) -> None:
        """Let another gateway have the file."""
        if self._claim is not None:
            self._claim()
            self._claim = None

    def save(self, overrides: Overrides) -> None:
        """Keep ``overrides`` instead of what was kept before: all of them, or none.

        Raises:
            StoreError: they could not be kept.
        """
        if self.problem:
            raise StoreError(self.problem)
        try:
            with self._opened() as database, database:
                database.execute("BEGIN IMMEDIATE")
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA user_version = {_VERSION}")
                database.execute("DELETE FROM overrides")
                database.executemany("INSERT INTO overrides (kind, name, value) VALUES (?, ?, ?)", _rows(overrides))
        except (sqlite3.Error, OSError, StoreError) as error:
            msg = f"{self._path} cannot be written: {error}"
            raise StoreError(msg) from error

    def _lock(self) -> None:
        lock = self._path.with_name(f"{self._path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)  # no child inherits it
        except OSError:
            return  # nor can anything be written there
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            self.problem = (
                f"another gateway keeps its changes in {self._path} (process {owner}); give this one a file of its own "
                "(admin.database), or end the other"
            )
            return
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._claim = weakref.finalize(self, os.close, descriptor)
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=_LOCKED_S, isolation_level=None)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version != (_VERSION if tables else 0):
                msg = (
                    f"it is of version {version}, and this gateway writes {_VERSION}" if version else "it is another's"
                )
                raise StoreError(msg)
            yield database


def _rows(overrides: Overrides) -> Iterator[tuple[str, str, str]]:
    for kind, values in (
        ("deployment", overrides.deployments),
        ("backend", overrides.backends),
        ("alias", overrides.aliases),
    ):
        for name, value in values.items():
            yield kind, name, msgspec.json.encode(value).decode()


def _read(database: sqlite3.Connection) -> Overrides:
    if not database.execute("PRAGMA user_version").fetchone()[0]:
        return Overrides()  # made, but never written to the end
    (damage,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if damage != "ok":
        raise StoreError(damage)
    deployments: dict[str, DeploymentOverride] = {}
    backends: dict[str, bool] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for kind, name, value in database.execute("SELECT kind, name, value FROM overrides ORDER BY kind, name"):
        if kind == "deployment":
            deployments[name] = msgspec.json.decode(value, type=DeploymentOverride)
        elif kind == "backend":
            backends[name] = msgspec.json.decode(value, type=bool)
        else:
            aliases[name] = msgspec.json.decode(value, type=tuple[str, ...])
    return Overrides(deployments=deployments, backends=backends, aliases=aliases)
