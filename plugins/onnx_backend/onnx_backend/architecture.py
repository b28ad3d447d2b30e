"""What an export is to be of: told from a config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.api import PreparationError

if TYPE_CHECKING:  # it brings transformers, which neither the supervisor nor the command line has any use for
    from decoding.kind import Kind

__all__ = ["kind_to_export"]

_GENERATING = ("ForCausalLM", "LMHeadModel")
_READING = ("Model", "ForMaskedLM", "ForPreTraining")


def kind_to_export(config: Mapping[str, Any]) -> Kind:
    """Return what the class that the weights were saved from makes of a model.

    A decoder generates text; an encoder makes vectors; a cross-encoder reads two texts and gives one number.

    Raises:
        PreparationError: it is none of them.
    """
    names = config.get("architectures") or []
    if not names:
        raise _refused(config, "its config.json names no architecture")
    if config.get("is_encoder_decoder"):
        raise _refused(config, "it is an encoder and a decoder in one")
    name = names[0]
    if name.endswith(_GENERATING):
        return "decoder"
    if name.endswith("ForSequenceClassification"):
        labels = len(config.get("id2label") or ()) or config.get("num_labels", 2)
        if labels != 1:
            raise _refused(config, f"it tells {labels} labels apart; to rerank, a model gives one number")
        return "cross_encoder"
    if name.endswith(_READING):
        return "encoder"
    raise _refused(config, "it neither generates text nor makes vectors or one number of it")


def _refused(config: Mapping[str, Any], reason: str) -> PreparationError:
    name = (config.get("architectures") or [config.get("model_type", "This model")])[0]
    return PreparationError(f"{name} cannot be served by the onnx backend: {reason}.")
