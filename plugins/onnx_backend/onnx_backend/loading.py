"""A folder with a graph -> a model that runs: opened, tried and sized. Blocks for seconds to minutes."""

from __future__ import annotations

from pathlib import Path

from decoding.cpus import default_threads
from decoding.folder import default_cache_dir, read_template
from decoding.loaded import LoadedModel, check_tasks
from decoding.memory import check_weights
from decoding.scheduler import Limits
from decoding.template import ChatTemplate

from core.api import EngineContext, EngineInfo, EngineLoadError
from onnx_backend.decoder_loading import load_decoder
from onnx_backend.device import DeviceChoice, choose_device, find_devices
from onnx_backend.encoder_loading import load_encoder
from onnx_backend.layout import graph_kind
from onnx_backend.memory import free_device_bytes, taken_device_bytes
from onnx_backend.model_folder import ModelFolder
from onnx_backend.parts import Details, Parts, Wanted
from onnx_backend.receipt import read_agreement
from onnx_backend.settings import OnnxSettings

__all__ = ["load_model"]

# While others decode, while none does: on a CPU each prompt token costs, elsewhere a step costs much the same anyway.
_CPU_LIMITS = (64, 256)
_GPU_LIMITS = (512, 2048)
_TOLD = ("share", "quantization", "block_size", "target", "exporter")  # of an export


def load_model(context: EngineContext, settings: OnnxSettings) -> LoadedModel:
    """Load the model of a replica.

    Raises:
        EngineLoadError: it cannot be loaded; the message says why in a sentence.
    """
    folder = ModelFolder(context.weights, settings.graph)
    choice = choose_device(settings.device, find_devices(settings.device), kind=folder.likely_kind)
    wanted = Wanted(
        spec=context.model,
        folder=folder,
        settings=settings,
        choice=choice,
        threads=settings.threads or default_threads(),
        cache_dir=_cache_dir(settings, choice),
    )
    free_bytes = free_device_bytes(choice)
    check_weights(folder.weights_bytes, free_bytes, remedy='set quantization = "int4"')
    template = ChatTemplate(folder.tokenizer(), read_template(settings.chat_template))
    return _loaded(wanted, template, _load(wanted), free_before=free_bytes)


def _cache_dir(settings: OnnxSettings, choice: DeviceChoice) -> Path:
    folder = settings.cache_dir or default_cache_dir("onnx")
    if choice.kind not in {"tensorrt", "coreml"}:  # nothing is compiled: it need not be writable
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cache_dir = '{folder}' cannot be made: {error.strerror}."
        raise EngineLoadError(msg, permanent=True) from error
    return folder


def _load(wanted: Wanted) -> Parts:
    # CoreML takes fixed shapes only, and which a graph leaves open is known once it is open somewhere.
    by_shape = wanted.choice.kind == "coreml" and wanted.folder.likely_kind != "decoder"
    opened = wanted.open(DeviceChoice(device="cpu") if by_shape else None)
    kind = graph_kind(opened.session, wanted.folder.graph, wanted.folder.config)
    check_tasks(wanted.spec, kind)
    if kind != "decoder":
        return load_encoder(wanted, opened, kind)
    return load_decoder(wanted, wanted.open() if by_shape else opened)  # by its config.json it was none


def _loaded(wanted: Wanted, template: ChatTemplate, parts: Parts, *, free_before: int | None) -> LoadedModel:
    settings, choice = wanted.settings, parts.opened.choice
    together, alone = _CPU_LIMITS if choice.kind == "cpu" else _GPU_LIMITS
    together = settings.prefill_tokens or together
    weights_bytes = wanted.folder.weights_bytes
    return LoadedModel(
        vocabulary=parts.vocabulary,
        template=template,
        limits=Limits(prefill_tokens=together, prefill_tokens_alone=max(alone, together)),
        runner=parts.runner,
        embedder=parts.embedder,
        scorer=parts.scorer,
        info=EngineInfo(
            device_requested=settings.device,
            device=choice.device,
            device_reason=choice.reason,
            context_tokens=parts.context_tokens,
            slots=parts.slots,
            memory_bytes=weights_bytes + parts.kv_bytes,
            details={
                **parts.opened.details(wanted.choice),
                "graph": wanted.folder.graph.name,
                "context_tokens_requested": wanted.spec.context_tokens,
                "threads": wanted.threads,
                "weights_bytes": weights_bytes,
                "kv_bytes": parts.kv_bytes,
                "prefill_tokens": together,
                **parts.details,
                **_agreement(wanted.folder),
            },
            device_memory_bytes=taken_device_bytes(choice, free_before),
        ),
    )


def _agreement(folder: ModelFolder) -> Details:
    """How well the graph agrees with the model that it was made of, if it was made here."""
    known = read_agreement(folder.path) or {}
    return {f"export_{name}": known[name] for name in _TOLD if name in known}
