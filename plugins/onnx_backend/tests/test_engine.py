"""The engine: whole answers over tiny graphs, from load to usage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from decoding.testing import byte_level
from onnx_backend.engine import OnnxEngine
from onnx_backend.testing import describe, make_decoder
from onnx_backend.testing_encoder import SIZE, make_encoder
from onnx_backend.testing_growing import make_growing
from tokenizers.processors import TemplateProcessing

from core.api import (
    CompletionRequest,
    Embedding,
    EmbeddingsRequest,
    EngineContext,
    Finished,
    RerankRequest,
    Sampling,
    Score,
    TextDelta,
    Usage,
)

START = ("<|im_start|>", byte_level().convert_tokens_to_ids("<|im_start|>"))


@pytest.mark.parametrize("make", [make_decoder, make_growing])
async def test_a_whole_answer(
    tmp_path: Path, context: Callable[..., EngineContext], make: Callable[[Path], Path]
) -> None:
    """From load to usage: the greedy tokens are those of plain calls of the graph."""
    make(tmp_path)
    engine = OnnxEngine(context(describe(tmp_path), slots=2))
    try:
        info = await engine.load()
        assert info.slots == 2
        prompt = (5, 17, 9, 3)
        request = CompletionRequest(id="r", prompts=(prompt,), sampling=Sampling(max_tokens=6, temperature=0.0), n=2)
        events = [event async for event in engine.stream(request)]
        assert engine.load_now().running == 0
    finally:
        await engine.close()
    expected = greedy(tmp_path, list(prompt), 6)
    for choice in (0, 1):
        said = [event for event in events if isinstance(event, TextDelta) and event.choice == choice]
        assert "".join(event.text for event in said) == byte_level().decode(expected)
        assert sum(event.tokens for event in said) == 6
    finished = {event.choice: event.reason for event in events if isinstance(event, Finished)}
    assert finished == {0: "length", 1: "length"}
    usage = events[-1]
    assert isinstance(usage, Usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (4, 12)


def greedy(folder: Path, tokens: list[int], count: int) -> list[int]:
    """The likeliest tokens, each by one call over the whole text."""
    # Read anew, so that nothing of what is tested computes it.
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {given.name: given for given in session.get_inputs()}
    found: list[int] = []
    for _ in range(count):
        text = [*tokens, *found]
        feed = {"input_ids": np.array([text]), "attention_mask": np.ones((1, len(text)), np.int64)}
        feed |= {"position_ids": np.arange(len(text))[None]} if "position_ids" in inputs else {}
        for name, given in inputs.items():
            if name.startswith("past"):
                feed[name] = np.empty((1, given.shape[1], 0, given.shape[3]), np.float32)
        found.append(int(session.run(["logits"], feed)[0][0, -1].argmax()))
    return found


async def test_embeddings(tmp_path: Path, context: Callable[..., EngineContext]) -> None:
    """From load to usage: vectors of length 1, of texts as the tokenizer frames them."""
    encoder = make_encoder(tmp_path)
    describe(tmp_path, model_type="bert", architectures=["BertModel"])
    framed = byte_level()
    framed.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[START])
    framed.save_pretrained(tmp_path)
    engine = OnnxEngine(context(tmp_path, tasks=("embeddings",)))
    try:
        await engine.load()
        request = EmbeddingsRequest(id="r", inputs=("hello", (5, 17, 9)))
        *found, usage = [event async for event in engine.stream(request)]
    finally:
        await engine.close()
    texts = [[START[1], *byte_level().encode("hello", add_special_tokens=False)], [5, 17, 9]]
    vectors: dict[int, Any] = {}
    for event in found:
        assert isinstance(event, Embedding)
        vectors[event.index] = np.frombuffer(event.vector, "<f4")
    assert sorted(vectors) == [0, 1]
    for index, tokens in enumerate(texts):
        expected = encoder.vectors(tokens).mean(0)
        assert vectors[index].shape == (SIZE,)
        np.testing.assert_allclose(vectors[index], expected / np.linalg.norm(expected), rtol=1e-3, atol=1e-4)
    assert usage == Usage(prompt_tokens=len(texts[0]) + 3)


async def test_a_ranking(tmp_path: Path, context: Callable[..., EngineContext]) -> None:
    """From load to usage: a score for every document."""
    cross_encoder = make_encoder(tmp_path, outputs=("logits",))
    describe(tmp_path, model_type="bert", architectures=["BertForSequenceClassification"], num_labels=1)
    engine = OnnxEngine(context(tmp_path, tasks=("rerank",)))
    documents = ("hell", "held low, the owl", "world")
    try:
        await engine.load()
        *found, usage = [
            event async for event in engine.stream(RerankRequest(id="r", query="hello", documents=documents))
        ]
    finally:
        await engine.close()
    query, *others = ([*byte_level().encode(text)] for text in ("hello", *documents))
    scores: dict[int, float] = {}
    for event in found:
        assert isinstance(event, Score)
        scores[event.index] = event.score
    assert len(found) == len(scores) == 3
    for index, tokens in enumerate(others):
        types = [0] * len(query) + [1] * len(tokens)
        logit = (cross_encoder.vectors(query + tokens, types)[0] @ cross_encoder.relevance).item()
        assert scores[index] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
    assert usage == Usage(prompt_tokens=sum(len(query) + len(tokens) for tokens in others))
