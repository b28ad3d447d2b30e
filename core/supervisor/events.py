"""The newest events, for those who listen to what changes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from core.wire.control import AdminEvent

__all__ = ["EventKind", "Events"]

EventKind = Literal["replica", "breaker", "overrides", "configuration", "evicted"]


class Events:
    """Keeps the last ``kept`` events. A listener comes when it likes and asks for what it has not had yet.

    Ids begin at the time of day, so that those of a new supervisor lie above all that its predecessor gave.
    """

    def __init__(self, kept: int) -> None:
        self._kept: deque[AdminEvent] = deque(maxlen=kept)
        self._added = asyncio.Event()
        self.newest = int(time.time() * 1000)
        """Id of the last event, or of none before the first."""
        self._begin = self.newest

    def add(self, kind: EventKind, subject: str = "", data: Mapping[str, Any] | None = None) -> None:
        """Note that something changed."""
        self.newest += 1
        event = AdminEvent(
            id=self.newest, at_unix_s=time.time(), kind=kind, subject=subject, data=dict(data) if data else {}
        )
        self._kept.append(event)
        self._added.set()
        self._added = asyncio.Event()

    def after(self, number: int) -> list[AdminEvent]:
        """Return the events above ``number``; the first says how many before it were missed.

        A number that was never given is of another supervisor: all that is kept is new then. Of the events of another
        one nobody knows how many were missed; they are not counted.
        """
        if number > self.newest:
            return list(self._kept)
        new = [event for event in self._kept if event.id > number]
        if new and (missed := new[0].id - max(number, self._begin) - 1):
            new[0] = msgspec.structs.replace(new[0], missed=missed)
        return new

    async def wait(self) -> None:
        """Wait for the next event."""
        await self._added.wait()
