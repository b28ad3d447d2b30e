"""docs/policies.md teaches examples/sticky_policy, whole, and what it and docs/routing.md say of policies is true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from core import cli
from core.gateway import ranking
from core.registry import build_table, load_registry, make_policies
from core.registry.builtin import gateway_policies
from core.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sticky_policy"
PAGE = (ROOT / "docs" / "policies.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ python -m core (.+)$", PAGE, re.MULTILINE)
CONFIGS = [code for language, code in BLOCKS if language == "toml" and "[project]" not in code]


def file(name: str) -> str:
    """All blocks of the page that begin with the file's name, joined."""
    found = [code.partition("\n")[2] for _, code in BLOCKS if code.startswith(f"# {name}\n")]
    assert found, f"the page shows nothing of {name}"
    return "\n".join(found)


def lines(text: str) -> list[str]:
    """Without the blank ones, of which joining makes more."""
    return [line for line in text.splitlines() if line]


@pytest.mark.parametrize("name", ["pyproject.toml", "sticky_policy/plugin.py"])
def test_the_page_is_the_package(name: str) -> None:
    """Line by line; what a reader types in is what is tested there."""
    assert lines(file(name)) == lines((EXAMPLE / name).read_text())


@pytest.mark.parametrize("name", ["tests/test_policy.py", "tests/test_gateway.py"])
def test_the_tests_of_the_page_pass(name: str, tmp_path: Path) -> None:
    """On the code of the page, which comes before the installed one."""
    for one in ("sticky_policy/plugin.py", name):
        path = tmp_path / one
        path.parent.mkdir(exist_ok=True)
        path.write_text(file(one))
    (tmp_path / "sticky_policy" / "__init__.py").touch()
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("text", CONFIGS)
def test_the_configuration_of_the_page_chooses_it(text: str) -> None:
    """It loads with the plugin, and each name has the policy and the settings that are written there."""
    told: dict[str, Any] = tomllib.loads(text)
    models = {f"{name}@echo": {"source": "/dev/null"} for name in ("smollm2-135m",)}
    configured = Settings.model_validate({**told, "plugins": {"allow": ["echo", "sticky"]}, "deployments": models})
    registry = load_registry(configured.plugins)
    table = build_table(registry, configured)
    policies = make_policies(registry, configured)
    headers = {key: getattr(policy, "_header", None) for key, policy in policies.items()}

    if "routes" in told:
        assert headers == {"": None, "gpt-4": "x-team", "smollm2-135m": None}
        assert (table.routes["gpt-4"].policy, table.routes["smollm2-135m"].policy) == ("sticky", "least_loaded")
    else:
        assert headers == {"": "x-session-id"}


def test_there_are_both_kinds_of_configuration() -> None:
    """For all requests, and for one name."""
    assert ["routes" in tomllib.loads(text) for text in CONFIGS] == [False, True]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_exist(command: str) -> None:
    """Those that need no gateway run; of the other one, its help is asked."""
    if command.startswith("explain"):
        with pytest.raises(SystemExit) as ended:
            cli.main([*shlex.split(command), "--help"])
        assert ended.value.code == 0
    else:
        assert cli.main(shlex.split(command)) == 0


def test_every_way_to_fail_is_told() -> None:
    """The table has the reasons that are counted."""
    told = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## When it fails")[2], re.MULTILINE)

    assert sorted(set(told) - {"reason"}) == sorted(get_args(ranking.Reason))
    assert f"({Settings().routing.policy_timeout_s:g} s)" in PAGE


def test_every_policy_and_its_settings_are_documented() -> None:
    """In both tables of docs/routing.md, and in the example of the configuration, with their defaults."""
    page, example = (ROOT / "docs" / "routing.md").read_text(), (ROOT / "gateway.example.toml").read_text()
    for spec in gateway_policies():
        (row,) = re.findall(rf"^\| `{spec.name}` \|.*$", page, re.MULTILINE)
        section = example.partition(f"# [policies.{spec.name}]")[2].partition("\n\n")[0]
        for key, field in spec.settings.model_fields.items():
            assert f"`{key}`" in row
            assert f"| `{spec.name}.{key}` | {field.default} |" in page
            assert f"# {key} = {field.default} " in section
