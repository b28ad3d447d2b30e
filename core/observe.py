"""The log observer: one line per finished request and per change of a replica's state."""

from __future__ import annotations

import dataclasses
import logging

from core.api.protocols import ReplicaChange, RequestRecord

__all__ = ["LogObserver"]

_requests = logging.getLogger("gateway.request")
_replicas = logging.getLogger("gateway.replica")


class LogObserver:
    """Writes ``key=value`` lines to the loggers ``gateway.request`` and ``gateway.replica``.

    Values that a client chose are quoted, so that no client can forge a line.
    """

    def request_finished(self, record: RequestRecord) -> None:
        """See `core.api.protocols.Observer`; what went wrong on our side is a warning."""
        level = logging.WARNING if record.status >= 500 else logging.INFO  # noqa: PLR2004 - HTTP
        if _requests.isEnabledFor(level):
            fields = ((field.name, getattr(record, field.name)) for field in dataclasses.fields(record))
            _requests.log(level, " ".join(f"{key}={_plain(value)}" for key, value in fields if value is not None))

    def replica_changed(self, change: ReplicaChange) -> None:
        """See `core.api.protocols.Observer`; a replica that failed is a warning."""
        level = logging.WARNING if change.after == "failed" else logging.INFO
        reason = f": {change.reason}" if change.reason else ""
        _replicas.log(level, "%s %s -> %s%s", change.replica, change.before, change.after, reason)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return ascii(value) if isinstance(value, str) else str(value)
