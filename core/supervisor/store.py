"""What was changed at run time, kept in one SQLite file that the supervisor alone writes."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
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

    A file that cannot be read is left as it is: nothing is ever written over it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unreadable = ""

    def load(self) -> Overrides:
        """Return what is kept; nothing, with a word in the log, when the file cannot be read."""
        self._unreadable = ""
        if not self._path.exists():
            return Overrides()
        try:
            with self._opened() as database:
                return _read(database)
        except (sqlite3.Error, OSError, msgspec.MsgspecError, ValueError, TypeError, StoreError) as error:
            self._unreadable = f"{self._path} cannot be read: {error}"
            _log.error(
                "%s. The gateway runs as configured, without what was changed at run time, and takes no changes. "
                "Repair the file or move it away, then restart the gateway",
                self._unreadable,
            )
            return Overrides()

    def save(self, overrides: Overrides) -> None:
        """Keep ``overrides`` instead of what was kept before: all of them, or none.

        Raises:
            StoreError: they could not be kept.
        """
        if self._unreadable:
            msg = f"{self._unreadable}; repair it or move it away, then restart the gateway"
            raise StoreError(msg)
        try:
            with self._opened() as database, database:
                database.execute("BEGIN IMMEDIATE")
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA user_version = {_VERSION}")
                database.execute("DELETE FROM overrides")
                database.executemany("INSERT INTO overrides (kind, name, value) VALUES (?, ?, ?)", _rows(overrides))
        except (sqlite3.Error, OSError) as error:
            msg = f"{self._path} cannot be written: {error}"
            raise StoreError(msg) from error

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
