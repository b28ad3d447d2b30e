"""The table ``[backends.torch]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from core.api import BackendSettings

__all__ = ["AttentionRequest", "DtypeRequest", "Pooling", "TorchSettings"]

DtypeRequest = Literal["auto", "float32", "bfloat16", "float16"]
AttentionRequest = Literal["auto", "sdpa", "flash_attention_2", "eager"]
Pooling = Literal["auto", "mean", "last", "cls"]


class TorchSettings(BackendSettings):
    """How torch runs a model."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="where to run: auto, cuda, cuda:N, mps or cpu; "
        "auto takes the best there is and may be the CPU, a named one must be there",
    )
    dtype: DtypeRequest = Field(
        "auto",
        description="number format of weights and KV cache; auto: on the CPU the faster of float32 and bfloat16, "
        "measured at load; bfloat16 on CUDA devices that have it; float16 elsewhere",
    )
    slots: PositiveInt = Field(
        8, le=256, description="choices generated at once, each with a KV cache for the model's whole context"
    )
    prefill_tokens: PositiveInt | None = Field(
        None,
        description="most prompt tokens computed in one step while other choices are generated: "
        "a long prompt holds their next token back for as long as that takes. Unset: 64 on the CPU, 512 elsewhere",
    )
    threads: PositiveInt | None = Field(
        None, description="CPU threads; unset: the CPUs this process may use, less one if there are several"
    )
    chat_template: Path | None = Field(
        None, description="file with a Jinja chat template to use instead of the model's own"
    )
    attention: AttentionRequest = Field(
        "auto",
        description="how attention is computed; auto: flash_attention_2 on CUDA if the package flash_attn is there, "
        "otherwise sdpa",
    )
    pack_weights: bool = Field(
        default=True,
        description="on the CPU, keep weight matrices in the layout of oneDNN's kernels instead of torch's, "
        "where that measures faster at load",
    )
    cuda_graphs: bool = Field(default=True, description="on CUDA, replay decode steps as captured graphs")
    memory_share: float = Field(
        0.9, gt=0, le=1, description="share of the device's free memory that the KV cache may take after the weights"
    )
    pooling: Pooling = Field(
        "auto",
        description="how an embedding is made of its tokens' vectors; "
        "auto: as the model's files say (modules.json), otherwise the mean",
    )
    trust_remote_code: frozenset[str] = Field(
        frozenset(), description="served names of models whose repository may bring Python code that is then run"
    )
    cache_dir: Path | None = Field(
        None,
        description="folder for GGUF files converted to safetensors; "
        "unset: ai-gateway/torch in $XDG_CACHE_HOME, or in ~/.cache",
    )
