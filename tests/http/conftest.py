"""A real gateway for each file of tests, or for one test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.testing import Gateway, eventually, start_gateway

PLUGINS = """
[plugins]
allow = ["echo", "sticky"]
"""


@pytest.fixture
def start() -> Callable[..., contextlib.AbstractContextManager[Gateway]]:
    """Start a gateway on a configuration: ``with start(toml, *options) as gateway``."""
    return lambda config, *options, **more: start_gateway(PLUGINS + config, *options, **more)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Any]:
    """Wait for a condition."""
    return eventually


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """One gateway for all tests of a file that do it no harm: echo, with an alias, and one worker."""
    config = """
[aliases]
"gpt-4" = "echo"
[limits]
max_body_bytes = 100000
keepalive_s = 0.3
[deployments."slow@echo"]
source = "/dev/null"
settings = { tokens_per_s = 20, tokens = 200, prefill_s = 1.0, slots = 4 }
[deployments."off@echo"]
source = "/dev/null"
enabled = false
[deployments."absent@echo"]
source = "/nowhere/at/all"
"""
    with start_gateway(PLUGINS + config) as running:
        eventually(lambda: running.health()["status"] == "healthy")
        yield running
