"""The one exception that fetching weights raises."""

from __future__ import annotations

__all__ = ["PullError"]


class PullError(Exception):
    """Weights cannot be fetched; the message says why and what to do about it."""
