"""The commands that manage a running gateway: each is the twin of a route of ``/admin/v1``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from core.cli.admin import deployments, events, explain, names, operations
from core.cli.common import DEFAULT_URL, URL_VARIABLE, number

__all__ = ["add_commands"]

_LONGEST_WAIT_S = 600.0
_KEYS: tuple[tuple[str, Callable[[str], float], str], ...] = (
    ("priority", int, "the tier of a deployment; higher is preferred"),
    ("weight", number, "the share of a deployment among equals of a tier"),
    ("replicas", int, "how many processes serve a deployment"),
)
_ACTIONS = {
    "load": "start what is not started of a deployment",
    "unload": "give the memory of a deployment back",
    "restart": "restart the replicas of a deployment, one after another",
    "drain": "let a deployment finish what it runs, then unload it",
}

Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add them; ``add(name, run, text, json=True)`` returns the parser of a new command."""

    def managing(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = add(name, run, text, json=True)
        command.add_argument("--url", help=f"the gateway; default: ${URL_VARIABLE}, {DEFAULT_URL}")
        command.add_argument("--key", help="the key of its [admin] table; default: $GATEWAY_ADMIN__KEY, admin.key")
        return command

    listing = managing(
        "deployments", deployments.deployments, "list the deployments of the running gateway, and what was changed"
    )
    taking_back = listing.add_mutually_exclusive_group()
    taking_back.add_argument(
        "--reset", nargs="+", metavar="NAME", help="take back what was changed of deployments, @backends and aliases"
    )
    taking_back.add_argument("--all", action="store_true", help="take back all that was changed at run time")
    managing("backends", names.backends, "list the backends of the running gateway")
    resetting = managing("reset", deployments.reset, "take back what was changed at run time")
    whose = resetting.add_mutually_exclusive_group(required=True)
    whose.add_argument("names", nargs="*", default=[], metavar="NAME", help="a deployment, an alias, or @backend")
    whose.add_argument("--all", action="store_true", help="everything")
    for word, enabled in (("enable", True), ("disable", False)):
        command = managing(word, deployments.set_enabled(enabled), f"{word} a deployment, or a whole backend")
        command.add_argument("name", metavar="NAME", help="model@backend, or a backend with --backend")
        command.add_argument("--backend", action="store_true", help="NAME is a backend: all its deployments")
    for key, kind, text in _KEYS:
        command = managing(key, deployments.set_key(key), f"change {text}")
        _add_name(command)
        value = command.add_mutually_exclusive_group(required=True)
        value.add_argument("value", nargs="?", type=kind, metavar="VALUE")
        value.add_argument("--reset", action="store_true", help="as configured")
    limiting = managing(
        "limits", deployments.limits, "print or change how much may wait for each replica of a deployment"
    )
    _add_name(limiting)
    limiting.add_argument("--max-waiting", type=int, metavar="REQUESTS")
    limiting.add_argument("--max-waiting-prompt-tokens", type=int, metavar="TOKENS")
    limiting.add_argument("--reset", action="store_true", help="both as configured")
    _add_operations(managing)
    _add_questions(managing)


def _add_operations(managing: Add) -> None:
    naming = managing("alias", names.alias, "let a name stand for models, in order; without a name, list the aliases")
    naming.add_argument("name", nargs="?", metavar="NAME")
    naming.set_defaults(misused=naming.error)
    meaning = naming.add_mutually_exclusive_group()
    meaning.add_argument("models", nargs="*", default=[], metavar="MODEL", help="models, aliases or deployments")
    meaning.add_argument("--remove", action="store_true", help="let it stand for nothing")
    meaning.add_argument("--reset", action="store_true", help="let it stand for what it did at first")
    for action, text in _ACTIONS.items():
        command = managing(action, operations.operate(action), text)
        _add_name(command)
        command.add_argument(
            "--wait",
            nargs="?",
            type=number,
            const=_LONGEST_WAIT_S,
            metavar="SECONDS",
            help="return when it is over, and fail if it is not by then; default: %(const)g",
        )
    reloading = managing("reload", operations.reload, "have the gateway read its configuration again")
    reloading.add_argument("--dry-run", action="store_true", help="only print what would change")


def _add_questions(managing: Add) -> None:
    asking = managing("explain", explain.explain, "print where a request would go, and why")
    asking.add_argument("model", metavar="MODEL", help="model, alias or deployment")
    asking.add_argument("message", nargs="?", default="Hello", metavar="MESSAGE", help="what a chat would say")
    asking.add_argument("--body", metavar="FILE", help="a request body of any endpoint instead; -: standard input")
    managing("events", events.events, "print what happens, as it happens")


def _add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="DEPLOYMENT", help="model@backend")
