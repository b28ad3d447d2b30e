"""The table ``[backends.onnx]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from core.api import BackendSettings

__all__ = ["BlockSize", "ExportTarget", "GraphLevel", "OnnxSettings", "Pooling", "Quantization"]

Quantization = Literal["auto", "none", "int8", "int4"]
ExportTarget = Literal["auto", "cpu", "cuda"]
BlockSize = Literal[32, 64, 128]
GraphLevel = Literal["off", "basic", "extended", "all"]
Pooling = Literal["auto", "mean", "last", "cls"]


class OnnxSettings(BackendSettings):
    """How ONNX Runtime runs a model, and how one becomes a graph."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|coreml|(cuda|tensorrt)(:\d+)?)$",
        description="where to run: auto, cuda, cuda:N, tensorrt, tensorrt:N, coreml or cpu; "
        "auto takes the best there is and may be the CPU, a named one must be there",
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
    spinning: bool = Field(
        default=False,
        description="let idle threads spin for work: a little faster where this model has the CPUs to itself, "
        "far slower where it shares them",
    )
    arena: bool = Field(default=True, description="keep freed memory for the next step instead of giving it back")
    graph_level: GraphLevel = Field(
        "all", description="how far ONNX Runtime rewrites the graph at load: off, basic, extended or all"
    )
    graph: str | None = Field(
        None,
        description="file to load where the weights hold several, as a path in their folder: onnx/model_q4.onnx",
    )
    chat_template: Path | None = Field(
        None, description="file with a Jinja chat template to use instead of the model's own"
    )
    memory_share: float = Field(
        0.9, gt=0, le=1, description="share of the device's free memory that the KV cache may take after the weights"
    )
    pooling: Pooling = Field(
        "auto",
        description="how an embedding is made of its tokens' vectors; "
        "auto: as the model's files say (modules.json), otherwise the mean",
    )
    cache_dir: Path | None = Field(
        None,
        description="folder for what TensorRT and CoreML compile of a graph; "
        "unset: ai-gateway/onnx in $XDG_CACHE_HOME, or in ~/.cache",
    )
    quantization: Quantization = Field(
        "auto",
        description="of the weights when a model is exported: none, int8 or int4; "
        "auto: int8 for decoders on the CPU, none elsewhere",
    )
    block_size: BlockSize = Field(
        64, description="weights that share one scale when a model is quantised: fewer are more exact, more are faster"
    )
    export_for: ExportTarget = Field(
        "auto",
        description="kind of device that an exported graph is meant for; auto: cuda if device names cuda or tensorrt, "
        "or device is auto and onnxruntime-gpu is installed; otherwise cpu",
    )
    min_agreement: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least share of greedy tokens in which an exported graph must agree with the model it was made of",
    )
