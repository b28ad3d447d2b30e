"""Which models the slot cache can serve: told from their classes before the weights are read, then tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.api import EngineLoadError
from torch_backend.cache import LayerShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from torch_backend.runner import TorchRunner

__all__ = ["Probe", "check_decoder", "probe"]

_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
_PROBE_TOKENS = 7
_PROBE_CHUNK = 4
# Relative error of all logits together. What rounding to 16 bits does to a small model is 0.1 to 0.2; a wrong mask or
# position makes 0.7 and more.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.4, torch.bfloat16: 0.4}


def check_decoder(config: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Refuse what keeps no standard KV cache; the weights may be on ``meta``.

    Raises:
        EngineLoadError: with the reason; trying again cannot help.
    """
    text = config.get_text_config(decoder=True)
    others = sorted(set(getattr(text, "layer_types", None) or ()) - _KNOWN_LAYERS)
    if model._is_stateful:  # noqa: SLF001 - how transformers marks models that cannot be rolled back
        reason = "it keeps a recurrent state instead of a KV cache"
    elif others:
        reason = f"it has layers of the kind {', '.join(others)}"
    elif not model.is_backend_compatible():
        reason = "its attention cannot be exchanged through transformers' attention interface"
    else:
        return
    raise _refused(model, reason)


class Probe:
    """What a model computes by itself for a few tokens; a runner over it must compute the same.

    Attributes:
        shapes: what each layer keeps of a token.
    """

    def __init__(self, shapes: list[LayerShape], tokens: list[int], logits: torch.Tensor) -> None:
        self.shapes = shapes
        self._tokens = tokens
        self._logits = logits

    def check(self, runner: TorchRunner, dtype: torch.dtype) -> None:
        """Compute the tokens through the slot cache: two chunks in one slot, a copy, then one by one beside it.

        Raises:
            EngineLoadError: the logits differ; trying again cannot help.
        """
        runner.prefill(0, self._tokens[:2], 0)
        found = {_PROBE_CHUNK - 1: runner.prefill(0, self._tokens[2:_PROBE_CHUNK], 2)}
        last = runner.slots - 1
        if last:
            runner.copy_slot(0, last, _PROBE_CHUNK)
        for position in range(_PROBE_CHUNK, len(self._tokens)):
            rows = [last, 0] if last else [0]
            found[position] = runner.decode(rows, [self._tokens[position]] * len(rows), [position] * len(rows))[0]
        expected = torch.stack([self._logits[position] for position in found])
        given = torch.stack([torch.from_numpy(logits) for logits in found.values()])
        error = float((given - expected).norm() / (expected - expected.mean(-1, keepdim=True)).norm())
        if not error < _TOLERANCE[dtype]:  # nan is no less than anything
            msg = (
                f"This model computes something else through the slot cache than by itself (relative "
                f"error {error:.2g}): its attention or its cache is not a standard one."
            )
            raise EngineLoadError(msg, permanent=True)


@torch.inference_mode()
def probe(model: PreTrainedModel) -> Probe:
    """Run a loaded model over a few tokens with transformers' own cache.

    Raises:
        EngineLoadError: what it keeps of them is not a KV cache; trying again cannot help.
    """
    vocab_size = model.get_output_embeddings().out_features
    tokens = [(number * 7919 + 11) % vocab_size for number in range(_PROBE_TOKENS)]
    output = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=True)
    layers = getattr(output.past_key_values, "layers", None) or []
    kept = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    shapes = []
    for keys, values in kept:
        if keys is None or values is None or keys.dim() != 4 or keys.shape[2] != len(tokens):  # noqa: PLR2004
            raise _refused(model, "it keeps something else than keys and values of each token")
        shapes.append(LayerShape(keys.shape[1], keys.shape[3], values.shape[3]))
    if not shapes:
        raise _refused(model, "it keeps no cache of its tokens")
    return Probe(shapes, tokens, output.logits[0].float().cpu())


def _refused(model: PreTrainedModel, reason: str) -> EngineLoadError:
    name = type(model).__name__
    return EngineLoadError(f"{name} cannot be served by the torch backend: {reason}.", permanent=True)
