"""Several event streams as one, in order of arrival."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from core.api import EngineEvent

__all__ = ["merge"]

Events = AsyncGenerator[EngineEvent, None]


async def merge(streams: Sequence[Events]) -> Events:
    """Yield the events of all ``streams``; the first error ends it, and closing it closes them all."""
    arrived: asyncio.Queue[EngineEvent | Exception | None] = asyncio.Queue()

    async def pump(stream: Events) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    arrived.put_nowait(event)
        except Exception as error:  # noqa: BLE001 - raised again below
            arrived.put_nowait(error)
        else:
            arrived.put_nowait(None)

    pumps = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        open_streams = len(pumps)
        while open_streams:
            event = await arrived.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                open_streams -= 1
            else:
                yield event
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
