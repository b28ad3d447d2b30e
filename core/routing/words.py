"""Words of help in error messages: what a mistyped name may have meant, and how a missing plugin is had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

__all__ = ["did_you_mean", "who_brings"]

_MOST_LISTED = 12


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a half-sentence: the closest of the known names, or else all of them, or that there are none."""
    names = sorted(known)
    if close := get_close_matches(name, names, n=1):
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"there are {', '.join(names[:_MOST_LISTED])}{more}"


def who_brings(name: str, not_loaded: Mapping[str, str]) -> str:
    """Return a half-sentence on where a missing backend, policy or launcher should come from.

    ``not_loaded`` tells of each plugin that is installed but not loaded, by its name, why.
    """
    if name in not_loaded:
        return f"its plugin is installed but not loaded: {not_loaded[name]}"
    rest = "".join(f"; not loaded: {plugin}: {why}" for plugin, why in sorted(not_loaded.items()))
    return f"is the plugin installed? pip install ai-gateway-{name}{rest}"
