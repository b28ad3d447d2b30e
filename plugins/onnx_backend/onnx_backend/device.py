"""Which device to run on: a pure choice; `find_devices` asks the driver, and tries ONNX Runtime."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from core.api import EngineLoadError
from onnx_backend import cuda_driver
from onnx_backend.runtime import build_name, load_runtime, plain_words

if TYPE_CHECKING:
    from types import ModuleType

    from decoding.kind import Kind

__all__ = ["DeviceChoice", "DeviceKind", "Found", "choose_device", "find_devices"]

DeviceKind = Literal["cpu", "cuda", "tensorrt", "coreml"]

_PROVIDERS: dict[DeviceKind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
# The graph ``y = x + x`` of one float: enough for a provider to load its libraries and to run a kernel.
_DOUBLE = base64.b64decode("CAc6NQoOCgF4CgF4EgF5IgNBZGQSAWdaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAN")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What this build of ONNX Runtime can use on this machine.

    Attributes:
        build: its name and version.
        cuda_devices: how many CUDA devices the driver shows.
        usable: accelerators that computed something.
        problems: why the others that were tried did not.
    """

    build: str
    cuda_devices: int = 0
    usable: frozenset[DeviceKind] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceChoice:
    """What to run on.

    Attributes:
        device: ``cpu``, ``cuda:N``, ``tensorrt:N`` or ``coreml``.
        reason: why it is not what was asked for, or an empty string.
    """

    device: str
    reason: str = ""

    @property
    def kind(self) -> DeviceKind:
        """The device without its number."""
        kind = self.device.partition(":")[0]
        return next(known for known in get_args(DeviceKind) if known == kind)

    @property
    def index(self) -> int:
        """Which of several devices of that kind."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what computes there."""
        return _PROVIDERS[self.kind]

    @property
    def memory(self) -> Literal["cpu", "cuda"]:
        """ONNX Runtime's name of where tensors for it lie, with `index`."""
        return "cuda" if self.kind in {"cuda", "tensorrt"} else "cpu"


def choose_device(requested: str, found: Found, *, kind: Kind) -> DeviceChoice:
    """Return what to run on.

    Args:
        requested: ``auto``, ``cuda``, ``cuda:N``, ``tensorrt``, ``tensorrt:N``, ``coreml`` or ``cpu``.
        found: what there is.
        kind: of model. CoreML compiles a graph for each shape, and a KV cache changes its shape with every token:
            ``auto`` takes it only for models without one.

    Raises:
        EngineLoadError: the named device is not there; trying again cannot help.
    """
    return _best(found, kind) if requested == "auto" else _named(requested, found)


def _best(found: Found, kind: Kind) -> DeviceChoice:
    if "cuda" in found.usable:
        return DeviceChoice(device="cuda:0")
    if "coreml" not in found.usable:
        return DeviceChoice(device="cpu", reason=_missing(found))
    if kind == "decoder":
        return DeviceChoice(device="cpu", reason="CoreML is slower than the CPU for models that generate text")
    return DeviceChoice(device="coreml")


def _named(requested: str, found: Found) -> DeviceChoice:
    numbered = [
        f"{kind}:{index}"
        for kind in ("cuda", "tensorrt")
        if kind in found.usable
        for index in range(found.cuda_devices)
    ]
    offers = [*numbered, *(["coreml"] if "coreml" in found.usable else []), "cpu"]
    device = f"{requested}:0" if requested in {"cuda", "tensorrt"} else requested
    if device in offers:
        return DeviceChoice(device=device)
    msg = (
        f"device = {requested!r} was asked for, but only {', '.join(offers)} can be used: {_missing(found)}. "
        "Install what is missing, or set device = 'auto' to allow the CPU."
    )
    raise EngineLoadError(msg, permanent=True)


def find_devices(requested: str) -> Found:
    """Try the accelerators that may be chosen when ``requested`` is asked for.

    Raises:
        EngineLoadError: ONNX Runtime itself cannot be used; trying again cannot help.
    """
    runtime = load_runtime()
    build = build_name()
    if requested == "cpu":
        return Found(build=build)
    compiled = set(runtime.get_available_providers())
    tried: list[DeviceKind] = ["cuda", "coreml"]
    if requested.startswith("tensorrt"):
        tried.append("tensorrt")
    tried = [kind for kind in tried if _PROVIDERS[kind] in compiled]
    cuda_devices = cuda_driver.device_count() if "cuda" in tried else 0
    problems = {kind: _problem(runtime, kind, build, cuda_devices) for kind in tried}
    return Found(
        build=build,
        cuda_devices=cuda_devices,
        usable=frozenset(kind for kind, problem in problems.items() if not problem),
        problems=tuple(dict.fromkeys(problem for problem in problems.values() if problem)),
    )


def _problem(runtime: ModuleType, kind: DeviceKind, build: str, cuda_devices: int) -> str:
    """Why an accelerator that was compiled in computes nothing here, or an empty string."""
    if kind != "coreml":
        if not cuda_devices:
            return f"{build} finds no CUDA device or no driver for it"
        runtime.preload_dlls(msvc=False)  # those that pip installed; the linker does not find them by itself
    return _tried(runtime, kind, build)


def _tried(runtime: ModuleType, kind: DeviceKind, build: str) -> str:
    provider = _PROVIDERS[kind]
    options = runtime.SessionOptions()
    try:
        session = runtime.InferenceSession(_DOUBLE, options, providers=[provider], enable_fallback=False)
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions have no class of their own in common
        return f"{build} cannot use {kind}: {plain_words(error)}"
    if provider in session.get_providers():
        return ""
    return (
        f"{build} cannot load the libraries of {kind}; the replica's log names the one that is missing, "
        f'and pip install "onnxruntime-gpu[cuda,cudnn]" brings those of CUDA'
    )


def _missing(found: Found) -> str:
    return "; ".join(found.problems) or f"{found.build} is built without any other"
