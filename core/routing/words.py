"""Half-sentences of help in error messages: how a missing plugin is had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.words import closest, did_you_mean

__all__ = ["PACKAGES", "how_to_get", "list_not_loaded"]

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "echo": ("examples/echo_backend",),
    "llamacpp": ("plugins/decoding", "plugins/llamacpp_backend"),
    "onnx": ("plugins/decoding", "plugins/onnx_backend"),
    "sticky": ("examples/sticky_policy",),
    "torch": ("plugins/decoding", "plugins/torch_backend"),
}
"""This project's own packages, by the backend or policy that each brings: folders of a checkout, the last is its own.
Each is called ``ai-gateway-<backend or policy>``. No other name is ever suggested for installation: anybody could
register a name that is made up here."""


def how_to_get(name: str, known: Iterable[str], not_loaded: Mapping[str, str]) -> str:
    """Return where a missing backend, policy or launcher is: not loaded, mistyped, or not installed.

    ``not_loaded`` tells of each plugin that is installed but not loaded, by its name, why.
    """
    if name in not_loaded:
        return f"its plugin is installed but not loaded: {not_loaded[name]}"
    names = sorted(known)
    hint = did_you_mean(name, names)
    if name in PACKAGES:
        folders = " ".join(f"./{folder}" for folder in PACKAGES[name])
        hint = f"pip install ai-gateway-{name} (in a checkout: pip install {folders})"
    elif not closest(name, names):
        hint += "; install the package that brings it"
    return hint + list_not_loaded(not_loaded)


def list_not_loaded(not_loaded: Mapping[str, str]) -> str:
    """Return the plugins that might have brought what is missing, with a semicolon before each."""
    return "".join(f"; not loaded: {name}: {why}" for name, why in sorted(not_loaded.items()))
