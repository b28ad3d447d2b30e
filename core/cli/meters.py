"""How a pull shows how far it is: bars and lines for people, a line of JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, NoReturn, Protocol

from tqdm import tqdm

__all__ = ["JsonMeter", "Meter", "PeopleMeter", "print_event"]

_LINE_INTERVAL_S = 5.0
_JSON_INTERVAL_S = 0.5
_STAGE = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
_STAGE_OF_UNKNOWN_LENGTH = "{desc}, {elapsed}"


class Meter(Protocol):
    """Is told how far the pull of one deployment is."""

    def fetching(self, done_bytes: int, total_bytes: int | None) -> None:
        """Take what `core.models.pull` tells."""
        ...

    def preparing(self, stage: str, share: float | None) -> None:
        """Take what a `Preparation` tells."""
        ...

    def close(self) -> None:
        """No more will be told."""
        ...


class PeopleMeter:
    """Shows progress: bars on a terminal, one for the bytes and one for each stage; else a line every few seconds."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._bar: tqdm[NoReturn] | None = None
        self._stage: str | None = None
        self._next_line_s: float | None = None

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def fetching(self, done_bytes: int, total_bytes: int | None) -> None:
        """See `Meter`."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(desc=self._name, unit="B", unit_scale=True, initial=done_bytes, dynamic_ncols=True)
            _draw(self._bar, done_bytes, total_bytes)
        elif self._next_line_s is None:
            self._say(f"fetching {self._source}")
        else:
            total = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
            self._say(f"{done_bytes / 1e6:.0f}{total} MB")

    def preparing(self, stage: str, share: float | None) -> None:
        """See `Meter`."""
        if stage != self._stage:
            self._stage, self._next_line_s = stage, None
            self.close()
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(desc=f"{self._name}: {stage}", dynamic_ncols=True)
            self._bar.bar_format = _STAGE_OF_UNKNOWN_LENGTH if share is None else _STAGE
            _draw(self._bar, 0.0 if share is None else share, None if share is None else 1.0)
        else:
            self._say(stage if share is None or self._next_line_s is None else f"{stage}: {share:.0%}")

    def _say(self, line: str) -> None:
        now_s = time.monotonic()
        if self._next_line_s is None or now_s >= self._next_line_s:
            print(f"{self._name}: {line}", file=sys.stderr, flush=True)
            self._next_line_s = now_s + _LINE_INTERVAL_S


class JsonMeter:
    """Writes ``progress`` events to stdout: at a stage's beginning and end, and twice a second between."""

    def __init__(self, name: str, source: str) -> None:
        del source
        self._name = name
        self._stage = ""
        self._next_s = 0.0
        self._put_off: dict[str, Any] | None = None

    def fetching(self, done_bytes: int, total_bytes: int | None) -> None:
        """See `Meter`."""
        self._tell("fetching", done_bytes=done_bytes, total_bytes=total_bytes)

    def preparing(self, stage: str, share: float | None) -> None:
        """See `Meter`."""
        self._tell(stage, share=share)

    def close(self) -> None:
        """Tell what was put off."""
        if self._put_off is not None:
            print_event("progress", **self._put_off)
            self._put_off = None

    def _tell(self, stage: str, **how_far: Any) -> None:
        now_s = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._next_s = stage, now_s
        self._put_off = {"deployment": self._name, "stage": stage, **how_far}
        if now_s >= self._next_s:
            self._next_s = now_s + _JSON_INTERVAL_S
            self.close()


def print_event(event: str, **fields: Any) -> None:
    """Print one event as a line of JSON, at once."""
    print(json.dumps({"event": event, **fields}), flush=True)


def _draw(bar: tqdm[NoReturn], done: float, total: float | None) -> None:
    if total != bar.total:
        bar.total = total
        bar.refresh()
    bar.update(done - bar.n)
