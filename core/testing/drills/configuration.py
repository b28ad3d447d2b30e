"""The configuration of a gateway under drill: an operator's settings, and drill deployments in place of the models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.routing.routes import RouteOptions
from core.settings import Settings
from core.testing.drills.declared import TOKENS, Drill

__all__ = ["SOUND", "RouteUnderDrill", "configuration_of", "journal_of", "to_toml"]

SOUND = "unharmed"
"""Last by name, so that a policy which leaves equals in their order asks each faulty replica."""
_PLUGIN = "faults"
_TOKENS_PER_S = 200.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteUnderDrill:
    """How the drills' names are routed.

    Attributes:
        names: the names of the operator's own that are routed so, for people.
        policy: that ranks.
        settings: of the policy, for this route alone.
        options: how it fails over.
    """

    names: tuple[str, ...]
    policy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: RouteOptions = RouteOptions()  # noqa: RUF009 - frozen


def configuration_of(
    settings: Settings, route: RouteUnderDrill, drills: Sequence[Drill], folder: Path, *, declared: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what the gateway under drill is configured with.

    Nothing of the operator's is loaded or written: ``declared`` are the deployments that plugins declare, which are
    disabled; logs, changes at run time and the weights, a file without meaning, are below ``folder``. What
    the drilled replicas cannot have, a launcher elsewhere or limits of memory, is left out.
    """
    weights = folder / "drill-weights"
    weights.write_text("the weights of all drill deployments\n")
    own = settings.model_dump(mode="json", exclude_none=True)
    supervisor = {key: value for key, value in own["supervisor"].items() if "memory_limit" not in key}
    deployments: dict[str, Any] = {name: {"enabled": False} for name in declared}
    sound_for = [_alias(drill) for drill in drills if not drill.alone]
    deployments[f"{SOUND}@{_PLUGIN}"] = _deployment(weights, sound_for, {})
    for drill in drills:
        faults = {**drill.faults, "journal": str(journal_of(drill, folder))}
        if faults.get("garbage") == "oversized":
            faults["oversized_bytes"] = settings.limits.max_frame_bytes + 1
        if drill.breaker:
            faults["only_first"] = settings.routing.breaker_failures
        deployments[f"{drill.id}@{_PLUGIN}"] = _deployment(weights, [_alias(drill)], faults)
    return {
        "log_level": own["log_level"],
        "plugins": _plugins(settings),
        "routing": own["routing"],
        "limits": own["limits"],
        "supervisor": {**supervisor, "launcher": "local", "log_dir": str(folder / "logs")},
        "admin": {"database": str(folder / "gateway.sqlite3")},
        "weights": {"cache_dir": str(folder / "weights")},
        "backends": {name: table for name, table in own["backends"].items() if name != _PLUGIN},
        "policies": own["policies"],
        "launchers": own["launchers"],
        "routes": {_alias(drill): _route(route) for drill in drills},
        "deployments": deployments,
    }


def journal_of(drill: Drill, folder: Path) -> Path:
    """The file in which the faulty replica notes whom it hit."""
    return folder / f"{drill.id}.journal"


def to_toml(tables: Mapping[str, Any]) -> str:
    """Write tables as TOML, one line for each key of the first level and of the second."""
    lines: list[str] = []
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            lines.insert(0, f"{_text(name)} = {_value(table)}")
        else:
            lines += [f"[{_text(name)}]", *(f"{_text(key)} = {_value(value)}" for key, value in table.items())]
    return "\n".join([*lines, ""])


def _alias(drill: Drill) -> str:
    return f"drill/{drill.id}"


def _deployment(weights: Path, aliases: Sequence[str], faults: Mapping[str, Any]) -> dict[str, Any]:
    paced = {"tokens": TOKENS, "tokens_per_s": _TOKENS_PER_S, **faults}
    return {"source": str(weights), "aliases": list(aliases), "priority": 10, "weight": 1.0, "settings": paced}


def _route(route: RouteUnderDrill) -> dict[str, Any]:
    options = route.options
    table: dict[str, Any] = {"policy": route.policy, "settings": dict(route.settings)}
    table["continuation"] = options.continuation
    if options.attempt_timeout_s is not None:
        table["attempt_timeout_s"] = options.attempt_timeout_s
    if options.hedge_after_s is not None:
        table["hedge_after_ms"] = options.hedge_after_s * 1000
    return table


def _plugins(settings: Settings) -> dict[str, Any]:
    """The operator's choice, and the backend of the drills in any case."""
    allow, deny = settings.plugins.allow, settings.plugins.deny
    if "*" in deny:
        return {"allow": [_PLUGIN], "deny": []}
    return {"allow": [*allow, _PLUGIN], "deny": [name for name in deny if name != _PLUGIN]}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_text(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    """A basic string; JSON's is one but for a character that TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
