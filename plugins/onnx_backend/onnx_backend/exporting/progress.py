"""What the exporting process tells the one that started it: lines of JSON on its standard output."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any, NoReturn

__all__ = ["ExportError", "Progress", "end_with_parent"]


class ExportError(Exception):
    """A model cannot be exported; the message says why."""


class Progress:
    """Takes standard output for itself: what libraries print there goes to standard error, the log."""

    def __init__(self) -> None:
        self._lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def tell(self, stage: str, share: float | None = None) -> None:
        """Tell the present stage, and the share of it that is done if that is known."""
        self._write(stage=stage, share=share)

    def refuse(self, reason: str) -> NoReturn:
        """End the process in failure."""
        self._write(refusal=reason)
        sys.exit(1)

    def _write(self, **fields: Any) -> None:
        self._lines.write(json.dumps(fields) + "\n")
        self._lines.flush()


def end_with_parent() -> None:
    """End this process and those it started as soon as its input ends: whoever waited for the export is gone."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()

    def wait() -> None:
        os.read(0, 1)
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
