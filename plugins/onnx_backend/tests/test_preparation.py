"""When something is exported, and what becomes of it; the export itself only pretends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_backend import preparation
from onnx_backend.plugin import gateway_models
from onnx_backend.preparation import OnnxPreparation
from onnx_backend.receipt import read_agreement
from onnx_backend.settings import OnnxSettings

from core.api import PreparationContext, PreparationError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    return file


@pytest.fixture
def exports(monkeypatch):
    """What was exported; each agrees with its model in the share that `exports.share` says."""

    class Exports(list):
        share = 0.9

    made = Exports()

    def run(environment, export, out, log, report):
        assert environment == Path("environment")
        made.append(export)
        report("exporting", 0.5)
        (out / "model.onnx").touch()
        told = {"share": made.share, "tokens": 384, "quantization": export.quantization}
        (out / "agreement.json").write_text(json.dumps(told))

    monkeypatch.setattr(preparation, "get_environment", lambda root, report: Path("environment"))
    monkeypatch.setattr(preparation, "run_export", run)
    return made


def prepare(tmp_path: Path, **settings) -> OnnxPreparation:
    made = OnnxSettings(**{"export_for": "cpu"} | settings)
    return OnnxPreparation(PreparationContext(model=gateway_models()[0], settings=made, cache_dir=tmp_path / "cache"))


def test_onnx_is_loaded_as_it_is(tmp_path, exports):
    """Nothing is made of it."""
    graph = tmp_path / "model.onnx"
    graph.touch()
    made = prepare(tmp_path)
    assert made.find(graph) == made.make(graph, print) == graph
    assert made.find(tmp_path) == made.make(tmp_path, print) == tmp_path
    assert not exports
    assert read_agreement(tmp_path) is None
    assert read_agreement(graph) is None


def test_once(tmp_path, weights, exports):
    """Found from then on, by every deployment with the same settings; others have their own."""
    made = prepare(tmp_path)
    assert made.find(weights) is None
    stages = []
    folder = made.make(weights, lambda *told: stages.append(told))
    assert stages == [("exporting", 0.5)]
    assert made.find(weights) == made.make(weights, print) == prepare(tmp_path, slots=2).find(weights) == folder
    assert folder.parent == tmp_path / "cache"
    assert read_agreement(folder)["tokens"] == 384
    assert prepare(tmp_path, quantization="int4").find(weights) is None
    assert len(exports) == 1


def test_too_little_agreement_is_not_published(tmp_path, weights, exports):
    """The refusal has the figure and the remedy, and every attempt exports again."""
    exports.share = 0.43
    made = prepare(tmp_path, quantization="int4")
    for _ in range(2):
        with pytest.raises(PreparationError, match=r"\(int4\) agrees .* 43\.0%.* 0\.5.*\"int8\"") as caught:
            made.make(weights, print)
        assert "min_agreement" in str(caught.value)
        assert made.find(weights) is None
    assert len(exports) == 2
    assert not [found for found in (tmp_path / "cache").iterdir() if found.suffix != ".lock"]
    lenient = prepare(tmp_path, quantization="int4", min_agreement=0.4)
    assert lenient.make(weights, print)


def test_a_higher_threshold_refuses_what_is_there(tmp_path, weights, exports):
    """It is not part of the name: what was exported stays, and is found again with a lower one."""
    folder = prepare(tmp_path).make(weights, print)
    strict = prepare(tmp_path, min_agreement=0.95)
    with pytest.raises(PreparationError, match=r'90\.0%.*0\.95.*"none"'):
        strict.find(weights)
    with pytest.raises(PreparationError, match="min_agreement"):
        strict.make(weights, print)
    assert prepare(tmp_path).find(weights) == folder
    assert len(exports) == 1


@pytest.mark.parametrize("receipt", ["", "[]", '{"tokens": 1}', '{"share": null}'])
def test_a_damaged_receipt_is_none(tmp_path, weights, exports, receipt):
    """The folder is made again."""
    folder = prepare(tmp_path).make(weights, print)
    (folder / "agreement.json").write_text(receipt)
    assert prepare(tmp_path).find(weights) is None
    assert prepare(tmp_path).make(weights, print) == folder
    assert len(exports) == 2


def test_light() -> None:
    """The gateway's own processes import it: no runtime comes along."""
    heavy = ("torch", "transformers", "numpy", "onnxruntime", "tokenizers")
    code = f"import sys, onnx_backend.preparation; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ('{"share": 1, "quantization": null, "block_size": {"of": 1}}', {"share": 1}),
        ('{"share": NaN}', None),
        ('{"share": 2}', None),
        ('{"share": [1]}', None),
        ("[1]", None),
    ],
)
def test_what_a_repository_says_of_itself(tmp_path, written, known):
    """A file of that name in fetched weights tells an operator nothing that cannot be shown."""
    (tmp_path / "agreement.json").write_text(written)
    assert read_agreement(tmp_path) == known
