"""Managing a real gateway of two HTTP workers while it runs: over HTTP, and by the commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from core.testing import Gateway, start_gateway
from core.testing import eventually as wait_until

KEY = "k" * 24
CONFIG = """
[aliases]
"gpt-4" = "echo"
[deployments."twin@echo"]
source = "/dev/null"
priority = 3
[deployments."org/later@echo"]
source = "/dev/null"
load = "on_demand"
"""


@pytest.fixture(scope="module")
def managed() -> Iterator[Gateway]:
    """One gateway for the whole file; every test takes its changes back."""
    with start_gateway('[plugins]\nallow = ["echo"]\n' + CONFIG, "--workers", "2") as running:
        wait_until(lambda: running.health()["status"] == "healthy")
        yield running


@pytest.fixture
def gateway(managed: Gateway) -> Iterator[Gateway]:
    yield managed
    ask(managed, "POST", "reset", {"names": ["*"]})


def ask(gateway: Gateway, method: str, path: str, body: object = None, **headers: str) -> Any:
    response = httpx.request(
        method, f"{gateway.url}/admin/v1/{path}", json=body, headers=headers, timeout=30, trust_env=False
    )
    assert response.is_success, response.text
    return response.json()


def from_every_worker(gateway: Gateway, look: Callable[[httpx.Client], Any]) -> list[Any]:
    """What new connections see; the kernel spreads them over the workers that listen."""
    seen = []
    for _ in range(24):
        with httpx.Client(base_url=gateway.url, trust_env=False) as client:
            seen.append(look(client))
    return seen


def command(gateway: Gateway, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "core", *arguments, "--url", gateway.url],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


class Listener(threading.Thread):
    """Hears events in the background."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(daemon=True)
        self.heard: list[tuple[str, dict]] = []
        self.listens = threading.Event()
        self._url = f"{gateway.url}/admin/v1/events"
        self.start()
        assert self.listens.wait(10)

    def run(self) -> None:
        name = ""
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", self._url, timeout=None) as response:  # noqa: S113
            for line in response.iter_lines():
                self.listens.set()
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    self.heard.append((name, json.loads(value)))

    def changes(self, replica: str) -> list[str]:
        return [data["data"]["after"] for name, data in self.heard if name == "replica" and data["subject"] == replica]


def test_a_disabled_deployment_takes_no_request_of_any_worker(gateway, eventually) -> None:
    """From the moment on at which the change is answered; and takes them again when it is enabled."""
    told = ask(gateway, "PATCH", "deployments/twin@echo", {"enabled": False})
    statuses = from_every_worker(gateway, lambda client: client.get("/v1/models/twin").json()["active"])
    refused = gateway.chat(model="twin")

    assert told["overrides"] == {"enabled": False}
    assert set(statuses) == {False}
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_disabled")
    ask(gateway, "PATCH", "deployments/twin@echo", {"enabled": None})
    eventually(lambda: gateway.chat(model="twin").status_code == 200)


def test_an_alias_is_listed_by_every_worker_at_once(gateway) -> None:
    def names(client: httpx.Client) -> set[str]:
        return {row["id"] for row in client.get("/v1/models").json()["data"]}

    ask(gateway, "PUT", "aliases/fresh", {"models": ["twin", "echo"]})
    assert all("fresh" in seen for seen in from_every_worker(gateway, names))
    assert gateway.chat(model="fresh").headers["x-gateway-model"] == "twin"
    ask(gateway, "DELETE", "aliases/gpt-4")
    assert all("gpt-4" not in seen for seen in from_every_worker(gateway, names))
    assert gateway.chat(model="gpt-4").status_code == 404
    ask(gateway, "DELETE", "aliases/gpt-4?reset=true")
    assert all("gpt-4" in seen for seen in from_every_worker(gateway, names))


def test_events_show_a_death_and_the_way_back(gateway, eventually) -> None:
    listener = Listener(gateway)
    (before,) = ask(gateway, "GET", "deployments/echo@echo")["replica_states"]
    os.kill(before["pid"], signal.SIGKILL)

    eventually(lambda: listener.changes("echo@echo#0")[-1:] == ["ready"])
    assert "SIGKILL" in json.dumps(listener.heard)
    (after,) = ask(gateway, "GET", "deployments/echo@echo")["replica_states"]
    assert (after["restarts"], after["pid"] != before["pid"]) == (before["restarts"] + 1, True)
    ask(gateway, "PATCH", "deployments/twin@echo", {"weight": 2})
    eventually(lambda: listener.heard[-1][0] == "overrides")


def test_a_model_is_loaded_restarted_and_unloaded(gateway) -> None:
    """By its id with a slash; each is waited for."""
    later = "deployments/org/later@echo"
    assert ask(gateway, "GET", later)["state"] == "stopped"
    loaded = ask(gateway, "POST", f"{later}/load?wait_s=20")
    restarted = ask(gateway, "POST", f"{later}/restart?wait_s=20")
    unloaded = ask(gateway, "POST", f"{later}/unload?wait_s=20")

    assert [one["done"] for one in (loaded, restarted, unloaded)] == [True] * 3
    pids = [one["deployment"]["replica_states"][0]["pid"] for one in (loaded, restarted)]
    assert len(set(pids)) == 2
    assert unloaded["deployment"]["state"] == "stopped"
    assert gateway.chat(model="org/later").status_code == 200


