"""A graph that reads whole texts -> what makes vectors or scores of them, on CoreML in sessions of fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from decoding.recipe import read_recipe
from decoding.runner import Floats
from decoding.tokens import Vocabulary

from onnx_backend.buckets import OpenFixed
from onnx_backend.encoder import CrossEncoderRunner, EncoderRunner
from onnx_backend.encoder_graph import EncoderGraph, read_encoder
from onnx_backend.parts import UNBOUNDED, Parts, Wanted
from onnx_backend.session import Opened
from onnx_backend.trial import Compute, Feed, try_out

__all__ = ["load_encoder"]

_TRIED_WORDS = (16, 96)
_Reader = EncoderRunner | CrossEncoderRunner


def load_encoder(wanted: Wanted, opened: Opened, kind: Literal["encoder", "cross_encoder"]) -> Parts:
    """Return what serves an encoder or a cross-encoder.

    Args:
        wanted: what is loaded; if CoreML is its device by ``auto``, a trial decides between it and the CPU.
        opened: the graph with the shapes that it leaves open: on the CPU if CoreML is wanted.
        kind: what it is.

    Raises:
        EngineLoadError: it cannot be served; trying again cannot help.
    """
    graph = read_encoder(opened.session, wanted.folder.graph, kind)
    tokenizer = wanted.folder.tokenizer()
    vocabulary = Vocabulary(tokenizer, ())  # from here on the tokenizer neither pads nor truncates
    recipe = read_recipe(wanted.folder.path, wanted.settings.pooling)
    limits = (wanted.spec.context_tokens, wanted.folder.most_tokens, tokenizer.model_max_length, recipe.max_tokens)
    context_tokens = min(limit or UNBOUNDED for limit in limits)
    padding: int = tokenizer.pad_token_id or 0

    def make(open_fixed: OpenFixed | None) -> _Reader:
        if kind == "encoder":
            return EncoderRunner(
                graph, context_tokens=context_tokens, recipe=recipe, padding=padding, open_fixed=open_fixed
            )
        return CrossEncoderRunner(
            graph, tokenizer.backend_tokenizer, context_tokens=context_tokens, padding=padding, open_fixed=open_fixed
        )

    served, figures = make(None), ""
    if wanted.choice.kind == "coreml":
        opened, served, figures = _on_coreml(wanted, opened, graph, vocabulary, make)
    return Parts(
        opened=opened,
        vocabulary=vocabulary,
        embedder=served if isinstance(served, EncoderRunner) else None,
        scorer=served if isinstance(served, CrossEncoderRunner) else None,
        context_tokens=served.context_tokens,
        slots=wanted.settings.slots,
        details={"pooling": "in the graph" if graph.pooled else recipe.way, "trial": figures},
    )


def _on_coreml(
    wanted: Wanted,
    opened: Opened,
    graph: EncoderGraph,
    vocabulary: Vocabulary,
    make: Callable[[OpenFixed | None], _Reader],
) -> tuple[Opened, _Reader, str]:
    """What runs where, and what a trial found; no trial is needed where the operator has decided."""
    named = replace(wanted, settings=wanted.settings.model_copy(update={"device": "coreml"}))

    def accelerated() -> _Reader:
        return make(lambda sizes: named.open(fixed=sizes).session)

    if wanted.settings.device == "coreml":
        return named.open(fixed=graph.dimensions(_TRIED_WORDS[0])), accelerated(), ""
    trial = try_out(
        "coreml",
        lambda: _compute(accelerated(), vocabulary),
        lambda: _compute(make(None), vocabulary),
        [{"words": np.array(words)} for words in _TRIED_WORDS],
    )
    if trial.accelerated:
        return named.open(fixed=graph.dimensions(_TRIED_WORDS[0])), accelerated(), trial.figures
    slower = replace(opened.choice, reason=f"not coreml, by a trial at load: {trial.figures}")
    return replace(opened, choice=slower), make(None), trial.figures


def _compute(served: _Reader, vocabulary: Vocabulary) -> Compute:
    def compute(feed: Feed) -> Floats:
        words = ["word"] * int(feed["words"])
        text = " ".join(words)
        if isinstance(served, CrossEncoderRunner):
            while served.count(text, text) > served.context_tokens and len(words) > 1:
                words = words[: len(words) // 2]
                text = " ".join(words)
            score = served.score(text, [text])
            return np.stack([score, 1 - score])  # a number alone has no angle to another
        return served.embed([vocabulary.encode(text, framed=True)[: served.context_tokens]])

    return compute
