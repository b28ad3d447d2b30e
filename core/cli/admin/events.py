"""``events``: what happens, as it happens."""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from typing import NoReturn

from core.cli.admin.client import Client, Event, RefusedError

__all__ = ["events"]

_RECONNECT_S = 1.0


def events(arguments: argparse.Namespace) -> NoReturn:
    """Print a line for each event until Ctrl-C; listens again when the supervisor was restarted."""
    last_id = ""
    while True:
        try:
            with Client(arguments) as client:
                for event in client.events("events", last_id=last_id):
                    last_id = event.id or last_id
                    _print(event, as_json=arguments.json)
        except RefusedError as error:
            if error.code != "supervisor_away":
                raise
        time.sleep(_RECONNECT_S)


def _print(event: Event, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"id": event.id, "event": event.name, **event.data}), flush=True)
        return
    if event.name == "end":
        print(event.data["message"], flush=True)
        return
    at = datetime.fromtimestamp(event.data["at_unix_s"]).astimezone().strftime("%H:%M:%S")
    details = " ".join(f"{key}={_plain(value)}" for key, value in event.data["data"].items() if value not in ("", None))
    print("  ".join(filter(None, (at, event.name, event.data["subject"], details))), flush=True)


def _plain(value: object) -> str:
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
