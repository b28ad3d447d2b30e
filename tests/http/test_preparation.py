"""A backend that prepares weights, from the first 503 to the first answer, as an operator meets it."""

from __future__ import annotations

import subprocess
import sys

from core.testing import eventually, start_gateway

PLUGIN = """
from core.api import BackendSpec, ModelSpec, hookimpl
from echo_backend.plugin import EchoSettings

@hookimpl
def gateway_backends():
    engine, preparation = "echo_backend.engine:EchoEngine", "loud_preparation:Preparation"
    return (BackendSpec(name="loud", engine=engine, settings=EchoSettings, preparation=preparation),)

@hookimpl
def gateway_models():
    return (ModelSpec(name="shout", backend="loud", source="{folder}/fetched"),)
"""
PREPARATION = """

import os

with open("{folder}/imported", "a") as file:
    print(os.getpid(), file=file)

class Preparation:
    def __init__(self, context):
        self.made = context.cache_dir / "made"

    def find(self, weights):
        return self.made if self.made.exists() else None

    def make(self, weights, report):
        report("raising the voice", None)
        self.made.parent.mkdir(parents=True)
        self.made.write_bytes(weights.read_bytes().upper())
        return self.made
"""


def test_a_model_answers_once_its_weights_are_pulled(tmp_path, monkeypatch):
    """Told to the client, and done by the command that it was told; HTTP workers import nothing of it."""
    info = tmp_path / "loud-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gateway.plugins]\nloud = loud_plugin\n")
    (tmp_path / "loud_plugin.py").write_text(PLUGIN.format(folder=tmp_path))
    (tmp_path / "loud_preparation.py").write_text(PREPARATION.format(folder=tmp_path))
    (tmp_path / "fetched").write_bytes(b"w")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("GATEWAY_WEIGHTS__CACHE_DIR", str(tmp_path / "cache"))
    allow = '[plugins]\nallow = ["loud"]\n'
    (tmp_path / "gateway.toml").write_text(allow)

    with start_gateway(allow) as gateway:
        eventually(lambda: gateway.health()["deployments"]["shout@loud"]["reason"])
        refused = gateway.chat(model="shout")
        assert refused.status_code == 503
        command = "python -m core pull shout@loud"
        told = f"weights are fetched, but not yet prepared for loud; prepare them with: {command}"
        assert told in refused.json()["error"]["message"]

        done = subprocess.run(
            [sys.executable, *command.split()[1:]], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        made = tmp_path / "cache" / "prepared" / "loud" / "made"
        assert done.stdout == f"shout@loud: {made}\n"
        assert made.read_bytes() == b"W"

        answer = eventually(lambda: (reply := gateway.chat(model="shout")).is_success and reply)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello there"

        imported = {int(pid) for pid in (tmp_path / "imported").read_text().split()}
        assert gateway.one("core.supervisor").pid in imported
        assert len(imported) == 2  # and the command line
