"""What ``GET /health`` says, followed all the time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

__all__ = ["Health", "health_of"]

_POLL_S = 0.1


class Health:
    """The last answer; get it with `health_of`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.body: dict[str, Any] = {"deployments": {}}
        self._news = asyncio.Event()

    async def follow(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                self.body = (await self._client.get("/health", timeout=5.0)).json()
                self._news.set()
                self._news = asyncio.Event()
            await asyncio.sleep(_POLL_S)

    def deployment(self, name: str) -> dict[str, Any]:
        """Of ``<model>@<backend>``; its state is ``unknown`` before the first answer."""
        found: dict[str, Any] = self.body["deployments"].get(name, {"state": "unknown", "replicas": []})
        return found

    async def until(self, test: Callable[[], bool], *, within_s: float) -> bool:
        """Wait until what is asked now, or later, passes the test; return whether it did in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    await self._news.wait()
                    if test():
                        return True
        return False


@contextlib.asynccontextmanager
async def health_of(client: httpx.AsyncClient) -> AsyncIterator[Health]:
    """Follow it until the block ends."""
    health = Health(client)
    following = asyncio.create_task(health.follow())
    try:
        yield health
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
