"""Models that read a whole text at once: `decoding.runner.Embedder` and `decoding.runner.Scorer` over encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from decoding.recipe import Way
from decoding.runner import Floats

from torch_backend.pooling import pad, pool

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

__all__ = ["CrossEncoderRunner", "EncoderRunner", "most_positions"]


class EncoderRunner:
    """Turns tokens into vectors; see `decoding.runner.Embedder`.

    Args:
        model: without what makes words of its vectors.
        context_tokens: most tokens of one input.
        pooling: how their vectors become one.
        dense: what that one then goes through.
    """

    def __init__(
        self, model: PreTrainedModel, *, context_tokens: int, pooling: Way, dense: torch.nn.Module | None = None
    ) -> None:
        self.context_tokens = context_tokens
        self._model = model
        self._pooling: Way = pooling
        self._dense = (dense or torch.nn.Identity()).to(model.device)
        model.config.use_cache = False  # some are decoders by birth, and would keep what nobody asks for

    @torch.inference_mode()
    def embed(self, inputs: Sequence[Sequence[int]]) -> Floats:
        """See `decoding.runner.Embedder.embed`."""
        tokens, lengths = pad(inputs, self._model)
        hidden = self._model(input_ids=tokens, attention_mask=_real(tokens, lengths)).last_hidden_state
        vectors: Floats = self._dense(pool(hidden, lengths, self._pooling)).cpu().numpy()
        return vectors


class CrossEncoderRunner:
    """Reads a query and a document together; see `decoding.runner.Scorer`.

    Args:
        model: a classifier of one label.
        tokenizer: of the model; neither pads nor truncates, so that it can be used from several threads.
        context_tokens: most tokens of a pair.
        takes_types: whether the model is told which tokens are the query's.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, *, context_tokens: int, takes_types: bool) -> None:
        self.context_tokens = context_tokens
        self._model = model
        self._tokenizer = tokenizer
        self._takes_types = takes_types

    def count(self, query: str, document: str) -> int:
        """See `decoding.runner.Scorer.count`."""
        return len(self._tokenizer.encode(query, document).ids)

    @torch.inference_mode()
    def score(self, query: str, documents: Sequence[str]) -> Floats:
        """See `decoding.runner.Scorer.score`."""
        pairs = [self._tokenizer.encode(query, document) for document in documents]
        tokens, lengths = pad([pair.ids for pair in pairs], self._model)
        types = {"token_type_ids": pad([pair.type_ids for pair in pairs], self._model)[0]} if self._takes_types else {}
        logits = self._model(input_ids=tokens, attention_mask=_real(tokens, lengths), **types).logits[:, 0]
        scores: Floats = logits.float().sigmoid().cpu().numpy()
        return scores


def most_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has positions for; None: any number, as far as it says."""
    told = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [] if told is None else [int(told)]
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            # RoBERTa and its kin count from the padding token's id on.
            first = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - first)
    return min((limit for limit in limits if limit > 0), default=None)


def _real(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """1 for a token, 0 for padding, ``[rows, longest]``."""
    return (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()
