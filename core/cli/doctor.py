"""``doctor``: drills under the operator's own configuration, in a gateway of their own (docs/doctor.md)."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
from collections import Counter
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
    Verdict,
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
_FAILED, _UNMET = 1, 3
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
    """Print what was found; fail when a drill failed or taught nothing, or the configuration has a mistake."""
    settings, registry, table = assemble(arguments)
    errors, warnings = find(settings, registry, table)
    if errors:
        raise CommandError("\n".join(errors))
    routes = routes_of(settings, table)
    found = []
    for number, route in enumerate(routes, start=1):
        _say(f"{number} of {len(routes)}: drilling {', '.join(route.names)} ({route.policy})")
        found.append(_Drilled(route, settings, arguments.patience).run(registry, say=_say))
    count = Counter(finding.verdict for findings in found for finding in findings)
    code = _FAILED if count["failed"] else _UNMET if count["unmet"] else 0
    advised = advice(settings, table, routes)
    if arguments.json:
        told = [_told(route, findings, settings) for route, findings in zip(routes, found, strict=True)]
        print(json.dumps({"ok": not code, "warnings": warnings, "routes": told, "advice": advised}, indent=2))
        return code
    for route, findings in zip(routes, found, strict=True):
        print(f"{', '.join(route.names)}: {route.policy}, in one tier of a faulty replica and a sound one")
        print_columns(("A REPLICA", "VERDICT", "TIME", "SEEN"), [_row(one, route, settings) for one in findings])
        print()
    for label, lines in (("warning", warnings), ("advice", advised)):
        for line in lines:
            print(f"{label}: {line}")
    print(_sum(count))
    return code


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
        say(
            f"this takes about {longest_s + 15:.0f} s; on a busy machine, or by a policy that avoids them, some minutes"
        )
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
    if finding.verdict == "unmet":
        return "The policy never chose it: try its fault in deployments of your own, as docs/doctor.md shows."
    return remedy(drill, settings, route.options) if drill and finding.verdict == "failed" else ""


def _sum(count: Counter[Verdict]) -> str:
    told = [f"{count['failed'] or 'No'} {'drills' if count['failed'] > 1 else 'drill'} failed."]
    told += [f"{count['unmet']} unmet: nothing was learnt of what they are about."] if count["unmet"] else []
    told += [f"{count['skipped']} skipped."] if count["skipped"] else []
    return " ".join(told)


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
