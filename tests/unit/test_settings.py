"""Where settings come from, what is refused, and that gateway.example.toml tells them all."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_core import PydanticUndefined

from core.api import ModelSpec
from core.settings import DeploymentTable, RouteTable, Settings, SettingsError, load_settings, settings_reader
from core.words import describe

EXAMPLE = Path(__file__).parents[2] / "gateway.example.toml"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "gateway.toml") -> Path:
    path = Path(name).absolute()
    path.write_text(text)
    return path


# --- where they come from


def test_defaults() -> None:
    """Without file and environment."""
    assert load_settings().model_dump() == Settings().model_dump()
    assert load_settings().limits.timeout_s == 600


def test_the_file_in_the_working_directory_is_found() -> None:
    """By its name."""
    write("[limits]\ntimeout_s = 7")

    assert load_settings().limits.timeout_s == 7


def test_a_named_file_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument over GATEWAY_CONFIG over the working directory."""
    write("[limits]\ntimeout_s = 1")
    monkeypatch.setenv("GATEWAY_CONFIG", str(write("[limits]\ntimeout_s = 2", "two.toml")))

    assert load_settings().limits.timeout_s == 2
    assert load_settings(write("[limits]\ntimeout_s = 3", "three.toml")).limits.timeout_s == 3


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key: its neighbours in the file still count. Lists, tables and odd names are JSON."""
    write('[limits]\ntimeout_s = 1\nkeepalive_s = 3\n[aliases]\nx = "a"')
    monkeypatch.setenv("GATEWAY_LIMITS__TIMEOUT_S", "2")
    monkeypatch.setenv("GATEWAY_PLUGINS__ALLOW", '["torch"]')
    monkeypatch.setenv("GATEWAY_ALIASES", '{"GPT-4": ["b"]}')
    monkeypatch.setenv("GATEWAY_BACKENDS__LLAMACPP__DEVICE", "cpu")
    settings = load_settings()

    assert (settings.limits.timeout_s, settings.limits.keepalive_s) == (2, 3)
    assert settings.plugins.allow == ("torch",)
    assert settings.backends["llamacpp"].plugin_settings == {"device": "cpu"}
    assert settings.aliases == {"x": ("a",), "GPT-4": ("b",)}


# --- what is refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[limit]\ntimeout_s = 1", "limit: there is no such key; did you mean 'limits'?"),
        ("[limits]\ntimeout = 1", "limits.timeout: there is no such key; did you mean 'timeout_s'?"),
        ("loglevel = 1", "loglevel: there is no such key; did you mean 'log_level'?"),
        ("[weights]\nzz = 1", "weights.zz: there is no such key; keys are cache_dir, hf_endpoint"),
        ("[limits]\ntimeout_s = true", "limits.timeout_s: Input should be a number, not true or false (got True)"),
        ("[limits]\nmax_waiting = true", "limits.max_waiting: Input should be a number"),
        ('[deployments."m@b"]\npriority = true', "deployments.m@b.priority: Input should be a number"),
        ("[supervisor]\nbackoff_initial_s = 400", "supervisor: backoff_initial_s (400) is above backoff_max_s (300)"),
        ("[limits]\ntimeout_s = 0", "limits.timeout_s: Input should be greater than 0 (got 0)"),
        ('[deployments."m@b"]\nprio = 1', "deployments.m@b.prio: there is no such key; did you mean 'priority'?"),
        ('[deployments."m@b"]\nload = "later"', "deployments.m@b.load: Input should be 'startup' or 'on_demand'"),
        ('[routing]\nreply_model = "x"', "routing.reply_model: Input should be 'requested' or 'served' (got 'x')"),
        ("[limits\n", "is not valid TOML"),
        ("[aliases]\nx = 1", "aliases.x: an alias stands for a name or a list of names (got 1)"),
        ('[aliases]\nx = ["a", 1]', "aliases.x: an alias stands for a name or a list of names"),
    ],
)
def test_mistakes_in_the_file(text: str, told: str) -> None:
    """Are told with file and key."""
    path = write(text)

    with pytest.raises(SettingsError) as caught:
        load_settings(path)

    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_mistake_is_told() -> None:
    """One a line."""
    write("[limits]\na = 1\nb = 2\n[supervisor]\nc = 3")

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GATEWAY_LIMIT__TIMEOUT_S", "1", "GATEWAY_LIMIT__TIMEOUT_S names no setting; did you mean GATEWAY_LIMITS?"),
        (
            "GATEWAY_LIMITS__TIMEOUT",
            "1",
            "GATEWAY_LIMITS__TIMEOUT: limits.timeout: there is no such key; did you mean 'timeout_s'?",
        ),
        ("GATEWAY_LIMITS__TIMEOUT_S", "soon", "GATEWAY_LIMITS__TIMEOUT_S: limits.timeout_s: Input should be"),
        ("GATEWAY_LIMITS", '{"timeout_s": 0}', "GATEWAY_LIMITS: limits.timeout_s: "),
        (
            "GATEWAY_SUPERVISOR__BACKOFF_MAX_S",
            "0.5",
            "gateway.toml and GATEWAY_SUPERVISOR__BACKOFF_MAX_S: supervisor: ",
        ),
        ("GATEWAY_LIMITS", "{", "GATEWAY_LIMITS must be JSON"),
        ("GATEWAY_PLUGINS__DENY", "llamacpp", """GATEWAY_PLUGINS__DENY must be JSON, for example '["llamacpp"]'"""),
        ("GATEWAY_ALIASES", "gpt-4=x", """GATEWAY_ALIASES must be JSON, for example '{"gpt-4": "x"}'"""),
    ],
)
def test_mistakes_in_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str) -> None:
    """A mistyped variable would otherwise do nothing, silently."""
    monkeypatch.setenv(variable, value)
    write("[limits]\nkeepalive_s = 3")

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert str(caught.value).startswith(told if told.startswith("GATEWAY_LIMITS") else "")
    assert told in str(caught.value)


def test_the_file_is_blamed_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment sets a neighbour."""
    write("[limits]\nkeepalive_s = 0")
    monkeypatch.setenv("GATEWAY_LIMITS__TIMEOUT_S", "1")
    monkeypatch.setenv("GATEWAY_LIMITS", '{"max_waiting": 1}')

    with pytest.raises(SettingsError, match=r"^gateway\.toml: limits\.keepalive_s: "):
        load_settings()


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is a mistake when it was named."""
    monkeypatch.setenv("GATEWAY_CONFIG", "gone.toml")

    with pytest.raises(SettingsError, match=r"gone\.toml does not exist"):
        load_settings()


# --- gateway.example.toml


def defaults(table: type[BaseModel]) -> dict[str, Any]:
    found = table.model_construct().model_dump(mode="json")
    assert PydanticUndefined not in found.values()
    return found


def in_comments_too() -> dict[str, Any]:
    """The example with the keys that stand in comments."""
    return tomllib.loads(re.sub(r'^# (?=\[[a-z]|[a-z_]+ = |"[^"]+" = )', "", EXAMPLE.read_text(), flags=re.MULTILINE))


def test_the_example_holds_the_defaults() -> None:
    """Loading it changes nothing."""
    assert load_settings(EXAMPLE).model_dump() == load_settings().model_dump()


def test_the_example_has_every_key() -> None:
    """So a new setting needs its line there. Keys that are off by default stand in comments."""
    example, live = in_comments_too(), tomllib.loads(EXAMPLE.read_text())
    assert example.keys() == Settings.model_fields.keys()
    for name, table in live.items():
        if not isinstance(table, dict):
            continue
        known = defaults(Settings.model_fields[name].annotation)  # type: ignore[arg-type]
        assert example[name].keys() == known.keys(), name
        assert table.keys() == {key for key, value in known.items() if value is not None}, name
    (deployment,) = example["deployments"].values()
    assert deployment.keys() == DeploymentTable.model_fields.keys()
    (route,) = example["routes"].values()
    assert route.keys() == RouteTable.model_fields.keys()
    assert "python" in example["backends"]["llamacpp"]


def test_the_example_is_valid_with_its_comments() -> None:
    """What a reader may uncomment is right."""
    Settings.model_validate(in_comments_too())


def test_the_example_tells_the_defaults_of_a_deployment() -> None:
    """As the spec has them."""
    (deployment,) = in_comments_too()["deployments"].values()
    spec = {field.name: field.default for field in dataclasses.fields(ModelSpec)}
    in_limits = {"max_waiting", "max_waiting_prompt_tokens"}
    assert {key: deployment[key] for key in in_limits} == Settings().limits.model_dump(include=in_limits)
    for key in deployment.keys() - {"source", "settings", "idle_unload_s"} - in_limits:
        default = spec.get(key, DeploymentTable.model_fields[key].default)
        assert deployment[key] == (list(default) if isinstance(default, tuple) else default), key


def test_every_key_of_the_example_has_its_meaning() -> None:
    """A word of explanation on each line."""
    keys = [line for line in EXAMPLE.read_text().splitlines() if re.match(r"(# )?[a-z_]+ = ", line)]

    assert [line for line in keys if "  # " not in line] == []


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\ntimeout_s = inf",
        "[limits]\nmax_waiting = 99999999999999999999",
        "[supervisor]\nmemory_limit_bytes = 99999999999999999999",
        '[deployments."m@b"]\nweight = inf',
        '[deployments."m@b"]\npriority = 99999999999999999999',
        '[deployments."m@b"]\nreplicas = 257',
        "[aliases]\nx = [" + '"m",' * 65 + "]",
    ],
)
def test_what_no_process_could_be_told_is_refused(text: str) -> None:
    """Infinity is null in JSON, and msgpack ends at 64 bits."""
    write(text)
    with pytest.raises(SettingsError):
        load_settings()


def test_a_file_that_was_there_is_read_again_or_missed() -> None:
    """Defaults would be a gateway without its models and its key."""
    without = settings_reader()
    write("[limits]\ntimeout_s = 7")
    assert without().limits.timeout_s == 7
    with_file = settings_reader()
    Path("gateway.toml").unlink()
    with pytest.raises(SettingsError, match="does not exist"):
        with_file()


def test_a_file_that_is_no_text_is_told() -> None:
    """Not as a mistake of ours."""
    write("").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()


# --- secrets

HUSHED = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f'[admin]\nkey = "{HUSHED}"',
        f'[admin]\nkey = ["{HUSHED}"]',
        f'[admin]\nkey = "long enough for a key"\nkeys = "{HUSHED}"',
        f'[[admin]]\nkey = "{HUSHED}"',
        f'admin = "{HUSHED}"',
        f'launchers = {{x = "{HUSHED}"}}',
        f'deployments = {{"a@b" = {{settings = "{HUSHED}"}}}}',
    ],
)
def test_a_refused_secret_is_not_repeated(text: str) -> None:
    """Nor what stands where a table with a secret should stand; neither in the message nor in a traceback of it."""
    with pytest.raises(SettingsError) as caught:
        load_settings(write(text))
    assert HUSHED not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_ADMIN__KEY", HUSHED),
        ("GATEWAY_ADMIN", HUSHED),
        ("GATEWAY_ADMIN", f"key={HUSHED}"),
        ("GATEWAY_ADMIN", f'{{"key": "{HUSHED}"}}'),
        ("GATEWAY_LAUNCHERS__X", f"token={HUSHED}"),
    ],
)
def test_a_refused_secret_of_the_environment_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Whatever was meant."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert HUSHED not in "".join(traceback.format_exception(caught.value))


class _Inner(BaseModel):
    credential: SecretStr = Field(SecretStr(""), min_length=100)
    pin: SecretStr | None = Field(None, min_length=100)
    port: int = 1


class _Outer(BaseModel):
    inner: _Inner | None = None
    hosts: list[_Inner] = []
    named: dict[str, _Inner] = {}
    pins: list[SecretStr] = []
    api_key: int = 0


@pytest.mark.parametrize(
    "given",
    [
        {"inner": {"pin": HUSHED}},
        {"inner": {"pin": [HUSHED]}},
        {"inner": HUSHED},
        {"hosts": [{"pin": HUSHED}]},
        {"hosts": [HUSHED]},
        {"hosts": HUSHED},
        {"named": {"x": {"pin": HUSHED}}},
        {"pins": HUSHED},
        {"api_key": HUSHED},
    ],
)
def test_a_secret_of_a_plugin_is_not_repeated(given: dict[str, Any]) -> None:
    """Known by its type wherever it stands, or by its name; what else is wrong is told with its value."""
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate(given | {"inner": {"port": "seven"}} if "inner" not in given else given)
    told = describe(caught.value, model=_Outer, where="[launchers.x]")
    assert HUSHED not in told
    assert ("(got 'seven')" in told) == ("inner" not in given)
