"""What a model is: told from its config.json, before anything large is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from core.api import EngineLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["Kind", "kind_of"]

Kind = Literal["decoder", "encoder", "cross_encoder"]

_GENERATING = ("ForCausalLM", "LMHeadModel")
_READING = ("Model", "ForMaskedLM", "ForPreTraining")


def kind_of(config: PreTrainedConfig) -> Kind:
    """Return what the class that the weights were saved from makes of a model.

    A decoder generates text; an encoder makes vectors, and so does a decoder saved without what makes words of them;
    a cross-encoder reads two texts and gives one number.

    Raises:
        EngineLoadError: it is none of them; trying again cannot help.
    """
    if config.is_encoder_decoder:
        raise _refused(config, "it is an encoder and a decoder in one")
    names = config.architectures
    if not names:  # BERT's kin have a causal form too, which hardly anything is
        if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            return "decoder" if getattr(config, "is_decoder", False) else "encoder"
        if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return "decoder"
        raise _refused(config, "its config.json names no architecture")
    name = str(names[0])
    if name.endswith(_GENERATING) or name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return "decoder"
    if name.endswith("ForSequenceClassification"):
        if config.num_labels != 1:
            raise _refused(config, f"it tells {config.num_labels} labels apart; to rerank, a model gives one number")
        return "cross_encoder"
    if name.endswith(_READING):
        return "encoder"
    raise _refused(config, "it neither generates text nor makes vectors or one number of it")


def _refused(config: PreTrainedConfig, reason: str) -> EngineLoadError:
    name = (config.architectures or [config.model_type])[0]
    return EngineLoadError(f"{name} cannot be served by this backend: {reason}.", permanent=True)
