"""The rules of the alias table, one test a rule."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from core.api import BackendSettings, BackendSpec, ModelSpec
from core.errors import GatewayError
from core.routing.table import AliasRow, Declared, Table, assemble
from core.settings import Settings, SettingsError


class RunSettings(BackendSettings):
    device: str = "auto"
    threads: int = 1


def backends(*names: str, version: str = "1.0") -> dict[str, Declared[BackendSpec]]:
    return {
        name: Declared(
            spec=BackendSpec(name=name, engine=f"{name}:Engine", settings=RunSettings),
            plugin=name,
            distribution=f"ai-gateway-{name}",
            version=version,
        )
        for name in names
    }


def model(deployment: str, plugin: str = "models", **fields: Any) -> Declared[ModelSpec]:
    name, _, backend = deployment.partition("@")
    return Declared(
        spec=ModelSpec(name=name, backend=backend, **fields),
        plugin=plugin,
        distribution=f"ai-gateway-{plugin}",
        version="1.0",
    )


def table(*models: Declared[ModelSpec], **settings: Any) -> Table:
    """A table of these models, on the backends ``a`` and ``b``."""
    return assemble(backends=backends("a", "b"), models=models, settings=Settings.model_validate(settings))


def mistakes(*models: Declared[ModelSpec], **settings: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        table(*models, **settings)
    return str(caught.value).splitlines()


def tiers(assembled: Table, name: str) -> list[list[str]]:
    return [[one.id for one in tier] for tier in assembled.resolve(name).tiers]


# --- names


def test_a_model_reaches_its_deployments_by_priority() -> None:
    """Higher first; equals share a tier, sorted by id."""
    assembled = table(model("m@b", priority=5), model("m@a", priority=5), model("n@a"), model("m@c"))
    assert tiers(assembled, "m") == [["m@a", "m@b"]]
    assert list(assembled.models) == ["m", "n"]

    assembled = table(model("m@a", priority=1), model("m@b", priority=2))
    assert tiers(assembled, "m") == [["m@b"], ["m@a"]]
    assert [one.id for one in assembled.models["m"]] == ["m@b", "m@a"]
    assert assembled.resolve("m").kind == "model"


def test_a_deployment_is_a_name() -> None:
    """Of itself alone."""
    assembled = table(model("m@a"), model("m@b"))

    assert tiers(assembled, "m@b") == [["m@b"]]
    assert assembled.resolve("m@b").kind == "deployment"
    assert assembled.resolve("m@b").name == "m@b"


@pytest.mark.parametrize("name", ["M", "m ", "m@b", "m@", "@a", "", "gpt", "GPT-4"])
def test_names_are_exact(name: str) -> None:
    """404, never a guess."""
    with pytest.raises(GatewayError) as caught:
        table(model("m@a", aliases=("gpt-4",))).resolve(name)

    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["m", "m@a", "x", "y"])
def test_disabled(name: str) -> None:
    """Model, deployment, declared and configured alias: known, but nothing of it is enabled."""
    assembled = table(model("m@a", enabled=False, aliases=("x",)), aliases={"y": ["m", "x"]})

    with pytest.raises(GatewayError) as caught:
        assembled.resolve(name)

    assert (caught.value.status, caught.value.code) == (404, "model_disabled")


def test_a_disabled_deployment_is_in_no_tier() -> None:
    """But still in the table, for those who list it."""
    assembled = table(model("m@a", aliases=("x",)), model("m@b", enabled=False))

    assert tiers(assembled, "m") == tiers(assembled, "x") == [["m@a"]]
    assert [one.id for one in assembled.models["m"]] == ["m@a", "m@b"]
    assert list(assembled.deployments) == ["m@a", "m@b"]


# --- declared aliases


def test_declared_aliases_of_one_name_merge() -> None:
    """Targets by the best priority of each model, then by name; tiers by priority over all deployments."""
    assembled = table(
        model("small@a", "one", priority=2, aliases=("gpt-4",)),
        model("big@a", "two", priority=10, aliases=("gpt-4",)),
        model("big@b", "two", priority=1),
        model("also@b", "one", priority=10, aliases=("gpt-4",)),
    )

    assert assembled.aliases["gpt-4"] == AliasRow(
        name="gpt-4",
        targets=("also", "big", "small"),
        declared_by=("ai-gateway-one 1.0 (one)", "ai-gateway-two 1.0 (two)"),
        explicit=False,
    )
    assert tiers(assembled, "gpt-4") == [["also@b", "big@a"], ["small@a"], ["big@b"]]
    assert assembled.resolve("gpt-4").kind == "alias"


def test_a_models_name_wins_over_an_alias() -> None:
    """And the clash is told, whoever made the alias."""
    assembled = table(model("m@a"), model("n@a", aliases=("m",)), aliases={"n": "m"})

    assert tiers(assembled, "m") == [["m@a"]]
    assert tiers(assembled, "n") == [["n@a"]]
    assert assembled.aliases == {}
    assert assembled.warnings == (
        "alias 'm' (ai-gateway-models 1.0 (models)) is hidden by the model 'm'",
        "alias 'n' (configuration) is hidden by the model 'n'",
    )


def test_the_configuration_may_change_what_a_deployment_offers() -> None:
    """The offer is then the configuration's."""
    assembled = table(model("m@a", aliases=("old",)), deployments={"m@a": {"aliases": ["new"]}})

    assert assembled.aliases["new"].declared_by == ("configuration",)
    assert not assembled.aliases["new"].explicit
    assert "old" not in assembled.routes


