"""A routing policy fails in each way in a real HTTP worker: nobody who asks notices."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.testing import Gateway, start_gateway

PLUGIN = """
import time
from core.api import BackendSettings, Candidate, PolicySpec, hookimpl

class HostileSettings(BackendSettings):
    how: str = "raise"

class Hostile:
    def __init__(self, settings):
        self.how = settings.how

    def rank(self, request, candidates):
        return getattr(self, self.how)(candidates)

    def spin(self, candidates):
        while True:
            pass

    def sleep(self, candidates):
        time.sleep(1000)

    def fail(self, candidates):
        raise ValueError("no")

    def leave(self, candidates):
        raise SystemExit(1)

    def stranger(self, candidates):
        return [Candidate(replica="x@y#0", deployment="x@y", model="x", backend="y")]

    def lazy(self, candidates):
        yield from candidates

@hookimpl
def gateway_policies():
    return (PolicySpec(name="hostile", policy=Hostile, settings=HostileSettings),)
"""
REASONS = {
    "spin": "timeout",
    "sleep": "timeout",
    "fail": "raised",
    "leave": "raised",
    "stranger": "stranger",
    "lazy": "no_sequence",
}
CONFIG = '[plugins]\nallow = ["echo", "hostile"]\n' + "".join(
    f'[routes."{how}"]\nmodels = "echo"\npolicy = "hostile"\nsettings = {{ how = "{how}" }}\n' for how in REASONS
)


@pytest.fixture(params=[("--workers", "2"), ("--single-process",)], ids=["workers", "single"])
def hostile(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., Any],
) -> Iterator[Gateway]:
    """A gateway with a route for each way to fail."""
    (tmp_path / "hostile_plugin.py").write_text(PLUGIN)
    info = tmp_path / "hostile-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gateway.plugins]\nhostile = hostile_plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start_gateway(CONFIG, *request.param) as gateway:
        eventually(lambda: gateway.health()["status"] == "healthy")
        yield gateway


def counted(gateway: Gateway) -> dict[str, int]:
    text = httpx.get(f"{gateway.url}/metrics").text
    found = re.findall(r'^gateway_policy_failures_total\{policy="hostile",reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {reason: int(float(count)) for reason, count in found}


def test_nobody_notices(hostile: Gateway, eventually: Callable[..., Any]) -> None:
    """Each way three times: an answer, in good time; each failure is counted; the workers live on."""
    before = {worker.pid for worker in hostile.http_workers()}
    began_s = time.monotonic()
    for how in REASONS:
        for _ in range(3):
            answer = hostile.chat("say this", model=how)
            assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "say this")
    took_s = time.monotonic() - began_s

    assert took_s < 10
    expected = {reason: 3 * list(REASONS.values()).count(reason) for reason in REASONS.values()}
    eventually(lambda: counted(hostile) == expected)
    assert {worker.pid for worker in hostile.http_workers()} == before
    log = hostile.log.read_text()
    assert "the routing policy hostile failed" in log
    assert "least_loaded ranked instead" in log
