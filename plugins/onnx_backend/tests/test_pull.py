"""The whole way, as a user goes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx_backend.receipt import read_agreement


@pytest.mark.timeout(900)
def test_pull_makes_the_demo_model_once(tmp_path: Path) -> None:
    """The first makes an environment and the graph, unless an earlier run did; the second finds it at once."""

    def pull() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "core", "pull", "smollm2-135m@onnx"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    first = pull()
    name, _, path = first.stdout.strip().partition(": ")
    folder = Path(path)
    assert name == "smollm2-135m@onnx"
    agreement = read_agreement(folder)
    assert agreement is not None
    assert agreement["quantization"] == "int8"
    assert agreement["share"] >= 0.85
    assert agreement["tokens"] > 200
    for file in ("model.onnx", "genai_config.json", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert (folder / file).is_file()
    assert not list(folder.glob(".*")), "what was dequantised for the export is gone"
    second = pull()
    assert (second.stdout, second.stderr) == (first.stdout, "")
