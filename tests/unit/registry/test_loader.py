"""What becomes of each kind of plugin; the distributions are real, on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from core.registry import PluginRecord, load_registry
from core.settings import PluginsTable, SettingsError

Install = Callable[..., None]

GOOD = """
    @hookimpl
    def gateway_backends():
        return (BackendSpec(name="good", engine="good.engine:Engine"),)

    @hookimpl
    def gateway_models():
        return (ModelSpec(name="m", backend="good"), ModelSpec(name="a", backend="good"))
"""


def record(name: str, **plugins: tuple[str, ...]) -> PluginRecord:
    """What becomes of one plugin when only it, or what the test says, is allowed."""
    table = PluginsTable(**{"allow": (name,), **plugins})
    (found,) = (one for one in load_registry(table).plugins if one.name == name)
    return found


def test_a_good_plugin_is_loaded(install: Install) -> None:
    """With who brought it and what it brought."""
    install("good", GOOD, version="1.2", requires=("ai-gateway>=0.0.1",))

    assert record("good") == PluginRecord(
        name="good",
        distribution="ai-gateway-good",
        version="1.2",
        status="loaded",
        reason="",
        brought=("backend good", "model a@good", "model m@good"),
    )


def test_specs_know_who_brought_them(install: Install) -> None:
    """Provenance goes with each spec."""
    install("good", GOOD)
    registry = load_registry(PluginsTable(allow=("good",)))

    assert registry.backends["good"].source == "ai-gateway-good 1.0 (good)"
    assert [one.spec.name for one in registry.models if one.plugin == "good"] == ["a", "m"]


@pytest.mark.parametrize(
    ("plugins", "reason"),
    [
        ({"allow": ("other",)}, "plugins.allow does not name it"),
        ({"allow": ("good",), "deny": ("good",)}, "plugins.deny names it"),
        ({"deny": ("*",)}, 'plugins.deny is "*"'),
    ],
)
def test_a_denied_plugin_is_not_imported(install: Install, plugins: dict[str, tuple[str, ...]], reason: str) -> None:
    """Importing runs code, so the decision comes first."""
    install("good", "raise SystemExit('imported')")
    found = record("good", **plugins)

    assert (found.status, found.reason, found.brought) == ("denied", reason, ())
    assert "ai_gateway_good_plugin" not in sys.modules


@pytest.mark.parametrize("requirement", ["ai-gateway>=99", "AI_Gateway==0.0.1 ; python_version > '3'"])
def test_an_incompatible_plugin_is_not_imported(install: Install, requirement: str) -> None:
    """Its requirement on the core is read from its metadata."""
    install("good", GOOD, requires=("numpy>=99", requirement))
    found = record("good")

    assert found.status == "incompatible"
    assert "it needs ai-gateway" in found.reason
    assert "but this is 0." in found.reason
    assert "ai_gateway_good_plugin" not in sys.modules


def test_a_requirement_that_cannot_be_read(install: Install) -> None:
    """Is not taken for fulfilled."""
    install("good", GOOD, requires=("ai-gateway=>1",))

    assert record("good").status == "incompatible"


def test_the_requirement_of_an_extra_does_not_count(install: Install) -> None:
    """Extras were not asked for."""
    install("good", GOOD, requires=("ai-gateway>=99; extra == 'future'",))

    assert record("good").status == "loaded"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import not_installed_anywhere", "failed: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("def", "failed: SyntaxError"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("", "it implements no hook; hooks are gateway_backends, gateway_models"),
        ("@hookimpl\ndef gateway_model(): return ()", "unknown hook 'gateway_model'"),
        ("@hookimpl\ndef gateway_models(settings): return ()", "Argument(s) {'settings'}"),
        ("def gateway_models(): return ()", "gateway_models lacks the decorator @hookimpl"),
        ("@hookimpl\ndef gateway_models(): return None", "gateway_models returned NoneType, not a tuple of ModelSpec"),
        ("@hookimpl\ndef gateway_models(): yield 1", "gateway_models returned generator, not a tuple of ModelSpec"),
        ("@hookimpl\nasync def gateway_models(): return ()", "gateway_models returned coroutine"),
        ("@hookimpl\ndef gateway_models(): return (1,)", "gateway_models returned int in its tuple"),
        (
            "@hookimpl\ndef gateway_models(): return [BackendSpec(name='x', engine='x:X')]",
            "gateway_models returned BackendSpec in its tuple, which may hold ModelSpec only",
        ),
        ("@hookimpl\ndef gateway_models(): 1 / 0", "gateway_models raised ZeroDivisionError: division by zero"),
        (
            "@hookimpl\ndef gateway_models(): return (ModelSpec(name='a@b', backend='b'),)",
            "gateway_models raised SpecError: ModelSpec: name 'a@b' may hold",
        ),
        ("@hookimpl(tryfirst=True)\ndef gateway_models(): return ()", "gateway_models has options for @hookimpl"),
        ("@hookimpl(wrapper=True)\ndef gateway_models(): return (yield)", "gateway_models has options for @hookimpl"),
    ],
)
def test_a_broken_plugin_fails_alone(install: Install, code: str, reason: str) -> None:
    """It is recorded with a reason of one line, and a good one beside it is loaded."""
    install("broken", code)
    install("good", GOOD)
    registry = load_registry(PluginsTable(allow=("broken", "good")))
    found = {one.name: one for one in registry.plugins}

    assert found["broken"].status == "failed"
    assert reason in found["broken"].reason
    assert "\n" not in found["broken"].reason
    assert found["broken"].brought == ()
    assert found["good"].status == "loaded"


def test_a_plugin_that_fails_half_way_brings_nothing(install: Install) -> None:
    """Its good hook does not count when another one fails."""
    install("half", GOOD + "\n    @hookimpl\n    def gateway_policies(): return None")
    registry = load_registry(PluginsTable(allow=("half",)))

    assert "good" not in registry.backends
    assert registry.not_loaded["half"].startswith("ai-gateway-half 1.0 is failed: gateway_policies returned NoneType")


def test_an_entry_point_names_a_module(install: Install) -> None:
    """Not a thing inside one."""
    install("thing", "class Thing: pass", target="ai_gateway_thing_plugin:Thing")

    assert record("thing").reason == "ai_gateway_thing_plugin:Thing is not a module"


def test_one_module_is_registered_once(install: Install) -> None:
    """A second entry point for it fails, and does not pull the first one down."""
    install("good", GOOD)
    install("second", target="ai_gateway_good_plugin")
    registry = load_registry(PluginsTable(allow=("good", "second")))
    status = {one.name: one.status for one in registry.plugins}

    assert (status["good"], status["second"]) == ("loaded", "failed")
    assert "good" in registry.backends


def test_the_builtin_plugin_is_always_loaded() -> None:
    """Whatever is allowed."""
    for plugins in (PluginsTable(allow=()), PluginsTable(deny=("*",)), PluginsTable(allow=("builtin",))):
        registry = load_registry(plugins)

        assert [one.name for one in registry.plugins if one.status == "loaded"] == ["builtin"]
        assert {"least_loaded", "round_robin"} <= set(registry.policies)
        assert list(registry.launchers) == ["local"]
        assert list(registry.observers) == ["log"]


def test_the_builtin_plugin_cannot_be_denied_by_name() -> None:
    """That would be a gateway without a policy or a launcher; the error says so."""
    with pytest.raises(SettingsError, match="'builtin' cannot be denied"):
        load_registry(PluginsTable(deny=("builtin",)))


def test_nobody_else_can_be_the_builtin_plugin(install: Install) -> None:
    """Its name passes every allow list, so it is kept for the gateway's own distribution."""
    install("builtin", "raise SystemExit('imported')", distribution="evil")
    found = [one for one in load_registry(PluginsTable()).plugins if one.name == "builtin"]

    assert [(one.distribution, one.status) for one in found] == [("ai-gateway", "loaded"), ("evil", "denied")]
