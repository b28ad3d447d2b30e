"""``load``, ``unload``, ``restart``, ``drain``, ``reload``: what is done to the running gateway."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from core.cli.admin.client import Client, path_of

__all__ = ["operate", "reload"]


def operate(action: str) -> Callable[[argparse.Namespace], int]:
    """Return the command of an action; with ``--wait`` it fails when the action is not over by then."""

    def run(arguments: argparse.Namespace) -> int:
        wait_s = arguments.wait or 0.0
        with Client(arguments) as client:
            path = path_of("deployments", arguments.name, action)
            told = client.ask("POST", path, parameters={"wait_s": f"{wait_s:g}"}, wait_s=wait_s)
        print(json.dumps(told, indent=2) if arguments.json else told["message"])
        return int(bool(wait_s) and not told["done"])

    return run


def reload(arguments: argparse.Namespace) -> int:
    """Have the gateway read its configuration again, and print what that changes."""
    with Client(arguments) as client:
        told = client.ask("POST", "reload", parameters={"dry_run": "true" if arguments.dry_run else "false"})
    if arguments.json:
        print(json.dumps(told, indent=2))
        return 0
    changed: list[dict[str, Any]] = told["changed"]
    for one in changed:
        print(f"{one['key']}: {json.dumps(one['before'])} -> {json.dumps(one['after'])}")
    for sentence in told["restart_needed"]:
        print(f"needs a restart: {sentence}")
    for sentence in told["overridden"]:
        print(f"overridden: {sentence}")
    for effect in ("restarts", "starts", "ends"):
        if told[effect]:
            print(f"{effect} replicas of: {', '.join(told[effect])}")
    if not changed and not told["restart_needed"]:
        print("Nothing has changed.")
    elif not arguments.dry_run:
        print(f"In effect: generation {told['generation']}.")
    for sentence in told["warnings"]:
        print(f"warning: {sentence}", file=sys.stderr)
    return 0
