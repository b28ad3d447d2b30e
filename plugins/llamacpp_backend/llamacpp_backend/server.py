"""llama.cpp's own server, inside this process, on a private unix socket."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.cpus import default_threads

from core.api import EngineContext, EngineLoadError
from llamacpp_backend.device import DeviceChoice, OfferedDevice
from llamacpp_backend.settings import LlamaCppSettings

__all__ = ["ServerPlan", "find_gguf", "free_gpu_bytes", "offered_devices", "runtime_details", "start_server"]

_CPU_BATCH_TOKENS = 256
_GPU_BATCH_TOKENS = 2048
_GGUF_MAGIC = b"GGUF"
_FIRST_PART = "-00001-of-"
_LOG_WARNINGS = 2
_OWNED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SIGACTION_BYTES = 512  # more than any platform's struct sigaction


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPlan:
    """What to start, every choice made.

    Attributes:
        context_tokens: of one slot; the KV cache holds ``slots`` times as many.
    """

    weights: Path
    socket: str
    device: DeviceChoice
    context_tokens: int
    slots: int
    n_batch: int
    threads: int
    embeddings: bool
    chat_template: str
    settings: LlamaCppSettings

    @classmethod
    def make(cls, context: EngineContext, settings: LlamaCppSettings, device: DeviceChoice) -> ServerPlan:
        """Fill in the defaults.

        Raises:
            EngineLoadError: there are no weights, or a file cannot be read.
        """
        try:
            template = settings.chat_template.expanduser().read_text() if settings.chat_template else ""
        except (OSError, UnicodeDecodeError) as error:
            msg = f"the chat template cannot be read: {error}"
            raise EngineLoadError(msg, permanent=True) from error
        n_batch = settings.n_batch or (_CPU_BATCH_TOKENS if device.is_cpu else _GPU_BATCH_TOKENS)
        return cls(
            weights=find_gguf(context.weights),
            socket=str(context.scratch / "llama.sock"),
            device=device,
            context_tokens=context.model.context_tokens,
            slots=settings.slots,
            # Pooled embeddings abort the process (GGML_ASSERT) unless the slots share a batch evenly.
            n_batch=-(-n_batch // settings.slots) * settings.slots,
            threads=settings.threads or default_threads(),
            embeddings="embeddings" in context.model.tasks,
            chat_template=template,
            settings=settings,
        )


def find_gguf(weights: Path | None) -> Path:
    """Return the GGUF file that ``weights`` is, or the only one (or the first part of one) in that folder.

    Raises:
        EngineLoadError: there is none.
    """
    if weights is None:
        msg = "the model has no source; llama.cpp needs a GGUF file"
        raise EngineLoadError(msg, permanent=True)
    found = sorted(weights.glob("*.gguf"))[:2] if weights.is_dir() else [weights]
    if len(found) > 1 and _FIRST_PART not in found[0].name:
        msg = f"{weights} holds several GGUF files; name one in the model's source"
        raise EngineLoadError(msg, permanent=True)
    try:
        with found[0].open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except (OSError, IndexError) as error:
        msg = f"{weights} holds no GGUF file that can be read: {error}"
        raise EngineLoadError(msg, permanent=True) from error
    if magic != _GGUF_MAGIC:
        msg = f"{found[0].name} is not a GGUF file"
        raise EngineLoadError(msg, permanent=True)
    return found[0]


def offered_devices() -> list[OfferedDevice]:
    """Return the GPUs that the installed wheel can use."""
    import xllamacpp

    types = xllamacpp.ggml_backend_dev_type
    gpus = (types.GGML_BACKEND_DEVICE_TYPE_GPU, types.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return [
        OfferedDevice(name=device["name"], integrated=device["type"] == gpus[1])
        for device in xllamacpp.get_device_info()
        if device["type"] in gpus
    ]


def free_gpu_bytes() -> int:
    """Return the free memory of all GPUs with memory of their own."""
    import xllamacpp

    gpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU
    return sum(int(device["memory_free"]) for device in xllamacpp.get_device_info() if device["type"] == gpu)


def runtime_details() -> dict[str, str]:
    """Return what the wheel says of itself."""
    import xllamacpp

    return {"xllamacpp": xllamacpp.__version__, "system": xllamacpp.get_system_info().strip().rstrip("|").strip()}


def start_server(plan: ServerPlan) -> Any:
    """Load the model and serve it; blocks. Dropping the last reference to what is returned stops it, and blocks too.

    Raises:
        EngineLoadError: llama.cpp cannot load it.
    """
    import xllamacpp

    with _signal_handlers_kept():
        try:
            return xllamacpp.Server(_params(xllamacpp, plan))
        except Exception as error:
            # It says no more than that; the reason is on standard error. Lack of memory may pass.
            msg = f"llama.cpp cannot load {plan.weights.name}: {error}"
            raise EngineLoadError(msg) from error


def _params(xllamacpp: Any, plan: ServerPlan) -> Any:
    settings = plan.settings
    params = xllamacpp.CommonParams()
    params.model.path = str(plan.weights)
    params.hostnames = [plan.socket]
    params.endpoint_metrics = params.endpoint_props = params.use_jinja = True
    params.ui = params.endpoint_slots = False
    params.verbosity = _LOG_WARNINGS
    # Embeddings, counts and cancelled requests need threads beside the streams.
    params.n_threads_http = 2 * plan.slots + 8
    # One KV cache per slot. A unified one would be shared by all, and when several long requests fill it
    # llama.cpp ends every one of them.
    params.kv_unified = False
    params.n_parallel = plan.slots
    params.n_ctx = plan.slots * plan.context_tokens
    params.n_batch = params.n_ubatch = plan.n_batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = plan.threads
    params.cache_ram_mib = settings.cache_ram_mib
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings.kv_type.upper()}")
    flash = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[settings.flash_attention]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    # OpenAI answers a conversation that ends with the assistant by a new message, not by going on with the last.
    params.prefill_assistant = False
    params.n_gpu_layers = plan.device.n_gpu_layers
    if plan.device.is_cpu:
        params.fit_params = False
        params.no_kv_offload = params.no_op_offload = True
    if plan.chat_template:
        params.chat_template = plan.chat_template
    if plan.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put back the process's signal handlers, which llama.cpp replaces; works in any thread, unlike `signal.signal`."""
    libc = ctypes.CDLL(None)
    kept = {number: ctypes.create_string_buffer(_SIGACTION_BYTES) for number in _OWNED_SIGNALS}
    for number, action in kept.items():
        libc.sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            libc.sigaction(int(number), action, None)
