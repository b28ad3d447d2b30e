"""What the handlers of one HTTP worker share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sanic import Request

from core.api.protocols import Observer, Policy, RequestRecord
from core.gateway import metrics
from core.gateway.fleet import Fleet
from core.routing.table import Table
from core.settings import Settings

__all__ = ["Gateway", "gateway_of"]

_log = logging.getLogger("gateway.observers")


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Built once per worker when its server starts; hangs at ``app.ctx.gateway``."""

    settings: Settings
    table: Table
    fleet: Fleet
    policies: Mapping[str, Policy]
    observers: Sequence[Observer]
    started_unix_s: int

    def finished(self, record: RequestRecord) -> None:
        """Count a finished request and tell the observers."""
        metrics.observe(record)
        for observer in self.observers:
            try:
                observer.request_finished(record)
            except Exception:  # noqa: BLE001 - somebody else's code; it can change nothing
                _log.exception("the observer %s failed; it is told of the next request all the same", observer)


def gateway_of(request: Request) -> Gateway:
    """The gateway of the worker that serves this request."""
    return cast("Gateway", request.app.ctx.gateway)
