"""``python -m core doctor`` from a command line: what it finds, what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.timeout(120)

QUICK = """
[plugins]
allow = ["echo", "shy"]
[supervisor]
backoff_initial_s = 0.2
status_interval_s = 0.05
stall_timeout_s = 200
[admin]
database = "mine.sqlite3"
"""


def doctor(folder: Path, config: str, *options: str, path: Path | None = None) -> tuple[int, str, str]:
    """Run it, with the packages of the folder ``path`` beside those that are installed."""
    (folder / "gateway.toml").write_text(QUICK + config)
    done = subprocess.run(
        [sys.executable, "-m", "core", "doctor", *options],
        cwd=folder,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_settings_that_forbid_failing_over_are_found(tmp_path: Path) -> None:
    """Without a retry nobody else answers: the drills fail, each with the setting to blame."""
    before = psutil.Process().children(recursive=True)
    code, output, errors = doctor(
        tmp_path,
        "[routing]\nretry_burst = 0.0\nretry_share = 0.0\nattempt_timeout_s = 2.0\nbreaker_failures = 31",
        "--json",
    )
    assert code == 1, errors
    told: dict[str, Any] = json.loads(output)
    assert not told["ok"]
    (route,) = told["routes"]
    assert (route["policy"], route["attempt_timeout_s"]) == ("least_loaded", 2.0)
    findings = {finding["drill"]: finding for finding in route["findings"]}
    assert findings["die-before"]["verdict"] == "failed"
    assert "retry_burst" in findings["die-before"]["remedy"]
    assert findings["alone-before"]["verdict"] == "ok", findings["alone-before"]
    assert findings["stall"]["verdict"] == "skipped"
    assert "--patience 201" in findings["stall"]["seen"]
    assert "routing.breaker_failures" in findings["breaker"]["seen"]
    assert any("retry_burst" in line for line in told["advice"])
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.toml"], "it writes nothing here"
    assert psutil.Process().children(recursive=True) == before


def test_a_configuration_in_order_passes(tmp_path: Path) -> None:
    """Two ways of routing, each in a table of its own; what is unset is advised."""
    code, output, errors = doctor(
        tmp_path,
        '[routes."echo"]\npolicy = "round_robin"\nattempt_timeout_s = 2.0\ncontinuation = "off"\n[routing]\n'
        'attempt_timeout_s = 2.5\ncontinuation = "off"',
    )
    assert code == 0, output + errors
    assert "[routing]: least_loaded" in output
    assert '[routes."echo"]: round_robin' in output
    assert output.count("dies in mid-answer, and there is no other") == 2
    assert 'advice: [routes."echo"] continuation = "off"' in output
    assert "No drill failed." in output
    assert "2 skipped." in output.splitlines()[-1]


def test_what_nobody_met_is_no_success(tmp_path: Path) -> None:
    """A policy that avoids the faulty replicas: the end says so, and so does the exit code."""
    package = tmp_path / "site"
    (package / "shy-1.dist-info").mkdir(parents=True)
    (package / "shy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shy\nVersion: 1\n")
    (package / "shy-1.dist-info" / "entry_points.txt").write_text("[gateway.plugins]\nshy = shy\n")
    (package / "shy.py").write_text(
        """
from core.api import PolicySpec, hookimpl

class Shy:
    def __init__(self, settings): ...
    def rank(self, request, candidates):
        return sorted(candidates, key=lambda candidate: candidate.replica, reverse=True)

@hookimpl
def gateway_policies():
    return (PolicySpec(name="shy", policy=Shy),)
"""
    )
    code, output, errors = doctor(
        tmp_path,
        '[routing]\npolicy = "shy"\nattempt_timeout_s = 2.5\nbreaker_failures = 31',
        path=package,
    )
    assert code == 3, output + errors
    assert "unmet: nothing was learnt" in output.splitlines()[-1]
    assert "The policy never chose it" in output


def test_a_mistake_is_told_before_anything_starts(tmp_path: Path) -> None:
    code, output, errors = doctor(tmp_path, '[routing]\npolicy = "nobody_has_this"')
    assert (code, output) == (1, "")
    assert "nobody_has_this" in errors
