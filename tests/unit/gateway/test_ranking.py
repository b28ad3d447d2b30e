"""A policy may fail in any way: the request does not notice, and the operator is told once."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections import UserList
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from core.api import Candidate, ChatRequest, Load, Policy, RouteRequest
from core.gateway.ranking import Ranker
from core.routing.policies import PrefixAffinity, PrefixAffinitySettings, RoundRobin
from core.routing.table import Route

REQUEST = RouteRequest(name="m", task="chat", headers={}, request=ChatRequest(id="1", messages=()))
STRANGER = Candidate(replica="m@b#9", deployment="m@b", model="m", backend="b")
CANDIDATES = [
    Candidate(replica=f"m@b#{busy}", deployment="m@b", model="m", backend="b", load=Load(running=busy))
    for busy in (1, 0)
]
BY_LOAD = [CANDIDATES[1], CANDIDATES[0]]
Rank = Callable[[Sequence[Candidate]], Any]


class Asked:
    """A policy that answers as it is told."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self.asked = 0

    def rank(self, _request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        self.asked += 1
        return cast("Sequence[Candidate]", self._rank(candidates))


def route(name: str = "asked", key: str = "") -> Route:
    return Route(name="m", kind="model", tiers=(), policy=name, policy_key=key)


def ranker(policy: Policy, timeout_s: float = 10.0, key: str = "") -> Ranker:
    return Ranker({key: policy}, timeout_s=timeout_s)


def raising(error: BaseException) -> Rank:
    def rank(_candidates: Sequence[Candidate]) -> Any:
        raise error

    return rank


def counted(policy: str, reason: str) -> float:
    labels = {"policy": policy, "reason": reason}
    return REGISTRY.get_sample_value("gateway_policy_failures_total", labels) or 0.0


class Unshowable:
    def __repr__(self) -> str:
        msg = "not even this"
        raise RuntimeError(msg)


# --- what it answers


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (list, CANDIDATES),
        (tuple, CANDIDATES),
        (UserList, CANDIDATES),
        (lambda given: [given[1], given[0]], BY_LOAD),
        (lambda given: [given[1]], BY_LOAD[:1]),
        (lambda _given: [], []),
        # One that comes twice keeps its better place.
        (lambda given: [given[1], given[0], given[1]], BY_LOAD),
    ],
)
def test_the_policys_order_counts(rank: Rank, expected: list[Candidate]) -> None:
    """A subset of what was given, as it was given."""
    assert list(ranker(Asked(rank)).rank(route(), REQUEST, CANDIDATES)) == expected


def test_each_route_has_its_policy() -> None:
    """By its key."""
    both = Ranker({"": Asked(list), "x": Asked(lambda given: given[:1])}, timeout_s=10)

    assert len(both.rank(route(), REQUEST, CANDIDATES)) == 2
    assert len(both.rank(route(key="x"), REQUEST, CANDIDATES)) == 1


