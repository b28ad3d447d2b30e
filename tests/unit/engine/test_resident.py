"""What a replica takes is what its processes take together."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from core.engine.resident import ResidentMemory

MIB = 1 << 20


@pytest.fixture
def child():
    """A process of our own that holds 64 MiB."""
    code = "import sys; held = bytearray(b'x') * (64 << 20); print('.', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


async def test_children_are_counted_once_they_were_looked_for(child):
    memory = ResidentMemory()
    alone = memory.now_bytes()
    assert alone == pytest.approx(psutil.Process().memory_info().rss, abs=8 * MIB)
    await memory.look()
    assert memory.now_bytes() - alone > 60 * MIB


async def test_children_that_have_ended_are_no_mistake(child):
    memory = ResidentMemory()
    alone = memory.now_bytes()
    await memory.look()
    child.kill()
    child.wait()
    assert memory.now_bytes() - alone < 8 * MIB


async def test_it_does_not_read_the_table_of_processes_at_every_report(monkeypatch):
    looks = []
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: looks.append(1) or [])
    memory = ResidentMemory()
    for _ in range(10):
        await memory.look()
    assert looks == [1]
