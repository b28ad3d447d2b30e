"""``alias`` and ``backends``: what names stand for, and who runs models."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from core.cli.admin.client import Client, path_of
from core.cli.common import print_columns

__all__ = ["alias", "backends"]


def alias(arguments: argparse.Namespace) -> int:
    """Let a name stand for models, for nothing, or for what it did at first; without a name, list the aliases."""
    changes = bool(arguments.models or arguments.remove or arguments.reset)
    if changes != bool(arguments.name):
        arguments.misused("NAME goes with MODEL..., --remove or --reset")
    if not changes:
        return _list(arguments)
    path = path_of("aliases", arguments.name)
    with Client(arguments) as client:
        if arguments.models:
            told = client.ask("PUT", path, body={"models": arguments.models})
        else:
            told = client.ask("DELETE", path, parameters={"reset": "true" if arguments.reset else "false"})
    print(json.dumps(told, indent=2) if arguments.json else f"{told['name']} -> {_models(told)}")
    return 0


def backends(arguments: argparse.Namespace) -> int:
    """Print every backend."""
    with Client(arguments) as client:
        rows = client.ask("GET", "backends")["backends"]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    print_columns(
        ("BACKEND", "ENABLED", "DEPLOYMENTS", "DECLARED BY"),
        [(row["name"], _enabled(row), ", ".join(row["deployments"]) or "-", row["declared_by"]) for row in rows],
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with Client(arguments) as client:
        rows = client.ask("GET", "aliases")["aliases"]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    print_columns(
        ("ALIAS", "MODELS", "CHANGED", "DECLARED BY"),
        [
            (
                row["name"],
                _models(row),
                "no" if row["override"] is None else "yes",
                ", ".join(row["declared_by"]) or "-",
            )
            for row in rows
        ],
    )
    if any(row["override"] is not None for row in rows):
        print("changed: at run time; reset NAME takes it back", file=sys.stderr)
    return 0


def _models(row: dict[str, Any]) -> str:
    return ", ".join(row["models"]) or "nothing"


def _enabled(row: dict[str, Any]) -> str:
    yes, configured = ("yes" if value else "no" for value in (row["enabled"], row["configured"]["enabled"]))
    return f"{yes} [{configured}]" if row["overrides"] else yes
