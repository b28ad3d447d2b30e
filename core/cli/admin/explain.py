"""``explain MODEL``: where a request would go and why."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from core.cli.admin.client import Client
from core.cli.common import CommandError, print_columns

__all__ = ["explain"]

_KIND = {"model": "a model", "alias": "an alias", "deployment": "a deployment"}


def explain(arguments: argparse.Namespace) -> int:
    """Print every candidate for a request, in the order in which they would be asked."""
    body = _body(arguments)
    with Client(arguments) as client:
        told = client.ask("POST", "route/explain", body=body)
    if arguments.json:
        print(json.dumps(told, indent=2))
        return 0
    print(f"{told['name']} is {_KIND[told['kind']]}; {told['policy']} ranks (by {told['policy_from']})")
    if told["policy_problem"]:
        print(f"the policy: {told['policy_problem']}")
    print_columns(("", "TIER", "RANK", "SCORE", "CANDIDATE", "WHY NOT"), [_row(one) for one in told["candidates"]])
    if told["error"]:
        print(f"refused: {told['error']}")
    elif told["chosen"] is None:
        print("Nobody can be asked now.")
    return 0


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.body is None:
        return {"model": arguments.model, "messages": [{"role": "user", "content": arguments.message}]}
    try:
        text = sys.stdin.read() if arguments.body == "-" else Path(arguments.body).read_text(encoding="utf-8")
        body = json.loads(text)
    except (OSError, ValueError) as error:
        msg = f"{arguments.body} holds no request body: {error}"
        raise CommandError(msg) from None
    if not isinstance(body, dict):
        msg = f"{arguments.body} holds no request body: it must be a JSON object."
        raise CommandError(msg)
    return body | {"model": arguments.model}


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        "->" if one["chosen"] else "",
        _or_dash(one["tier"]),
        _or_dash(one["rank"]),
        "-" if one["score"] is None else f"{one['score']:.4g}",
        one["replica"] or one["deployment"],
        one["reason"] or "",
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
