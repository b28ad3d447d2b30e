"""A generation is the same in every process, whatever it was built after; what did not change is not built again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.api import BackendSettings, BackendSpec, ModelSpec
from core.registry import Generation, Registry, build_generation, load_registry, receive_generation
from core.routing.table import Declared
from core.settings import PluginsTable, Settings, SettingsError
from core.wire.control import DeploymentOverride, Overrides


class RunSettings(BackendSettings):
    threads: int | bool = 1


def declared(spec: Any) -> Declared[Any]:
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


REGISTRY: Registry = replace(
    load_registry(PluginsTable(allow=())),
    backends={name: declared(BackendSpec(name=name, engine="x:Y", settings=RunSettings)) for name in ("a", "b")},
    models=(
        declared(ModelSpec(name="m", backend="a", aliases=("gpt", "old"))),
        declared(ModelSpec(name="m", backend="b", priority=5, weight=2.0)),
        declared(ModelSpec(name="n", backend="a", aliases=("gpt",), priority=5)),
        declared(ModelSpec(name="lost", backend="gone")),
    ),
)
CONFIGURED = [
    {},
    {"deployments": {"m@a": {"settings": {"threads": 1}}, "own@b": {"source": "/x"}}},
    {"deployments": {"m@a": {"settings": {"threads": True}}, "own@b": {"source": "/y"}}, "aliases": {"x": ["m", "n"]}},
    {"backends": {"b": {"enabled": False, "threads": 3}}, "limits": {"max_waiting": 3}, "aliases": {"m": "n"}},
    {"routes": {"y": {"models": ["x", "n@a"], "policy": "round_robin"}, "m": {"continuation": "off"}}}
    | {"aliases": {"x": "gpt", "old": []}},
]
words = st.sampled_from(["m", "n", "gpt", "m@b"])
changes = st.builds(
    Overrides,
    deployments=st.dictionaries(
        st.sampled_from(["m@a", "m@b", "n@a"]),
        st.builds(
            DeploymentOverride,
            enabled=st.none() | st.booleans(),
            priority=st.none() | st.integers(0, 2),
            max_waiting=st.none() | st.just(9),
        ),
        max_size=3,
    ),
    backends=st.dictionaries(st.sampled_from(["a", "b"]), st.booleans(), max_size=2),
    aliases=st.dictionaries(st.sampled_from(["x", "y", "old"]), st.lists(words, max_size=2).map(tuple), max_size=2),
)
mistakes = st.sampled_from(
    [
        Overrides(deployments={"none@a": DeploymentOverride(weight=1.0)}),
        Overrides(backends={"none": True}),
        Overrides(aliases={"x": ("none",), "y": ("z",), "z": ("y",)}),
    ]
)


def told(build: Any) -> tuple[Generation | None, object]:
    """What was built, and all that there is to say of it."""
    try:
        generation = build()
    except SettingsError as error:
        return None, str(error)
    table = generation.table
    content = [list(part.items()) for part in (table.deployments, table.models, table.aliases, table.routes)]
    return generation, (content, table.warnings, table.fingerprint, generation.settings, generation.configuration())


@given(st.lists(st.tuples(st.none() | st.sampled_from(CONFIGURED), changes | mistakes), min_size=2, max_size=6))
@settings(deadline=None)
def test_what_was_before_makes_no_difference(steps) -> None:
    """After any sequence of changes and reloads, in the supervisor and in a worker: as built at once, mistakes too."""
    supervisor = worker = None
    configured = Settings()
    for number, (table, overrides) in enumerate(steps):
        if table is not None:
            configured = Settings.model_validate(table)

        def at_once(number=number, configured=configured, overrides=overrides) -> Generation:
            return build_generation(REGISTRY, configured, overrides, number=number)

        def after(before=supervisor, number=number, configured=configured, overrides=overrides) -> Generation:
            return build_generation(REGISTRY, configured, overrides, number=number, before=before)

        _, expected = told(at_once)
        built, found = told(after)
        assert found == expected
        if built is None:
            continue
        supervisor = built
        worker, received = told(lambda: receive_generation(REGISTRY, built.configuration(), before=worker))  # noqa: B023
        assert received == expected


def test_only_what_changed_is_built_again() -> None:
    """The others are the very same deployments, so that they are also told apart from others in no time."""
    configured = Settings(deployments={"own@b": {"source": "/x"}})
    one = build_generation(REGISTRY, configured, Overrides(deployments={"m@a": DeploymentOverride(weight=2.0)}))
    override = Overrides(deployments={"m@a": DeploymentOverride(weight=2.0), "n@a": DeploymentOverride(weight=4.0)})
    two = build_generation(REGISTRY, configured, override, before=one)
    three = build_generation(REGISTRY, configured, Overrides(backends={"b": False}), before=two)

    assert new_in(two, one) == {"n@a"}
    assert new_in(three, two) == {"m@a", "m@b", "n@a", "own@b"}
    assert new_in(build_generation(REGISTRY, three.configured, three.overrides, before=three), three) == set()


def test_true_is_not_one() -> None:
    """Although they are equal to Python: after a reload, settings are those that were read."""
    one, true = (Settings(deployments={"m@a": {"settings": {"threads": threads}}}) for threads in (1, True))
    after = build_generation(REGISTRY, true, before=build_generation(REGISTRY, one))

    assert after.table.deployments["m@a"].settings.threads is True
    assert after.table.fingerprint == build_generation(REGISTRY, true).table.fingerprint


def test_the_same_settings_are_written_and_read_once() -> None:
    """Whatever is changed at run time."""
    configured = Settings(deployments={"own@b": {"source": "/x"}})
    first = build_generation(REGISTRY, configured, number=1)
    worker = receive_generation(REGISTRY, first.configuration())
    change = Overrides(deployments={"m@a": DeploymentOverride(weight=2.0)})
    second = build_generation(REGISTRY, configured, change, number=2, before=first)

    after = receive_generation(REGISTRY, second.configuration(), before=worker)

    assert second.as_json is first.as_json
    assert after.configured is worker.configured
    assert new_in(after, worker) == {"m@a"}
    assert after.table.fingerprint == second.table.fingerprint


def new_in(after: Generation, before: Generation) -> set[str]:
    """The ids of the deployments that were built again."""
    there = before.table.deployments
    return {name for name, one in after.table.deployments.items() if one is not there.get(name)}
