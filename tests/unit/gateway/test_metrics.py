"""Counting requests, and reading quantiles off histograms."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from core.api.protocols import RequestRecord
from core.gateway import exposition, metrics
from core.gateway.answer import FailureReason
from core.gateway.fleet import Fleet

ROOT = Path(__file__).parents[3]


def test_quantile_is_linear_inside_a_bucket() -> None:
    buckets = {1.0: 10.0, 2.0: 20.0, math.inf: 20.0}

    assert exposition.quantile(buckets, 0.5) == pytest.approx(1.0)
    assert exposition.quantile(buckets, 0.75) == pytest.approx(1.5)


def test_quantile_above_the_last_bound_is_that_bound() -> None:
    assert exposition.quantile({1.0: 0.0, math.inf: 5.0}, 0.5) == 1.0


def test_quantile_without_data_is_none() -> None:
    assert exposition.quantile({}, 0.5) is None
    assert exposition.quantile({1.0: 0.0, math.inf: 0.0}, 0.5) is None


def record(**changes: object) -> RequestRecord:
    values = {"id": "x", "name": "m", "task": "chat", "replica": "m@b#0", "outcome": "stop", "attempts": 1}
    return RequestRecord(**{**values, **changes})  # type: ignore[arg-type]


async def test_statistics_count_only_the_servers_own_errors() -> None:
    """A client's 400 is a request of the deployment but not an error of it."""
    deployment = "counted@b"
    for changes in (
        {"ttft_s": 0.1, "duration_s": 1.1, "completion_tokens": 50},
        {"outcome": "error", "error": "context_length_exceeded", "status": 400},
        {"outcome": "error", "error": "engine_failed", "status": 502},
        {"outcome": "cancelled"},
    ):
        metrics.request_began()
        metrics.observe(record(replica=f"{deployment}#0", **changes))
    total = exposition.statistics()
    counted = total.deployments[deployment]

    assert (counted.requests, counted.errors) == (4, 1)
    assert counted.tokens_per_s == pytest.approx(50.0)
    assert total.requests >= 4
    assert total.in_flight == 0


def test_every_reason_for_a_retry_is_documented() -> None:
    (line,) = [
        line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if "| `gateway_retries_total`" in line
    ]
    reasons = {reason for kind in get_args(FailureReason) for reason in get_args(kind)}

    assert set(re.findall(r"`(\w+)`", line)) == {"gateway_retries_total", "reason", *reasons}


def test_what_is_known_before_it_happens_is_at_0() -> None:
    """Every value that docs/metrics.md names for them: an alert on the first one needs a 0 before it."""
    program = (
        "from prometheus_client import generate_latest; import core.gateway.metrics; print(generate_latest().decode())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    at_0 = {
        name: set(re.findall(rf'^gateway_{name}_total{{(?:outcome|reason)="(\w+)"}} 0\.0$', told, re.MULTILINE))
        for name in ("retries", "hedges", "continuations")
    }
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = {
        name: set(
            re.findall(r"`(\w+)`", re.findall(rf"^\| `gateway_{name}_total` \|.*?\|.*?\|(.*)$", page, re.MULTILINE)[0])
        )
        for name in at_0
    }

    assert at_0 == documented


def test_every_metric_is_documented() -> None:
    """docs/metrics.md and the code name the same metrics."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`(gateway_\w+)`", page))
    fleet = Fleet.__new__(Fleet)
    fleet.snapshot, fleet.connected = None, False
    exposed = set(re.findall(r"^# TYPE (gateway_\w+)", exposition.render(fleet).decode(), re.MULTILINE))

    assert {name for name in exposed if not name.endswith("_created")} == documented
