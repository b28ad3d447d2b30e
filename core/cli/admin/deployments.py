"""``deployments``, ``enable``, ``disable``, ``priority``, ``weight``, ``replicas``, ``limits``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from core.cli.admin.client import Client, path_of
from core.cli.common import print_columns

__all__ = ["deployments", "limits", "reset", "set_enabled", "set_key"]

_COLUMNS = ("enabled", "priority", "weight", "replicas", "pinned")
_LIMITS = ("max_waiting", "max_waiting_prompt_tokens")


def deployments(arguments: argparse.Namespace) -> int:
    """Print every deployment, what was changed of it at run time marked; or take changes back."""
    if arguments.reset or arguments.all:
        return _reset(arguments, arguments.reset)
    with Client(arguments) as client:
        told = client.ask("GET", "deployments")
    if arguments.json:
        print(json.dumps(told["deployments"], indent=2))
        return 0
    rows = told["deployments"]
    limited = any(key in row["overrides"] for row in rows for key in _LIMITS)
    keys = _COLUMNS + (_LIMITS if limited else ())
    print_columns(
        ("DEPLOYMENT", *(key.upper().replace("_", " ") for key in keys), "STATE", "MEMORY"),
        [(row["id"], *(_cell(row, key) for key in keys), _state(row), _memory(row)) for row in rows],
    )
    if any(row["overrides"] for row in rows):
        note = "[ ]: the configured value of what was changed at run time; deployments --reset NAME takes it back"
        print(note, file=sys.stderr)
    return 0


def reset(arguments: argparse.Namespace) -> int:
    """Take changes back, and print what is changed still."""
    return _reset(arguments, arguments.names)


def set_enabled(enabled: bool) -> Callable[[argparse.Namespace], int]:  # noqa: FBT001 - two commands, one each
    """Return the command that enables or disables a deployment or a backend."""

    def run(arguments: argparse.Namespace) -> int:
        kind = "backends" if arguments.backend else "deployments"
        with Client(arguments) as client:
            told = client.ask("PATCH", path_of(kind, arguments.name), body={"enabled": enabled})
        if arguments.json:
            print(json.dumps(told, indent=2))
        elif arguments.backend:
            word = "enabled" if told["enabled"] else "disabled"
            print(f"{arguments.name} is {word}: {', '.join(told['deployments']) or 'it has no deployment'}")
        else:
            _say(told, ("enabled",))
        return 0

    return run


def set_key(key: str) -> Callable[[argparse.Namespace], int]:
    """Return the command that changes one key of a deployment, or takes its change back."""

    def run(arguments: argparse.Namespace) -> int:
        return _patch(arguments, {key: None if arguments.reset else arguments.value})

    return run


def limits(arguments: argparse.Namespace) -> int:
    """Change how much may wait for a deployment; without a limit, print them."""
    if arguments.reset:
        changes = dict.fromkeys(_LIMITS)
    else:
        changes = {key: value for key in _LIMITS if (value := getattr(arguments, key)) is not None}
    return _patch(arguments, changes, shown=_LIMITS)


def _reset(arguments: argparse.Namespace, names: list[str]) -> int:
    with Client(arguments) as client:
        left = client.ask("POST", "reset", body={"names": ["*"] if arguments.all else names})
    if arguments.json:
        print(json.dumps(left, indent=2))
        return 0
    lines = [
        f"{name}: {', '.join(f'{key} = {json.dumps(value)}' for key, value in changes.items())}"
        for name, changes in left.get("deployments", {}).items()
    ]
    lines += [f"@{name}: enabled = {json.dumps(enabled)}" for name, enabled in left.get("backends", {}).items()]
    lines += [f"{name} -> {', '.join(models) or 'nothing'}" for name, models in left.get("aliases", {}).items()]
    print("\n".join(lines) or "Nothing is changed: all is as configured.")
    return 0


def _patch(arguments: argparse.Namespace, changes: dict[str, Any], shown: tuple[str, ...] = ()) -> int:
    with Client(arguments) as client:
        told = client.ask("PATCH", path_of("deployments", arguments.name), body=changes)
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        _say(told, shown or tuple(changes))
    return 0


def _say(told: dict[str, Any], keys: tuple[str, ...]) -> None:
    print(f"{told['id']}: {', '.join(f'{key} = {_cell(told, key)}' for key in keys)}; it is {_state(told)}")


def _cell(row: dict[str, Any], key: str) -> str:
    now = _plain(row[key])
    return f"{now} [{_plain(row['configured'][key])}]" if key in row["overrides"] else now


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _state(row: dict[str, Any]) -> str:
    states = [replica["state"] for replica in row["replica_states"]]
    state = str(row["state"])
    if states.count(state) < len(states):
        state += f" ({states.count(state)} of {len(states)})"
    if not row["backend_enabled"]:
        state += ", its backend is disabled"
    return state


def _memory(row: dict[str, Any]) -> str:
    held = row["memory"]["resident_bytes"] + row["memory"]["device_bytes"]
    return f"{held / 1e9:.2f} GB" if held else "-"
