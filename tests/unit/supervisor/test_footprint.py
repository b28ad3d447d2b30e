"""What a replica holds, and when it could give it back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.api import EngineInfo, Load
from core.supervisor.footprint import counted, holder, measured
from core.supervisor.memory import Bytes
from core.supervisor.replica import Process, Replica

NOW_S = 100.0
IDLE = Process(
    start=1,
    launched_s=40.0,
    ready_s=50.0,
    heard_s=99.9,
    active_s=60.0,
    promised=Bytes(9, 9),
    rss_bytes=5,
    info=EngineInfo(device_memory_bytes=3),
)
BUSY = replace(IDLE, load=Load(running=1, waiting=1), active_s=99.9)
LOADING = replace(IDLE, ready_s=None, info=None, active_s=0.0)


def replica(process, state="ready"):
    return Replica(name="m@b#0", state=state, process=process)


def held(process, state="ready", *, pinned=False, asked_s=NOW_S - 0.05):
    found = holder(replica(process, state), "m@b", pinned=pinned, now_s=NOW_S, asked_s=asked_s)
    assert found is not None
    return found


def test_what_is_loaded_counts_as_measured():
    assert counted(replica(IDLE)) == measured(IDLE) == Bytes(5, 3)


def test_what_loads_counts_as_promised_and_more_if_it_takes_more():
    assert counted(replica(LOADING, "starting")) == Bytes(9, 9)
    assert counted(replica(replace(LOADING, rss_bytes=20), "starting")) == Bytes(20, 9)


@pytest.mark.parametrize("process", [None, Process(start=1, launched_s=0.0)])
def test_what_has_no_process_or_waits_for_memory_counts_nothing(process):
    assert counted(replica(process, "starting")) == Bytes()
    assert holder(replica(process, "starting"), "m@b", pinned=False, now_s=NOW_S, asked_s=NOW_S) is None


def test_an_idle_one_can_leave():
    one = held(IDLE)
    assert (one.kept, one.doubtful, one.leaving) == ("", False, False)
    assert (one.idle_s, one.load_s, one.memory) == (40.0, 10.0, Bytes(5, 3))


@pytest.mark.parametrize(
    ("process", "state", "pinned", "kept"),
    [
        (IDLE, "ready", True, "pinned"),
        (LOADING, "starting", False, "it is loading"),
        (BUSY, "ready", False, "2 requests run"),
        (replace(BUSY, load=Load(waiting=1)), "ready", False, "1 request runs"),
        (replace(BUSY, kill_at_s=200.0), "draining", False, "it is draining, with 2 to finish"),
    ],
)
def test_who_is_kept(process, state, pinned, kept):
    one = held(process, state, pinned=pinned, asked_s=NOW_S - 50)
    assert (one.kept, one.doubtful, one.leaving) == (kept, False, False)


def test_a_report_that_is_older_than_the_question_is_no_answer():
    assert held(BUSY, asked_s=99.95).doubtful
    assert not held(BUSY, asked_s=99.8).doubtful


def test_who_said_that_it_is_busy_is_asked_again_after_its_next_report():
    one = held(replace(IDLE, active_s=99.95))
    assert (one.kept, one.doubtful) == ("a request has just begun", True)


def test_whom_somebody_has_waited_for_is_not_unloaded_before_the_request_comes():
    one = held(replace(IDLE, ready_s=99.5, active_s=99.5))
    assert (one.kept, one.doubtful) == ("it has just been loaded", True)
    assert held(replace(IDLE, ready_s=98.9, active_s=98.9)).kept == ""


@pytest.mark.parametrize(
    ("process", "state"),
    [
        (replace(IDLE, retiring=True, kill_at_s=200.0), "draining"),
        (replace(IDLE, killed=True), "starting"),
        (replace(IDLE, verdict="hung"), "starting"),
        (replace(IDLE, asked_to_retire=True, active_s=99.0), "ready"),
    ],
)
def test_who_leaves_anyway(process, state):
    assert held(process, state).leaving


def test_who_does_not_answer_is_not_waited_for_for_ever():
    assert not held(replace(IDLE, asked_to_retire=True, active_s=97.0)).leaving
