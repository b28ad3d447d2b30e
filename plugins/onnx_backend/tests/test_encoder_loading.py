"""What reads whole texts: as what it is loaded, and on CoreML in sessions of fixed shapes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding.loaded import LoadedModel
from onnx_backend import loading, parts
from onnx_backend.device import DeviceChoice, Found
from onnx_backend.session import Opened, open_session
from onnx_backend.testing import describe, make_decoder
from onnx_backend.testing_encoder import TinyEncoder, make_encoder

from core.api import EngineLoadError

Load = Callable[..., LoadedModel]

CPU = DeviceChoice(device="cpu")


def bert(folder: Path, *, architecture: str = "BertModel", **config: Any) -> Path:
    """Put a tokenizer and a config.json beside a graph."""
    return describe(folder, **{"model_type": "bert", "architectures": [architecture], "num_labels": 1} | config)


@pytest.fixture
def encoder(tmp_path: Path) -> TinyEncoder:
    place = tmp_path / "tiny"
    made = make_encoder(place)
    bert(place)
    return made


@pytest.fixture
def cross_encoder(tmp_path: Path) -> TinyEncoder:
    place = tmp_path / "tiny"
    made = make_encoder(place, outputs=("logits",))
    bert(place, architecture="BertForSequenceClassification")
    return made


class Session:
    """One of the CPU that takes longer, or computes something else."""

    def __init__(self, real: Any, slower_s: float, makes: Callable[[Any], Any]) -> None:
        self._real = real
        self._slower_s = slower_s
        self._makes = makes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self, *asked: Any) -> Any:
        time.sleep(self._slower_s)
        return [self._makes(found) for found in self._real.run(*asked)]


class CoreML:
    """A device of that name: it takes fixed shapes only, and computes on the CPU.

    Attributes:
        asked: devices that sessions were asked for on, in that order.
        fixed: dimensions of its own sessions, in the order in which they were opened.
        problem: why it opens none, or None.
        slower_s: how much longer its runs take; if negative, those of the CPU do.
        makes: of the right results.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fixed: list[dict[str, int]] = []
        self.problem: str | None = None
        self.slower_s = -0.002
        self.makes: Callable[[Any], Any] = lambda found: found

    def open_session(
        self, file: Path, choice: DeviceChoice, settings: Any, threads: int, *, fixed: Mapping[str, int], **more: Any
    ) -> Opened:
        self.asked.append(choice.device)
        opened = open_session(file, CPU, settings, threads, fixed=fixed, **more)
        if choice.kind == "cpu":
            return replace(opened, session=Session(opened.session, max(0.0, -self.slower_s), lambda found: found))
        problem = self.problem
        if any(not isinstance(size, int) for given in opened.session.get_inputs() for size in given.shape):
            problem = "CoreML takes fixed shapes only"
        if problem and settings.device == "auto":
            return replace(opened, choice=replace(CPU, reason=f"not coreml: {problem}"))
        if problem:
            raise EngineLoadError(f"{problem}.", permanent=True)
        self.fixed.append(dict(fixed))
        session: Any = Session(opened.session, max(0.0, self.slower_s), self.makes)
        return replace(opened, session=session, choice=choice, nodes={choice.provider: 12})


@pytest.fixture
def coreml(monkeypatch: pytest.MonkeyPatch) -> CoreML:
    made = CoreML()
    found = Found(build="onnxruntime 9.9", usable=frozenset({"coreml"}))
    monkeypatch.setattr(loading, "find_devices", lambda _: found)
    monkeypatch.setattr(parts, "open_session", made.open_session)
    return made


def embed(loaded: LoadedModel, *inputs: list[int]) -> Any:
    assert loaded.embedder is not None
    return loaded.embedder.embed(inputs)


# --- on the CPU


def test_an_encoder(encoder: TinyEncoder, load: Load) -> None:
    """It makes vectors and nothing else, keeps no cache, and needs no trial."""
    loaded = load(encoder.file.parent, tasks=("embeddings",), slots=5)
    info, details = loaded.info, loaded.info.details
    assert (loaded.runner, loaded.scorer) == (None, None)
    np.testing.assert_allclose(embed(loaded, [5, 17, 9])[0], encoder.vectors([5, 17, 9]).mean(0), rtol=1e-3, atol=1e-4)
    assert (info.device, info.device_reason, info.slots, info.context_tokens) == ("cpu", "", 5, 32)
    assert (details["pooling"], details["trial"], details["kv_bytes"]) == ("mean", "", 0)
    assert details["nodes"] == f"CPUExecutionProvider {str(details['nodes']).split()[1]}"
    assert info.memory_bytes == details["weights_bytes"] == encoder.file.stat().st_size


