"""Which build of ONNX Runtime is used, and what is said when none can be."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from onnx_backend import runtime
from onnx_backend.runtime import build_name, choose_build, load_runtime, plain_words

from core.api import EngineLoadError


@pytest.fixture(autouse=True)
def forget() -> None:
    """What a test pretends is installed is asked for anew."""
    build_name.cache_clear()
    load_runtime.cache_clear()


@pytest.mark.parametrize("build", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"])
def test_one(build: str) -> None:
    """Any single build will do, though several of its folders are listed."""
    assert choose_build([build, build]) == build


def test_none() -> None:
    """The remedy is a command."""
    with pytest.raises(EngineLoadError, match=r'not installed: pip install "ai-gateway-onnx\[cpu\]"') as caught:
        choose_build([])
    assert caught.value.permanent


def test_two() -> None:
    """Both must go before one comes back."""
    with pytest.raises(EngineLoadError, match="pip uninstall -y onnxruntime onnxruntime-gpu, then pip") as caught:
        choose_build(["onnxruntime-gpu", "onnxruntime"])
    assert caught.value.permanent


def test_two_are_told_before_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """What half of each build would do at import is not found out."""
    both = {"onnxruntime": ["onnxruntime", "onnxruntime-gpu"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineLoadError, match="both installed"):
        load_runtime()


def test_left_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one of two builds was removed, the other is listed but has lost its files."""
    monkeypatch.setattr(runtime, "build_name", lambda: "onnxruntime-gpu 1.31.1")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineLoadError, match=r"--force-reinstall --no-deps onnxruntime-gpu\.") as caught:
        load_runtime()
    assert caught.value.permanent


def test_the_real_one() -> None:
    """The module of the build that is named."""
    assert build_name().endswith(load_runtime().__version__)


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_nothing_is_reported_home(given: str | None, expected: str) -> None:
    """Off before the import, unless the operator wants it."""
    program = (
        "import os, sys\n"
        "os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        f"given = {given!r}\n"
        "if given: os.environ['ORT_DISABLE_TELEMETRY'] = given\n"
        "from onnx_backend.runtime import load_runtime\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "seen = []\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime': seen.append(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "load_runtime()\n"
        "print(*seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.split() == [expected]


def test_plain_words() -> None:
    """What operators read has no paths of somebody's sources in it."""
    told = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from /m/model.onnx failed:/onnxruntime_src/core/graph/model.cc:256 "
        "onnxruntime::Model::Model(onnx::ModelProto&&, const ModelOptions&) Unsupported model IR version: 99.\n"
    )
    assert plain_words(RuntimeError(told)) == "Unsupported model IR version: 99"
