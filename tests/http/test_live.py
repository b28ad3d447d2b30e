"""A gateway whose operator changes it while it serves: at once in every HTTP worker, and for good."""

from __future__ import annotations

import os
import pty
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

TWO_TIERS = """
[deployments."first@echo"]
source = "/dev/null"
priority = 20
settings = { slots = 8 }
[deployments."second@echo"]
source = "/dev/null"
priority = 10
settings = { slots = 8 }
[aliases]
both = ["first", "second"]
"""


def patch(gateway, path: str, body: dict[str, Any]) -> httpx.Response:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        return client.patch(f"/admin/v1{path}", json=body)


def served_by(gateway, model: str = "both") -> str:
    """On a connection of its own, so that the kernel chooses the HTTP worker."""
    response = gateway.chat(model=model, max_tokens=2)
    assert response.status_code == 200, response.text
    return response.headers["x-gateway-replica"]


def healthy(gateway) -> bool:
    return gateway.health()["status"] == "healthy"


def test_a_change_is_in_effect_in_every_http_worker_when_it_is_answered(start, eventually) -> None:
    """Two workers, many requests at once right after each change; the answer comes within a fraction of a second."""
    with start(TWO_TIERS, "--workers", "2") as gateway, ThreadPoolExecutor(16) as pool:
        eventually(lambda: healthy(gateway))
        took_s = []
        for enabled in [False, True] * 5:
            eventually(lambda: gateway.health()["deployments"]["first@echo"]["state"] in {"ready", "stopped"})
            began_s = time.monotonic()
            assert patch(gateway, "/deployments/first@echo", {"enabled": enabled}).status_code == 200
            took_s.append(time.monotonic() - began_s)
            served = set(pool.map(lambda _: served_by(gateway), range(16)))
            if not enabled:
                assert served == {"second@echo#0"}
        print(f"\na change took {statistics.median(took_s) * 1000:.1f} ms, at most {max(took_s) * 1000:.1f} ms")  # noqa: T201 - a figure, with -s
        assert max(took_s) < 1


def test_a_running_stream_outlives_the_end_of_its_deployment(start, eventually) -> None:
    config = '[deployments."slow@echo"]\nsource = "/dev/null"\nsettings = { tokens_per_s = 20, tokens = 40 }\n'
    with start(config, "--workers", "2") as gateway:
        eventually(lambda: healthy(gateway))
        lines: list[str] = []

        def listen() -> None:
            body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "a"}]}
            with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=30) as response:
                lines.extend(line for line in response.iter_lines() if line.startswith("data: "))

        listening = threading.Thread(target=listen)
        listening.start()
        eventually(lambda: gateway.health()["deployments"]["slow@echo"]["in_flight"] == 1)
        assert patch(gateway, "/deployments/slow@echo", {"enabled": False}).status_code == 200
        assert gateway.chat(model="slow").json()["error"]["code"] == "model_disabled"
        listening.join(20)
        assert lines[-1] == "data: [DONE]"
        assert len(lines) == 40 + 3
        eventually(lambda: gateway.health()["deployments"]["slow@echo"]["state"] == "stopped")


def test_changes_outlive_the_supervisor_and_the_gateway(start, eventually, tmp_path) -> None:
    with start(TWO_TIERS, "--workers", "2", folder=tmp_path) as gateway:
        eventually(lambda: healthy(gateway))
        patch(gateway, "/deployments/first@echo", {"priority": 1})
        assert served_by(gateway, "first") == "first@echo#0"
        for _ in range(3):  # the new supervisor's generations begin anew, and are accepted all the same
            patch(gateway, "/deployments/second@echo", {"weight": 2.0})
            patch(gateway, "/deployments/second@echo", {"weight": None})
        patch(gateway, "/deployments/first@echo", {"enabled": False})
        old = gateway.one("core.supervisor")
        old.kill()
        eventually(lambda: gateway.one("core.supervisor").pid != old.pid)
        eventually(lambda: gateway.health()["deployments"]["second@echo"]["state"] == "ready")
        for _ in range(8):
            assert served_by(gateway) == "second@echo#0"
            assert gateway.chat(model="first").json()["error"]["code"] == "model_disabled"
        patch(gateway, "/deployments/first@echo", {"enabled": True})
        eventually(lambda: healthy(gateway))
    with start(TWO_TIERS, folder=tmp_path) as gateway:
        eventually(lambda: healthy(gateway))
        with httpx.Client(base_url=gateway.url) as client:
            shown = client.get("/admin/v1/deployments/first@echo").json()
        assert shown["priority"] == 1


