"""For tests: random models of a few thousand weights, one of each architecture that must be served exactly."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

__all__ = ["ARCHITECTURES", "SLIDING", "VOCABULARY", "WINDOW", "make_config", "make_model"]

VOCABULARY = 96
WINDOW = 8
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large enough that another mask or position gives another token
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,  # tied random ones say their own input again
}
_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": None}),
    "llama-3": ("llama", {"rope_parameters": _LLAMA_3}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral-sliding": ("mistral", {"sliding_window": WINDOW}),
    "qwen2-sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "gemma2": ("gemma2", {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {"sliding_window": WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8}),
    "gpt-oss": (
        "gpt_oss",
        {"rope_parameters": _PLAIN_ROPE, "sliding_window": WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "phi3": ("phi3", {}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "mixtral": ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "deepseek": (
        "deepseek_v3",
        {
            "q_lora_rank": None,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 2,
            "num_key_value_heads": 4,
        },
    ),
}
SLIDING = ("mistral-sliding", "qwen2-sliding", "gemma2", "gemma3", "gpt-oss")


def make_config(name: str, **changes: Any) -> Any:
    """The configuration of an architecture."""
    kind, own = ARCHITECTURES[name]
    common = {
        key: value
        for key, value in _COMMON.items()
        if kind != "gpt2" or (key.endswith(("_id", "vocab_size", "_range", "_embeddings")) and key[:3] != "max")
    }
    return CONFIG_MAPPING[kind](**{**common, **own, **changes})


def make_model(name: str, **changes: Any) -> PreTrainedModel:
    """A random model in float32; the same at each call."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(make_config(name, **changes), dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False)
