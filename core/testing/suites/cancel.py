"""Cancel: ``aclose()``, or the cancellation of the task that reads, idles the engine within a second."""

from __future__ import annotations

import asyncio
import contextlib

from core.api.requests import EngineRequest
from core.testing.suites.base import LONG, STORY, LoadedEngine, Suite

__all__ = ["CancelSuite"]

_IDLE_WITHIN_S = 1.0


class CancelSuite(Suite):
    """A client that leaves must not keep the device."""

    async def test_cancel_while_decoding(self, loaded: LoadedEngine) -> None:
        """After a few tokens."""
        events = loaded.engine.stream(loaded.filled(self.text_request(STORY, max_tokens=400)))
        for _ in range(3):
            await anext(events)
        assert loaded.engine.load_now().running == 1, "Load.running must be 1 while one choice runs"
        await events.aclose()
        await loaded.idle(within_s=_IDLE_WITHIN_S)
        await self._serves_again(loaded)

    async def test_cancel_during_prefill(self, loaded: LoadedEngine) -> None:
        """While a long prompt is read, before the first event."""
        prompt = LONG * max(1, loaded.info.context_tokens // 40)
        await self._cancel_before_first_event(loaded, self.text_request(prompt, max_tokens=8), after_s=0.1)
        await self._serves_again(loaded)

    async def test_cancel_at_once(self, loaded: LoadedEngine) -> None:
        """Before the engine had time to begin; also when the stream was never read."""
        request = self.text_request(STORY, max_tokens=400)
        await loaded.engine.stream(loaded.filled(request)).aclose()
        await self._cancel_before_first_event(loaded, request, after_s=0.0)
        await self._serves_again(loaded)

    async def test_cancel_of_many(self, loaded: LoadedEngine) -> None:
        """All slots abandoned together are free again together."""
        request = self.text_request(STORY, max_tokens=400)
        streams = [loaded.engine.stream(loaded.filled(request)) for _ in range(min(loaded.info.slots, 16))]
        await asyncio.gather(*(anext(stream) for stream in streams))
        await asyncio.gather(*(stream.aclose() for stream in streams))
        await loaded.idle(within_s=_IDLE_WITHIN_S)
        await self._serves_again(loaded)

    async def _cancel_before_first_event(self, loaded: LoadedEngine, request: EngineRequest, *, after_s: float) -> None:
        events = loaded.engine.stream(loaded.filled(request))
        reader = asyncio.ensure_future(anext(events))
        await asyncio.sleep(after_s)
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        await events.aclose()
        await loaded.idle(within_s=_IDLE_WITHIN_S)

    async def _serves_again(self, loaded: LoadedEngine) -> None:
        answer = await loaded.ask(self.text_request(STORY, max_tokens=3))
        assert answer.usage.completion_tokens == 3, "after a cancel the next request must be served as ever"
