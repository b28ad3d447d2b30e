"""Fetching weights over HTTP: in a process of its own, which ends when the client leaves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from core.http.admin import pull

Script = Callable[[str], None]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Let another program stand in for ``python``; it may use ``$ARGUMENTS`` and ``$PID``."""

    def write(body: str) -> None:
        path = tmp_path / "python"
        told = f"echo $@ > {tmp_path}/arguments; env > {tmp_path}/environment; echo $$ > {tmp_path}/pid\n"
        path.write_text(f"#!/bin/sh\n{told}{body}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


def line(event: str, **fields) -> str:
    return f"echo '{json.dumps({'event': event, **fields})}'"


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def events(lab, name: str = "echo") -> list[tuple[str, dict]]:
    response = await lab.client.post("pull", json={"name": name})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.split("\n\n"):
        fields = dict(one.split(": ", 1) for one in block.split("\n") if one and not one.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def test_a_pull_without_weights_is_done(lab) -> None:
    """The real one, of the model that needs none."""
    assert await events(lab) == [("done", {"pulled": {"echo@echo": None}, "failed": {}})]


async def test_progress_comes_before_the_one_end(lab, script) -> None:
    script(
        f"{line('progress', deployment='echo@echo', stage='fetching', done_bytes=1, total_bytes=2)}\n"
        f"{line('done', pulled={'echo@echo': '/x'}, failed={})}"
    )

    assert await events(lab) == [
        ("progress", {"deployment": "echo@echo", "stage": "fetching", "done_bytes": 1, "total_bytes": 2}),
        ("done", {"pulled": {"echo@echo": "/x"}, "failed": {}}),
    ]


async def test_an_alias_is_resolved_by_what_was_changed_at_run_time(lab, script, tmp_path) -> None:
    """The process knows the file only, so it is given deployments; and no variables of the HTTP worker."""
    await lab.client.put("aliases/new", json={"models": ["org/big", "echo"]})
    script(line("done", pulled={}, failed={}))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = "/nowhere"
    try:
        await events(lab, "new")
    finally:
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]

    assert (tmp_path / "arguments").read_text() == "-m core pull --json --end-with-stdin -- org/big@echo echo@echo\n"
    assert "PROMETHEUS" not in (tmp_path / "environment").read_text()


async def test_a_failure_is_an_error_event_with_its_reason(lab, script) -> None:
    script(f"{line('error', pulled={'a': None}, failed={'b': 'No such file.'})}\nexit 1")
    ((name, told),) = await events(lab)

    assert (name, told["error"]["code"], told["error"]["message"]) == ("error", "pull_failed", "b: No such file.")
    assert (told["pulled"], told["failed"]) == ({"a": None}, {"b": "No such file."})


@pytest.mark.parametrize("end", ["echo out of luck >&2; exit 3", "echo out of luck >&2; kill -9 $$"])
async def test_a_process_that_dies_is_an_error_event_with_its_last_words(lab, script, holds, end) -> None:
    """Never a clean end to a broken pull."""
    script(f"{line('progress', deployment='a', stage='fetching', done_bytes=1, total_bytes=None)}\n{end}")
    told = await events(lab)

    assert [name for name, _ in told] == ["progress", "error"]
    assert "out of luck" in told[1][1]["error"]["message"]
    holds("Error", {"error": told[1][1]["error"]})


async def test_what_it_says_on_the_side_never_stops_it(lab, script) -> None:
    """A full pipe would."""
    script(f"head -c 300000 /dev/zero >&2\n{line('done', pulled={}, failed={})}")

    assert [name for name, _ in await events(lab)] == ["done"]


async def test_a_line_that_is_none_of_ours_is_an_error_event(lab, script) -> None:
    script("echo hello")
    told = await events(lab)

    assert [name for name, _ in told] == ["error"]


async def test_it_ends_with_all_its_children_when_the_client_leaves(lab, script, tmp_path) -> None:
    script(f"sleep 60 & echo $! > {tmp_path}/child\nwait")
    async with lab.client.stream("POST", "pull", json={"name": "echo"}) as response:
        assert response.status_code == 200
        async with asyncio.timeout(5):
            while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
                await asyncio.sleep(0.01)
    pids = [int((tmp_path / name).read_text()) for name in ("pid", "child")]

    async with asyncio.timeout(5):
        while any(runs(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def test_the_end_of_the_gateway_is_an_error_event_that_says_so(lab, script, tmp_path) -> None:
    """At once, however long the pull would go on without a word."""
    script(f"{line('progress', deployment='echo@echo', stage='fetching', done_bytes=1, total_bytes=2)}\nsleep 600")
    told = asyncio.create_task(events(lab))
    async with asyncio.timeout(5):
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
    lab.gateway.fleet.draining = True

    async with asyncio.timeout(10):
        (*_, (name, data)) = await told
    assert (name, data["error"]["code"]) == ("error", "pull_failed")
    assert "shutting down" in data["error"]["message"]
    assert "again" in data["error"]["message"]


async def test_one_that_will_not_end_is_killed(lab, script, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pull, "_END_WITHIN_S", 0.2)
    script("trap '' TERM\necho > ready\nwhile true; do sleep 0.05; done".replace("> ready", f"> {tmp_path}/ready"))
    async with lab.client.stream("POST", "pull", json={"name": "echo"}) as response:
        assert response.status_code == 200
        async with asyncio.timeout(5):
            while not (tmp_path / "ready").exists():
                await asyncio.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())

    async with asyncio.timeout(5):
        while runs(pid):
            await asyncio.sleep(0.02)


async def test_the_stream_is_kept_open_while_nothing_is_told(lab, script) -> None:
    """limits.keepalive_s is 0.2."""
    script(f"sleep 0.7\n{line('done', pulled={}, failed={})}")
    response = await lab.client.post("pull", json={"name": "echo"})

    assert response.text.count(": keep-alive") >= 3


@pytest.mark.parametrize(
    ("body", "words"),
    [({"name": "ecco"}, "did you mean"), ({"name": ""}, "name"), ({}, "missing"), ({"name": "x", "y": 1}, "known")],
)
async def test_a_wrong_name_is_refused_before_anything_starts(lab, script, tmp_path, body, words) -> None:
    script("")
    response = await lab.client.post("pull", json=body)

    assert response.status_code in {400, 404}
    assert words in response.json()["error"]["message"]
    assert not (tmp_path / "arguments").exists()


async def test_a_model_whose_deployments_are_disabled_says_which_to_name(lab) -> None:
    await lab.client.patch("deployments/org/big@echo", json={"enabled": False})
    response = await lab.client.post("pull", json={"name": "org/big"})

    assert "name the one to pull: org/big@echo" in response.json()["error"]["message"]
