"""Drills: a gateway with replicas that fail to order, requests, and what must come of them.

The tests run them under each policy; ``python -m core doctor`` under an operator's own configuration.
"""

from __future__ import annotations

from core.testing.drills.advice import advice, remedy, routes_of
from core.testing.drills.configuration import RouteUnderDrill, configuration_of, to_toml
from core.testing.drills.declared import DRILLS, Drill, time_of
from core.testing.drills.ground import Finding, Verdict
from core.testing.drills.run import run_drills

__all__ = [
    "DRILLS",
    "Drill",
    "Finding",
    "RouteUnderDrill",
    "Verdict",
    "advice",
    "configuration_of",
    "remedy",
    "routes_of",
    "run_drills",
    "time_of",
    "to_toml",
]
