"""``check``: everything that can be known to be wrong without starting anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import core
from core.cli.common import assemble
from core.registry import Registry, absent_weights, make_launcher, make_policies
from core.routing.table import Table
from core.settings import Settings, SettingsError

__all__ = ["check", "find"]

_OURS = "ai-gateway"


def check(arguments: argparse.Namespace) -> int:
    """Print a line per mistake and per warning; mistakes alone make it fail."""
    settings, registry, table = assemble(arguments)
    errors, warnings = find(settings, registry, table)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not errors:
        print(f"In order: {len(table.deployments)} deployment(s), {len(table.aliases)} alias(es).")
    return int(bool(errors))


def find(settings: Settings, registry: Registry, table: Table) -> tuple[list[str], list[str]]:
    """The mistakes and the warnings."""
    errors = list(_choices(registry, settings))
    return errors, [*_plugins(registry), *table.warnings, *absent_weights(table, settings), *_rival_packages()]


def _choices(registry: Registry, settings: Settings) -> Iterator[str]:
    """Whatever the configuration chooses by name, with its table."""
    for make in (lambda: make_policies(registry, settings), lambda: make_launcher(registry, settings)):
        try:
            make()
        except SettingsError as error:
            yield from str(error).splitlines()


def _plugins(registry: Registry) -> Iterator[str]:
    for plugin in registry.plugins:
        if plugin.status in {"failed", "incompatible"}:
            yield f"plugin {plugin.name} of {plugin.distribution} {plugin.version}: {plugin.status}: {plugin.reason}"


def _rival_packages() -> Iterator[str]:
    """``core`` is a common name: another distribution's files may lie where ours should, or hide them."""
    owners = set(metadata.packages_distributions().get("core", ())) - {_OURS}
    if owners:
        yield (
            f"{', '.join(sorted(owners))} installs a package `core` too; in use is {Path(core.__file__).parent}. "
            f"Install {_OURS} in an environment without it."
        )
