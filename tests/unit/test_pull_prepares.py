"""The command line where a backend prepares fetched weights: pull does it, models and check tell of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.__main__ import main

PLUGIN = """
from core.api import BackendSpec, ModelSpec, hookimpl

@hookimpl
def gateway_backends():
    return (BackendSpec(name="loud", engine="x:Y", preparation="loud_preparation:Preparation"),)

@hookimpl
def gateway_models():
    return tuple(ModelSpec(name=name, backend="loud", source="{folder}/" + name) for name in ("one", "two"))
"""
PREPARATION = """
from core.api import PreparationError

class Preparation:
    def __init__(self, context):
        self.made = context.cache_dir / context.model.name

    def find(self, weights):
        if weights.read_text() == "broken":
            raise PreparationError("These are no weights.")
        return self.made if self.made.exists() else None

    def make(self, weights, report):
        report("waiting", None)
        report("exporting", 0.0)
        report("exporting", 0.5)
        report("exporting", 1.0)
        said = weights.read_text()
        if said == "wrong":
            raise PreparationError("The export disagrees with the model.")
        if said == "big":
            raise OSError(28, "No space left on device")
        self.made.parent.mkdir(parents=True, exist_ok=True)
        self.made.write_text(said.upper())
        return self.made
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed plugin with two models, whose weights are here but not prepared."""
    site = tmp_path / "site"
    info = site / "loud-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gateway.plugins]\nloud = loud_plugin\n")
    (site / "loud_plugin.py").write_text(PLUGIN.format(folder=tmp_path))
    (site / "loud_preparation.py").write_text(PREPARATION)
    (tmp_path / "gateway.toml").write_text('[plugins]\nallow = ["loud"]\n[weights]\ncache_dir = "cache"\n')
    for name in ("one", "two"):
        (tmp_path / name).write_text("hello")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("loud_plugin", "loud_preparation"):
        sys.modules.pop(name, None)


def test_pull_prepares_and_tells_each_stage(folder, capsys):
    """In lines where there is no terminal: one at each stage's beginning, then every few seconds."""
    made = folder / "cache" / "prepared" / "loud" / "one"
    assert main(["pull", "one"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"one@loud: {made}\n"
    assert captured.err.splitlines() == ["one@loud: waiting", "one@loud: exporting"]
    assert made.read_text() == "HELLO"

    assert main(["pull", "one"]) == 0
    assert capsys.readouterr() == (f"one@loud: {made}\n", "")


def test_pull_tells_programs_by_events(folder, capsys, monkeypatch):
    """A line of JSON each: progress, of which nothing that matters is put off for ever, then exactly one end."""
    monkeypatch.setattr("core.cli.meters._JSON_INTERVAL_S", 3600)
    (folder / "two").write_text("wrong")
    assert main(["pull", "--json", "one", "two"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    progress = [(one["deployment"], one["stage"], one["share"]) for one in told[:-1]]
    stages = [("waiting", None), ("exporting", 0.0), ("exporting", 1.0)]
    assert progress == [(name, *stage) for name in ("one@loud", "two@loud") for stage in stages]
    assert told[-1] == {
        "event": "error",
        "pulled": {"one@loud": str(folder / "cache" / "prepared" / "loud" / "one")},
        "failed": {"two@loud": "The export disagrees with the model."},
    }


def test_pull_tells_the_share_every_few_seconds(folder, capsys, monkeypatch):
    monkeypatch.setattr("core.cli.meters._LINE_INTERVAL_S", 0)
    assert main(["pull", "one"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "one@loud: waiting",
        "one@loud: exporting",
        "one@loud: exporting: 50%",
        "one@loud: exporting: 100%",
    ]


def test_pull_draws_a_bar_for_each_stage_on_a_terminal(folder, capsys, monkeypatch):
    """Without a percentage where none is known."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["pull", "one"]) == 0
    bars = [line.rpartition("\r")[2] for line in capsys.readouterr().err.split("\n")]
    assert bars[0].strip() == "one@loud: waiting, 00:00"
    assert bars[1].startswith("one@loud: exporting: 100%|")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("wrong", "The export disagrees with the model."),
        ("broken", "These are no weights."),
        ("big", "/cache/prepared/loud is full: make room, or set weights.cache_dir to a folder on a larger disk."),
    ],
)
def test_pull_goes_on_after_a_failure_and_then_fails(folder, capsys, said, words):
    (folder / "one").write_text(said)
    assert main(["pull", "one", "two"]) == 1
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: one@loud: ")
    assert errors[0].endswith(words)
    assert captured.out.startswith("two@loud: ")
    assert "Traceback" not in captured.err


def test_models_tell_what_is_prepared(folder, capsys):
    (folder / "two").unlink()
    assert main(["models"]) == 0
    told = capsys.readouterr().out
    assert "not prepared: python -m core pull one@loud" in told
    assert "nothing at its path" in told

    (folder / "two").write_text("broken")
    assert main(["pull", "one"]) == 0
    capsys.readouterr()
    assert main(["models"]) == 0
    one, two = capsys.readouterr().out.splitlines()[1:]
    assert " prepared " in one
    assert "not prepared: These are no weights." in two


def test_models_tell_programs_what_is_prepared(folder, capsys):
    def row():
        assert main(["models", "--json"]) == 0
        row = json.loads(capsys.readouterr().out)[0]
        return [row[key] for key in ("fetched", "weights", "missing", "pull")]

    fetched, command = str(folder / "one"), "python -m core pull one@loud"
    missing = f"weights are fetched, but not yet prepared for loud; prepare them with: {command}"
    assert row() == [fetched, None, missing, command]
    assert main(["pull", "one"]) == 0
    capsys.readouterr()
    assert row() == [fetched, str(folder / "cache" / "prepared" / "loud" / "one"), None, None]


def test_check_warns_of_what_is_not_prepared(folder, capsys):
    (folder / "two").write_text("broken")
    assert main(["check"]) == 0
    told = capsys.readouterr().err
    assert "warning: one@loud: weights are fetched, but not yet prepared for loud; prepare them with: " in told
    assert "warning: two@loud: These are no weights." in told