@pytest.mark.parametrize("way", ["last", "cls"])
def test_pooling_as_set(encoder: TinyEncoder, load: Load, way: str) -> None:
    """The operator's word goes before the files'."""
    loaded = load(encoder.file.parent, tasks=("embeddings",), pooling=way)
    assert loaded.info.details["pooling"] == way
    vectors = encoder.vectors([5, 17, 9])
    np.testing.assert_allclose(embed(loaded, [5, 17, 9])[0], vectors[-1 if way == "last" else 0], rtol=1e-3, atol=1e-4)


def test_pooled_in_the_graph(tmp_path: Path, load: Load) -> None:
    """And said to be so."""
    make_encoder(tmp_path, outputs=("sentence_embedding",))
    loaded = load(bert(tmp_path), tasks=("embeddings",))
    assert loaded.info.details["pooling"] == "in the graph"


def test_a_cross_encoder(cross_encoder: TinyEncoder, load: Load) -> None:
    """It scores pairs and nothing else."""
    loaded = load(cross_encoder.file.parent, tasks=("rerank",))
    assert (loaded.runner, loaded.embedder) == (None, None)
    assert loaded.scorer is not None
    assert 0 < loaded.scorer.score("hello", ["hell"])[0] < 1


@pytest.mark.parametrize(
    ("made", "tokens"),
    [
        ({"context_tokens": 20}, 20),
        ({"context_tokens": 500}, 64),
        ({"model_max_length": 50}, 50),
        ({"max_position_embeddings": 34, "model_type": "roberta"}, 32),
        ({"max_seq_length": 40}, 40),
        ({"fixed": 48}, 48),
    ],
)
def test_context(tmp_path: Path, load: Load, made: dict[str, Any], tokens: int) -> None:
    """The least of what is asked for, of the positions there are, and of what tokenizer, recipe and graph say."""
    context_tokens, max_seq_length = made.pop("context_tokens", 500), made.pop("max_seq_length", None)
    make_encoder(tmp_path, shape=("texts", made.pop("fixed", "tokens")))
    bert(tmp_path, **made)
    if max_seq_length:
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_seq_length}))
    assert load(tmp_path, tasks=("embeddings",), context_tokens=context_tokens).info.context_tokens == tokens


@pytest.mark.parametrize(
    ("kind", "tasks", "told"),
    [
        ("encoder", ("chat", "completion", "embeddings"), "chat, completion, but"),
        ("encoder", ("rerank",), "rerank, but it is of the kind encoder"),
        ("cross_encoder", ("embeddings", "rerank"), "embeddings, but it"),
    ],
)
def test_tasks_of_another_kind(
    request: pytest.FixtureRequest, load: Load, kind: str, tasks: tuple[str, ...], told: str
) -> None:
    """Those that it cannot do are named."""
    folder = request.getfixturevalue(kind).file.parent
    with pytest.raises(EngineLoadError, match=f"tiny is declared for {told}") as caught:
        load(folder, tasks=tasks)
    assert caught.value.permanent


# --- on CoreML


def test_named(encoder: TinyEncoder, load: Load, coreml: CoreML) -> None:
    """No trial, and a session for each bucket that is needed."""
    coreml.slower_s = 0.01
    loaded = load(encoder.file.parent, tasks=("embeddings",), device="coreml", context_tokens=40)
    info, details = loaded.info, loaded.info.details
    assert (info.device_requested, info.device, info.device_reason) == ("coreml", "coreml", "")
    assert (details["provider"], details["nodes"]) == ("CoreMLExecutionProvider", "CoreMLExecutionProvider 12")
    assert details["trial"] == ""
    coreml.fixed.clear()
    inputs = [[5, 17, 9], list(range(40, 60)), list(range(33))]
    found = embed(loaded, *inputs)
    assert coreml.fixed == [{"texts": 1, "tokens": length} for length in (16, 32, 40)]
    for row, tokens in zip(found, inputs, strict=True):
        np.testing.assert_allclose(row, encoder.vectors(tokens).mean(0), rtol=1e-3, atol=1e-4)


def test_named_but_of_no_use(encoder: TinyEncoder, load: Load, coreml: CoreML) -> None:
    """An error, never the CPU instead."""
    coreml.problem = "CoreML can compute no part of it"
    with pytest.raises(EngineLoadError, match="no part of it"):
        load(encoder.file.parent, tasks=("embeddings",), device="coreml")


