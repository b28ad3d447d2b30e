"""The exporting process: what it tells, what it sees, and that it does not stay behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx_backend
import psutil
import pytest
from onnx_backend import export_process
from onnx_backend.export_process import run_export
from onnx_backend.plan import Export
from onnx_backend.sources import Source

from core.api import PreparationError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run an exporting process whose `main` is this code, in the environment of this test."""

    def run(main: str) -> list[tuple[str, float | None]]:
        package = tmp_path / "onnx_backend"
        (package / "exporting").mkdir(parents=True)
        for name in ("__init__.py", "exporting/__init__.py"):
            (package / name).touch()
        real = Path(onnx_backend.__file__).parent
        (package / "exporting" / "progress.py").write_text((real / "exporting" / "progress.py").read_text())
        imports = "import os, sys\nfrom onnx_backend.exporting.progress import Progress\n"
        (package / "exporting" / "main.py").write_text(f"{imports}def main(arguments):\n    {main}\n")
        monkeypatch.setattr(export_process.onnx_backend, "__file__", str(package / "__init__.py"))
        source = Source(path=tmp_path / "m.gguf", form="gguf", kind="decoder")
        export = Export(source=source, quantization="int8", block_size=64, target="cpu")
        told: list[tuple[str, float | None]] = []
        log = tmp_path / "m.log"
        run_export(Path(sys.prefix), export, tmp_path, log, lambda *stage: told.append(stage))
        return told

    return run


def test_stages_are_told_and_noise_is_logged(run, tmp_path):
    """Libraries print what they like, also to the file that stages come from."""
    main = "progress = Progress(); print('noise'); os.system('echo more'); progress.tell('exporting', 0.5)"
    assert run(main) == [("exporting", 0.5)]
    assert sorted((tmp_path / "m.log").read_text().split()) == ["more", "noise"]


def test_a_refusal_is_told(run):
    """In its own words, with the log's name."""
    with pytest.raises(PreparationError, match=r"m\.gguf cannot be exported: too old; see .*m\.log\.$"):
        run("Progress().refuse('too old')")


def test_an_end_is_told(run):
    """With the last thing that it said."""
    with pytest.raises(PreparationError, match=r"process ended: out of luck; see .*m\.log\.$"):
        run("sys.exit('out of luck')")


def test_it_sees_this_package_alone(run, tmp_path):
    """Nothing that lies beside it: its environment has releases of its own."""
    (tmp_path / "neighbour.py").touch()
    with pytest.raises(PreparationError, match="No module named 'neighbour'"):
        run("import neighbour")


def test_it_may_take_its_time_to_end(run):
    """Also after the last that it tells."""
    main = (
        "from onnx_backend.exporting.progress import end_with_parent; import time\n"
        "    end_with_parent(); Progress().tell('checking', 1.0); os.close(1); time.sleep(0.5)"
    )
    assert run(main) == [("checking", 1.0)]


def test_arguments(run, tmp_path):
    """All that the export depends on."""
    ((told, _),) = run("Progress().tell(' '.join(arguments))")
    for expected in (f"--source={tmp_path}/m.gguf", "--form=gguf", "--kind=decoder", "--block-size=64", "--target=cpu"):
        assert expected in told.split()


@pytest.mark.skipif(os.name == "nt", reason="a process group is POSIX")
def test_it_ends_with_its_parent() -> None:
    """And so does what it has started; a process that is killed cannot tell it."""
    code = (
        "import subprocess, sys, time\n"
        "from onnx_backend.exporting.progress import end_with_parent\n"
        "end_with_parent()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.stdin.close()
        assert process.wait(10) != 0
    child.wait(10)