# --- configured aliases


def test_a_configured_alias_replaces_the_declared_one() -> None:
    """Wholly: nothing of the declared row is left."""
    assembled = table(model("m@a", aliases=("x",)), model("n@a"), aliases={"x": "n"})

    assert assembled.aliases["x"] == AliasRow(name="x", targets=("n",), declared_by=("configuration",), explicit=True)
    assert tiers(assembled, "x") == [["n@a"]]


def test_the_order_of_a_configured_alias_counts_first() -> None:
    """Before any priority; inside an entry the priorities count."""
    assembled = table(
        model("m@a", priority=1), model("m@b", priority=2), model("n@a", priority=99), aliases={"x": ["m", "n"]}
    )

    assert assembled.aliases["x"].targets == ("m", "n")
    assert tiers(assembled, "x") == [["m@b"], ["m@a"], ["n@a"]]


def test_a_configured_alias_may_name_deployments() -> None:
    """Who is named twice keeps the better place."""
    assembled = table(model("m@a", priority=9), model("m@b"), aliases={"x": ["m@b", "m"]})

    assert assembled.aliases["x"].targets == ("m@b", "m")
    assert tiers(assembled, "x") == [["m@b"], ["m@a"]]


def test_aliases_may_be_chained() -> None:
    """Configured and declared ones; a link means exactly what it means by itself."""
    assembled = table(
        model("m@a", aliases=("declared",)),
        model("n@a", aliases=("declared",)),
        model("o@a"),
        aliases={"x": ["y", "o"], "y": "declared"},
    )

    assert assembled.aliases["x"].targets == ("m", "n", "o")
    assert tiers(assembled, "y") == tiers(assembled, "declared") == [["m@a", "n@a"]]
    assert tiers(assembled, "x") == [["m@a", "n@a"], ["o@a"]]


def test_in_a_chain_too_a_models_name_wins() -> None:
    """The same word means the same everywhere."""
    assembled = table(model("m@a"), model("n@a", aliases=("m",)), aliases={"x": "m"})

    assert assembled.aliases["x"].targets == ("m",)


@pytest.mark.parametrize(
    ("aliases", "cycle"),
    [
        ({"x": "x"}, "x -> x"),
        ({"x": ["m", "y"], "y": "x"}, "x -> y -> x"),
        ({"a": "c", "c": ["m", "b"], "b": "c"}, "b -> c -> b"),
    ],
)
def test_a_cycle_is_named(aliases: dict[str, Any], cycle: str) -> None:
    """Once, however many aliases lead into it."""
    assert mistakes(model("m@a"), aliases=aliases) == [f"[aliases] {cycle}: a cycle; an alias must lead to a model"]


def test_rows_that_share_what_they_lead_to_are_found_out_once() -> None:
    """Each of these doubles the ways down."""
    doubling = {f"e{step}": [f"e{step - 1}", f"e{step - 1}"] for step in range(1, 30)}

    assert tiers(table(model("m@a"), aliases={"e0": "m", **doubling}), "e29") == [["m@a"]]


