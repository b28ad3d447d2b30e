"""Interrupts code of others that does not return."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

__all__ = ["AlarmError", "Clock"]

ResultT = TypeVar("ResultT")


class AlarmError(BaseException):
    """The time was up. Not an `Exception`, so that code which catches those is interrupted too."""


class _Bell:
    """The process's one SIGALRM. It rings only while somebody waits for it: a late signal finds nobody."""

    def __init__(self) -> None:
        self.awaited = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.awaited:
            raise AlarmError


_bell = _Bell()


class Clock:
    """Gives calls a time limit: in the main thread, where signals arrive, it interrupts them; elsewhere it cannot.

    A timer of the kernel is set and cleared for each call, which costs 0.7 microseconds. Whoever else uses SIGALRM in
    this process keeps it; then, as in other threads, nothing is interrupted. Nor is one long call of a C library.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._mine: bool | None = None

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Return what the function returns, and raise what it raises.

        Raises:
            AlarmError: it was interrupted.
        """
        if not self._may_interrupt():
            return function()
        try:
            _bell.awaited = True
            # It rings again: what catches everything in a loop would go on for ever.
            signal.setitimer(signal.ITIMER_REAL, self._limit_s, self._limit_s)
            return function()
        finally:
            _bell.awaited = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _may_interrupt(self) -> bool:
        if threading.get_ident() != threading.main_thread().ident:
            return False
        if self._mine is None:
            present = signal.getsignal(signal.SIGALRM)
            self._mine = present is _bell or present is signal.SIG_DFL
            if present is signal.SIG_DFL:
                signal.signal(signal.SIGALRM, _bell)
        return self._mine
