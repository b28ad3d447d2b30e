"""``[routes."name"]``: which entry governs a name, what it says, and mistakes in it; and a backend that is disabled."""

from __future__ import annotations

from typing import Any

import pytest

from core.api import BackendSpec, ModelSpec
from core.errors import GatewayError
from core.routing.table import Declared, Route, RouteOptions, Table, assemble
from core.settings import Settings, SettingsError


def table(**settings: Any) -> Table:
    """``m`` on two backends, ``n`` on one; each offers ``both``, ``m`` offers ``gpt-4`` too."""
    source = {"plugin": "p", "distribution": "d", "version": "1"}
    offers = {"m@a": ("gpt-4", "both"), "m@b": (), "n@a": ("both",)}
    return assemble(
        backends={name: Declared(spec=BackendSpec(name=name, engine="x:X"), **source) for name in "ab"},
        models=[
            Declared(spec=ModelSpec(name=name[0], backend=name[2], aliases=aliases), **source)
            for name, aliases in offers.items()
        ],
        settings=Settings.model_validate(settings),
    )


def mistakes(**settings: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        table(**settings)
    return str(caught.value).splitlines()


def key(name: str, **settings: Any) -> str:
    return table(**settings).routes[name].policy_key


def ids(route: Route) -> list[list[str]]:
    return [[one.id for one in tier] for tier in route.tiers]


STICKY = {"policy": "sticky"}


# --- which entry governs


def test_a_name_has_its_own() -> None:
    """An alias, a model, a deployment; what has none is routed as [routing] says."""
    assembled = table(routes={"gpt-4": STICKY, "n": STICKY, "m@b": STICKY})

    assert {name: route.policy_key for name, route in assembled.routes.items() if route.policy_key} == {
        "gpt-4": "gpt-4",
        "n": "n",
        "n@a": "n",
        "m@b": "m@b",
    }
    assert {name for name, route in assembled.routes.items() if route.policy == "sticky"} == {
        "gpt-4",
        "n",
        "n@a",
        "m@b",
    }


def test_what_leads_to_one_model_has_that_models() -> None:
    """Declared aliases, configured ones, chains of them, and the model's deployments."""
    routes = {"m": STICKY}
    aliases = {"x": "m", "y": "x", "z": ["m@a", "m@b"], "mixed": ["m", "n"], "w": "m@b"}

    for name in ("m", "m@a", "m@b", "gpt-4", "x", "y", "z", "w"):
        assert key(name, routes=routes, aliases=aliases) == "m"
    for name in ("n", "n@a", "both", "mixed"):
        assert key(name, routes=routes, aliases=aliases) == ""


def test_an_alias_of_one_thing_means_what_that_means() -> None:
    """Of another alias, or of one deployment: with their routes."""
    aliases = {"x": "both", "y": "m@b", "z": ["both", "n"]}
    routes = {"both": STICKY, "m@b": STICKY}

    assert key("x", aliases=aliases, routes=routes) == "both"
    assert key("y", aliases=aliases, routes=routes) == "m@b"
    assert key("z", aliases=aliases, routes=routes) == ""


def test_its_own_entry_stands_alone() -> None:
    """It takes nothing from the model's: what it does not say, [routing] does."""
    assembled = table(routes={"m": {"policy": "sticky", "hedge_after_ms": 5}, "gpt-4": {"attempt_timeout_s": 1}})
    route = assembled.routes["gpt-4"]

    assert (route.policy, route.policy_key) == ("least_loaded", "")
    assert route.options == RouteOptions(attempt_timeout_s=1.0)


# --- what it says


def test_options() -> None:
    """The route's value, or that of [routing]."""
    routing = {"attempt_timeout_s": 9, "continuation": "off", "policy": "round_robin"}
    assembled = table(
        routing=routing,
        routes={"m": {"attempt_timeout_s": 3, "continuation": "any_backend", "hedge_after_ms": 800}, "both": STICKY},
    )

    assert assembled.routes["m"].options == RouteOptions(
        attempt_timeout_s=3.0, continuation="any_backend", hedge_after_s=0.8
    )
    assert assembled.routes["m"].policy == "round_robin"
    for name in ("n", "both"):
        assert assembled.routes[name].options == RouteOptions(attempt_timeout_s=9.0, continuation="off")
    assert table().routes["m"].options == RouteOptions(continuation="same_backend")


def test_settings_alone_make_a_policy_of_its_own() -> None:
    """Of the kind that [routing] chooses; without any, the global object serves."""
    route = table(routes={"m": {"settings": {"output_token_cost": 1}}}).routes["m"]

    assert (route.policy, route.policy_key) == ("least_loaded", "m")
    assert key("m", routes={"m": {"hedge_after_ms": 5}}) == ""


def test_models_define_an_alias() -> None:
    """As an entry of [aliases]: in order, replacing what is declared, chained; empty takes it away."""
    assembled = table(
        routes={"x": {"models": ["n", "m@b"], **STICKY}, "gpt-4": {"models": "n"}, "both": {"models": []}},
        aliases={"y": "x"},
    )

    assert ids(assembled.resolve("x")) == ids(assembled.resolve("y")) == [["n@a"], ["m@b"]]
    assert ids(assembled.resolve("gpt-4")) == [["n@a"]]
    assert assembled.routes["y"].policy_key == "x"
    assert (assembled.aliases["x"].explicit, assembled.aliases["x"].declared_by) == (True, ("configuration",))
    with pytest.raises(GatewayError, match="both"):
        assembled.resolve("both")


# --- mistakes


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"routes": {"x": {"models": "m"}}, "aliases": {"x": "m"}},
            """[routes."x"] models: [aliases] defines 'x' too; keep one of the two""",
        ),
        (
            {"routes": {"gpt4": STICKY}},
            (
                """[routes."gpt4"]: without models, it must be of a name: there is no model, alias or deployment"""
                """ 'gpt4'; did you mean 'gpt-4'?"""
            ),
        ),
        (
            {"routes": {"x": {"models": ["gpt-5"]}}},
            """[routes."x"] models: there is no model, alias or deployment 'gpt-5'; did you mean 'gpt-4'?""",
        ),
        ({"routes": {"x@y": {"models": "m"}}}, '[routes."x@y"] models: an alias holds no @, which is for deployments'),
        (
            {"routes": {"x": {"models": "y"}, "y": {"models": "x"}}},
            "[aliases] x -> y -> x: a cycle; an alias must lead to a model",
        ),
    ],
)
def test_mistakes(settings: dict[str, Any], told: str) -> None:
    """Each with its place and its remedy."""
    assert mistakes(**settings) == [told]


