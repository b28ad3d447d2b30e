"""A second attempt when the first has no event in time; the first of both to give one wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from core.gateway.answer import Answer
from core.gateway.metrics import count_hedge
from core.gateway.work import Work

__all__ = ["hedged"]


async def hedged(
    first: Work,
    begin: Callable[[Work], Awaitable[Answer | None]],
    *,
    after_s: float,
    another: Callable[[], Work | None],
) -> Answer | None:
    """Begin ``first``, and after ``after_s`` seconds without an event ``another`` beside it; None: none succeeded.

    The loser is cancelled at once. ``another`` returns None when there shall be no second attempt.

    Raises:
        GatewayError: the request is at fault, says one of them.
    """
    works, winner = [first], None
    outcome: Literal["won", "lost", "failed", "cancelled"] = "cancelled"
    tasks = [asyncio.ensure_future(begin(first))]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (second := another()) is not None:
            works.append(second)
            tasks.append(asyncio.ensure_future(begin(second)))
        pending = set(tasks)
        while pending and winner is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            winner = next((answer for task in tasks if task.done() and (answer := task.result())), None)
        outcome = "failed" if winner is None else "lost" if winner.replica is first.replica else "won"
        return winner
    finally:  # without an await, which a cancel could interrupt
        for task, work in zip(tasks, works, strict=True):
            if winner is None or work.replica is not winner.replica:
                task.add_done_callback(_drop)
                task.cancel()
                work.end()  # at once, whenever the task hears of it
        if len(works) > 1:
            count_hedge(outcome)


def _drop(loser: asyncio.Future[Answer | None]) -> None:
    """Close the answer of an attempt that nobody wants any more."""
    if not loser.cancelled() and loser.exception() is None and (answer := loser.result()) is not None:
        answer.close()
