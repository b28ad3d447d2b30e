"""The table ``[backends.llamacpp]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from core.api import BackendSettings

__all__ = ["DeviceRequest", "KvType", "LlamaCppSettings"]

DeviceRequest = Literal["auto", "cuda", "metal", "vulkan", "cpu"]
KvType = Literal["f16", "bf16", "q8_0", "q4_0"]


class LlamaCppSettings(BackendSettings):
    """How llama.cpp runs a model."""

    device: DeviceRequest = Field(
        "auto", description="where to run; auto takes the best there is and may be the CPU, a named one must be there"
    )
    n_gpu_layers: NonNegativeInt | None = Field(
        None, description="layers to put on the GPU; unset: as many as fit. Without meaning on the CPU"
    )
    slots: PositiveInt = Field(
        4, le=256, description="choices generated at once, each with a KV cache for the model's whole context"
    )
    n_batch: PositiveInt | None = Field(
        None,
        description="most prompt tokens computed at once, and of one embedding input; "
        "a cancelled prompt holds the engine for one batch. Rounded up to a multiple of slots. "
        "Unset: 256 on the CPU, 2048 on a GPU",
    )
    threads: PositiveInt | None = Field(
        None, description="CPU threads; unset: the CPUs this process may use, less one if there are several"
    )
    chat_template: Path | None = Field(
        None, description="file with a Jinja chat template to use instead of the model's own"
    )
    kv_type: KvType = Field("f16", description="number format of the KV cache; q8_0 needs half the memory of f16")
    flash_attention: Literal["auto", "on", "off"] = Field(
        "auto", description="fused attention; kv_type q8_0 and q4_0 need it"
    )
    cache_ram_mib: NonNegativeInt = Field(
        512, description="host memory for prompts computed earlier, in MiB, on top of the slots' own caches; 0: none"
    )
