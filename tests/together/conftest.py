"""One gateway with every backend, on the demo model: all in one environment, or each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from core.testing import Gateway, eventually, start_gateway

SETTINGS = {
    "llamacpp": {},
    "onnx": {"quantization": "none"},
    "torch": {"dtype": "float32"},
}
"""Number formats in which equal requests give equal texts, whatever is cached."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes a backend for each of them."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", sorted(SETTINGS))


@pytest.fixture(scope="session")
def backends() -> frozenset[str]:
    return frozenset(SETTINGS)


def configuration(interpreters: dict[str, Path]) -> str:
    lines = ["[plugins]", f"allow = {sorted(SETTINGS)}", "[limits]", "max_waiting = 200", "keepalive_s = 300"]
    for backend, settings in SETTINGS.items():
        told = ", ".join(f'{key} = "{value}"' for key, value in settings.items())
        lines += [
            f'[deployments."smollm2-135m@{backend}"]',
            "context_tokens = 2048",
            f"settings = {{ threads = 1, slots = 4{', ' if told else ''}{told} }}",
        ]
        if backend in interpreters:
            lines += [f"[backends.{backend}]", f"python = '{interpreters[backend]}'"]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fetch what all of them load, and prepare it, as an operator does."""
    file = tmp_path_factory.mktemp("pull") / "gateway.toml"
    file.write_text(configuration({}))
    command = [sys.executable, "-m", "core", "pull", "--config", str(file), "smollm2-135m"]
    pulled = subprocess.run(command, capture_output=True, text=True)
    assert pulled.returncode == 0, pulled.stderr


@pytest.fixture(scope="session")
def gateway(weights: None) -> Iterator[Gateway]:
    """All backends in this environment."""
    with start_gateway(configuration({})) as running:
        eventually(lambda: running.health()["status"] == "healthy", within_s=120)
        yield running


@pytest.fixture(scope="session")
def gateway_apart(weights: None) -> Iterator[Gateway]:
    """Each backend in the environment of its own tests, which holds neither of the others."""
    folder = os.environ.get("TEST_ENVIRONMENTS")
    if folder is None:
        pytest.skip("TEST_ENVIRONMENTS does not say where the environments of the backends are (tox does)")
    interpreters = {backend: Path(folder) / backend / "bin" / "python" for backend in SETTINGS}
    if absent := [str(python) for python in interpreters.values() if not python.is_file()]:
        pytest.skip(f"{', '.join(absent)} is not there: run the tests of that backend first")
    with start_gateway(configuration(interpreters)) as running:
        eventually(lambda: running.health()["status"] == "healthy", within_s=120)
        yield running


@pytest.fixture(scope="session")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=120) as made:
        yield made
