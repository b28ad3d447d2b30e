"""The difference between two configurations, as an operator reads it."""

from __future__ import annotations

import dataclasses

import pytest

from core.registry import installed_since, load_registry
from core.settings import PluginsTable, Settings
from core.supervisor.reload import difference, with_what_stays


def test_equal_settings_do_not_differ():
    assert difference(Settings(), Settings()).changed == ()


def test_each_key_that_differs_is_told_with_both_values():
    before = Settings(aliases={"gpt-4": "a"}, limits={"timeout_s": 5}, deployments={"a@b": {"source": "/x"}})
    after = Settings(
        aliases={"gpt-4": ["a", "b"], "fast": "a"}, deployments={"a@b": {"source": "/x", "settings": {"threads": 2}}}
    )
    changed = {one["key"]: (one["before"], one["after"]) for one in difference(before, after).changed}
    assert changed == {
        "aliases.fast": (None, ["a"]),
        "aliases.gpt-4": (["a"], ["a", "b"]),
        'deployments."a@b".settings.threads': (None, 2),
        "limits.timeout_s": (5.0, 600.0),
    }


def test_keys_of_a_new_deployment_that_say_nothing_are_not_told():
    changed = difference(Settings(), Settings(deployments={"a@b": {"source": "/x"}})).changed
    assert [one["key"] for one in changed] == ['deployments."a@b".source']


def test_a_table_that_comes_or_goes_changes_what_it_does_not_leave_at_the_default():
    table = Settings(deployments={"a@b": {"replicas": 2, "pinned": False}}, backends={"b": {"x": 1}})
    there = [("backends.b.x", None, 1), ('deployments."a@b".replicas', 1, 2)]
    come, gone = difference(Settings(), table).changed, difference(table, Settings()).changed
    assert [(one["key"], one["before"], one["after"]) for one in come] == there
    assert [(one["key"], one["after"], one["before"]) for one in gone] == there


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"admin": {"key": "the first secret of all"}}, {"admin": {"key": "another secret of ours"}}),
        ({}, {"backends": {"remote": {"api_key": "another secret of ours"}}}),
        ({"policies": {"x": {"token": "the first secret of all"}}}, {}),
        ({}, {"launchers": {"x": {"credential": {"value": "another secret of ours"}}}}),
        ({}, {"launchers": {"x": {"hosts": [{"name": "a", "password": "another secret of ours"}]}}}),
    ],
)
def test_secrets_are_told_as_changed_and_not_shown(before, after):
    (changed,) = difference(Settings(**before), Settings(**after)).changed
    assert "secret" not in str(changed)
    assert "***" in str(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"plugins": {"deny": ["x"]}},
        {"launchers": {"local": {}}, "supervisor": {"launcher": "ray"}},
        {"supervisor": {"drain_timeout_s": 1}},
        {"supervisor": {"log_dir": "/x"}},
        {"limits": {"max_body_bytes": 5}},
        {"limits": {"max_frame_bytes": 5}},
        {"admin": {"database": "/x"}},
        {"admin": {"events_kept": 5}},
    ],
)
def test_what_only_a_restart_applies_is_named_and_left_as_it_is(change):
    before, after = Settings(), Settings(**change)
    found = difference(before, after)
    assert len(found.restart_needed) == len(found.changed) == 1
    assert found.changed[0]["key"] in found.restart_needed[0]
    assert difference(before, with_what_stays(before, after)).changed == ()


def test_what_needs_no_restart_is_applied():
    after = Settings(limits={"timeout_s": 5, "max_body_bytes": 5}, supervisor={"stall_timeout_s": 5}, log_level="DEBUG")
    applied = with_what_stays(Settings(), after)
    assert (applied.limits.timeout_s, applied.supervisor.stall_timeout_s, applied.log_level) == (5, 5, "DEBUG")
    assert applied.limits.max_body_bytes == Settings().limits.max_body_bytes
    assert len(difference(Settings(), after).restart_needed) == 1


def test_plugins_that_came_or_went_since_are_told():
    registry = load_registry(PluginsTable(allow=()))
    assert list(installed_since(registry)) == []
    echo = next(one for one in registry.plugins if one.name == "echo")
    others = tuple(one for one in registry.plugins if one.name != "echo")
    old = dataclasses.replace(echo, version="0.0.1")
    gone = dataclasses.replace(echo, name="gone", distribution="gone-plugin")
    (new,) = installed_since(dataclasses.replace(registry, plugins=others))
    assert new.startswith(f"plugin echo: {echo.distribution} {echo.version} was installed; restart")
    (other,) = installed_since(dataclasses.replace(registry, plugins=(*others, old)))
    assert "took the place of 0.0.1" in other
    (removed,) = installed_since(dataclasses.replace(registry, plugins=(*registry.plugins, gone)))
    assert removed.startswith("plugin gone: gone-plugin")
    assert "was removed" in removed