def test_more_replicas_are_started_and_sent_away(gateway, eventually) -> None:
    ask(gateway, "PATCH", "deployments/twin@echo", {"replicas": 3})

    def ready() -> int:
        states = ask(gateway, "GET", "deployments/twin@echo")["replica_states"]
        return [one["state"] for one in states].count("ready")

    eventually(lambda: ready() == 3)
    ask(gateway, "POST", "reset", {"names": ["twin@echo"]})
    eventually(lambda: ready() == 1)


def test_a_backend_is_disabled_and_enabled(gateway, eventually) -> None:
    ask(gateway, "PATCH", "backends/echo", {"enabled": False})
    assert gateway.chat().json()["error"]["code"] == "model_disabled"
    ask(gateway, "PATCH", "backends/echo", {"enabled": None})
    eventually(lambda: gateway.chat().status_code == 200)


def test_a_reload_puts_the_file_in_effect_or_refuses_it_whole(gateway, eventually) -> None:
    file = gateway.log.parent / "gateway.toml"
    text = file.read_text()
    try:
        file.write_text(text.replace("priority = 3", "priority = 4"))
        dry = ask(gateway, "POST", "reload?dry_run=true")
        assert ask(gateway, "GET", "deployments/twin@echo")["priority"] == 3
        done = ask(gateway, "POST", "reload")
        assert ask(gateway, "GET", "deployments/twin@echo")["configured"]["priority"] == 4
        file.write_text(text + "\n[limits]\ntimeout = 3\n")
        refused = httpx.post(f"{gateway.url}/admin/v1/reload", trust_env=False)
    finally:
        file.write_text(text)
        ask(gateway, "POST", "reload")

    assert dry["changed"] == done["changed"] == [{"key": 'deployments."twin@echo".priority', "before": 3, "after": 4}]
    assert done["generation"] > dry["generation"]
    assert refused.status_code == 400
    assert "limits.timeout: there is no such key" in refused.json()["error"]["message"]
    eventually(lambda: gateway.chat().status_code == 200)


def test_the_dry_run_tells_where_a_request_goes(gateway) -> None:
    chat = {"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}]}
    told = ask(gateway, "POST", "route/explain", chat)

    assert told["chosen"] == "echo@echo#0"
    assert gateway.chat(model="gpt-4").headers["x-gateway-replica"] == told["chosen"]


def test_a_pull_tells_its_progress(gateway) -> None:
    """Of the gateway's own configuration, in a process of its own."""
    response = httpx.post(f"{gateway.url}/admin/v1/pull", json={"name": "gpt-4"}, timeout=30, trust_env=False)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert 'event: done\ndata: {"pulled":{"echo@echo":null},"failed":{}}' in response.text


def test_the_commands_are_twins(gateway) -> None:
    """One after another, as an operator would."""
    assert command(gateway, "priority", "twin@echo", "8").returncode == 0
    rows = {row["id"]: row for row in json.loads(command(gateway, "deployments", "--json").stdout)}
    assert (rows["twin@echo"]["priority"], rows["twin@echo"]["configured"]["priority"]) == (8, 3)
    assert command(gateway, "load", "org/later@echo", "--wait").stdout == "org/later@echo is ready.\n"
    wrong = command(gateway, "disable", "twim@echo")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)
    assert "twin@echo" in wrong.stderr


def test_the_log_says_who_may_manage(gateway) -> None:
    assert "/admin/v1 answers on the loopback interface only" in gateway.log.read_text()


def test_what_was_changed_survives_a_restart_until_it_is_reset(tmp_path_factory, eventually) -> None:
    """Shown as override of the configured value; behind the key, which the commands find in the environment."""
    folder = tmp_path_factory.mktemp("g")
    config = f'[plugins]\nallow = ["echo"]\n[admin]\nkey = "{KEY}"\n'
    with start_gateway(config, folder=folder) as gateway:
        assert httpx.get(f"{gateway.url}/admin/v1/deployments", trust_env=False).status_code == 401
        unkeyed = command(gateway, "priority", "echo@echo", "5")
        assert (unkeyed.returncode, len(unkeyed.stderr.splitlines())) == (1, 1)
        assert command(gateway, "priority", "echo@echo", "5", GATEWAY_ADMIN__KEY=KEY).returncode == 0
        ask(gateway, "PUT", "aliases/mine", {"models": "echo"}, authorization=f"Bearer {KEY}")
    with start_gateway(config, folder=folder) as gateway:
        eventually(lambda: gateway.chat(model="mine").status_code == 200)
        row = ask(gateway, "GET", "deployments/echo@echo", authorization=f"Bearer {KEY}")
        assert (row["priority"], row["configured"]["priority"], row["overrides"]) == (5, 0, {"priority": 5})
        assert command(gateway, "deployments", "--all", "--key", KEY).returncode == 0
        assert gateway.chat(model="mine").status_code == 404
        assert KEY not in gateway.log.read_text()
