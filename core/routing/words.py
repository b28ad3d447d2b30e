"""Half-sentences of help in error messages: what a mistyped name may have meant, how a missing plugin is had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

__all__ = ["did_you_mean", "how_to_get", "list_not_loaded"]

_MOST_LISTED = 12


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the closest of the known names, or else a list of them."""
    names = sorted(known)
    if close := get_close_matches(name, names, n=1):
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"there are {', '.join(names[:_MOST_LISTED])}{more}"


def how_to_get(name: str, known: Iterable[str], not_loaded: Mapping[str, str]) -> str:
    """Return where a missing backend, policy or launcher is: not loaded, mistyped, or not installed.

    ``not_loaded`` tells of each plugin that is installed but not loaded, by its name, why. A name that looks
    mistyped is not offered as a package to install: somebody else may own that name.
    """
    if name in not_loaded:
        return f"its plugin is installed but not loaded: {not_loaded[name]}"
    names = sorted(known)
    hint = did_you_mean(name, names)
    if not get_close_matches(name, names, n=1):
        hint += f"; is its plugin installed? pip install ai-gateway-{name}"
    return hint + list_not_loaded(not_loaded)


def list_not_loaded(not_loaded: Mapping[str, str]) -> str:
    """Return the plugins that might have brought what is missing, with a semicolon before each."""
    return "".join(f"; not loaded: {name}: {why}" for name, why in sorted(not_loaded.items()))
