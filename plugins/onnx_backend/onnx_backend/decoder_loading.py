"""A graph that generates text -> a runner over as many slots as fit."""

from __future__ import annotations

from decoding.memory import fitting_slots
from decoding.recipe import choose_pooling
from decoding.tokens import Vocabulary

from core.api import EngineLoadError
from onnx_backend.graph import read_decoder
from onnx_backend.memory import free_device_bytes
from onnx_backend.parts import UNBOUNDED, Parts, Wanted
from onnx_backend.probe import choose_runner
from onnx_backend.session import Opened

__all__ = ["load_decoder"]


def load_decoder(wanted: Wanted, opened: Opened) -> Parts:
    """Return what serves a decoder.

    Raises:
        EngineLoadError: it cannot be served, or not for all tasks, or not even one slot fits.
    """
    spec, settings, folder, choice = wanted.spec, wanted.settings, wanted.folder, opened.choice
    graph = read_decoder(opened.session, folder.graph, folder.path, device=choice.memory, device_id=choice.index)
    if graph.hidden is None and "embeddings" in spec.tasks:
        msg = (
            f"{spec.name} is declared for embeddings, but its graph gives no hidden states to make them of: set tasks "
            'of this deployment to ["chat", "completion"], or export it with hidden states as an output.'
        )
        raise EngineLoadError(msg, permanent=True)
    context_tokens = min(spec.context_tokens, folder.most_tokens or UNBOUNDED)
    numbers = sum(layer.heads * (layer.key_size + layer.value_size) for layer in graph.layers)
    # A cache that grows is in memory twice while a step copies it.
    token_bytes = numbers * graph.cache_format.itemsize * (1 if graph.shares_buffer else 2)
    slots = fitting_slots(
        slots=settings.slots,
        context_tokens=context_tokens,
        token_bytes=token_bytes,
        free_bytes=free_device_bytes(choice),
        share=settings.memory_share,
    )
    pooling = choose_pooling(settings.pooling, folder.path)
    runner, reason = choose_runner(graph, slots=slots, context_tokens=context_tokens, pooling=pooling)
    tokenizer = folder.tokenizer()
    return Parts(
        opened=opened,
        vocabulary=Vocabulary(tokenizer, folder.ends(tokenizer), size=graph.vocab_size),
        runner=runner,
        embedder=None if graph.hidden is None else runner,
        context_tokens=context_tokens,
        slots=slots,
        kv_bytes=slots * context_tokens * token_bytes,
        details={
            "runner": type(runner).__name__,
            "runner_reason": reason,
            "slots_requested": settings.slots,
            "kv_format": str(graph.cache_format),
            "kv_bytes_per_token": token_bytes,
        },
    )