@pytest.mark.parametrize("name", ["c{:04}", "c-{:04}"], ids=["from the top", "from the bottom"])
def test_a_chain_has_an_end(name: str) -> None:
    """The same one in whatever order its rows come, and without using up the calls that a process has."""

    def order(step: int) -> str:
        return name.format(step if "-" in name else 5000 - step)

    def chain(length: int) -> dict[str, str]:
        return {order(0): "m", **{order(step): order(step - 1) for step in range(1, length)}}

    assert tiers(table(model("m@a"), aliases=chain(32)), order(31)) == [["m@a"]]
    told = mistakes(model("m@a"), aliases=chain(33))
    assert f'[aliases] "{order(32)}": it leads over more than 32 aliases to its models' in told
    assert mistakes(model("m@a"), aliases=chain(3000))


def test_every_mapping_is_sorted() -> None:
    """Whatever the order of declarations and of the file."""
    assembled = table(
        model("n@a", aliases=("z", "b")), model("m@b", aliases=("y",)), model("m@a"), aliases={"x": "m", "a": "n"}
    )

    assert list(assembled.aliases) == ["a", "b", "x", "y", "z"]
    assert list(assembled.deployments) == ["m@a", "m@b", "n@a"]
    assert list(assembled.models) == ["m", "n"]
    assert list(assembled.routes) == sorted(assembled.routes)


def test_two_ways_to_one_model_are_no_cycle() -> None:
    """A diamond is fine."""
    assembled = table(model("m@a"), aliases={"x": ["y", "z"], "y": "m", "z": "m"})

    assert assembled.aliases["x"].targets == ("m",)


def test_an_alias_of_nothing_known() -> None:
    """Is a mistake that guesses what was meant."""
    assert mistakes(model("mistral-7b@a"), aliases={"x": ["mistral", "zzz"]}) == [
        "[aliases] \"x\": there is no model, alias or deployment 'mistral'; did you mean 'mistral-7b'?",
        "[aliases] \"x\": there is no model, alias or deployment 'zzz'; there are mistral-7b, mistral-7b@a, x",
    ]


def test_an_empty_list_takes_a_declared_alias_away() -> None:
    """And then nobody can lead to it, nor is it what somebody meant."""
    assert "x" not in table(model("m@a", aliases=("x",)), aliases={"x": []}).routes
    told = mistakes(model("m@a", aliases=("gpt-4",)), aliases={"gpt-4": [], "y": ["gpt-4", "gpt-5"]})
    assert told == [
        "[aliases] \"y\": 'gpt-4' was taken away; it stands for nothing",
        "[aliases] \"y\": there is no model, alias or deployment 'gpt-5'; there are m, m@a, y",
    ]


def test_an_alias_cannot_look_like_a_deployment() -> None:
    """Or a request for a deployment could go elsewhere."""
    (line,) = mistakes(model("m@a"), aliases={"m@b": "m"})

    assert line == '[aliases] "m@b": an alias holds no @, which is for deployments'


# --- deployments and the configuration


def test_the_configuration_changes_what_it_names() -> None:
    """And nothing else; the declaration is still the plugin's."""
    declared = model("m@a", source="hf:x/y", priority=3, context_tokens=99, description="words")
    assembled = table(
        declared, deployments={"m@a": {"priority": 7, "replicas": 2, "idle_unload_s": 5, "load": "on_demand"}}
    )
    found = assembled.deployments["m@a"]

    assert found.spec == ModelSpec(
        name="m",
        backend="a",
        source="hf:x/y",
        priority=7,
        context_tokens=99,
        load="on_demand",
        description="words",
    )
    assert (found.replicas, found.idle_unload_s) == (2, 5)
    assert found.declared_by == "ai-gateway-models 1.0 (models)"


def test_false_is_a_change() -> None:
    """Not taken for a key that was left out."""
    assert not table(model("m@a"), deployments={"m@a": {"enabled": False}}).deployments["m@a"].spec.enabled