def test_two_gateways_do_not_overwrite_each_others_changes(start, eventually, tmp_path) -> None:
    """The second says so and serves; when the first ends, however it does, the second may change what is kept."""
    config = f'{TWO_TIERS}[admin]\ndatabase = "{tmp_path}/shared.sqlite3"\n'
    with start(config) as second:
        with start(config) as first:
            eventually(lambda: healthy(first) and healthy(second))
            assert patch(first, "/deployments/first@echo", {"priority": 1}).status_code == 200
            refused = patch(second, "/deployments/first@echo", {"weight": 2.0})
            assert refused.status_code == 409
            message = refused.json()["error"]["message"]
            assert f"another gateway keeps its changes in {tmp_path}/shared.sqlite3" in message
            assert f"(process {first.one('core.supervisor').pid})" in message
            assert "takes no changes" in second.log.read_text()
            first.one("core.supervisor").kill()
            eventually(lambda: healthy(first))
            assert patch(first, "/deployments/first@echo", {"priority": 2}).status_code == 200, "its own is free again"
        assert patch(second, "/deployments/first@echo", {"weight": 2.0}).status_code == 200
        with httpx.Client(base_url=second.url) as client:
            shown = client.get("/admin/v1/deployments/first@echo").json()
        assert (shown["priority"], shown["weight"]) == (2, 2.0)


@pytest.mark.parametrize("options", [("--workers", "2"), ("--single-process",)])
def test_sighup_reads_the_configuration_again(start, eventually, tmp_path, options) -> None:
    """What is new starts, what is unchanged keeps its process, and a broken file changes nothing."""
    with start(TWO_TIERS, *options, folder=tmp_path) as gateway:
        eventually(lambda: healthy(gateway))
        file = tmp_path / "gateway.toml"
        good = file.read_text()

        def pid(name: str) -> int:
            return gateway.health()["deployments"][f"{name}@echo"]["replicas"][0]["pid"]

        def hang_up() -> None:
            gateway.process.send_signal(signal.SIGHUP)

        before = pid("first")
        file.write_text(
            good.replace("[aliases]", '[deployments."third@echo"]\nsource = "/dev/null"\n[aliases]\nnew = "third"')
        )
        hang_up()
        eventually(lambda: gateway.chat(model="new", max_tokens=1).status_code == 200)
        assert served_by(gateway, "new") == "third@echo#0"
        assert pid("first") == before

        file.write_text(good.replace("priority = 20", 'priority = "high"'))
        hang_up()
        eventually(lambda: "the old one stays" in gateway.log.read_text())
        assert "priority" in gateway.log.read_text().partition("the old one stays")[2]
        assert served_by(gateway, "new") == "third@echo#0"

        file.write_text(good)
        hang_up()
        eventually(lambda: gateway.chat(model="new").status_code == 404)
        eventually(lambda: healthy(gateway))
        assert pid("first") == before
        assert gateway.process.poll() is None


def test_a_mistake_in_the_configuration_costs_one_replica_of_three(start, eventually, tmp_path) -> None:
    """The others serve on as they are, say for what they wait, and follow when the mistake is mended."""
    config = '[deployments."many@echo"]\nsource = "/dev/null"\nreplicas = 3\nsettings = { tokens = 3 }\n'
    with start(config, folder=tmp_path) as gateway:
        file = tmp_path / "gateway.toml"
        good = file.read_text()

        def pids(state: str = "ready") -> list[int | None]:
            replicas = gateway.health()["deployments"]["many@echo"]["replicas"]
            return [one["pid"] for one in replicas if one["state"] == state]

        def configured(text: str) -> None:
            file.write_text(text)
            assert httpx.post(f"{gateway.url}/admin/v1/reload", timeout=30).status_code == 200

        eventually(lambda: len(pids()) == 3)
        before = pids()
        configured(good.replace("/dev/null", "/nowhere/at/all"))
        eventually(lambda: pids("absent") == [None])
        health = gateway.health()
        assert "there is nothing at /nowhere/at/all" in health["reasons"][0]
        waiting = health["deployments"]["many@echo"]["replicas"][1]["reason"]
        assert waiting.startswith("to be replaced when many@echo#0 is ready, which is absent: ")
        assert "no other replica is replaced before it is ready" in gateway.log.read_text()
        assert pids() == before[1:]
        configured(good)
        eventually(lambda: len(pids()) == 3)
        assert pids()[1:] == before[1:], "they run as configured"
        configured(good.replace("/dev/null", "/nowhere/at/all"))
        eventually(lambda: pids("absent") == [None])
        configured(good.replace("tokens = 3", "tokens = 4"))
        eventually(lambda: len(pids()) == 3 and not {*pids()} & {*before})
        eventually(lambda: healthy(gateway))


