"""What several commands do: read the configuration, assemble the table, print columns."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Sequence

from core.registry import Registry, build_table, load_registry
from core.routing.table import Table
from core.settings import Settings, load_settings

__all__ = ["DEFAULT_URL", "URL_VARIABLE", "CommandError", "assemble", "number", "print_columns", "url_of_gateway"]

URL_VARIABLE = "AI_GATEWAY_URL"
"""Not GATEWAY_URL: variables that begin with GATEWAY_ are settings."""

DEFAULT_URL = "http://127.0.0.1:8080"


class CommandError(Exception):
    """A command cannot do what was asked; the message says why and what to do."""


def assemble(arguments: argparse.Namespace) -> tuple[Settings, Registry, Table]:
    """Read the settings named on the command line and build what every process of the gateway builds."""
    settings = load_settings(arguments.config)
    registry = load_registry(settings.plugins)
    return settings, registry, build_table(registry, settings)


def number(text: str) -> float:
    """Return the number of an argument, as a `type` of `argparse`.

    Raises:
        ValueError: it is no number.
        argparse.ArgumentTypeError: it is none that JSON has.
    """
    if not math.isfinite(value := float(text)):
        msg = f"'{text}' is no number that can be sent"
        raise argparse.ArgumentTypeError(msg)
    return value


def url_of_gateway(arguments: argparse.Namespace) -> str:
    """Return the running gateway that ``--url`` names, else the environment; without the ``/v1`` of OpenAI's clients.

    Raises:
        CommandError: that is no URL.
    """
    url = str(arguments.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/").removesuffix("/v1")
    if not url.lower().startswith(("http://", "https://")):
        msg = f"{url} is no URL of a gateway; one looks like {DEFAULT_URL}"
        raise CommandError(msg)
    return url


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a header, each column as wide as its widest cell."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
