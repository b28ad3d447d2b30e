"""The gateway's log: how lines look, and the observer that writes one per request."""

from __future__ import annotations

import logging
from typing import TextIO

import msgspec

from core.api.protocols import ReplicaChange, RequestRecord

__all__ = ["LogObserver", "configure_logging"]

# Named by what they speak of, and by the module that speaks.
_ROOTS = ("gateway", "core")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_requests = logging.getLogger("gateway.request")
_replicas = logging.getLogger("gateway.replica")


def configure_logging(level: str) -> None:
    """Send the gateway's log lines to standard error; other libraries' logging is left alone. Idempotent."""
    handler = _Handler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    for name in _ROOTS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


class _Handler(logging.StreamHandler[TextIO]):
    """Writes tracebacks as Python does, whoever reads them: Sanic's command line has `StreamHandler` draw boxes."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            self.stream.write(self.format(record) + self.terminator)
            self.flush()
        except Exception:  # noqa: BLE001 - as of any handler
            self.handleError(record)


class LogObserver:
    """Writes ``key=value`` lines to the loggers ``gateway.request`` and ``gateway.replica``.

    Values that a client chose are quoted, so that no client can forge a line.
    """

    def request_finished(self, record: RequestRecord) -> None:
        """See `core.api.protocols.Observer`; a warning if it failed by our fault, DEBUG if all went well."""
        level = logging.DEBUG
        if record.outcome == "error":
            level = logging.WARNING if record.status >= 500 else logging.INFO  # noqa: PLR2004 - HTTP
        if _requests.isEnabledFor(level):
            fields = msgspec.structs.asdict(record).items()
            _requests.log(level, " ".join(f"{key}={_plain(value)}" for key, value in fields if value is not None))

    def replica_changed(self, change: ReplicaChange) -> None:
        """See `core.api.protocols.Observer`; at DEBUG, since the supervisor tells it with what it will do."""
        reason = f": {change.reason}" if change.reason else ""
        _replicas.debug("%s %s -> %s%s", change.replica, change.before, change.after, reason)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return ascii(value) if isinstance(value, str) else str(value)
