"""Models that read a whole text at once: `decoding.runner.Embedder` and `decoding.runner.Scorer` over encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from decoding.recipe import Recipe
from decoding.runner import Floats

from onnx_backend.buckets import Buckets, OpenFixed, bucket_for
from onnx_backend.encoder_graph import EncoderGraph
from onnx_backend.pooling import apply_dense, pool, sigmoid

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

__all__ = ["CrossEncoderRunner", "EncoderRunner"]


class EncoderRunner:
    """Turns tokens into vectors; see `decoding.runner.Embedder`.

    Args:
        graph: of the model.
        context_tokens: most tokens of one input.
        recipe: how their vectors become one; nothing is done where the graph has done it.
        padding: the token that fills up shorter inputs of a batch.
        open_fixed: opens the graph with fixed dimensions, for a device that needs them: inputs are then computed one
            by one, each padded to the next bucket.
    """

    def __init__(
        self,
        graph: EncoderGraph,
        *,
        context_tokens: int,
        recipe: Recipe,
        padding: int = 0,
        open_fixed: OpenFixed | None = None,
    ) -> None:
        self._reader = _Reader(graph, context_tokens, padding, open_fixed)
        self._pooled = graph.pooled
        self._recipe = recipe
        self.context_tokens = self._reader.context_tokens

    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `decoding.runner.Embedder.embed`."""
        texts = [_Text(tokens, [0] * len(tokens)) for tokens in inputs]
        return np.stack([self._vector(found) for found in self._reader.read(texts)])

    def _vector(self, found: Floats) -> Floats:
        if self._pooled:
            return found
        (vector,) = pool(found[None], [len(found)], self._recipe.way)
        return apply_dense(vector, self._recipe.dense)


class CrossEncoderRunner:
    """Reads a query and a document together; see `decoding.runner.Scorer`.

    Args:
        graph: of a classifier of one label.
        tokenizer: of the model; neither pads nor truncates, so that it can be used from several threads.
        context_tokens: most tokens of a pair.
        padding: the token that fills up shorter pairs of a batch.
        open_fixed: as for `EncoderRunner`.
    """

    def __init__(
        self,
        graph: EncoderGraph,
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        padding: int = 0,
        open_fixed: OpenFixed | None = None,
    ) -> None:
        self._reader = _Reader(graph, context_tokens, padding, open_fixed)
        self._tokenizer = tokenizer
        self.context_tokens = self._reader.context_tokens

    def count(self, query: str, document: str) -> int:
        """See `decoding.runner.Scorer.count`."""
        return len(self._tokenizer.encode(query, document).ids)

    def score(self, query: str, documents: Sequence[str]) -> Floats:
        """See `decoding.runner.Scorer.score`."""
        pairs = [self._tokenizer.encode(query, document) for document in documents]
        logits = self._reader.read([_Text(pair.ids, pair.type_ids) for pair in pairs])
        return sigmoid(np.stack([logit.reshape(()) for logit in logits]))


class _Text(NamedTuple):
    tokens: Sequence[int]
    types: Sequence[int]


class _Reader:
    """Gives texts to a graph, in one batch where it can: in float32 none changes a bit of another's result there."""

    def __init__(
        self, graph: EncoderGraph, context_tokens: int, padding: int, open_fixed: OpenFixed | None = None
    ) -> None:
        self.context_tokens = min(context_tokens, graph.fixed_tokens or context_tokens)
        self._graph = graph
        self._padding = padding
        self._buckets = None if open_fixed is None else Buckets(open_fixed)

    def read(self, texts: Sequence[_Text]) -> Iterator[Floats]:
        """Yield what the graph makes of each text: ``[its tokens, size]``, or ``[size]`` if that is how it does it."""
        graph = self._graph
        if self._buckets is None and not graph.one_by_one:
            longest = max(len(text.tokens) for text in texts)
            yield from self._run(graph.session, texts, graph.fixed_tokens or longest)
            return
        for text in texts:
            session, length = graph.session, len(text.tokens)
            if self._buckets is not None:
                length = graph.fixed_tokens or bucket_for(length, self.context_tokens)
                session = self._buckets.session_for(graph.dimensions(length))
            yield from self._run(session, [text], graph.fixed_tokens or length)

    def _run(self, session: onnxruntime.InferenceSession, texts: Sequence[_Text], length: int) -> Iterator[Floats]:
        shape = len(texts), length
        given = {
            "input_ids": np.full(shape, self._padding, np.int64),
            "attention_mask": np.zeros(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        for row, text in enumerate(texts):
            given["input_ids"][row, : len(text.tokens)] = text.tokens
            given["attention_mask"][row, : len(text.tokens)] = 1
            given["token_type_ids"][row, : len(text.tokens)] = text.types
        feed = {name: given[name].astype(kind, copy=False) for name, kind in self._graph.inputs.items()}
        (found,) = session.run([self._graph.output], feed)
        for text, result in zip(texts, np.asarray(found, np.float32), strict=True):
            yield result[: len(text.tokens)] if result.ndim > 1 else result
