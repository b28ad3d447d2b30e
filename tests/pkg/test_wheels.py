"""Every wheel builds, holds what it should, and works from a bare environment, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PACKAGES += sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))

# Their runtimes weigh gigabytes; what is tested here must hold without them.
WITHOUT_DEPENDENCIES = ("ai_gateway_onnx-", "ai_gateway_torch-")

pytestmark = pytest.mark.timeout(600)


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command outside the checkout; return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**env, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        shutil.rmtree(package / "build", ignore_errors=True)  # modules of an earlier build would be packed too
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, package, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def python(wheels, tmp_path_factory) -> Path:
    """The interpreter of a bare environment with all wheels in it, and what they need but for the biggest runtimes."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    built = sorted(wheels.glob("*.whl"))
    alone = [wheel for wheel in built if wheel.name.startswith(WITHOUT_DEPENDENCIES)]
    run(interpreter, "-m", "pip", "install", "--quiet", *(one for one in built if one not in alone), cwd=folder)
    run(interpreter, "-m", "pip", "install", "--quiet", "--no-deps", *alone, cwd=folder)
    return interpreter


@pytest.fixture
def served(python, tmp_path) -> Iterator[str]:
    """``sanic core.app`` from an empty folder, with the echo backend alone; yields its URL."""
    (tmp_path / "gateway.toml").write_text('[plugins]\nallow = ["echo"]\n[supervisor]\nlog_dir = "logs"\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python.parent / "sanic", "core.app", "--port", str(port)], cwd=tmp_path, stdout=output, stderr=output
        )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def test_there_is_a_wheel_for_every_package(wheels) -> None:
    assert len(list(wheels.glob("*.whl"))) == len(PACKAGES)


def test_wheels_are_typed_and_hold_no_tests(wheels) -> None:
    for wheel in wheels.glob("*.whl"):
        names = zipfile.ZipFile(wheel).namelist()

        assert any(name.endswith("py.typed") for name in names), wheel.name
        assert not [name for name in names if "/tests/" in name or name.startswith("tests/")], wheel.name


def test_all_packages_share_one_version() -> None:
    versions = {tomllib.loads((package / "pyproject.toml").read_text())["project"]["version"] for package in PACKAGES}

    assert len(versions) == 1


def test_every_plugin_is_found(python, tmp_path) -> None:
    plugins = {row["name"]: row for row in json.loads(run(python, "-m", "core", "plugins", "--json", cwd=tmp_path))}

    assert {"builtin", "echo", "sticky", "llamacpp", "torch"} <= plugins.keys()
    assert {row["status"] for row in plugins.values()} == {"loaded"}


@pytest.mark.parametrize("module", ["decoding.sampling", "llamacpp_backend.engine"])
def test_what_a_wheel_requires_suffices_to_import_it(python, tmp_path, module) -> None:
    """Also the library's: what only some engines need of it is an extra."""
    run(python, "-c", f"import {module}", cwd=tmp_path)


def test_the_default_configuration_is_valid(python, tmp_path) -> None:
    run(python, "-m", "core", "check", cwd=tmp_path)


def test_the_five_aliases_go_to_the_demo_model_at_last(python, tmp_path) -> None:
    rows = json.loads(run(python, "-m", "core", "aliases", "--json", cwd=tmp_path))["aliases"]
    targets = {row["name"]: row["targets"] for row in rows}

    for alias in ("gpt-3.5-turbo", "gpt-4", "gpt-4-turbo", "claude-3-opus", "claude-3-sonnet"):
        assert targets[alias][-1] == "smollm2-135m"


def test_it_serves(served) -> None:
    body = json.dumps({"model": "parrot", "messages": [{"role": "user", "content": "Hello!"}]}).encode()
    with urllib.request.urlopen(f"{served}/v1/chat/completions", body) as response:
        answer = json.load(response)

    assert answer["choices"][0]["message"]["content"] == "Hello!"
