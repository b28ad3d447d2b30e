"""The one thread that asks the runtime: steps, and single calls between them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["DeviceThread"]

_Result = TypeVar("_Result")


class DeviceThread:
    """Runs ``step`` again and again while it has work, and between two steps at most one call.

    Args:
        step: does one step in the thread; returns False when there was nothing to do. It must not raise.

    Attributes:
        steps: steps and calls done; it stands still when the runtime hangs.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        self._calls: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self.steps = 0
        self._thread.start()

    def wake(self) -> None:
        """There may be work for ``step``."""
        self._wake.set()

    async def call(self, work: Callable[[], _Result]) -> _Result:
        """Return what ``work`` returns, run in the thread; cancelling takes it back if it has not begun."""
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._calls.append((future, work))
        self._wake.set()
        return await future

    async def close(self) -> None:
        """End the thread after the step it is in; calls not begun are cancelled."""
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        for future, _ in self._calls:
            future.cancel()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            worked = self._serve_call()
            worked = self._step() or worked
            if worked:
                self.steps += 1
            else:
                self._wake.wait()

    def _serve_call(self) -> bool:
        if not self._calls:
            return False
        future, work = self._calls.popleft()
        if future.cancelled():
            return True
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001 - raised where the call was made
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, future, result, error)
        return True


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
