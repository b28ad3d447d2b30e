"""``doctor``: drills under the operator's own configuration, in a gateway of their own (docs/doctor.md)."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.cli.check import find
from core.cli.common import CommandError, assemble, print_columns
from core.registry import Registry
from core.settings import Settings
from core.testing.drills import (
    DRILLS,
    Drill,
    Finding,
    RouteUnderDrill,
    advice,
    configuration_of,
    remedy,
    routes_of,
    run_drills,
    time_of,
    to_toml,
)
from core.testing.gateway import start_gateway

__all__ = ["add_command"]

_PATIENCE_S = 90.0
_MOST_BREAKER_FAILURES = 30
_BY_ID = {drill.id: drill for drill in DRILLS}


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    command = add("doctor", doctor, "drill this configuration with replicas that fail; load no model", json=True)
    command.add_argument(
        "--patience",
        type=float,
        default=_PATIENCE_S,
        metavar="SECONDS",
        help="leave out what would keep a request longer by these settings; default: %(default)g",
    )


def doctor(arguments: argparse.Namespace) -> int:
    """Print what was found; fail when a drill failed or the configuration has a mistake."""
    settings, registry, table = assemble(arguments)
    errors, warnings = find(settings, registry, table)
    if errors:
        raise CommandError("\n".join(errors))
    routes = routes_of(settings, table)
    found = [_Drilled(route, settings, arguments.patience).run(registry, say=_say) for route in routes]
    failed = any(finding.verdict == "failed" for findings in found for finding in findings)
    advised = advice(settings, table, routes)
    if arguments.json:
        told = [_told(route, findings, settings) for route, findings in zip(routes, found, strict=True)]
        print(json.dumps({"ok": not failed, "warnings": warnings, "routes": told, "advice": advised}, indent=2))
        return int(failed)
    for route, findings in zip(routes, found, strict=True):
        print(f"{', '.join(route.names)}: {route.policy}")
        print_columns(("A REPLICA", "VERDICT", "TIME", "SEEN"), [_row(one, route, settings) for one in findings])
        print()
    for label, lines in (("warning", warnings), ("advice", advised)):
        for line in lines:
            print(f"{label}: {line}")
    print("Some drills failed." if failed else "No drill failed.")
    return int(failed)


class _Drilled:
    """One way of routing, and the gateway in which it is drilled."""

    def __init__(self, route: RouteUnderDrill, settings: Settings, patience_s: float) -> None:
        self._route = route
        self._settings = settings
        self._skipped = [one for drill in DRILLS if (one := self._too_long(drill, patience_s))]
        left_out = {one.drill for one in self._skipped}
        self._drills = [drill for drill in DRILLS if drill.id not in left_out]

    def run(self, registry: Registry, *, say: Callable[[str], None]) -> list[Finding]:
        """Run what is not too long.

        Raises:
            CommandError: the gateway for the drills does not start.
        """
        longest_s = max(time_of(drill, self._settings, self._route.options)[0] for drill in self._drills)
        say(f"drilling {', '.join(self._route.names)} ({self._route.policy}); this takes about {longest_s + 15:.0f} s")
        declared = [model.spec.deployment for model in registry.models]
        with tempfile.TemporaryDirectory(prefix="gw-doctor-") as name:
            folder = Path(name)
            tables = configuration_of(self._settings, self._route, self._drills, folder, declared=declared)
            try:
                with start_gateway(to_toml(tables), quick=False) as gateway:
                    found = asyncio.run(
                        run_drills(gateway.url, self._drills, self._settings, self._route.options, folder)
                    )
            except AssertionError as error:  # it says why in its log
                msg = f"The gateway for the drills did not start:\n{error}"
                raise CommandError(msg) from error
        return [*found, *self._skipped]

    def _too_long(self, drill: Drill, patience_s: float) -> Finding | None:
        takes_s, setting = time_of(drill, self._settings, self._route.options)
        failures = self._settings.routing.breaker_failures
        if drill.breaker and failures > _MOST_BREAKER_FAILURES:
            seen = f"its breaker opens after {failures} failures only (routing.breaker_failures)"
        elif takes_s > patience_s:
            seen = f"a request would take {takes_s:g} s ({setting}); run it with --patience {takes_s + 1:.0f}"
        else:
            return None
        return Finding(drill=drill.id, says=drill.says, verdict="skipped", seen=seen)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _remedy(finding: Finding, route: RouteUnderDrill, settings: Settings) -> str:
    drill = _BY_ID.get(finding.drill)
    return remedy(drill, settings, route.options) if drill and finding.verdict == "failed" else ""


def _row(finding: Finding, route: RouteUnderDrill, settings: Settings) -> Sequence[str]:
    seen = " ".join(filter(None, (finding.seen, _remedy(finding, route, settings))))
    return finding.says, finding.verdict, f"{finding.took_s:.1f} s", seen


def _told(route: RouteUnderDrill, findings: Sequence[Finding], settings: Settings) -> dict[str, Any]:
    return {
        "names": list(route.names),
        "policy": route.policy,
        **dataclasses.asdict(route.options),
        "findings": [
            {**dataclasses.asdict(finding), "remedy": _remedy(finding, route, settings)} for finding in findings
        ],
    }
