"""docs/admin.md and docs/cli.md are true: every example works, and nothing that there is is missing."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from core.cli import _parser
from core.http.admin.bodies import DeploymentPatch
from core.http.openapi import document
from core.wire.control import AdminEvent, ReplicaStatus

ROOT = Path(__file__).parents[3]
ADMIN = (ROOT / "docs" / "admin.md").read_text()
CLI = (ROOT / "docs" / "cli.md").read_text()
# The names of the page, as the worker of the tests has them.
NAMES = {"smollm2-135m@llamacpp": "echo@echo", "smollm2-135m": "echo", "llama-3-8b": "org/big", "llamacpp": "echo"}


def ours(text: str) -> str:
    return re.sub("|".join(sorted(NAMES, key=len, reverse=True)), lambda found: NAMES[found[0]], text)


def examples() -> list[argparse.Namespace]:
    """The curl commands of the page."""
    curl = argparse.ArgumentParser(exit_on_error=False)
    curl.add_argument("url")
    curl.add_argument("-X", dest="method", default="GET")
    curl.add_argument("-H", dest="headers", action="append", default=[])
    curl.add_argument("-d", dest="body")
    curl.add_argument("-N", action="store_true")
    text = "\n".join(re.findall(r"^```console\n(.*?)^```", ADMIN, re.MULTILINE | re.DOTALL)).replace("\\\n", "")
    commands = [line.removeprefix("$ curl ") for line in text.splitlines() if line.startswith("$ curl ")]
    return [curl.parse_args(shlex.split(ours(command))) for command in commands]


async def test_every_example_works(lab) -> None:
    """One after another, as they stand on the page."""
    loaded = ReplicaStatus(replica="echo@echo#0", state="ready", socket="x")
    lab.supervisor.on_operate = lambda _: lab.supervisor.set(loaded)
    for one in examples():
        headers = dict(header.split(": ", 1) for header in one.headers)
        path = one.url.removeprefix("$URL/")
        async with lab.client.stream(one.method, path, headers=headers, content=one.body) as response:
            if path != "events":
                await response.aread()
            assert response.status_code in {200, 202}, (path, response.content)


def test_every_route_has_an_example() -> None:
    shown = {(one.method.lower(), one.url.partition("?")[0].replace("$URL", "/admin/v1")) for one in examples()}
    for path, methods in document()["paths"].items():
        if path.startswith("/admin/"):
            pattern = re.compile(re.sub(r"{\w+}", r"[\\w@/.-]+", path))
            for method in methods:
                assert any(given == method and pattern.fullmatch(url) for given, url in shown), (method, path)


@pytest.mark.parametrize("name", ["DeploymentView", "Reloaded", "ExplainedRoute"])
def test_the_answers_on_the_page_are_such_answers(holds, name) -> None:
    blocks = [json.loads(code) for code in re.findall(r"^```json\n(.*?)^```", ADMIN, re.MULTILINE | re.DOTALL)]
    schema = document()["components"]["schemas"][name]
    (body,) = [block for block in blocks if block.keys() == schema["properties"].keys()]

    holds(name, body)


def test_every_key_and_every_event_has_its_row() -> None:
    for name in (*DeploymentPatch.model_fields, *get_type_hints(AdminEvent)["kind"].__args__, "end"):
        assert f"| `{name}` |" in ADMIN


def commands() -> dict[str, Any]:
    (found,) = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(found.choices)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_its_row_with_its_options(command) -> None:
    rows = [line.split(" | ")[0] for line in CLI.splitlines() if line.startswith("| `")]
    assert any(re.search(rf"\b{command}\b", row) for row in rows)
    for action in commands()[command]._actions:
        for option in action.option_strings:
            assert option in {"-h", "--help"} or f"{option}" in CLI, (command, option)