def test_a_trial_finds_it_faster(encoder: TinyEncoder, load: Load, coreml: CoreML) -> None:
    """By auto; then it serves, and the figures are told."""
    loaded = load(encoder.file.parent, tasks=("embeddings",), device="auto")
    info, details = loaded.info, loaded.info.details
    assert (info.device_requested, info.device, info.device_reason) == ("auto", "coreml", "")
    assert details["nodes"] == "CoreMLExecutionProvider 12"
    assert str(details["trial"]).startswith("coreml ")
    coreml.fixed.clear()
    embed(loaded, [5, 17, 9])
    assert coreml.fixed == [{"texts": 1, "tokens": 16}]


def test_a_trial_finds_it_slower(encoder: TinyEncoder, load: Load, coreml: CoreML) -> None:
    """Then the CPU serves, and the reason is told."""
    coreml.slower_s = 0.002
    loaded = load(encoder.file.parent, tasks=("embeddings",), device="auto")
    info, details = loaded.info, loaded.info.details
    assert (info.device_requested, info.device) == ("auto", "cpu")
    assert info.device_reason == f"not coreml, by a trial at load: {details['trial']}"
    assert " ms; cpu " in info.device_reason
    assert (details["provider_requested"], details["provider"]) == ("CoreMLExecutionProvider", "CPUExecutionProvider")
    coreml.fixed.clear()
    embed(loaded, [5, 17, 9])
    assert coreml.fixed == []


def test_a_trial_of_what_cannot_be_opened(encoder: TinyEncoder, load: Load, coreml: CoreML) -> None:
    """Its reason is told: the CPU is not tried in its place, nor found as fast as itself."""
    coreml.problem = "CoreML can compute no part of it"
    info = load(encoder.file.parent, tasks=("embeddings",), device="auto").info
    assert (info.device, coreml.fixed) == ("cpu", [])
    assert info.device_reason == "not coreml, by a trial at load: CoreML can compute no part of it"


@pytest.mark.parametrize("makes", [lambda found: -found, lambda found: found * np.float32(np.nan)])
@pytest.mark.parametrize("kind", ["encoder", "cross_encoder"])
def test_a_trial_finds_it_wrong(
    request: pytest.FixtureRequest, load: Load, coreml: CoreML, kind: str, makes: Callable[[Any], Any]
) -> None:
    """However fast, and for a single number too."""
    coreml.makes = makes
    folder = request.getfixturevalue(kind).file.parent
    info = load(folder, tasks=("embeddings",) if kind == "encoder" else ("rerank",), device="auto").info
    assert info.device == "cpu"
    assert "outputs are not the CPU's" in info.device_reason


@pytest.mark.parametrize("device", ["auto", "coreml"])
def test_a_cross_encoder_on_coreml(cross_encoder: TinyEncoder, load: Load, coreml: CoreML, device: str) -> None:
    """The pairs of a trial fit into its context."""
    loaded = load(cross_encoder.file.parent, tasks=("rerank",), device=device, context_tokens=24)
    assert (loaded.info.device, loaded.info.device_reason) == ("coreml", "")
    plain = load(cross_encoder.file.parent, tasks=("rerank",), context_tokens=24).scorer
    assert loaded.scorer is not None
    assert plain is not None
    coreml.fixed.clear()
    documents = ["hell", "held low, the owl"]
    assert loaded.scorer.score("hello", documents).tolist() == plain.score("hello", documents).tolist()
    assert coreml.fixed == [{"texts": 1, "tokens": length} for length in (16, 24)]


def test_a_decoder_is_opened_once(tmp_path: Path, load: Load, coreml: CoreML) -> None:
    """Which can be large: only an encoder is looked at on the CPU before."""
    make_decoder(tmp_path)
    describe(tmp_path)
    with pytest.raises(EngineLoadError, match="fixed shapes only"):
        load(tmp_path, device="coreml")
    assert coreml.asked == ["coreml"]


def test_a_decoder_whose_config_is_of_an_encoder(tmp_path: Path, load: Load, coreml: CoreML) -> None:
    """It runs where it is said to, or says why not; the graph that was opened to look at it does not stay."""
    make_decoder(tmp_path)
    bert(tmp_path)
    with pytest.raises(EngineLoadError, match="fixed shapes only"):
        load(tmp_path, device="coreml")
    info = load(tmp_path, device="auto").info
    assert (info.device, info.device_reason) == ("cpu", "not coreml: CoreML takes fixed shapes only")
