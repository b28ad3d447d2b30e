"""What HTTP workers and operators are told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from core.api import BackendSettings, BackendSpec, EngineInfo, Load, ModelSpec
from core.routing.table import Deployment
from core.supervisor.replica import Process, Replica
from core.supervisor.snapshot import deployment_status, replica_status
from core.supervisor.words import log_line

DEPLOYMENT = Deployment(
    spec=ModelSpec(name="m", backend="b", load="on_demand", enabled=False),
    backend=BackendSpec(name="b", engine="x:Y"),
    settings=BackendSettings(),
    python=None,
    replicas=2,
    idle_unload_s=None,
    declared_by="test",
)
PROCESS = Process(start=1, launched_s=0, pid=7, load=Load(running=2), info=EngineInfo(slots=4), rss_bytes=9)


@pytest.mark.parametrize("state", ["ready", "draining", "starting"])
def test_a_replica_shows_its_socket_only_while_it_serves(state):
    status = replica_status(Replica(name="m@b#0", state=state, process=PROCESS), socket="/s", now_s=5)
    assert status.socket == ("/s" if state != "starting" else None)
    assert (status.pid, status.load.running, status.rss_bytes, status.retry_in_s) == (7, 2, 9, None)
    assert status.info == EngineInfo(slots=4)


def test_a_replica_without_a_process_shows_when_it_is_tried_again():
    replica = Replica(name="m@b#0", state="failed", reason="why", start_at_s=12, restarts=3)
    status = replica_status(replica, socket=None, now_s=5)
    assert (status.retry_in_s, status.reason, status.restarts, status.pid, status.load) == (7, "why", 3, None, Load())
    assert replica_status(replica, socket=None, now_s=20).retry_in_s == 0


@pytest.mark.parametrize(
    ("states", "best"),
    [
        (["failed", "ready"], "ready"),
        (["starting", "draining"], "draining"),
        (["stopped", "starting"], "starting"),
        (["failed", "stopped"], "stopped"),
        (["absent", "failed"], "failed"),
        (["absent", "absent"], "absent"),
    ],
)
def test_a_deployment_is_as_good_as_its_best_replica(states, best):
    replicas = [
        (Replica(name=f"m@b#{index}", state=state, reason=state, at_startup=False), None)
        for index, state in enumerate(states)
    ]
    status = deployment_status(DEPLOYMENT, replicas, now_s=0)
    assert (status.deployment, status.state, status.reason) == ("m@b", best, best)
    assert (status.on_demand, status.enabled, len(status.replicas)) == (True, False, 2)


def test_who_is_not_replaced_yet_says_whom_it_waits_for_and_what_can_be_done():
    old = Replica(name="m@b#1", state="ready", recipe="2", process=PROCESS)
    failed = Replica(name="m@b#0", state="failed", recipe="2", renewing=True, reason="no such file")
    status = deployment_status(DEPLOYMENT, [(failed, None), (old, "/s")], now_s=0)
    assert (status.state, status.reason) == ("ready", status.replicas[1].reason)
    assert status.reason == (
        "to be replaced when m@b#0 is ready, which is failed: no such file; remove the cause, or undo the change"
    )
    loading = replace(failed, state="starting", reason="loading the model", process=PROCESS)
    status = deployment_status(DEPLOYMENT, [(loading, None), (old, "/s")], now_s=0)
    assert status.reason == "to be replaced when m@b#0 is ready, which is starting: loading the model"
    assert deployment_status(DEPLOYMENT, [(old, "/s")], now_s=0).reason == ""
    level, text = log_line(loading, replace(failed, state="absent"), now_s=0, log_dir=Path("/logs"))
    assert level == logging.WARNING
    assert text.endswith("; no other replica is replaced before it is ready (remove the cause, or undo the change)")


def test_a_reason_that_is_a_sentence_ends_no_other():
    before = Replica(name="m@b#0", state="starting", process=PROCESS)
    after = replace(before, state="failed", reason="Allow the CPU.", failures=1, process=None)
    _, text = log_line(before, after, now_s=0, log_dir=Path("/logs"))
    assert "failed (was starting): Allow the CPU; not starting" in text
    waiting = Replica(name="m@b#1", state="ready", recipe="2", process=PROCESS)
    renewing = replace(after, recipe="2", renewing=True)
    status = deployment_status(DEPLOYMENT, [(renewing, None), (waiting, "/s")], now_s=0)
    assert "Allow the CPU; remove the cause" in status.reason


def test_the_log_says_what_happened_and_what_comes_next():
    before = Replica(name="m@b#0", state="ready", process=PROCESS)
    after = replace(before, state="starting", reason="exit code 1", failures=1, process=None, start_at_s=11.5)
    level, text = log_line(before, after, now_s=10, log_dir=Path("/logs"))
    assert level == logging.WARNING
    assert text == ("m@b#0: starting (was ready): exit code 1; starting it again in 1.5 s; its log is /logs/m@b#0.log")
    after = replace(after, state="failed", start_at_s=None)
    level, text = log_line(before, after, now_s=10, log_dir=Path("/logs"))
    assert level == logging.ERROR
    assert "remove the cause, then: python -m core load m@b" in text
    assert log_line(after, before, now_s=10, log_dir=Path("/logs")) == (logging.INFO, "m@b#0: ready (was failed)")
