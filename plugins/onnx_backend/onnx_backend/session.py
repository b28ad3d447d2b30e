"""A graph on disk -> a session that runs where it was asked to, or a sentence that says why not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from core.api import EngineLoadError
from onnx_backend.device import DeviceChoice
from onnx_backend.runtime import build_name, load_runtime, plain_words
from onnx_backend.settings import GraphLevel, OnnxSettings

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Opened", "open_session", "providers", "session_options"]

_LEVELS: dict[GraphLevel, str] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_WARNING = 2
_NOTHING_FIXED: Mapping[str, int] = MappingProxyType({})
_CPU = DeviceChoice(device="cpu")
_NO_EXTERNAL_DATA = (
    re.compile(r'External data path does not exist: "(?P<file>[^"]+)"'),
    re.compile(r"No such file or directory \[(?P<file>[^\]]+)\]"),
)
_CUT = "can not be read in full"
_NO_MEMORY = ("out of memory", "Failed to allocate memory", "bad allocation", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A session, and where it runs.

    Attributes:
        session: ready to run; it never falls to another provider by itself.
        choice: the device in effect.
        nodes: how many of the graph's nodes each provider computes.
    """

    session: onnxruntime.InferenceSession
    choice: DeviceChoice
    nodes: Mapping[str, int]

    def details(self, requested: DeviceChoice) -> dict[str, str | int | float | bool]:
        """Return what `core.api.EngineInfo` tells of it.

        Args:
            requested: what was tried first.
        """
        nodes = ", ".join(f"{provider} {count}" for provider, count in sorted(self.nodes.items()))
        return {
            "build": build_name(),
            "provider_requested": requested.provider,
            "provider": self.choice.provider,
            "nodes": nodes,
        }


def session_options(
    settings: OnnxSettings, threads: int, *, fixed: Mapping[str, int] = _NOTHING_FIXED
) -> onnxruntime.SessionOptions:
    """Return the options of a session.

    Args:
        settings: of the backend.
        threads: that compute one operator.
        fixed: sizes of dimensions that the graph leaves open, by their names.
    """
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[settings.graph_level])
    options.enable_cpu_mem_arena = settings.arena
    # Planned per shape and kept for each: a mask that grows with every token would make plans without end.
    options.enable_mem_pattern = False
    options.log_severity_level = _WARNING
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for name, size in fixed.items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def providers(choice: DeviceChoice, cache_dir: Path) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's providers for a device and their options, the preferred first.

    Args:
        choice: where to run.
        cache_dir: where compiled parts of the graph are kept.
    """
    # Of what is asked for, not the next power of two: the KV cache was sized for the memory that is left.
    cuda = {"device_id": str(choice.index), "arena_extend_strategy": "kSameAsRequested"}
    match choice.kind:
        case "cpu":
            return [(choice.provider, {})]
        case "cuda":
            return [(choice.provider, cuda)]
        case "tensorrt":
            compiled = {
                "device_id": str(choice.index),
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(cache_dir),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(cache_dir),
            }
            behind = DeviceChoice(device=f"cuda:{choice.index}")
            return [(choice.provider, compiled), (behind.provider, cuda)]
        case "coreml":
            compiled = {
                "ModelFormat": "MLProgram",
                "RequireStaticInputShapes": "1",
                "ModelCacheDirectory": str(cache_dir),
            }
            return [(choice.provider, compiled)]


def open_session(
    file: Path,
    choice: DeviceChoice,
    settings: OnnxSettings,
    threads: int,
    *,
    cache_dir: Path,
    fixed: Mapping[str, int] = _NOTHING_FIXED,
) -> Opened:
    """Load a graph. Blocks for seconds, with TensorRT for minutes.

    Args:
        file: the graph.
        choice: where to run it. If ``settings.device`` is ``auto`` and it cannot run there, it runs on the CPU, and
            the choice that is returned has the reason.
        settings: of the backend.
        threads: that compute one operator.
        cache_dir: where compiled parts of the graph are kept.
        fixed: sizes of dimensions that the graph leaves open, by their names.

    Raises:
        EngineLoadError: it cannot be loaded, or not on the device that the settings name.
    """
    try:
        return _open(file, choice, session_options(settings, threads, fixed=fixed), cache_dir)
    except EngineLoadError as error:
        if settings.device != "auto" or choice.kind == "cpu":
            raise
        reason = f"not {choice.device}: {str(error).rstrip('.')}"
        opened = _open(file, _CPU, session_options(settings, threads, fixed=fixed), cache_dir)
        return replace(opened, choice=replace(_CPU, reason=reason))


def _open(file: Path, choice: DeviceChoice, options: Any, cache_dir: Path) -> Opened:
    runtime = load_runtime()
    if choice.kind == "cpu":  # its kernel for the two together is the slower one: 6 to 10 % of an encoder's time
        options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    try:
        # Otherwise a provider's failure here, or in any run, would be told to nobody and tried again on the CPU.
        session = runtime.InferenceSession(file, options, providers=providers(choice, cache_dir), enable_fallback=False)
    except MemoryError as error:
        msg = f"There is no memory left to load '{file}': stop another model, or take a smaller one."
        raise EngineLoadError(msg) from error
    except Exception as error:
        raise _told(error, file, choice) from error
    nodes = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    if choice.provider not in session.get_providers():
        msg = f"{build_name()} could not start {choice.provider} for '{file}'; the replica's log has the cause."
        raise EngineLoadError(msg, permanent=True)
    if choice.kind != "cpu" and not nodes[choice.provider]:
        msg = f"{choice.provider} can compute no part of '{file}': its shapes or operators do not suit it."
        raise EngineLoadError(msg, permanent=True)
    return Opened(session=session, choice=choice, nodes=nodes)


def _told(error: Exception, file: Path, choice: DeviceChoice) -> EngineLoadError:
    """What ONNX Runtime's exception means to an operator."""
    text = str(error)
    if any(sign in text for sign in _NO_MEMORY):
        return EngineLoadError(
            f"{choice.device} has no memory left to load '{file}': stop another model, or take a smaller one."
        )
    kind = type(error).__name__
    absent = next((found["file"] for form in _NO_EXTERNAL_DATA if (found := form.search(text))), None)
    if absent is not None:
        msg = f"'{absent}' is missing: it holds weights of '{file}'. Fetch the model again."
    elif kind == "NoSuchFile":
        msg = f"'{file}' does not exist."
    elif kind == "InvalidProtobuf":
        msg = f"'{file}' is damaged or no ONNX graph: fetch the model again."
    elif _CUT in text:
        msg = f"A file with weights of '{file}' is cut short: fetch the model again."
    else:
        msg = f"{build_name()} cannot load '{file}' for {choice.provider}: {plain_words(error)}."
    return EngineLoadError(msg, permanent=True)
