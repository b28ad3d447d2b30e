"""Embeddings of a decoder's graph: whole texts in plain calls, which leave every slot alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from decoding.runner import Floats

from core.api import RequestError
from onnx_backend.graph import DecoderGraph
from onnx_backend.pooling import Way, pool

__all__ = ["embed"]


def embed(graph: DecoderGraph, inputs: Sequence[Sequence[int]], pooling: Way) -> Floats:
    """Return one vector per input; see `decoding.runner.Runner.embed`. One by one, so that none depends on others.

    Raises:
        RequestError: the graph gives no vectors.
    """
    if graph.hidden is None:
        msg = "This model's graph gives no vectors, of which embeddings are made."
        raise RequestError(msg, param="model")
    vectors = (graph.session.run([graph.hidden], graph.whole(tokens))[0] for tokens in inputs)
    pooled = [pool(found, [len(tokens)], pooling) for found, tokens in zip(vectors, inputs, strict=True)]
    return np.concatenate(pooled)
