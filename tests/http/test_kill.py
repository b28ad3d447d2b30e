"""kill -9 of every process of the gateway, as a client sees it; and ends that leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

TWO_MODELS = """
[deployments."victim@echo"]
source = "/dev/null"
settings = { tokens_per_s = 50, tokens = 1000, slots = 4 }
[deployments."bystander@echo"]
source = "/dev/null"
"""


class Stream(threading.Thread):
    """A streaming client in the background; keeps the data lines it saw."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.failure: Exception | None = None
        self.ended_s = 0.0
        self._request = ("POST", f"{url}/v1/chat/completions")
        self._body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "a b c"}]}
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream(*self._request, json=self._body, timeout=30) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.lines.append(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            self.failure = error
        self.ended_s = time.monotonic()


def pid_of(gateway, replica: str) -> int | None:
    deployment = gateway.health()["deployments"][replica.rpartition("#")[0]]
    return next(one["pid"] for one in deployment["replicas"] if one["replica"] == replica)


def state_of(gateway, deployment: str) -> str:
    return gateway.health()["deployments"][deployment]["state"]


def test_a_killed_replica_is_an_error_event_and_comes_back(start, eventually) -> None:
    """The stream ends with an error within 1 s, the other model never notices, health tells it, and it is back."""
    with start(TWO_MODELS) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        stream = Stream(gateway.url, "victim")
        eventually(lambda: len(stream.lines) > 3)
        old = pid_of(gateway, "victim@echo#0")
        killed_s = time.monotonic()
        os.kill(old, signal.SIGKILL)
        stream.join(5)

        assert json.loads(stream.lines[-1])["error"]["code"] == "model_not_ready"
        assert stream.ended_s - killed_s < 1
        assert gateway.chat(model="bystander").status_code == 200
        refused = gateway.chat(model="victim", max_tokens=2)
        if refused.status_code != 200:  # not yet back
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
        eventually(lambda: state_of(gateway, "victim@echo") == "ready" and pid_of(gateway, "victim@echo#0") != old)
        assert gateway.chat(model="victim", max_tokens=2).status_code == 200
        assert gateway.health()["deployments"]["victim@echo"]["replicas"][0]["restarts"] == 1


def test_health_is_true_while_a_replica_is_down(start, eventually) -> None:
    with start(TWO_MODELS, "--workers", "2") as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        os.kill(pid_of(gateway, "victim@echo#0"), signal.SIGKILL)
        health = eventually(lambda: (seen := gateway.health())["status"] == "degraded" and seen, within_s=2)

        assert any("victim@echo" in reason and "SIGKILL" in reason for reason in health["reasons"])
        eventually(lambda: gateway.health()["status"] == "healthy")


def test_a_request_not_yet_begun_is_answered_elsewhere(start, eventually) -> None:
    """The replica that is killed in its prefill has a twin in a lower tier."""
    config = """
[deployments."first@echo"]
source = "/dev/null"
settings = { prefill_s = 30 }
[deployments."second@echo"]
source = "/dev/null"
[aliases]
both = ["first", "second"]
"""
    with start(config) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(gateway.chat(model="both")))
        asking.start()
        eventually(lambda: gateway.health()["deployments"]["first@echo"]["in_flight"] == 1)
        os.kill(pid_of(gateway, "first@echo#0"), signal.SIGKILL)
        asking.join(10)

        assert answers[0].status_code == 200
        assert answers[0].headers["x-gateway-replica"] == "second@echo#0"


def test_a_killed_supervisor_is_restarted_and_serving_goes_on(start, eventually) -> None:
    with start("") as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        old = gateway.one("core.supervisor")
        replica = gateway.one("core.engine")
        old.kill()
        away = eventually(lambda: (seen := gateway.health())["status"] == "unhealthy" and seen, within_s=2)
        assert "supervisor" in " ".join(away["reasons"])
        refused = gateway.chat()
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        eventually(lambda: gateway.health()["status"] == "healthy")

        assert gateway.chat().status_code == 200
        assert gateway.one("core.supervisor").pid != old.pid
        eventually(lambda: not replica.is_running())


def test_a_killed_http_worker_is_restarted(start, eventually) -> None:
    with start("", "--workers", "2") as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        # Sanic itself gives up when a worker dies before it has reported ready.
        eventually(lambda: gateway.log.read_text().count("Worker ready") == 2)
        before = {one.pid for one in gateway.http_workers()}
        assert len(before) == 2
        victim = min(before)
        os.kill(victim, signal.SIGKILL)

        def two_again() -> bool:
            now = {one.pid for one in gateway.http_workers()}
            return len(now) == 2 and victim not in now

        eventually(two_again)
        for _ in range(10):
            assert gateway.chat().status_code == 200
        assert gateway.health()["requests_in_flight"] == 0


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--single-process",), ("--dev",)])
def test_a_killed_main_process_leaves_nothing_behind(start, eventually, options) -> None:
    with start("", *options) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        folders = run_dirs()
        children = gateway.children()
        assert any("core.engine" in " ".join(child.cmdline()) for child in children)
        gateway.process.kill()
        gateway.process.wait()

        eventually(lambda: not [child for child in children if child.is_running()], within_s=20)
        if "--single-process" not in options:
            eventually(lambda: folders - run_dirs(), within_s=5)  # others may come, of other tests' gateways


