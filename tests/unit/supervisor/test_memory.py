"""What fits, who has to leave for it, and who never has to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.supervisor.memory import Bytes, Evict, Fits, Holder, Limits, Need, Refuse, Wait, plan, readable

GIB = 1 << 30


def need(host=4, device=0, **more):
    return Need(deployment="new@x", memory=Bytes(host, device), **more)


def holder(name, host=4, device=0, **more):
    more.setdefault("idle_s", 60.0)
    more.setdefault("load_s", 10.0)
    return Holder(deployment=f"{name}@x", memory=Bytes(host, device), **more)


def verdict(host, limit, *holders, **more):
    return plan(need(host, **more), holders, Limits(host=limit))


# --- examples


def test_what_fits_evicts_nobody():
    assert verdict(4, 8, holder("idle")) == Fits()


def test_without_a_limit_everything_fits():
    assert plan(need(1 << 60, 1 << 60), [holder("idle", 1 << 60)], Limits()) == Fits()


def test_the_longest_idle_leaves_first():
    assert verdict(4, 8, holder("new", idle_s=5), holder("b", idle_s=500)) == Evict(("b@x",))
    assert verdict(4, 8, holder("a", idle_s=5), holder("b", idle_s=500)) == Evict(("b@x",))
    assert verdict(4, 8, holder("a", idle_s=500), holder("b", idle_s=5)) == Evict(("a@x",))


def test_the_quickest_to_load_again_leaves_first():
    assert verdict(4, 8, holder("a", load_s=100), holder("b", load_s=2)) == Evict(("b@x",))


def test_a_load_that_took_no_time_is_still_a_start_of_a_process():
    assert verdict(4, 8, holder("a", load_s=0.0, idle_s=1), holder("b", load_s=0.9, idle_s=2)) == Evict(("b@x",))


def test_no_more_leave_than_have_to_although_small_ones_are_most_dispensable():
    small = holder("small", 1, idle_s=10_000)
    assert verdict(4, 8, small, holder("big", 7, idle_s=10)) == Evict(("big@x",))
    assert verdict(1, 8, small, holder("big", 7, idle_s=10)) == Evict(("small@x",))


def test_nobody_leaves_who_has_nothing_of_what_is_short():
    on_host = holder("host", 4, 0, idle_s=10_000)
    on_device = holder("device", 1, 4, idle_s=1)
    limits = Limits(host=100, device=4)
    assert plan(need(1, 4), [on_host, on_device], limits) == Evict(("device@x",))


def test_both_kinds_of_memory_have_to_fit():
    holders = [holder("host", 4, 0), holder("device", 0, 4)]
    evicted = plan(need(4, 4), holders, Limits(host=4, device=4))
    assert isinstance(evicted, Evict)
    assert set(evicted.deployments) == {"host@x", "device@x"}


@pytest.mark.parametrize("why", ["pinned", "2 requests run", "it is loading"])
def test_who_is_kept_stays_and_the_refusal_says_why(why):
    refused = verdict(4 * GIB, 6 * GIB, holder("a", 3 * GIB, kept=why), known="as measured")
    assert refused == Refuse(
        "it needs 4.0 GiB of memory (as measured); 3.0 GiB of 6.0 GiB are free, and nothing can be unloaded for it: "
        f"a@x has 3.0 GiB ({why})"
    )


def test_a_refusal_does_not_deny_that_somebody_is_idle():
    refused = verdict(4 * GIB, 6 * GIB, holder("a", 4 * GIB, kept="pinned"), holder("b", GIB))
    assert isinstance(refused, Refuse)
    assert refused.reason.endswith(
        "not enough can be unloaded for it: a@x has 4.0 GiB (pinned), b@x has 1.0 GiB (idle)"
    )


def test_a_deployment_leaves_whole_or_not_at_all():
    pair = [holder("pair", 4), holder("pair", 4, kept="1 request runs")]
    assert isinstance(verdict(4, 8, *pair), Refuse)
    assert verdict(4, 8, *(replace(one, kept="") for one in pair)) == Evict(("pair@x",))


def test_another_replica_of_the_same_deployment_does_not_leave_for_it():
    assert isinstance(verdict(4, 4, holder("new", 4)), Refuse)


def test_nobody_leaves_for_what_would_not_fit_alone():
    refused = verdict(9 * GIB, 8 * GIB, holder("idle", GIB))
    assert isinstance(refused, Refuse)
    assert refused.alone
    assert refused.reason == (
        "it needs 9.0 GiB of memory, but all replicas together may take 8.0 GiB (supervisor.memory_limit_bytes)"
    )


def test_device_memory_is_refused_by_its_own_name():
    refused = plan(need(1, 9 * GIB), [], Limits(host=8, device=8 * GIB))
    assert isinstance(refused, Refuse)
    assert "of device memory" in refused.reason
    assert "supervisor.device_memory_limit_bytes" in refused.reason


def test_who_leaves_already_is_waited_for_before_anybody_else_is_told_to():
    assert verdict(4, 8, holder("a", leaving=True, kept="it is unloading"), holder("b")) == Wait("unloading a@x")


def test_nobody_leaves_for_what_nobody_has_asked_for():
    refused = verdict(4, 4, holder("idle"), may_evict=False)
    assert isinstance(refused, Refuse)
    assert "what nobody has asked for" in refused.reason
    assert "idle@x has" in refused.reason


def test_old_news_of_a_busy_one_is_not_the_last_word():
    doubtful = holder("a", kept="1 request runs", doubtful=True)
    assert verdict(4, 4, doubtful) == Wait("asking whether a@x can be unloaded")
    assert isinstance(verdict(4, 4, doubtful, holder("b", 1, kept="pinned")), Refuse)
    assert verdict(4, 8, doubtful, holder("idle")) == Evict(("idle@x",))


def test_sizes_are_told_in_units_of_their_own():
    assert [readable(size) for size in (0, 300 << 20, GIB, 13 * GIB // 2)] == ["0 MiB", "300 MiB", "1.0 GiB", "6.5 GiB"]


# --- laws

sizes = st.integers(0, 12)
amounts = st.builds(Bytes, sizes, sizes)
holders = st.lists(
    st.builds(
        Holder,
        deployment=st.sampled_from(["a@x", "b@x", "c@x", "d@x", "e@x", "new@x"]),
        memory=amounts,
        kept=st.sampled_from(["", "", "", "pinned"]),
        doubtful=st.just(False),
        leaving=st.sampled_from([False, False, False, True]),
        idle_s=st.floats(0, 1e6),
        load_s=st.floats(0, 1e4),
    ),
    max_size=8,
)
limits = st.builds(Limits, st.none() | st.integers(0, 24), st.none() | st.integers(0, 24))
needs = st.builds(Need, deployment=st.just("new@x"), memory=amounts, may_evict=st.booleans())


def after(holders, leave):
    """What is still held once these deployments, and those who leave anyway, are gone."""
    staying = [one for one in holders if one.deployment not in leave and not one.leaving]
    return sum((one.memory for one in staying), Bytes())


def over(limits, used):
    return (limits.host is not None and used.host > limits.host) or (
        limits.device is not None and used.device > limits.device
    )


@given(need=needs, holders=holders, limits=limits)
def test_nothing_is_loaded_over_the_limit(need, holders, limits):
    match plan(need, holders, limits):
        case Fits():
            used = sum((one.memory for one in holders), Bytes())
            assert not over(limits, used + need.memory)
        case Evict(victims):
            assert not over(limits, after(holders, victims) + need.memory)
        case Wait(_):
            assert not over(limits, after(holders, ()) + need.memory)


@given(need=needs, holders=holders, limits=limits)
def test_what_fits_is_loaded_at_once(need, holders, limits):
    used = sum((one.memory for one in holders), Bytes())
    assert (plan(need, holders, limits) == Fits()) is not over(limits, used + need.memory)


@given(need=needs, holders=holders, limits=limits)
def test_only_idle_deployments_leave_and_only_for_somebody_else(need, holders, limits):
    decided = plan(need, holders, limits)
    if isinstance(decided, Evict):
        assert need.may_evict
        assert decided.deployments
        assert len(set(decided.deployments)) == len(decided.deployments)
        for name in decided.deployments:
            assert name != need.deployment
            of_it = [one for one in holders if one.deployment == name and not one.leaving]
            assert of_it
            assert all(not one.kept for one in of_it)


@given(need=needs, holders=holders, limits=limits)
def test_nobody_leaves_in_vain(need, holders, limits):
    """Without any one of them it would not fit."""
    decided = plan(need, holders, limits)
    if isinstance(decided, Evict):
        for name in decided.deployments:
            rest = [one for one in decided.deployments if one != name]
            assert over(limits, after(holders, rest) + need.memory)


@given(need=needs, holders=holders, limits=limits)
def test_it_is_refused_only_when_unloading_every_idle_one_would_not_help(need, holders, limits):
    if isinstance(plan(need, holders, limits), Refuse):
        idle = {
            one.deployment
            for one in holders
            if need.may_evict
            and one.deployment != need.deployment
            and not any(other.kept for other in holders if other.deployment == one.deployment and not other.leaving)
        }
        assert over(limits, after(holders, idle) + need.memory)


@given(need=needs, smaller=amounts, holders=holders, limits=limits)
def test_who_needs_less_is_never_worse_off(need, smaller, holders, limits):
    less = replace(need, memory=Bytes(min(need.memory.host, smaller.host), min(need.memory.device, smaller.device)))
    rank = {Fits: 0, Wait: 1, Evict: 2, Refuse: 3}
    assert rank[type(plan(less, holders, limits))] <= rank[type(plan(need, holders, limits))]


@given(need=needs, holders=holders, limits=limits, more=st.integers(0, 10))
def test_more_memory_is_never_worse(need, holders, limits, more):
    wider = Limits(None if limits.host is None else limits.host + more, limits.device)
    rank = {Fits: 0, Wait: 1, Evict: 2, Refuse: 3}
    assert rank[type(plan(need, holders, wider))] <= rank[type(plan(need, holders, limits))]


@given(need=needs, holders=holders, limits=limits)
def test_the_order_in_which_replicas_are_told_changes_nothing(need, holders, limits):
    assert plan(need, holders, limits) == plan(need, holders[::-1], limits)
