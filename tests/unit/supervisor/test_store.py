"""What was changed at run time survives, whole or not at all, and nothing that cannot be read is destroyed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from core.supervisor.store import OverrideStore, StoreError
from core.wire.control import DeploymentOverride, Overrides

ALL = Overrides(
    deployments={
        "a@b": DeploymentOverride(
            enabled=False,
            priority=-3,
            weight=0.5,
            replicas=4,
            pinned=True,
            max_waiting=0,
            max_waiting_prompt_tokens=9,
        ),
        "ö/x:1@b": DeploymentOverride(enabled=True),
    },
    backends={"b": False, "c": True},
    aliases={"gpt-4": ("a", "ö/x:1@b"), "none": ()},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gateway.sqlite3"


def test_what_was_saved_is_loaded_by_the_next_one(path):
    OverrideStore(path).save(ALL)
    assert OverrideStore(path).load() == ALL
    fewer = Overrides(aliases={"gpt-4": ("a",)})
    OverrideStore(path).save(fewer)
    assert OverrideStore(path).load() == fewer
    OverrideStore(path).save(Overrides())
    assert OverrideStore(path).load() == Overrides()


def test_the_file_is_made_at_the_first_change(path):
    store = OverrideStore(path)
    assert store.load() == Overrides()
    assert list(path.parent.iterdir()) == []
    store.save(ALL)
    assert path.exists()


def test_a_file_that_was_never_written_to_the_end_is_empty(path):
    path.touch()
    store = OverrideStore(path)
    assert store.load() == Overrides()
    store.save(ALL)
    assert OverrideStore(path).load() == ALL


def test_one_gateway_at_a_time_changes_a_file(path, caplog):
    """The other runs by what is kept, is told what to do, and may change it when the first is gone."""
    first, second = OverrideStore(path), OverrideStore(path)
    assert first.load(to_change=True) == Overrides()
    first.save(ALL)
    assert (first.owned, second.load(), second.owned) == (True, ALL, False)
    for words in (str(path), f"process {os.getpid()}", "admin.database", "takes no changes"):
        assert words in caplog.text
    with pytest.raises(StoreError, match="another gateway"):
        second.save(Overrides())
    assert first.load() == ALL
    first.close()
    assert second.load(to_change=True) == ALL
    assert second.owned
    second.save(Overrides())
    assert not first.owned


def test_a_file_is_free_when_its_gateway_was_killed_whatever_that_has_started(path):
    script = """if True:
        import pathlib, subprocess, sys
        from core.supervisor.store import OverrideStore
        store = OverrideStore(pathlib.Path(sys.argv[1]))
        store.load(to_change=True)
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False)
        print(child.pid, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        child = int(owner.stdout.readline())
        try:
            store = OverrideStore(path)
            store.load(to_change=True)
            assert f"process {owner.pid}" in store.problem
            owner.kill()
            owner.wait()
            store.load(to_change=True)
            assert store.owned
        finally:
            os.kill(child, signal.SIGKILL)


def test_where_nothing_can_be_locked_changes_are_kept_all_the_same(path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    store = OverrideStore(path)
    assert store.load(to_change=True) == Overrides()
    store.save(ALL)
    assert OverrideStore(path).load() == ALL


def test_a_save_that_fails_half_way_changes_nothing(path, monkeypatch):
    store = OverrideStore(path)
    store.save(ALL)

    def half(_):
        yield "backend", "b", "true"
        yield "nonsense", "b", "true"

    monkeypatch.setattr("core.supervisor.store._rows", half)
    with pytest.raises(StoreError, match="cannot be written"):
        store.save(Overrides(backends={"b": True}))
    monkeypatch.undo()
    assert OverrideStore(path).load() == ALL


def damage_not_a_database(path):
    path.write_bytes(b"this is no database, and was never one" * 100)


def damage_cut(path):
    OverrideStore(path).save(ALL)
    path.write_bytes(path.read_bytes()[:5000])


def damage_other_version(path):
    OverrideStore(path).save(ALL)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()


def damage_value(path):
    OverrideStore(path).save(ALL)
    with sqlite3.connect(path) as database:
        database.execute("""UPDATE overrides SET value = '{"priority": "x"}' WHERE name = 'a@b'""")
    database.close()


def damage_other_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE somebody_elses (x)")
    database.close()


def damage_folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [damage_not_a_database, damage_cut, damage_other_version, damage_value, damage_other_database, damage_folder],
)
def test_a_file_that_cannot_be_read_is_told_of_and_never_written(path, damage, caplog):
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    store = OverrideStore(path)
    with caplog.at_level(logging.ERROR):
        assert store.load() == Overrides()
    assert str(path) in caplog.text
    assert "without what was changed" in caplog.text
    with pytest.raises(StoreError, match="cannot be read") as refused:
        store.save(ALL)
    assert "move it away" in str(refused.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_file_that_cannot_be_written_refuses_the_change(path):
    store = OverrideStore(path.parent / "no" / "such" / "folder" / "x.sqlite3")
    assert store.load() == Overrides()
    with pytest.raises(StoreError, match="cannot be written"):
        store.save(ALL)


def test_a_file_that_somebody_else_has_locked_is_waited_for_and_then_refused(path, monkeypatch):
    monkeypatch.setattr("core.supervisor.store._LOCKED_S", 0.05)
    store = OverrideStore(path)
    store.save(ALL)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        store.save(Overrides())
    other.execute("ROLLBACK")
    other.close()
    store.save(Overrides())
    assert store.load() == Overrides()


def test_a_file_that_became_anothers_is_named(path):
    store = OverrideStore(path)
    store.save(ALL)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(StoreError, match=f"{path} cannot be written: it is another's"):
        store.save(ALL)