def test_a_model_of_ones_own() -> None:
    """Needs a source and a backend that is there; all else has the defaults of a spec."""
    assembled = table(deployments={"mine@a": {"source": "/x.gguf", "aliases": ["gpt-4"]}})

    assert assembled.deployments["mine@a"].spec == ModelSpec(
        name="mine", backend="a", source="/x.gguf", aliases=("gpt-4",)
    )
    assert assembled.deployments["mine@a"].declared_by == "configuration"
    assert tiers(assembled, "gpt-4") == [["mine@a"]]


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("mistrl@a", {}, "a model of your own needs a source; did you mean 'mistral@a'?"),
        ("other@a", {"enabled": True}, "no plugin declares it, and a model of your own needs a source"),
        ("mine@onnx", {"source": "/x"}, "pip install ai-gateway-onnx"),
        ("mistral@onnx", {}, "backend 'onnx' is not there; pip install ai-gateway-onnx"),
        ("mistral", {}, "a deployment is written \"<model>@<backend>\"; did you mean 'mistral@a'?"),
        ("a b@a", {"source": "/x"}, "ModelSpec: name 'a b' may hold"),
        ("x@a@b", {"source": "/x"}, "ModelSpec: backend 'a@b' must match"),
        ("mistral@a", {"aliases": ["a b"]}, "ModelSpec: alias 'a b' may hold"),
        ("mistral@a", {"tasks": []}, "ModelSpec: tasks is empty"),
    ],
)
def test_mistakes_in_a_deployment(name: str, keys: dict[str, Any], told: str) -> None:
    """Each is told with its place and its remedy."""
    (line,) = mistakes(model("mistral@a"), deployments={name: keys})

    assert line.startswith(f'[deployments."{name}"]: ')
    assert told in line


def test_a_mistyped_backend_is_not_offered_for_installation() -> None:
    """Somebody else may own the package of that name."""
    with pytest.raises(SettingsError) as caught:
        assemble(
            backends=backends("llamacpp"),
            models=(),
            settings=Settings.model_validate({"backends": {"lamacpp": {}}}),
        )

    assert str(caught.value) == "[backends.lamacpp]: backend 'lamacpp' is not there; did you mean 'llamacpp'?"


def test_only_packages_of_this_project_are_offered_for_installation() -> None:
    """A name that was made up here could be anybody's."""
    (line,) = mistakes(backends={"vllm": {}})

    assert line == "[backends.vllm]: backend 'vllm' is not there; there are a, b; install the package that brings it"


def test_a_plugin_that_is_installed_is_not_offered_for_installation() -> None:
    """Its reason alone is told."""
    with pytest.raises(SettingsError) as caught:
        assemble(
            backends=backends("a"),
            models=(),
            settings=Settings.model_validate({"backends": {"onnx": {}}}),
            not_loaded={"onnx": "ai-gateway-onnx 1.0 is denied: plugins.deny names it", "b": "is failed"},
        )

    assert str(caught.value) == (
        "[backends.onnx]: backend 'onnx' is not there; its plugin is installed but not loaded: "
        "ai-gateway-onnx 1.0 is denied: plugins.deny names it"
    )


def test_a_model_without_its_backend_is_left_out() -> None:
    """With a warning: the backend is an option that was not installed."""
    assembled = table(model("m@onnx", aliases=("x",)), model("n@a"))

    assert list(assembled.routes) == ["n", "n@a"]
    (warning,) = assembled.warnings
    assert warning.startswith("m@onnx, declared by ai-gateway-models 1.0 (models), is left out: backend 'onnx'")
    assert "pip install ai-gateway-onnx" in warning


def test_a_source_that_is_none_is_refused_at_start() -> None:
    """In the configuration; a plugin's own mistake leaves its model out."""
    (line,) = mistakes(model("m@a"), deployments={"m@a": {"source": "ftp://x/y"}})
    assembled = table(model("m@a", source="https://host/file"), model("n@a"))

    assert line.startswith('[deployments."m@a"]: ')
    assert "m@a" not in assembled.routes
    assert "sha256" in assembled.warnings[0]


