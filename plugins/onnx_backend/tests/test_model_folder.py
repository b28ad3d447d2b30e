"""What the files of a folder say of its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx_backend.model_folder import ModelFolder
from onnx_backend.testing import make_decoder

from core.api import EngineLoadError


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "bert", "max_position_embeddings": 34}, 34),
        ({"model_type": "roberta", "max_position_embeddings": 34, "pad_token_id": 1}, 32),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 34}, 32),
        ({"model_type": "mpnet", "max_position_embeddings": 34, "pad_token_id": 0}, 33),
        ({"model_type": "gpt2", "n_positions": 20}, 20),
        ({"model_type": "t5"}, None),
        ({"model_type": "t5", "max_position_embeddings": True}, None),
    ],
)
def test_most_tokens(tmp_path: Path, config: dict[str, Any], tokens: int | None) -> None:
    """As many as there are positions; some count theirs from behind that of the padding."""
    make_decoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ModelFolder(tmp_path, None).most_tokens == tokens


def test_code_of_a_model_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked whether it may, either."""
    make_decoder(tmp_path)
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit")
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    with pytest.raises(EngineLoadError, match="custom code") as caught:
        _ = ModelFolder(tmp_path, None).config
    assert caught.value.permanent


@pytest.mark.parametrize("data", ["model.onnx_data", "model.onnx.data", "model.data"])
def test_weights_bytes(tmp_path: Path, data: str) -> None:
    """The graph and its external data, not other graphs nor theirs."""
    made = onnx.load(make_decoder(tmp_path))
    graph = tmp_path / "model.onnx"
    graph.unlink()
    onnx.save(made, graph, save_as_external_data=True, location=data, size_threshold=0)
    (tmp_path / f"{data}_1").write_bytes(b"x" * 1000)
    for other in ("model_q4.onnx", "model_q4.onnx_data", "other.data", "tokenizer.json"):
        (tmp_path / other).write_bytes(b"x" * 100)
    expected = graph.stat().st_size + (tmp_path / data).stat().st_size + 1000
    assert ModelFolder(tmp_path, "model.onnx").weights_bytes == expected
    assert (tmp_path / data).stat().st_size > 100_000