def run_dirs() -> set[Path]:

    return set(Path(tempfile.gettempdir()).glob("ai-gateway-*"))


def test_a_worker_that_does_not_answer_cannot_keep_the_gateway_alive(start, eventually) -> None:
    """drain_timeout_s is 5 and kill_after_s 1."""
    with start("") as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        eventually(lambda: "Worker ready" in gateway.log.read_text())
        (worker,) = gateway.http_workers()
        worker.suspend()
        gateway.process.send_signal(signal.SIGTERM)

        gateway.process.wait(15)


def test_a_single_process_leaves_its_port_to_nobody(start, eventually) -> None:
    """Sanic makes its listening socket inheritable; a replica that still drains must not hold it."""
    with start("", "--single-process") as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        replica = gateway.one("core.engine")

        assert not replica.net_connections("tcp")


@pytest.mark.parametrize("options", [(), ("--single-process",)])
def test_sigterm_lets_a_running_stream_finish(start, eventually, options) -> None:
    config = """
[deployments."slow@echo"]
source = "/dev/null"
settings = { tokens_per_s = 20, tokens = 30 }
"""
    with start(config, *options) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        children = gateway.children()
        stream = Stream(gateway.url, "slow")
        eventually(lambda: len(stream.lines) > 3)
        gateway.process.send_signal(signal.SIGTERM)
        stream.join(10)
        gateway.process.wait(15)

        assert stream.failure is None
        assert stream.lines[-1] == "[DONE]"
        assert len(stream.lines) == 30 + 3
        eventually(lambda: not [child for child in children if child.is_running()], within_s=5)


def test_sigterm_cuts_a_stream_that_outlasts_the_drain(start, eventually) -> None:
    """drain_timeout_s is 5: the stream is ended by then, and not as a clean one."""
    with start(TWO_MODELS) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        children = gateway.children()
        stream = Stream(gateway.url, "victim")
        eventually(lambda: len(stream.lines) > 3)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(25)
        stream.join(5)

        assert stream.failure is not None or "error" in json.loads(stream.lines[-1])
        assert "[DONE]" not in stream.lines
        eventually(lambda: not [child for child in children if child.is_running()], within_s=5)


def test_a_second_sigterm_ends_it_at_once_and_nobody_else(start, eventually) -> None:
    """Who started the gateway may be in its process group: a script, make, a test runner."""
    patient = '[supervisor]\ndrain_timeout_s = 100\nlog_dir = "logs"\n'
    with subprocess.Popen(["sleep", "1000"], process_group=0) as bystander:
        try:
            with start(patient + TWO_MODELS, quick=False, process_group=bystander.pid) as gateway:
                eventually(lambda: gateway.health()["status"] == "healthy")
                children = gateway.children()
                stream = Stream(gateway.url, "victim")
                eventually(lambda: len(stream.lines) > 3)
                psutil.Process(pid_of(gateway, "bystander@echo#0")).suspend()  # it would not drain either
                gateway.process.send_signal(signal.SIGTERM)
                eventually(lambda: "Shutting down" in gateway.log.read_text())

                def ended_when_told_again() -> bool:
                    gateway.process.send_signal(signal.SIGTERM)
                    time.sleep(1)  # two at the same moment are one
                    return gateway.process.poll() is not None

                assert eventually(ended_when_told_again, within_s=30)
                stream.join(5)
                assert "[DONE]" not in stream.lines
                eventually(lambda: not [child for child in children if child.is_running()], within_s=5)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_sigterm_before_the_workers_are_up_ends_it(start) -> None:
    """Sanic's own main process would spin for ever here."""
    with start("", wait=False) as gateway:
        while "Goin' Fast" not in gateway.log.read_text():
            time.sleep(0.02)
        gateway.process.send_signal(signal.SIGTERM)

        gateway.process.wait(30)


def test_a_wrong_configuration_is_one_clear_message(start) -> None:
    for config, message in (
        ("[nonsense]\nx = 1\n", "nonsense"),
        ('[routing]\npolicy = "sticki"\n', "sticki"),
        ("[backends.tpu]\nx = 1\n", "tpu"),
    ):
        with pytest.raises(AssertionError) as caught, start(config):
            pass

        assert message in str(caught.value)
        assert "Traceback" not in str(caught.value)
    assert not [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
