"""The circuit breaker of a replica: when it opens, who probes, when it closes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.gateway.breaker import Breaker, FailureKind
from core.settings import RoutingTable

LIMITS = RoutingTable(breaker_failures=3, breaker_window_s=10, breaker_open_s=4, breaker_open_max_s=10)


def breaker() -> Breaker:
    return Breaker(draw=lambda: 0.0)  # no jitter


def opened(at_s: float = 0.0) -> Breaker:
    made = breaker()
    for _ in range(3):
        made.failed("engine", at_s, LIMITS)
    assert made.state == "open"
    return made


@pytest.mark.parametrize("kind", ["connect", "death", "engine", "timeout"])
def test_so_many_failures_within_the_window_open_it(kind: FailureKind) -> None:
    made = breaker()
    for number in range(3):
        assert made.state == "closed"
        assert made.failed(kind, float(number), LIMITS, process=f"process {number}")

    assert made.state == "open"
    assert "3 failures within 10 s" in made.reason
    assert not made.admits(2.0)


def test_failures_are_forgotten_after_the_window() -> None:
    made = breaker()
    for now_s in (0.0, 6.0, 12.0, 18.0, 24.0):
        made.failed("engine", now_s, LIMITS)

    assert made.state == "closed"


def test_a_success_between_failures_forgives_none() -> None:
    made = breaker()
    for number in range(3):
        made.succeeded(made.enter(), float(number))
        made.failed("engine", float(number), LIMITS)

    assert made.state == "open"


def test_the_death_of_a_process_counts_once_however_many_streams_it_cut() -> None:
    made = breaker()

    assert made.failed("death", 0.0, LIMITS, process="a")
    assert not any(made.failed("death", 0.0, LIMITS, process="a") for _ in range(64))
    assert made.state == "closed"


def test_a_process_that_breaks_off_and_lives_on_fails_each_time() -> None:
    """It sends garbage, or closes connections: that is told from an end by its next greeting."""
    made = breaker()
    for number in range(3):
        made.greeted("a")
        assert made.failed("death", float(number), LIMITS, process="a")

    assert made.state == "open"


def test_refused_connections_to_a_process_that_has_just_ended_are_the_same_failure() -> None:
    made = breaker()
    counted = [made.failed("connect", 0.01 * number, LIMITS, process="a") for number in range(20)]
    made.failed("death", 1.0, LIMITS, process="b")
    counted.append(made.failed("connect", 5.0, LIMITS, process="b"))

    assert counted == [True] + [False] * 20


def test_a_process_that_goes_on_refusing_goes_on_failing() -> None:
    made = breaker()

    assert all(made.failed("connect", float(number), LIMITS, process="a") for number in range(3))
    assert made.state == "open"


def test_an_open_one_lets_one_probe_through_when_its_time_is_over() -> None:
    made = opened()
    assert (made.admits(3.9), made.probe_in_s(1.0)) == (False, 3.0)
    assert made.admits(4.0)
    made.enter()

    assert made.state == "half_open"
    assert not made.admits(4.0)


def test_a_probe_that_succeeds_closes_it() -> None:
    made = opened()
    made.succeeded(made.enter(), 4.0)

    assert (made.state, made.reason, made.admits(4.0)) == ("closed", "", True)


def test_one_that_was_closed_by_a_probe_counts_from_nothing() -> None:
    made = opened()
    made.succeeded(made.enter(), 4.0)
    made.failed("engine", 5.0, LIMITS)

    assert made.state == "closed"


def test_each_failed_probe_doubles_the_time_up_to_its_limit() -> None:
    made, now_s, waits = opened(), 0.0, []
    for _ in range(4):
        waits.append(made.probe_in_s(now_s))
        now_s += waits[-1]
        made.failed("timeout", now_s, LIMITS, probe=made.enter())

    assert waits == [4.0, 8.0, 10.0, 10.0]


def test_after_a_success_the_time_begins_anew() -> None:
    made = opened()
    made.failed("engine", 4.0, LIMITS, probe=made.enter())
    made.succeeded(made.enter(), 4.0)
    for _ in range(3):
        made.failed("engine", 20.0, LIMITS)

    assert made.probe_in_s(20.0) == 4.0


def test_a_cancelled_probe_makes_room_for_the_next_one() -> None:
    made = opened()
    made.left(made.enter())

    assert (made.state, made.probe_in_s(4.0)) == ("open", 0.0)
    assert made.admits(4.0)


def test_a_probe_that_fails_after_its_first_event_opens_it_again() -> None:
    """Else an engine that breaks every answer in the middle would be taken for a sound one."""
    made = opened()
    probe = made.enter()
    made.succeeded(probe, 4.0)
    made.failed("engine", 5.0, LIMITS, probe=probe)

    assert made.state == "open"
    assert made.probe_in_s(5.0) == 8.0


def test_a_probe_that_is_cut_long_after_its_first_event_is_a_failure_like_any() -> None:
    made = opened()
    probe = made.enter()
    made.succeeded(probe, 4.0)

    assert made.failed("death", 14.0, LIMITS, probe=probe, process="a")
    assert made.state == "closed"


def test_a_probe_that_is_cut_with_others_opens_it_and_is_not_counted_again() -> None:
    made = opened()
    probe = made.enter()
    made.succeeded(probe, 4.0)

    assert made.failed("death", 5.0, LIMITS, process="a")
    assert not made.failed("death", 5.0, LIMITS, probe=probe, process="a")
    assert made.state == "open"


def test_what_was_begun_before_it_opened_changes_nothing() -> None:
    made = opened()
    made.failed("engine", 3.0, LIMITS)
    made.succeeded(0, 4.0)
    made.left(0)

    assert (made.state, made.probe_in_s(3.0)) == ("open", 1.0)
    made.enter()
    made.left(0)
    made.failed("engine", 4.0, LIMITS)
    assert (made.state, made.admits(4.0)) == ("half_open", False)


def test_the_successor_of_a_process_that_opened_it_is_probed_at_once() -> None:
    made = breaker()
    assert not made.began("a", 0.0)
    for _ in range(3):
        made.failed("engine", 0.0, LIMITS, process="a")
    assert not made.began("a", 1.0), "the supervisor came back, and tells of the same process"

    assert made.began("b", 1.0)
    assert (made.state, made.admits(1.0)) == ("open", True)
    probe = made.enter()
    assert not made.admits(1.0)
    made.succeeded(probe, 4.0)
    assert made.state == "closed"


def test_what_opened_it_is_not_forgotten_for_a_successor() -> None:
    made = opened()
    made.began("a", 0.0)
    made.began("b", 1.0)
    made.failed("death", 1.0, LIMITS, probe=made.enter(), process="b")

    assert (made.state, made.probe_in_s(1.0)) == ("open", 8.0)


@pytest.mark.parametrize("answers", [False, True])
def test_processes_that_end_with_their_first_request_cost_one_request_and_not_one_each(answers: bool) -> None:
    """Whether they give a first event before or not: from the second successor on, it is the time that counts."""
    made, probes_at_s = opened(), []
    for number in range(100):
        now_s = number / 2
        made.began(f"process {number}", now_s)
        if made.admits(now_s):
            probes_at_s.append(now_s)
            probe = made.enter()
            if answers:
                made.succeeded(probe, now_s)
            made.failed("death", now_s, LIMITS, probe=probe, process=f"process {number}")

    assert probes_at_s == [0.5, 8.5, 18.5, 28.5, 38.5, 48.5]


def test_jitter_only_shortens() -> None:
    made = Breaker(draw=lambda: 1.0)
    for _ in range(3):
        made.failed("engine", 0.0, LIMITS)

    assert made.probe_in_s(0.0) == pytest.approx(3.2)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens to it, a breaker is never stuck, never lets two probes through, and never opens for nothing."""

    @initialize(draw=st.floats(0, 1))
    def begin(self, draw: float) -> None:
        self.now_s = 0.0
        self.breaker = Breaker(draw=lambda: draw)
        self.running: list[int] = []
        self.failures_at_s: list[float] = []
        self.opened_at_s = 0.0

    @rule(process=st.text("ab"))
    def another_process_is_ready(self, process: str) -> None:
        before = self.breaker.state
        assert not self.breaker.began(process, self.now_s) or self.breaker.admits(self.now_s)
        assert self.breaker.state == before

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.breaker.admits(self.now_s))
    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        probe = self.breaker.enter()
        assert bool(probe) == (before != "closed")
        self.running.append(probe)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ends=st.booleans())
    def succeed(self, data: Any, ends: bool) -> None:
        probe = data.draw(st.sampled_from(self.running))
        self.breaker.succeeded(probe, self.now_s)
        if ends:
            self.end(probe)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        self.end(data.draw(st.sampled_from(self.running)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kind=st.sampled_from(["connect", "death", "engine", "timeout"]), process=st.text("ab"))
    def fail(self, data: Any, kind: FailureKind, process: str) -> None:
        probe, before = data.draw(st.sampled_from(self.running)), self.breaker.state
        counted = self.breaker.failed(kind, self.now_s, LIMITS, probe=probe, process=process)
        if before == "closed" and counted:
            self.failures_at_s.append(self.now_s)
        if self.breaker.state == "open" != before:
            self.opened_at_s = self.now_s
            recent = [at_s for at_s in self.failures_at_s if at_s >= self.now_s - LIMITS.breaker_window_s]
            assert probe or len(recent) >= LIMITS.breaker_failures
        self.end(probe)

    def end(self, probe: int) -> None:
        self.running.remove(probe)
        self.breaker.left(probe)

    @invariant()
    def a_reason_exactly_when_it_is_not_closed(self) -> None:
        assert bool(self.breaker.reason) == (self.breaker.state != "closed")

    @invariant()
    def it_is_never_open_for_longer_than_allowed(self) -> None:
        wait_s = self.breaker.probe_in_s(self.now_s)
        assert wait_s <= self.opened_at_s + LIMITS.breaker_open_max_s - self.now_s or wait_s == 0

    @invariant()
    def it_admits_again_whenever_nobody_probes(self) -> None:
        probing = any(probe and probe == max(self.running) for probe in self.running)
        if not probing:
            assert self.breaker.admits(self.now_s + LIMITS.breaker_open_max_s)

    @invariant()
    def one_probe_at_a_time(self) -> None:
        """While it is half-open, which is while somebody probes, nobody else is let in."""
        if self.breaker.state == "half_open":
            assert not self.breaker.admits(self.now_s)
            assert self.running.count(self.breaker._probes) == 1


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
