"""Whole texts -> one vector or one score each, a small batch at a time between the steps of generation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from core.api import (
    Embedding,
    EmbeddingsRequest,
    EngineBrokenError,
    EngineError,
    EngineEvent,
    RequestError,
    RerankRequest,
    Score,
    Usage,
)
from decoding.device_thread import DeviceThread
from decoding.errors import context_exceeded, said
from decoding.prompts import tokens_of
from decoding.runner import Embedder, Scorer
from decoding.tokens import Vocabulary
from decoding.vectors import pack

__all__ = ["embed", "rerank"]

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


async def embed(
    request: EmbeddingsRequest, vocabulary: Vocabulary, embedder: Embedder, device: DeviceThread, *, batch_tokens: int
) -> AsyncGenerator[EngineEvent, None]:
    """Yield the vector of each input, then the usage.

    Args:
        request: what to embed.
        vocabulary: of the model.
        embedder: the model.
        device: the thread that asks it.
        batch_tokens: most tokens computed at once, padding included; one input may be longer.

    Raises:
        RequestError: an input is empty or too long, or ``dimensions`` is more than there are.
    """
    limit = embedder.context_tokens
    inputs = [await asyncio.to_thread(tokens_of, given, vocabulary, param="input") for given in request.inputs]
    for tokens in inputs:
        if len(tokens) > limit:
            raise context_exceeded(len(tokens), limit, param="input")
    for batch in batches([len(tokens) for tokens in inputs], batch_tokens):
        asked = [inputs[index] for index in batch]
        vectors = await _asked(device, partial(embedder.embed, asked), partial(embedder.embed, [(0,)]))
        size = vectors.shape[1]
        if (request.dimensions or 0) > size:
            msg = f"'dimensions' must be at most {size}, the length of this model's vectors."
            raise RequestError(msg, param="dimensions")
        for index, vector in zip(batch, vectors.tolist(), strict=True):
            yield Embedding(index=index, vector=pack(vector, request.dimensions))
    yield Usage(prompt_tokens=sum(map(len, inputs)))


async def rerank(
    request: RerankRequest, scorer: Scorer, device: DeviceThread, *, batch_tokens: int
) -> AsyncGenerator[EngineEvent, None]:
    """Yield the score of each document, then the usage.

    Raises:
        RequestError: a pair is too long.
    """
    counts = await asyncio.to_thread(lambda: [scorer.count(request.query, text) for text in request.documents])
    for index, count in enumerate(counts):
        if count > scorer.context_tokens:
            raise context_exceeded(count, scorer.context_tokens, param=f"documents[{index}]")
    for batch in batches(counts, batch_tokens):
        texts = [request.documents[index] for index in batch]
        scores = await _asked(device, partial(scorer.score, request.query, texts), partial(scorer.score, "a", ["a"]))
        for index, score in zip(batch, scores.tolist(), strict=True):
            yield Score(index=index, score=score)
    yield Usage(prompt_tokens=sum(counts))


def batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Yield indices in groups of like length, so that little is padding: at most ``most_tokens`` each, or one index."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) + 1) * lengths[index] > most_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


async def _asked(device: DeviceThread, work: Callable[[], _Result], least: Callable[[], object]) -> _Result:
    """Return what ``work`` gives; where it fails, ``least`` says whether the runtime can compute anything at all."""
    try:
        return await device.call(work)
    except Exception as error:
        _log.exception("the runtime failed in one request")
        try:
            await device.call(least)
        except Exception as again:
            msg = f"The model's runtime is broken: {said(again)}"
            raise EngineBrokenError(msg) from again
        msg = f"The model's runtime failed: {said(error)}"
        raise EngineError(msg) from error
