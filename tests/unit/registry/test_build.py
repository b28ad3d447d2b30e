"""Names in the configuration that plugins bring, or fail to bring."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from core.observe import LogObserver
from core.registry import build_table, load_registry, make_launcher, make_observers, make_policies
from core.routing.policies import LeastLoaded, RoundRobin
from core.routing.table import Table
from core.settings import Settings, SettingsError
from core.supervisor.local import LocalLauncher

Install = Callable[..., None]

MINE = """
    class MySettings(BackendSettings):
        speed: int = 1

    class StrictSettings(BackendSettings):
        limit: int

    class MyPolicy:
        def __init__(self, settings): self.speed = settings.speed
        def rank(self, request, candidates): return candidates

    class MyLauncher:
        def __init__(self, settings): self.speed = settings.speed

    @hookimpl
    def gateway_backends(): return (BackendSpec(name="mine", engine="x:X", settings=MySettings),)
    @hookimpl
    def gateway_models(): return (ModelSpec(name="m", backend="mine"),)
    @hookimpl
    def gateway_policies():
        return (
            PolicySpec(name="mine", policy=MyPolicy, settings=MySettings),
            PolicySpec(name="strict", policy=object, settings=StrictSettings),
            PolicySpec(name="bad", policy=object),
        )
    @hookimpl
    def gateway_launchers():
        return (
            LauncherSpec(name="mine", launcher="ai_gateway_mine_plugin:MyLauncher", settings=MySettings),
            LauncherSpec(name="gone", launcher="ai_gateway_mine_plugin:Gone"),
        )
