"""What a command makes of the overrides: all of it or nothing, with every mistake named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from echo_backend.plugin import gateway_backends

from core.api import ModelSpec
from core.registry import Registry, build_generation, load_registry
from core.routing.table import Declared
from core.settings import BackendTable, DeploymentTable, PluginsTable, RouteTable, Settings, SettingsError
from core.supervisor.overrides import Known, RefusedError, apply, joined, parted, sensible, why_disabled
from core.wire.control import Change, DeploymentOverride, Overrides

KNOWN = Known(deployments=["a@echo", "b@echo"], backends=["echo", "other"], aliases=["gpt-4"])
SOME = Overrides(
    deployments={"a@echo": DeploymentOverride(priority=3, enabled=False)},
    backends={"echo": False},
    aliases={"x": ("a",)},
)


def applied(overrides: Overrides = SOME, **change) -> Overrides:
    return apply(overrides, Change(**change), KNOWN)


def refused(overrides: Overrides = SOME, **change) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        applied(overrides, **change)
    return caught.value


def declared(spec):
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


@pytest.fixture(scope="module")
def registry() -> Registry:
    models = [ModelSpec(name=name, backend="echo", aliases=("gpt-4",)) for name in ("a", "b")]
    return replace(
        load_registry(PluginsTable(allow=())),
        backends={"echo": declared(gateway_backends()[0])},
        models=tuple(map(declared, models)),
    )


def builder(registry, configured):
    return lambda some, before: build_generation(registry, configured, some, before=before)


# --- a change


def test_keys_are_set_one_by_one_and_taken_back_one_by_one():
    overrides = applied(deployments={"a@echo": {"weight": 2, "priority": None}, "b@echo": {"replicas": 3}})
    assert overrides.deployments == {
        "a@echo": DeploymentOverride(enabled=False, weight=2),
        "b@echo": DeploymentOverride(replicas=3),
    }
    assert (overrides.backends, overrides.aliases) == (SOME.backends, SOME.aliases)
    nothing = applied(overrides, deployments={"b@echo": {"replicas": None}})
    assert nothing.deployments.keys() == {"a@echo"}


def test_backends_and_aliases_are_set_and_taken_back():
    overrides = applied(backends={"echo": None, "other": False}, aliases={"x": None, "y": ("b", "a")})
    assert (overrides.backends, overrides.aliases) == ({"other": False}, {"y": ("b", "a")})


def test_an_alias_that_is_only_an_override_is_taken_back_by_emptying_it():
    assert applied(aliases={"x": ()}).aliases == {}
    assert applied(aliases={"gpt-4": ()}).aliases == {"x": ("a",), "gpt-4": ()}


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (("a@echo",), Overrides(backends=SOME.backends, aliases=SOME.aliases)),
        (("@echo",), Overrides(deployments=SOME.deployments, aliases=SOME.aliases)),
        (("x",), Overrides(deployments=SOME.deployments, backends=SOME.backends)),
        (("x", "@echo", "a@echo"), Overrides()),
        (("*",), Overrides()),
        (("b@echo", "gpt-4", "@other"), SOME),
    ],
)
def test_reset_takes_back_all_of_what_is_named(names, left):
    assert applied(reset=names) == left


def test_what_is_reset_may_be_set_anew_in_the_same_command():
    overrides = applied(reset=("*",), deployments={"a@echo": {"priority": 9}})
    assert overrides == Overrides(deployments={"a@echo": DeploymentOverride(priority=9)})


def test_unknown_names_are_not_found_and_what_was_meant_is_told():
    error = refused(deployments={"aa@echo": {"priority": 1}}, backends={"ecko": True}, reset=("gpt-5",))
    assert (error.status, error.code) == (404, "not_found")
    lines = error.message.splitlines()
    assert len(lines) == 3
    assert "'a@echo'" in error.message
    assert "'echo'" in error.message
    assert "'gpt-4'" in error.message


def test_who_resets_what_nobody_knows_hears_what_was_changed():
    assert refused(reset=("fast",)).message == "there is no override of 'fast'; there are @echo, a@echo, x"
    assert refused(Overrides(), reset=("fast",)).message == "there is no override of 'fast'; there are none"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"prioritee": 1}, "did you mean 'priority'?"),
        ({"source": "/x"}, "cannot be changed at run time; keys are enabled"),
        ({"priority": "high"}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"weight": 0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"replicas": 0}, "replicas"),
        ({"enabled": 1}, "enabled"),
        ({"enabled": "false"}, "enabled"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"max_waiting_prompt_tokens": 0}, "max_waiting_prompt_tokens"),
    ],
)
def test_wrong_keys_and_values_are_named(keys, words):
    error = refused(deployments={"a@echo": {"pinned": True, **keys}})
    assert (error.status, error.code) == (400, "invalid_value")
    assert words in error.message
    assert 'deployments."a@echo"' in error.message


def test_all_mistakes_are_told():
    error = refused(deployments={"a@echo": {"x": 1, "weight": -1}, "b@echo": {"replicas": "two"}})
    assert len(error.message.splitlines()) == 3


# --- what makes sense


def test_what_makes_no_sense_any_more_is_left_out_and_the_rest_is_in_effect(registry):
    overrides = Overrides(
        deployments={"a@echo": DeploymentOverride(priority=1), "gone@echo": DeploymentOverride(priority=1)},
        backends={"echo": True, "gone": False},
        aliases={"x": ("gone",), "y": ("z",), "z": ("a",), "loop": ("loop2",), "loop2": ("loop",)},
    )
    generation, dormant, wrong = sensible(builder(registry, Settings()), overrides)
    assert generation.overrides == Overrides(
        deployments={"a@echo": DeploymentOverride(priority=1)},
        backends={"echo": True},
        aliases={"y": ("z",), "z": ("a",)},
    )
    assert joined(generation.overrides, dormant) == overrides
    assert wrong.keys() == {"deployment gone@echo", "backend gone", "alias x", "alias loop", "alias loop2"}
    assert all(wrong.values())


def test_one_of_very_many_that_makes_no_sense_is_found_by_halves(registry):
    """Each trial builds a table, so a reload with many overrides would take as many."""
    build, tried = builder(registry, Settings()), []
    aliases = {f"x{number}": ("gone" if number == 70 else "a",) for number in range(128)}

    def counted(some, before):
        tried.append(before)
        return build(some, before)

    generation, dormant, wrong = sensible(counted, Overrides(aliases=aliases))
    assert dormant == Overrides(aliases={"x70": ("gone",)})
    assert wrong.keys() == {"alias x70"}
    assert len(generation.overrides.aliases) == 127
    assert len(tried) < 20
    assert tried.count(None) == 2, "all others begin with the one before"


def test_which_make_sense_does_not_depend_on_the_order_in_which_they_were_made(registry):
    """Else others would be in effect after a restart, which reads them in the order of their names."""
    build = builder(registry, Settings(aliases={"p": "a", "q": "z", "z": "a"}))
    aliases = {"z": ("p",), "p": ("q",)}
    for ones in (aliases, dict(sorted(aliases.items()))):
        generation, dormant, _ = sensible(build, Overrides(aliases=ones))
        assert (generation.overrides.aliases, dormant.aliases) == ({"p": ("q",)}, {"z": ("p",)})


def test_what_no_command_may_say_is_left_out(registry):
    """Somebody may write into the file by hand."""
    overrides = Overrides(
        deployments={"a@echo": DeploymentOverride(replicas=100_000), "b@echo": DeploymentOverride(priority=3)},
        aliases={"x": ("gone",)},
    )
    generation, dormant, wrong = sensible(builder(registry, Settings()), overrides)
    assert generation.overrides == Overrides(deployments={"b@echo": DeploymentOverride(priority=3)})
    assert joined(generation.overrides, dormant) == overrides
    assert wrong.keys() == {"deployment a@echo", "alias x"}
    assert 'deployments."a@echo": replicas' in wrong["deployment a@echo"]


def test_an_override_may_heal_a_configuration_that_is_wrong_by_itself(registry):
    configured = Settings(aliases={"bad": "nobody"})
    generation, dormant, wrong = sensible(builder(registry, configured), Overrides(aliases={"bad": ("a",)}))
    assert (generation.table.aliases["bad"].targets, dormant, wrong) == (("a",), Overrides(), {})


def test_a_configuration_that_is_wrong_by_itself_is_no_matter_of_overrides(registry):
    with pytest.raises(SettingsError, match="nobody"):
        sensible(builder(registry, Settings(aliases={"bad": "nobody"})), SOME)


def test_what_was_left_out_stays_so_until_a_command_touches_it():
    dormant = Overrides(deployments={"gone@echo": DeploymentOverride(priority=1)}, aliases={"old": ("gone",)})
    wanted = joined(dormant, SOME)
    active, still = parted(wanted, dormant, Change(deployments={"a@echo": {"priority": 4}}))
    assert (active, still) == (SOME, dormant)
    active, still = parted(wanted, dormant, Change(aliases={"old": ("a",)}))
    assert ("old" in active.aliases, still.aliases) == (True, {})
    active, still = parted(SOME, dormant, Change(reset=("gone@echo", "old")))
    assert (active, still) == (SOME, Overrides())


# --- words


def test_why_a_deployment_is_disabled(registry):
    def why(settings: Settings, overrides: Overrides | None = None) -> str:
        return why_disabled(build_generation(registry, settings, overrides), "a@echo")

    off = DeploymentOverride(enabled=False)
    assert why(Settings()) == ""
    assert why(Settings(deployments={"a@echo": DeploymentTable(enabled=False)})) == "disabled in the configuration"
    assert why(Settings(), Overrides(deployments={"a@echo": off})) == "disabled at run time"
    assert why(Settings(backends={"echo": BackendTable(enabled=False)})) == (
        "its backend echo is disabled in the configuration"
    )
    assert why(Settings(), Overrides(backends={"echo": False}, deployments={"a@echo": off})) == (
        "its backend echo is disabled at run time"
    )


def test_routes_are_not_needed_for_an_alias(registry):
    """An alias at run time replaces what a route says that the name stands for, not how it is routed."""
    settings = Settings(routes={"gpt-4": RouteTable(models=("b",), continuation="off")})
    generation = build_generation(registry, settings, Overrides(aliases={"gpt-4": ("a",)}))
    route = generation.table.resolve("gpt-4")
    assert [one.id for one in route.tiers[0]] == ["a@echo"]
    assert route.options.continuation == "off"
