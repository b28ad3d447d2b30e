"""Events for those who listen: bounded, in order, and what was missed is told."""

from __future__ import annotations

import asyncio

from core.supervisor.events import Events


def test_ids_grow_by_one_and_a_listener_gets_what_it_has_not_had():
    events = Events(10)
    first = events.newest + 1
    for name in "abc":
        events.add("replica", name, {"after": "ready"})
    told = events.after(first - 1)
    assert [(one.id, one.subject, one.missed) for one in told] == [
        (first, "a", 0),
        (first + 1, "b", 0),
        (first + 2, "c", 0),
    ]
    assert [one.subject for one in events.after(first + 1)] == ["c"]
    assert events.after(events.newest) == []


def test_only_the_last_are_kept_and_a_gap_is_told():
    events = Events(3)
    begin = events.newest
    for number in range(10):
        events.add("replica", str(number))
    told = events.after(begin + 2)
    assert [(one.subject, one.missed) for one in told] == [("7", 5), ("8", 0), ("9", 0)]
    assert [one.missed for one in events.after(events.newest - 2)] == [0, 0]


def test_what_was_missed_is_counted_from_this_supervisors_first_event():
    """Who asks for all, or for what came after another supervisor's event, has not missed the years before."""
    events = Events(3)
    begin = events.newest
    events.add("overrides")
    assert [one.missed for number in (0, begin - 50, begin) for one in events.after(number)] == [0, 0, 0]
    for _ in range(4):
        events.add("overrides")
    assert [one.missed for one in events.after(0)] == [2, 0, 0]


def test_a_new_supervisor_gives_higher_ids_than_the_old_one_had():
    old = Events(3)
    for _ in range(5):
        old.add("configuration")
    assert Events(3).newest + 1000 > old.newest
    new = Events(3)
    new.newest = old.newest + 100
    new.add("overrides")
    assert [one.kind for one in new.after(old.newest)] == ["overrides"]


def test_a_number_that_was_never_given_gets_all_that_is_kept():
    events = Events(3)
    events.add("overrides")
    assert [one.kind for one in events.after(events.newest + 50)] == ["overrides"]


async def test_waiting_ends_with_the_next_event():
    events = Events(3)
    waiting = [asyncio.create_task(events.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    events.add("overrides")
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