"""


def settings(**tables: object) -> Settings:
    """Settings of a gateway that loads the plugins ``mine`` and ``broken`` only."""
    return Settings.model_validate({"plugins": {"allow": ["mine", "broken"]}, **tables})


def build(**tables: object) -> Table:
    configured = settings(**tables)
    return build_table(load_registry(configured.plugins), configured)


def test_nothing_of_a_preparation_is_imported(install: Install) -> None:
    """HTTP workers build the table too, and never prepare anything."""
    install("mine", MINE.replace('engine="x:X"', 'engine="x:X", preparation="not_there_at_all:X"'))
    assert build().deployments["m@mine"].backend.preparation == "not_there_at_all:X"


def test_the_defaults_are_there() -> None:
    """Without any plugin but the built-in one, everything that the defaults name can be made."""
    configured = settings()
    registry = load_registry(configured.plugins)

    table = build_table(registry, configured)
    (policy,) = make_policies(registry, configured).values()

    assert table.deployments == {}
    assert isinstance(policy, LeastLoaded)
    (observer,) = make_observers(registry)
    assert isinstance(observer, LogObserver)
    assert isinstance(make_launcher(registry, configured), LocalLauncher)


def test_a_plugins_own_settings_reach_it(install: Install) -> None:
    """Validated by its own model."""
    install("mine", MINE)
    configured = settings(
        routing={"policy": "mine"},
        supervisor={"launcher": "mine"},
        policies={"mine": {"speed": 2}},
        launchers={"mine": {"speed": 3}},
        backends={"mine": {"speed": 4}},
    )
    registry = load_registry(configured.plugins)

    table = build_table(registry, configured)

    assert table.deployments["m@mine"].settings.model_dump() == {"speed": 4}
    assert vars(make_policies(registry, configured)[""]) == {"speed": 2}
    assert vars(make_launcher(registry, configured)) == {"speed": 3}


def test_each_route_has_a_policy_of_its_own(install: Install) -> None:
    """With the route's settings over those of the policy's table; routes without a word share the global one."""
    install("mine", MINE.replace("speed: int = 1", "speed: int = 1; other: int = 1"))
    configured = settings(
        policies={"mine": {"speed": 2, "other": 3}},
        routing={"policy": "mine"},
        routes={"m": {"settings": {"speed": 4}}, "x": {"models": "m", "policy": "round_robin"}, "m@mine": {}},
    )
    registry = load_registry(configured.plugins)
    policies = make_policies(registry, configured)

    assert sorted(policies) == ["", "m", "x"]
    assert (vars(policies[""]), vars(policies["m"])) == ({"speed": 2}, {"speed": 4})
    assert isinstance(policies["x"], RoundRobin)


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"routing": {"policy": "mien"}}, "routing.policy: 'mien' is not there; did you mean 'mine'?"),
        ({"routing": {"policy": "far_away"}}, "install the package that brings it"),
        ({"supervisor": {"launcher": "mars"}}, "supervisor.launcher: 'mars' is not there; there are gone, local, mine"),
        ({"policies": {"far_away": {}}}, "[policies.far_away]: 'far_away' is not there"),
        ({"launchers": {"far_away": {}}}, "[launchers.far_away]: 'far_away' is not there"),
        ({"backends": {"far_away": {}}}, "[backends.far_away]: backend 'far_away' is not there"),
        ({"policies": {"mine": {"sped": 1}}}, "[policies.mine]: sped: there is no such key"),
        ({"policies": {"least_loaded": {"x": 1}}}, "[policies.least_loaded]: x: there is no such key"),
        (
            {"policies": {"prefix_affinity": {"load_bound": 1}}},
            "[policies.prefix_affinity]: load_bound: Input should be",
        ),
        ({"routes": {"m": {"policy": "mien"}}}, """[routes."m"] policy: 'mien' is not there; did you mean 'mine'?"""),
        (
            {"routes": {"m": {"policy": "mine", "settings": {"sped": 1}}}},
            '[routes."m"] settings of mine: sped: there is no such',
        ),
        (
            {"routes": {"m": {"settings": {"sped": 1}}}},
            '[routes."m"] settings of least_loaded, the policy of [routing]: sped: there is no such key',
        ),
        (
            {"routes": {"m": {"policy": "round_robin", "settings": {"load_bound": 1}}}},
            '[routes."m"] settings of round_robin: load_bound: there is no such key; there are none',
        ),
        ({"routes": {"m": {"policy": "strict"}}}, '[routes."m"] settings of strict: limit: Field required'),
        ({"routes": {"m": {"policy": "strict"}}, "policies": {"strict": {"limit": "x"}}}, "[policies.strict]: limit: "),
        ({"launchers": {"mine": {"speed": "fast"}}}, "[launchers.mine]: speed: Input should be a valid integer"),
        ({"backends": {"mine": {"speed": "fast"}}}, "[backends.mine]: speed: Input should be a valid integer"),
    ],
)
def test_mistakes(install: Install, tables: dict[str, object], told: str) -> None:
    """Each is told with its place and its remedy; used or not, every table is checked."""
    install("mine", MINE)

    with pytest.raises(SettingsError) as caught:
        build(**tables)

    (line,) = str(caught.value).splitlines()
    assert told in line


def test_all_mistakes_are_told_at_once(install: Install) -> None:
    """One a line: an operator mends the file once."""
    install("mine", MINE)

    with pytest.raises(SettingsError) as caught:
        build(routing={"policy": "no"}, supervisor={"launcher": "no"}, backends={"mine": {"a": 1, "b": 2}})

    assert len(str(caught.value).splitlines()) == 4


def test_a_broken_plugin_stops_nothing_unless_it_is_named(install: Install) -> None:
    """Fatal exactly when the configuration names something that it should have brought."""
    install("mine", MINE)
    install("broken", "raise RuntimeError('no driver')")

    assert list(build().deployments) == ["m@mine"]


@pytest.mark.parametrize(
    "tables",
    [
        {"backends": {"broken": {}}},
        {"routing": {"policy": "broken"}},
        {"routing": {"policy": "another_name"}},
        {"supervisor": {"launcher": "broken"}},
        {"policies": {"broken": {}}},
        {"deployments": {"x@broken": {"source": "/x"}}},
        {"deployments": {"x@mine": {"enabled": True}}},
        {"aliases": {"gpt-4": "x"}},
    ],
)
def test_the_error_tells_why_a_named_plugin_is_not_loaded(install: Install, tables: dict[str, object]) -> None:
    """The operator need not look for the reason elsewhere."""
    install("mine", MINE)
    install("broken", "raise RuntimeError('no driver')", version="0.9")

    with pytest.raises(SettingsError) as caught:
        build(**tables)

    assert "ai-gateway-broken 0.9 is failed: importing ai_gateway_broken_plugin failed: RuntimeError: no driver" in str(
        caught.value
    )


def test_a_denied_plugin_that_is_named(install: Install) -> None:
    """Denying and naming contradict each other, and the error says so."""
    install("mine", MINE)

    with pytest.raises(SettingsError, match=r"ai-gateway-mine 1\.0 is denied: plugins\.deny names it"):
        build(plugins={"deny": ["mine"]}, backends={"mine": {}})


def test_a_policy_that_is_none(install: Install) -> None:
    """Is refused at start, not at the first request."""
    install("mine", MINE)
    configured = settings(routing={"policy": "bad"}, routes={"m": {"policy": "bad"}})
    registry = load_registry(configured.plugins)

    with pytest.raises(SettingsError) as caught:
        make_policies(registry, configured)

    told = "'bad' of ai-gateway-mine 1.0 (mine) cannot be made: TypeError: "
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"routing.policy: {told}")
    assert second.startswith(f'[routes."m"] policy: {told}')


def test_a_launcher_that_cannot_be_imported(install: Install) -> None:
    """Its plugin is named."""
    install("mine", MINE)
    configured = settings(supervisor={"launcher": "gone"})

    with pytest.raises(SettingsError, match=r"'gone' of ai-gateway-mine 1\.0 \(mine\) cannot be made: AttributeError"):
        make_launcher(load_registry(configured.plugins), configured)


def test_an_observer_that_cannot_be_made(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """Is left out with a word in the log; nothing depends on it."""
    install(
        "mine",
        """
        def broken(): raise RuntimeError("no billing today")
        @hookimpl
        def gateway_observers(): return (ObserverSpec(name="billing", observer=broken),)
        """,
    )
    with caplog.at_level(logging.ERROR):
        observers = make_observers(load_registry(settings().plugins))

    assert [type(one) for one in observers] == [LogObserver]
    assert "the observer billing of ai-gateway-mine 1.0 (mine) cannot be made" in caplog.text


# --- what is probably not meant


@pytest.mark.parametrize("key", ["allow", "deny"])
def test_a_name_that_no_plugin_has_is_told(install: Install, key: str) -> None:
    """It would do nothing, silently; names of installed plugins and * are in order."""
    install("mine", MINE)
    warnings = build(plugins={"allow": ["mine"], "deny": ["nobody"], key: ["mine", "mime"]}).warnings

    assert f"plugins.{key}: no plugin 'mime' is installed; did you mean 'mine'?" in warnings
    assert not [line for line in warnings if "'mine' is installed" in line]
    assert not [line for line in build(plugins={"allow": ["*"], "deny": ["*"]}).warnings if "plugins." in line]


def test_without_a_deployment_there_is_a_warning(install: Install) -> None:
    """Nothing could be served: none installed, or all disabled."""
    (told,) = build(plugins={"allow": []}).warnings
    install("mine", MINE)

    assert told.startswith("no deployment is enabled")
    assert build(plugins={"allow": ["mine"]}).warnings == ()
    assert "install a backend" in told
    for disabled in ({"deployments": {"m@mine": {"enabled": False}}}, {"backends": {"mine": {"enabled": False}}}):
        (told,) = build(plugins={"allow": ["mine"]}, **disabled).warnings
        assert told.startswith("no deployment is enabled")
        assert "enable --backend" in told
        assert "install" not in told
