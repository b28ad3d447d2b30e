"""Settings: ``gateway.toml``, then ``GATEWAY_*`` in the environment (``__`` nests), which wins.

Every key, with its default and unit, stands in ``gateway.example.toml``; a test loads that file and
compares. Unknown keys are errors. The tables ``[backends.*]``, ``[policies.*]``, ``[launchers.*]`` and the
``settings`` of a route belong to plugins and are validated by the plugin's own model once plugins are known
(`core.registry`).
"""

from __future__ import annotations

from core.settings.handover import hand_over, handed_over
from core.settings.load import CONFIG_ENVIRONMENT, Settings, SettingsError, load_settings, settings_reader
from core.settings.tables import (
    LARGEST_NUMBER,
    MOST_REPLICAS,
    AdminTable,
    BackendTable,
    DeploymentTable,
    LimitsTable,
    PluginsTable,
    RouteTable,
    RoutingTable,
    SupervisorTable,
    WeightsTable,
)

__all__ = [
    "CONFIG_ENVIRONMENT",
    "LARGEST_NUMBER",
    "MOST_REPLICAS",
    "AdminTable",
    "BackendTable",
    "DeploymentTable",
    "LimitsTable",
    "PluginsTable",
    "RouteTable",
    "RoutingTable",
    "Settings",
    "SettingsError",
    "SupervisorTable",
    "WeightsTable",
    "hand_over",
    "handed_over",
    "load_settings",
    "settings_reader",
]