def test_who_is_restarted_goes_on_with_the_settings_in_effect(start, eventually, tmp_path) -> None:
    """Not with a file that is being edited: neither a new supervisor nor a new HTTP worker reads it."""
    with start(TWO_TIERS, "--workers", "2", folder=tmp_path) as gateway:
        eventually(lambda: healthy(gateway))
        eventually(lambda: gateway.log.read_text().count("Worker ready") == 2)
        file = tmp_path / "gateway.toml"
        file.write_text(file.read_text().replace('both = ["first", "second"]', 'only = "second"'))
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.chat(model="only").status_code == 200)
        file.write_text("this is no [ TOML")
        supervisor, workers = gateway.one("core.supervisor"), {one.pid for one in gateway.http_workers()}
        os.kill(supervisor.pid, signal.SIGKILL)
        os.kill(min(workers), signal.SIGKILL)

        def both_are_new() -> bool:
            now = {one.pid for one in gateway.http_workers()}
            return len(now) == 2 and min(workers) not in now and gateway.one("core.supervisor").pid != supervisor.pid

        eventually(both_are_new)
        eventually(lambda: healthy(gateway))
        for _ in range(10):
            assert served_by(gateway, "only") == "second@echo#0"
            assert gateway.chat(model="both").status_code == 404


def test_a_pull_ends_with_its_http_worker(start, eventually) -> None:
    """However that ends; a server that never answers keeps the pull busy."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"http://127.0.0.1:{silent.getsockname()[1]}/x.gguf#sha256={'0' * 64}"
        with start(f'[deployments."big@echo"]\nsource = "{source}"\n') as gateway:
            (worker,) = gateway.http_workers()
            url = f"{gateway.url}/admin/v1/pull"
            with httpx.stream("POST", url, json={"name": "big"}, timeout=30) as response:
                assert response.status_code == 200
                silent.accept()[0].close()  # it runs, and will try again
                (pull,) = [one for one in worker.children() if "pull" in one.cmdline()]
                worker.kill()
                eventually(lambda: not pull.is_running())


def test_sighup_to_an_http_worker_does_nothing(start, eventually) -> None:
    with start("", "--workers", "2") as gateway:
        eventually(lambda: gateway.log.read_text().count("Worker ready") == 2)
        before = gateway.http_workers()
        for worker in before:
            worker.send_signal(signal.SIGHUP)
        for _ in range(10):
            assert gateway.chat().status_code in {200, 503}
        assert {one.pid for one in gateway.http_workers()} == {one.pid for one in before}


def test_a_gateway_ends_with_the_terminal_that_it_was_started_from(start, eventually, tmp_path) -> None:
    """Its SIGHUP means the end then, as for everything else in the terminal."""
    (tmp_path / "gateway.toml").write_text('[plugins]\nallow = ["echo"]\n')
    master, slave = pty.openpty()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sanic", "core.app", "--port", "0"],
            cwd=tmp_path,
            stdin=slave,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        os.close(slave)
        eventually(lambda: "Worker ready" in (tmp_path / "log").read_text(), within_s=30)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGHUP)  # the terminal is there: this is a reload
        eventually(lambda: "nothing has changed" in (tmp_path / "log").read_text())
        os.close(master)
        process.send_signal(signal.SIGHUP)
        process.wait(30)
        eventually(lambda: not [child for child in children if child.is_running()])
    finally:
        process.kill()
