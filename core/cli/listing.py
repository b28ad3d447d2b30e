"""``plugins``, ``models``, ``aliases``: what there is, for people and, with ``--json``, for programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from core.api.errors import PreparationError
from core.cli.common import assemble, print_columns
from core.registry import DeploymentWeights, FoundWeights, load_registry
from core.routing.deployments import Deployment
from core.settings import WeightsTable, load_settings

__all__ = ["aliases", "models", "plugins"]


def plugins(arguments: argparse.Namespace) -> int:
    """Print every plugin found."""
    registry = load_registry(load_settings(arguments.config).plugins)
    if arguments.json:
        _print_json([dataclasses.asdict(one) for one in registry.plugins])
    else:
        print_columns(
            ("PLUGIN", "DISTRIBUTION", "VERSION", "STATUS", "BROUGHT"),
            [
                (one.name, one.distribution, one.version, one.status, one.reason or ", ".join(one.brought))
                for one in registry.plugins
            ],
        )
    return 0


def models(arguments: argparse.Namespace) -> int:
    """Print every deployment, enabled or not."""
    settings, _, table = assemble(arguments)
    rows = [_deployment(one, settings.weights) for one in table.deployments.values()]
    if arguments.json:
        _print_json(rows)
    else:
        print_columns(
            ("DEPLOYMENT", "ENABLED", "PRIORITY", "WEIGHT", "LOAD", "CONTEXT", "MEMORY", "WEIGHTS", "SOURCE"),
            [
                (
                    row["deployment"],
                    "yes" if row["enabled"] else "no",
                    str(row["priority"]),
                    f"{row['weight']:g}",
                    row["load"],
                    str(row["context_tokens"]),
                    f"{row['memory_bytes'] / 1e9:.1f} GB" if row["memory_bytes"] else "?",
                    _weights(row),
                    row["source"] or "-",
                )
                for row in rows
            ],
        )
    return 0


def aliases(arguments: argparse.Namespace) -> int:
    """Print every alias, then what clashed."""
    _, _, table = assemble(arguments)
    if arguments.json:
        rows = [{**dataclasses.asdict(row), "policy": table.routes[row.name].policy} for row in table.aliases.values()]
        _print_json({"aliases": rows, "warnings": list(table.warnings)})
    else:
        print_columns(
            ("ALIAS", "MODELS", "POLICY", "DECLARED BY"),
            [
                (row.name, ", ".join(row.targets), table.routes[row.name].policy, ", ".join(row.declared_by))
                for row in table.aliases.values()
            ],
        )
        for warning in table.warnings:
            print(f"warning: {warning}")
    return 0


def _weights(row: dict[str, Any]) -> str:
    if row["source"] is None:
        return "none needed"
    if row["fetched"] is None:
        return row["pull"] or "nothing at its path"
    if row["weights"] is None:
        return f"not prepared: {row['pull'] or row['missing']}"
    return "here" if row["weights"] == row["fetched"] else "prepared"


def _deployment(deployment: Deployment, weights: WeightsTable) -> dict[str, Any]:
    spec = deployment.spec
    found = _find(deployment, weights)
    return {
        "deployment": deployment.id,
        "model": spec.name,
        "backend": spec.backend,
        "enabled": spec.enabled,
        "priority": spec.priority,
        "weight": spec.weight,
        "load": spec.load,
        "replicas": deployment.replicas,
        "tasks": list(spec.tasks),
        "context_tokens": spec.context_tokens,
        "memory_bytes": spec.memory_bytes or None,
        "source": spec.source,
        "fetched": str(found.fetched) if found.fetched else None,
        "weights": str(found.path) if found.path else None,
        "missing": found.missing or None,
        "pull": found.command or None,
        "declared_by": deployment.declared_by,
    }


def _find(deployment: Deployment, weights: WeightsTable) -> FoundWeights:
    its = DeploymentWeights(deployment, weights)
    try:
        return its.find()
    except PreparationError as error:
        return FoundWeights(fetched=its.fetched(), missing=str(error))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