@pytest.mark.parametrize(
    "settings",
    [{"deployments": {"m@onnx": {"enabled": True}}}, {"aliases": {"x": "m"}}, {"aliases": {"x": ["n", "m@onnx"]}}],
)
def test_unless_the_configuration_names_it(settings: dict[str, Any]) -> None:
    """Then it is a mistake that tells what to install."""
    (line,) = mistakes(model("m@onnx"), model("n@a"), **settings)

    assert "pip install ai-gateway-onnx" in line


def test_what_is_left_out_is_not_blamed_for_something_else() -> None:
    """An alias of an unknown name is told as such."""
    (line,) = mistakes(model("m@onnx"), model("n@a"), aliases={"x": "zzz"})

    assert "there is no model, alias or deployment 'zzz'" in line


# --- settings of a backend


def test_a_deployments_own_settings_win_over_its_backends() -> None:
    """Key by key; both are validated by the plugin's model."""
    assembled = table(
        model("m@a"),
        model("n@a"),
        backends={"a": {"device": "cuda", "threads": 4, "python": "/venv/bin/python"}},
        deployments={"m@a": {"settings": {"device": "cpu"}}},
    )

    assert assembled.deployments["m@a"].settings == RunSettings(device="cpu", threads=4)
    assert assembled.deployments["n@a"].settings == RunSettings(device="cuda", threads=4)
    assert assembled.deployments["n@a"].python == "/venv/bin/python"
    assert table(model("m@a")).deployments["m@a"].settings == RunSettings()


def test_a_mistake_is_told_of_the_table_it_stands_in() -> None:
    """Once, however many deployments share the table."""
    models = (model("m@a"), model("n@a"), model("o@a"))

    assert mistakes(*models, backends={"a": {"x": 1}}) == [
        "[backends.a]: x: there is no such key; keys are device, threads"
    ]
    assert mistakes(*models, deployments={"m@a": {"settings": {"thread": 1}}}) == [
        "[deployments.\"m@a\"] settings: thread: there is no such key; did you mean 'threads'?"
    ]
    assert mistakes(model("m@a"), backends={"a": {"x": 1}}, deployments={"m@a": {"settings": {"y": 1}}}) == [
        "[backends.a]: x: there is no such key; keys are device, threads",
        '[deployments."m@a"] settings: y: there is no such key; keys are device, threads',
    ]
    assert mistakes(backends={"b": {"threads": "many"}})[0].startswith("[backends.b]: threads: Input should be")


def test_a_mistake_is_not_told_of_those_who_name_the_deployment() -> None:
    """An alias of a deployment with wrong settings is right."""
    assert len(mistakes(model("m@a"), backends={"a": {"x": 1}}, aliases={"y": "m"})) == 1


def test_all_mistakes_are_told_at_once() -> None:
    """From every part of the table."""
    told = mistakes(
        model("m@a"),
        backends={"a": {"x": 1}, "gone": {}},
        deployments={"q@a": {}},
        aliases={"x": "nothing", "y": "y"},
    )

    assert len(told) == 5


# --- the same everywhere


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    """Whatever the seed of Python's hashes and the order of declarations."""
    here = table(model("m@a"), model("m@b", aliases=("x", "y")), aliases={"z": "m"}).fingerprint
    code = f"""
exec(open({__file__!r}).read())
print(table(model("m@b", aliases=("x", "y")), model("m@a"), aliases={{"z": "m"}}).fingerprint)
"""
    there = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert there == {here}


@pytest.mark.parametrize(
    "settings",
    [
        {"deployments": {"m@a": {"priority": 3}}},
        {"deployments": {"m@a": {"replicas": 2}}},
        {"deployments": {"m@a": {"settings": {"threads": 2}}}},
        {"backends": {"a": {"device": "cpu"}}},
        {"backends": {"a": {"python": "/x"}}},
        {"aliases": {"x": "m"}},
    ],
)
def test_the_fingerprint_tells_what_differs(settings: dict[str, Any]) -> None:
    """Everything that decides where requests go and how replicas run."""
    assert table(model("m@a"), **settings).fingerprint != table(model("m@a")).fingerprint


def test_the_fingerprint_tells_versions() -> None:
    """A plugin that was upgraded under a running gateway is noticed."""
    one, two = (
        assemble(backends=backends("a", version=version), models=[model("m@a")], settings=Settings()).fingerprint
        for version in ("1.0", "1.1")
    )

    assert one != two
