"""A replica's log: small, private to one start where it matters, and never in the way."""

from __future__ import annotations

import os

from core.supervisor.replica_log import ReplicaLog


def write(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())


def test_two_names_never_share_a_file(tmp_path):
    names = ["a/b@x#0", "a_b@x#0", "a:b@x#0", "../../etc@x#0"]
    paths = {ReplicaLog(tmp_path, name, max_bytes=1).path for name in names}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path}


def test_the_tail_is_of_this_start_and_bounded(tmp_path):
    first = ReplicaLog(tmp_path / "logs", "m@b#0", max_bytes=1 << 20)
    descriptor = first.open()
    write(descriptor, "old words\n")
    os.close(descriptor)
    second = ReplicaLog(tmp_path / "logs", "m@b#0", max_bytes=1 << 20)
    descriptor = second.open()
    assert second.tail() == ""
    write(descriptor, "new words\n\xff\n")
    assert second.tail() == "new words\nÿ"
    write(descriptor, "".join(f"line {number}\n" for number in range(1000)))
    assert second.tail().splitlines() == [f"line {number}" for number in range(980, 1000)]
    write(descriptor, "x" * 1_000_000)
    assert len(second.tail()) <= 4096
    os.close(descriptor)


def test_a_large_log_is_moved_and_the_process_goes_on_writing(tmp_path):
    log = ReplicaLog(tmp_path, "m@b#0", max_bytes=100)
    descriptor = log.open()
    write(descriptor, "a" * 100)
    log.rotate()
    assert log.path.stat().st_size == 100
    write(descriptor, "b")
    log.rotate()
    older = log.path.with_name(f"{log.path.name}.1")
    assert (log.path.stat().st_size, older.read_text()) == (0, "a" * 100 + "b")
    write(descriptor, "after\n")
    assert (log.path.read_text(), log.tail()) == ("after\n", "after")
    write(descriptor, "c" * 200)
    log.rotate()
    assert older.read_text() == "after\n" + "c" * 200
    os.close(descriptor)


def test_a_log_that_cannot_be_read_has_no_last_words(tmp_path):
    assert ReplicaLog(tmp_path / "nowhere", "m@b#0", max_bytes=1).tail() == ""
