"""What a config.json says a model is."""

from __future__ import annotations

import pytest
from decoding.kind import kind_of
from transformers import AutoConfig

from core.api import EngineLoadError

ONE = {"num_labels": 1}


@pytest.mark.parametrize(
    ("model_type", "architectures", "more", "kind"),
    [
        ("llama", ["LlamaForCausalLM"], {}, "decoder"),
        ("gpt2", ["GPT2LMHeadModel"], {}, "decoder"),
        ("gemma3", ["Gemma3ForConditionalGeneration"], {}, "decoder"),
        ("bert", ["BertLMHeadModel"], {}, "decoder"),
        ("llama", ["SomebodysOwnForCausalLM"], {}, "decoder"),
        ("llama", None, {}, "decoder"),
        ("bert", None, {}, "encoder"),
        ("bert", None, {"is_decoder": True}, "decoder"),
        ("bert", ["BertModel"], {}, "encoder"),
        ("roberta", ["RobertaForMaskedLM"], {}, "encoder"),
        ("mistral", ["MistralModel"], {}, "encoder"),
        ("gemma3_text", ["Gemma3TextModel"], {}, "encoder"),
        ("bert", ["BertForSequenceClassification"], ONE, "cross_encoder"),
        ("qwen3", ["Qwen3ForSequenceClassification"], ONE, "cross_encoder"),
    ],
)
def test_tells_decoders_encoders_and_cross_encoders_apart(model_type, architectures, more, kind):
    assert kind_of(AutoConfig.for_model(model_type, architectures=architectures, **more)) == kind


@pytest.mark.parametrize(
    ("model_type", "architectures", "reason"),
    [
        ("t5", ["T5ForConditionalGeneration"], "an encoder and a decoder"),
        ("bert", ["BertForSequenceClassification"], "2 labels"),
        ("bert", ["BertForTokenClassification"], "neither generates"),
        ("llava", ["LlavaForConditionalGeneration"], "neither generates"),
        ("vit", None, "names no architecture"),
        ("llama", [3], "neither generates"),
    ],
)
def test_what_is_none_of_them_is_refused_for_good(model_type, architectures, reason):
    with pytest.raises(EngineLoadError, match=reason) as caught:
        kind_of(AutoConfig.for_model(model_type, architectures=architectures))
    assert caught.value.permanent