def test_the_route_of_an_alias_that_was_taken_away_is_no_mistake() -> None:
    """Or it could not be taken away while the gateway runs."""
    assert "gpt-4" not in table(routes={"gpt-4": STICKY}, aliases={"gpt-4": []}).routes


def test_a_route_that_a_models_name_hides() -> None:
    """Governs the model; that its models mean nothing is a warning."""
    assembled = table(routes={"m": {"models": "n", **STICKY}})

    assert ids(assembled.resolve("m")) == [["m@a", "m@b"]]
    assert assembled.routes["m"].policy == "sticky"
    assert assembled.warnings == ("alias 'm' (configuration) is hidden by the model 'm'",)


# --- the fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"routes": {"m": STICKY}},
        {"routes": {"m": {"settings": {"x": 1}}}},
        {"routes": {"m": {"hedge_after_ms": 1}}},
        {"routing": {"policy": "weighted"}},
        {"routing": {"continuation": "off"}},
        {"policies": {"least_loaded": {"output_token_cost": 1}}},
        {"backends": {"b": {"enabled": False}}},
        {"deployments": {"m@a": {"max_waiting": 1}}},
        {"deployments": {"m@a": {"max_waiting_prompt_tokens": 1}}},
        {"limits": {"max_waiting": 1}},
    ],
)
def test_the_fingerprint_covers_what_decides_routing(settings: dict[str, Any]) -> None:
    """And how replicas run."""
    assert table(**settings).fingerprint != table().fingerprint
    assert table(**settings).fingerprint == table(**settings).fingerprint


# --- backends and bounds


def test_a_disabled_backend_disables_its_deployments() -> None:
    """They are still there, and say why; other backends' go on."""
    assembled = table(backends={"a": {"enabled": False}}, deployments={"n@a": {"enabled": True}})

    assert ids(assembled.resolve("m")) == [["m@b"]]
    assert not assembled.deployments["n@a"].spec.enabled
    assert assembled.deployments["n@a"].disabled_because == "the backend a is disabled"
    assert assembled.deployments["m@b"].disabled_because == ""
    with pytest.raises(GatewayError) as caught:
        assembled.resolve("n")
    assert caught.value.code == "model_disabled"
    assert caught.value.message.startswith("The model 'n' is disabled: the backend a is disabled. The operator can")


def test_bounds_of_the_queue() -> None:
    """A deployment's own, or those of [limits]."""
    deployments = table(
        limits={"max_waiting": 5, "max_waiting_prompt_tokens": 50},
        deployments={"m@a": {"max_waiting": 0, "pinned": True}, "m@b": {"max_waiting_prompt_tokens": 7}},
    ).deployments

    assert {
        name: (one.max_waiting, one.max_waiting_prompt_tokens, one.pinned) for name, one in deployments.items()
    } == {
        "m@a": (0, 50, True),
        "m@b": (5, 7, False),
        "n@a": (5, 50, False),
    }
