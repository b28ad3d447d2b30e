"""Clashes, order, and what the registry gives to the rest of the gateway."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

from core.api import hooks
from core.registry import Registry, RegistryError, load_registry, loader
from core.settings import PluginsTable

Install = Callable[..., None]

SPECS = {
    "backend": 'gateway_backends(): return (BackendSpec(name="same", engine="x:X"),)',
    "model": 'gateway_models(): return (ModelSpec(name="same", backend="b"),)',
    "policy": 'gateway_policies(): return (PolicySpec(name="same", policy=object),)',
    "launcher": 'gateway_launchers(): return (LauncherSpec(name="same", launcher="x:X"),)',
    "observer": 'gateway_observers(): return (ObserverSpec(name="same", observer=object),)',
}


@pytest.mark.parametrize("kind", SPECS)
def test_two_plugins_bring_one_name(install: Install, kind: str) -> None:
    """The error names both distributions and versions, so that the operator knows what to uninstall."""
    install("one", f"@hookimpl\ndef {SPECS[kind]}", version="1.1")
    install("two", f"@hookimpl\ndef {SPECS[kind]}", version="2.2")

    with pytest.raises(RegistryError) as caught:
        load_registry(PluginsTable(allow=("one", "two")))

    told = str(caught.value)
    assert told.startswith(f"The {kind} 'same")
    assert "ai-gateway-one 1.1 (one)" in told
    assert "ai-gateway-two 2.2 (two)" in told


def test_a_clash_ends_when_one_is_denied(install: Install) -> None:
    """As the error advises."""
    for name in ("one", "two"):
        install(name, f"@hookimpl\ndef {SPECS['backend']}")

    assert load_registry(PluginsTable(allow=("one", "two"), deny=("two",))).backends["same"].plugin == "one"


def test_one_plugin_brings_a_name_twice(install: Install) -> None:
    """A clash too."""
    install("one", 'S = ModelSpec(name="m", backend="b")\n@hookimpl\ndef gateway_models(): return (S, S)')

    with pytest.raises(RegistryError, match="'m@b' is brought twice"):
        load_registry(PluginsTable(allow=("one",)))


def test_two_distributions_have_a_plugin_of_one_name(install: Install) -> None:
    """They could not be told apart in plugins.allow and plugins.deny."""
    install("one", f"@hookimpl\ndef {SPECS['backend']}", distribution="first")
    install("one", f"@hookimpl\ndef {SPECS['policy']}", distribution="second", version="3.0")

    with pytest.raises(RegistryError, match=r"The plugin 'one' is brought twice: by first 1\.0 and by second 3\.0"):
        load_registry(PluginsTable(allow=("one",)))


def test_nothing_depends_on_the_order_of_discovery(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the file system gives, the registry is the same, and sorted."""
    for name in ("zeta", "alpha", "mid"):
        install(
            name,
            f"""
            @hookimpl
            def gateway_models():
                return (ModelSpec(name="{name}", backend="b", aliases=("x",)), ModelSpec(name="m", backend="{name}"))
            @hookimpl
            def gateway_backends():
                return (BackendSpec(name="{name}", engine="x:X"),)
            """,
        )
    plugins = PluginsTable(allow=("zeta", "alpha", "mid"))
    expected = load_registry(plugins)
    found = list(entry_points(group=hooks.ENTRY_POINT_GROUP))
    for seed in range(5):
        shuffled = found[seed:] + found[:seed]
        monkeypatch.setattr(loader, "entry_points", lambda group, given=shuffled: given)

        assert _everything(load_registry(plugins)) == _everything(expected)
    assert list(expected.backends) == ["alpha", "mid", "zeta"]


def _everything(registry: Registry) -> list[object]:
    """All fields with their order, which comparing two dicts would not see."""
    return [
        registry.plugins,
        list(registry.backends.items()),
        registry.models,
        list(registry.policies.items()),
        list(registry.launchers.items()),
        list(registry.observers.items()),
    ]


def test_loading_again_gives_the_same() -> None:
    """Each process loads once, a test many times."""
    assert _everything(load_registry(PluginsTable())) == _everything(load_registry(PluginsTable()))


def test_what_is_installed_is_in_order() -> None:
    """Every plugin of this very environment loads; no implementation asks for an order (the loader refuses it)."""
    registry = load_registry(PluginsTable())

    assert {one.name: one.reason for one in registry.plugins if one.status != "loaded"} == {}


def test_without_its_own_plugin_the_gateway_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that was never installed has no entry points; the error tells the remedy."""
    monkeypatch.setattr(loader, "entry_points", lambda group: [])

    with pytest.raises(RegistryError, match=r"'builtin' cannot be loaded: ai-gateway is not installed \(pip install"):
        load_registry(PluginsTable())


def test_its_own_plugin_is_not_skipped_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike anybody else's."""
    monkeypatch.setattr("core.registry.builtin.LauncherSpec", None)

    with pytest.raises(RegistryError, match="'builtin' cannot be loaded: gateway_launchers raised TypeError"):
        load_registry(PluginsTable())