@pytest.mark.parametrize(
    ("rank", "reason"),
    [
        (raising(ValueError("no")), "raised"),
        (raising(SystemExit(1)), "raised"),
        (raising(KeyboardInterrupt()), "raised"),
        (raising(asyncio.CancelledError()), "raised"),
        (raising(GeneratorExit()), "raised"),
        (lambda given: given[7], "raised"),
        (lambda given: [given[0], STRANGER], "stranger"),
        (lambda given: [one.replica for one in given], "stranger"),
        (lambda _given: "m@b#0", "stranger"),
        (lambda _given: [None], "stranger"),
        (lambda _given: [Unshowable()], "stranger"),
        (lambda _given: None, "no_sequence"),
        (set, "no_sequence"),
        (iter, "no_sequence"),
        (dict.fromkeys, "no_sequence"),
        (lambda given: [given.pop() for _ in range(len(given))] + [STRANGER], "stranger"),
        (lambda given: given.clear(), "no_sequence"),
    ],
)
def test_a_policy_that_fails(rank: Rank, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and logged with what can be done about it; the least loaded comes first."""
    before = counted("asked", reason)
    with caplog.at_level(logging.ERROR):
        ranked = ranker(Asked(rank), key="x").rank(route(key="x"), REQUEST, CANDIDATES)

    assert list(ranked) == BY_LOAD
    assert counted("asked", reason) == before + 1
    (line,) = caplog.messages
    assert "the routing policy asked failed with a request for 'm': it " in line
    assert 'choose another policy in [routes."x"]' in line


def test_a_key_without_a_policy_fails_as_one() -> None:
    """Whatever else goes wrong, the request does not notice."""
    assert list(ranker(Asked(list)).rank(route(key="gone"), REQUEST, CANDIDATES)) == BY_LOAD


def test_the_next_request_asks_it_again() -> None:
    """For that request alone it was replaced."""
    policy = Asked(raising(ValueError()))
    ranking = ranker(policy)
    for _ in range(3):
        ranking.rank(route(), REQUEST, CANDIDATES)

    assert policy.asked == 3


def test_the_log_is_quiet_for_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per policy and reason; then it says how many there were."""
    now_s = [1000.0]
    monkeypatch.setattr("core.gateway.ranking.time.monotonic", lambda: now_s[0])
    ranking = Ranker({"": Asked(raising(ValueError("no"))), "s": Asked(lambda _: [STRANGER])}, timeout_s=10)
    with caplog.at_level(logging.ERROR):
        for now_s[0] in (1000.0, 1000.1, 1059.9):
            for key in ("", "s"):
                ranking.rank(route(key=key), REQUEST, CANDIDATES)
        assert len(caplog.messages) == 2
        caplog.clear()
        now_s[0] = 1060.0
        ranking.rank(route(), REQUEST, CANDIDATES)

    (line,) = caplog.messages
    assert "failed 3 times since it was last told" in line


# --- time


def test_too_slow_in_another_thread() -> None:
    """Signals arrive in the main thread only: elsewhere it is measured, and its answer is not used."""
    before, got = counted("asked", "timeout"), list[Candidate]()

    def slow(given: Sequence[Candidate]) -> Sequence[Candidate]:
        time.sleep(0.02)
        return given

    def call() -> None:
        got.extend(ranker(Asked(slow), 0.01).rank(route(), REQUEST, CANDIDATES))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

    assert got == BY_LOAD
    assert counted("asked", "timeout") == before + 1


HUNG = """
import signal, sys, time
from core.gateway.ranking import Ranker
from tests_ranking import BY_LOAD, CANDIDATES, REQUEST, Asked, counted, ranker, route

def spin(_):
    while True:
        pass

def sleep(_):
    time.sleep(100)

def catch(_):
    while True:
        try:
            time.sleep(100)
        except Exception:
            pass

def endless(given):
    class Endless(list):
        def __iter__(self):
            while True:
                yield given[0]
    return Endless()
"""


def alone(tmp_path: Path, script: str) -> str:
    """Run it in a process whose SIGALRM is nobody's; pytest's own timeout uses it here."""
    (tmp_path / "tests_ranking.py").write_text(Path(__file__).read_text())
    file = tmp_path / "script.py"
    file.write_text(HUNG + script)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("hang", ["spin", "sleep", "catch", "endless"])
def test_a_policy_that_never_returns(tmp_path: Path, hang: str) -> None:
    """It is interrupted in its time, again and again."""
    took_s = alone(
        tmp_path,
        f"""
ranking = ranker(Asked({hang}), 0.05)
began_s = time.perf_counter()
for _ in range(3):
    assert list(ranking.rank(route(), REQUEST, CANDIDATES)) == BY_LOAD
print(time.perf_counter() - began_s)
assert counted("asked", "timeout") == 3
""",
    )

    assert 0.15 <= float(took_s) < 2


def test_an_alarm_never_rings_afterwards(tmp_path: Path) -> None:
    """Policies that end about when their time does, thousands of times: nothing is raised anywhere else."""
    alone(
        tmp_path,
        """
import random
def close(given):
    end_s = time.perf_counter() + random.uniform(0.0001, 0.0003)
    while time.perf_counter() < end_s:
        pass
    return given

ranking = ranker(Asked(close), 0.0002)
for _ in range(5000):
    assert len(ranking.rank(route(), REQUEST, CANDIDATES)) == 2
assert counted("asked", "timeout") > 0
time.sleep(0.01)
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
signal.raise_signal(signal.SIGALRM)  # one that comes too late finds nobody
""",
    )


def test_what_it_costs(tmp_path: Path) -> None:
    """A few microseconds for two candidates; ten times that is a mistake and not a slow machine."""
    out = alone(
        tmp_path,
        """
ranking, where = ranker(Asked(list), 0.05), route()
best_s = 1.0
for _ in range(20):
    began_s = time.perf_counter()
    for _ in range(500):
        ranking.rank(where, REQUEST, CANDIDATES)
    best_s = min(best_s, (time.perf_counter() - began_s) / 500)
print(best_s)
""",
    )

    assert float(out) < 30e-6


def test_who_uses_the_alarm_keeps_it() -> None:
    """Here it is pytest's: its timer runs on."""
    import signal  # noqa: PLC0415 - of this test alone

    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        pytest.skip("nobody uses it")
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    ranker(Asked(list)).rank(route(), REQUEST, CANDIDATES)

    assert signal.getsignal(signal.SIGALRM) is before[0]
    assert before[1] - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= before[1]


# --- explain


def test_explain_tells_ranks_and_scores() -> None:
    """Best first; what the policy left out comes last."""
    told = ranker(PrefixAffinity(PrefixAffinitySettings())).explain(route(), REQUEST, CANDIDATES)

    assert (told.policy, told.problem) == ("asked", "")
    assert [one.rank for one in told.candidates] == [1, 2]
    first, second = (one.score for one in told.candidates)
    assert first is not None
    assert second is not None
    assert first < second

    told = ranker(Asked(lambda given: given[1:])).explain(route(), REQUEST, CANDIDATES)
    assert [(one.replica, one.rank, one.score) for one in told.candidates] == [
        ("m@b#0", 1, None),
        ("m@b#1", None, None),
    ]


def test_explain_changes_nothing() -> None:
    """Whose turn it is stays so."""
    ranking = ranker(RoundRobin(cast("Any", None)))
    first = [ranking.explain(route(), REQUEST, CANDIDATES).candidates[0].replica for _ in range(5)]

    assert len(set(first)) == 1
    assert ranking.rank(route(), REQUEST, CANDIDATES)[0].replica == first[0]


class Scoring(Asked):
    def __init__(self, rank: Rank, scores: Any) -> None:
        super().__init__(rank)
        self._scores = scores

    def scores(self, _request: RouteRequest, candidates: Sequence[Candidate]) -> Any:
        return self._scores(candidates)


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (Asked(raising(ValueError("no"))), "it raised ValueError: no; least_loaded ranks instead"),
        (Asked(lambda _: [STRANGER]), "it returned a candidate that it was not given"),
        (Scoring(list, lambda _: [1.0]), "scores() gave 1 numbers for 2 candidates"),
        (Scoring(list, raising(ValueError("no scores"))), "it raised ValueError: no scores"),
        (Scoring(list, lambda _: ["best", "worst"]), "it raised ValueError"),
    ],
)
def test_explain_says_what_would_fail(policy: Policy, problem: str) -> None:
    """And what would be done instead; a dry run is not counted."""
    before = counted("asked", "raised")
    told = ranker(policy).explain(route(), REQUEST, CANDIDATES)

    assert problem in told.problem
    assert [one.replica for one in told.candidates] == ["m@b#0", "m@b#1"]
    assert [one.score is not None for one in told.candidates] == [True, True]
    assert counted("asked", "raised") == before


def test_explain_leaves_alone_what_cannot_be_copied() -> None:
    """Rather than change it."""
    policy = Asked(list)
    policy.lock = threading.Lock()  # type: ignore[attr-defined]
    told = ranker(policy).explain(route(), REQUEST, CANDIDATES)

    assert "it cannot be asked without changing it: TypeError" in told.problem
    assert [one.rank for one in told.candidates] == [None, None]
    assert policy.asked == 0
