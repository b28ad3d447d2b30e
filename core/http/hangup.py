"""SIGHUP: the configuration is read again, or the terminal is gone."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Callable

__all__ = ["Hangup"]


class Hangup:
    """Handles SIGHUP in the process that an operator has started.

    It reads the configuration again, as with any daemon. But a gateway that was started from a terminal ends with that
    terminal, as everything does that has no handler for the signal; unless somebody had it ignored (``nohup``).
    """

    def __init__(self, read_again: Callable[[], None]) -> None:
        self._read_again = read_again
        self._ends_with_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL

    def __call__(self, *_: object) -> None:
        """Do what the signal means now."""
        if self._ends_with_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._read_again()


def _has_terminal() -> bool:
    try:
        termios.tcgetattr(sys.__stdin__.fileno() if sys.__stdin__ else 0)
    except (termios.error, OSError, ValueError):
        return False
    return True
