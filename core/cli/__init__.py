"""``python -m core <command>`` and ``ai-gateway <command>``: the operator's side of the gateway (docs/cli.md).

Exit codes: 0 well, 1 something is wrong (each mistake is a line on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from core.api import SpecError
from core.cli import admin, chat, check, doctor, listing, pull
from core.cli.common import DEFAULT_URL, URL_VARIABLE, CommandError
from core.errors import GatewayError
from core.models import PullError
from core.registry import RegistryError
from core.settings import SettingsError

__all__ = ["main"]

_FILES = frozenset({"config", "body"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check_text(parser, arguments)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except (CommandError, SettingsError, SpecError, RegistryError, PullError, GatewayError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _check_text(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse bytes of the shell that are no text; but a file may have any name."""
    for key, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and key not in _FILES:
                try:
                    text.encode()
                except UnicodeEncodeError:
                    parser.error(f"{text!a} is not UTF-8")


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", metavar="FILE", help="the configuration; default: $GATEWAY_CONFIG, ./gateway.toml")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, for programs")

    parser = argparse.ArgumentParser(prog="python -m core", description="The AI gateway's tools.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, *, json: bool) -> argparse.ArgumentParser:
        parents = [shared, as_json] if json else [shared]
        command = commands.add_parser(name, help=text, description=text, parents=parents)
        command.set_defaults(run=run)
        return command

    add("plugins", listing.plugins, "list the plugins found and what each brought", json=True)
    add("models", listing.models, "list the deployments and whether their weights are here", json=True)
    add(
        "aliases",
        listing.aliases,
        "list the aliases of the configuration, where they lead and who declared them",
        json=True,
    )
    add("check", check.check, "check configuration and plugins; start nothing", json=False)
    doctor.add_command(add)
    puller = add("pull", pull.pull_names, "fetch the weights of models", json=True)
    puller.add_argument("names", nargs="+", metavar="NAME", help="a model, an alias, or model@backend")
    puller.add_argument("--end-with-stdin", action="store_true", help="end when standard input does")
    admin.add_commands(add)
    chatter = add("chat", chat.chat, "talk to a model of the running gateway", json=False)
    chatter.add_argument("--url", help=f"the gateway; default: ${URL_VARIABLE}, {DEFAULT_URL}")
    chatter.add_argument("--model", metavar="NAME", help="model or alias; default: the first that is active")
    chatter.add_argument("message", nargs="?", help="say this, print the answer and end")
    return parser
