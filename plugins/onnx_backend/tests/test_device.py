"""Which device."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx_backend import cuda_driver, device
from onnx_backend.device import DeviceChoice, Found, choose_device, find_devices
from onnx_backend.memory import free_device_bytes, taken_device_bytes

from core.api import EngineLoadError

NOTHING = Found(build="onnxruntime 1.32")
TWO_GPUS = Found(build="onnxruntime-gpu 1.32", cuda_devices=2, usable=frozenset({"cuda"}))
WITH_TENSORRT = Found(build="onnxruntime-gpu 1.32", cuda_devices=1, usable=frozenset({"cuda", "tensorrt"}))
NO_LIBRARIES = Found(build="onnxruntime-gpu 1.32", cuda_devices=1, problems=("no libcublas",))
APPLE = Found(build="onnxruntime 1.32", usable=frozenset({"coreml"}))


@pytest.mark.parametrize(
    ("requested", "found", "kind", "expected"),
    [
        ("auto", TWO_GPUS, "decoder", "cuda:0"),
        ("auto", WITH_TENSORRT, "decoder", "cuda:0"),
        ("auto", APPLE, "encoder", "coreml"),
        ("auto", APPLE, "cross_encoder", "coreml"),
        ("auto", APPLE, "decoder", "cpu"),
        ("auto", NOTHING, "encoder", "cpu"),
        ("auto", NO_LIBRARIES, "encoder", "cpu"),
        ("cuda", TWO_GPUS, "encoder", "cuda:0"),
        ("cuda:1", TWO_GPUS, "decoder", "cuda:1"),
        ("tensorrt", WITH_TENSORRT, "decoder", "tensorrt:0"),
        ("coreml", APPLE, "decoder", "coreml"),
        ("cpu", TWO_GPUS, "decoder", "cpu"),
    ],
)
def test_choice(requested: str, found: Found, kind: Any, expected: str) -> None:
    """The best there is, or what was named; only an unexpected outcome has a reason."""
    choice = choose_device(requested, found, kind=kind)
    assert choice.device == expected
    assert bool(choice.reason) == (requested == "auto" and expected == "cpu")


def test_reasons() -> None:
    """Why ``auto`` became the CPU."""
    assert "built without" in choose_device("auto", NOTHING, kind="decoder").reason
    assert choose_device("auto", NO_LIBRARIES, kind="decoder").reason == "no libcublas"
    assert "generate" in choose_device("auto", APPLE, kind="decoder").reason


@pytest.mark.parametrize(
    ("requested", "found", "offers"),
    [
        ("cuda", NOTHING, "only cpu can be used"),
        ("cuda:2", TWO_GPUS, "only cuda:0, cuda:1, cpu can be used"),
        ("cuda", NO_LIBRARIES, "only cpu can be used: no libcublas"),
        ("tensorrt", TWO_GPUS, "only cuda:0, cuda:1, cpu can be used"),
        ("tensorrt:1", WITH_TENSORRT, "only cuda:0, tensorrt:0, cpu can be used"),
        ("coreml", TWO_GPUS, "only cuda:0, cuda:1, cpu can be used"),
        ("cuda:0", APPLE, "only coreml, cpu can be used"),
    ],
)
def test_a_named_device_must_be_there(requested: str, found: Found, offers: str) -> None:
    """No silent fall to another; the message names what there is."""
    with pytest.raises(EngineLoadError, match=offers) as caught:
        choose_device(requested, found, kind="encoder")
    assert caught.value.permanent


@pytest.mark.parametrize(
    ("name", "kind", "index", "provider", "memory"),
    [
        ("cpu", "cpu", 0, "CPUExecutionProvider", "cpu"),
        ("cuda:1", "cuda", 1, "CUDAExecutionProvider", "cuda"),
        ("tensorrt:1", "tensorrt", 1, "TensorrtExecutionProvider", "cuda"),
        ("coreml", "coreml", 0, "CoreMLExecutionProvider", "cpu"),
    ],
)
def test_names(name: str, kind: str, index: int, provider: str, memory: str) -> None:
    """What ONNX Runtime calls a device, and where its tensors lie."""
    choice = DeviceChoice(device=name)
    assert (choice.kind, choice.index, choice.provider, choice.memory) == (kind, index, provider, memory)


class Build:
    """A build of ONNX Runtime whose providers do as told."""

    def __init__(self, compiled: dict[str, str | Exception]) -> None:
        self.compiled = compiled
        self.preloaded = 0
        self.tried: list[str] = []
        self.SessionOptions = SimpleNamespace

    def get_available_providers(self) -> list[str]:
        return [*self.compiled, "CPUExecutionProvider"]

    def preload_dlls(self, **_: bool) -> None:
        self.preloaded += 1

    def InferenceSession(self, _: bytes, __: Any, *, providers: list[str], enable_fallback: bool) -> Any:  # noqa: N802
        assert not enable_fallback
        [provider] = providers
        self.tried.append(provider)
        effect = self.compiled[provider]
        if isinstance(effect, Exception):
            raise effect
        effective = [provider, "CPUExecutionProvider"] if effect == "works" else ["CPUExecutionProvider"]

        def run(*_: Any) -> None:
            if effect == "cannot run":
                raise RuntimeError("no kernel image")

        return SimpleNamespace(get_providers=lambda: effective, run=run)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Build]:
    def make(devices: int, **compiled: str | Exception) -> Build:
        made = Build({f"{name}ExecutionProvider": effect for name, effect in compiled.items()})
        monkeypatch.setattr(device, "load_runtime", lambda: made)
        monkeypatch.setattr(device, "build_name", lambda: "onnxruntime-gpu 1.32")
        monkeypatch.setattr(cuda_driver, "device_count", lambda: devices)
        return made

    return make


def test_without_a_device_cuda_is_not_tried(build: Callable[..., Build]) -> None:
    """The build for GPUs on a machine without one: no libraries are loaded, nothing is claimed."""
    made = build(0, CUDA="works", Tensorrt="works")
    found = find_devices("tensorrt")
    assert (found.usable, found.problems) == (
        frozenset(),
        ("onnxruntime-gpu 1.32 finds no CUDA device or no driver for it",),
    )
    assert not made.tried
    assert not made.preloaded


def test_what_computes_is_usable(build: Callable[..., Build]) -> None:
    """A device, its libraries, and a kernel that runs."""
    made = build(2, CUDA="works", Tensorrt="works")
    assert find_devices("auto") == Found(
        build="onnxruntime-gpu 1.32", cuda_devices=2, usable=frozenset({"cuda"}), problems=()
    )
    assert made.preloaded
    assert find_devices("tensorrt:1").usable == {"cuda", "tensorrt"}
    assert find_devices("cpu").usable == frozenset()


def test_a_session_that_opens_on_the_cpu_is_no_gpu(build: Callable[..., Build]) -> None:
    """Without its libraries the CUDA provider gives way to the CPU and raises nothing."""
    build(1, CUDA="gives way")
    found = find_devices("cuda")
    assert not found.usable
    assert "cannot load the libraries of cuda" in found.problems[0]


@pytest.mark.parametrize("effect", ["cannot run", RuntimeError("no kernel image")])
def test_what_fails_is_not_usable(build: Callable[..., Build], effect: str | Exception) -> None:
    """A GPU too old for the build's kernels, for instance."""
    build(1, CUDA=effect)
    assert find_devices("auto").problems == ("onnxruntime-gpu 1.32 cannot use cuda: no kernel image",)


def test_the_tiny_graph() -> None:
    """It is an ONNX model that the real runtime computes."""
    model = onnx.load_from_string(device._DOUBLE)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Add"]
    runtime = device.load_runtime()
    assert device._tried(runtime, "cpu", "onnxruntime") == ""


def test_this_machine() -> None:
    """The real runtime can be asked, and whatever it says leads to a device whose memory is known."""
    choice = choose_device("auto", find_devices("auto"), kind="decoder")
    assert choice.kind in {"cpu", "cuda"}
    assert (free_device_bytes(choice) or 0) > 0


class Driver:
    """NVIDIA's driver with one device, and a record of what is held."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.free_bytes = 5_000_000_000
        self.held: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == self.failing:
                return 999
            match name:
                case "cuDeviceGetCount":
                    arguments[0]._obj.value = 1
                case "cuDeviceGet":
                    return 101 if arguments[1] else 0
                case "cuDevicePrimaryCtxRetain" | "cuCtxPushCurrent_v2":
                    self.held.append(name)
                case "cuCtxPopCurrent_v2" | "cuDevicePrimaryCtxRelease_v2":
                    self.held.pop()
                case "cuMemGetInfo_v2":
                    arguments[0]._obj.value = self.free_bytes
                case "cuInit":
                    pass
                case _:
                    raise AttributeError(name)
            return 0

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    def load(library: Any) -> Any:
        def found(_: str) -> Any:
            if library is None:
                raise OSError
            return library

        cuda_driver._driver.cache_clear()
        monkeypatch.setattr(ctypes, "CDLL", found)
        return library

    yield load  # type: ignore[misc] # pytest runs the rest after the test
    cuda_driver._driver.cache_clear()


def test_the_driver_tells(driver: Callable[[Any], Any]) -> None:
    """How many devices, and what is free on each; what was taken to ask is given back."""
    library = driver(Driver())
    assert cuda_driver.device_count() == 1
    assert free_device_bytes(DeviceChoice(device="tensorrt:0")) == 5_000_000_000
    assert free_device_bytes(DeviceChoice(device="cuda:1")) is None
    assert not library.held


@pytest.mark.parametrize(
    "failing", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"]
)
def test_a_driver_that_fails(driver: Callable[[Any], Any], failing: str) -> None:
    """Nothing is known then, and nothing is held."""
    library = driver(Driver(failing))
    assert cuda_driver.free_bytes(0) is None
    assert not library.held


def test_no_driver(driver: Callable[[Any], Any]) -> None:
    """No device."""
    driver(None)
    assert (cuda_driver.device_count(), cuda_driver.free_bytes(0)) == (0, None)


def test_what_a_replica_has_taken_of_a_device(driver: Callable[[Any], Any]) -> None:
    """What was lost since; nothing where somebody else gave more back, the driver is silent, or it is the host."""
    library = driver(Driver())
    cuda = DeviceChoice(device="cuda:0")
    assert taken_device_bytes(cuda, 7_000_000_000) == 2_000_000_000
    assert taken_device_bytes(cuda, 4_000_000_000) == 0
    assert taken_device_bytes(cuda, None) == 0
    assert taken_device_bytes(DeviceChoice(device="cpu"), 7_000_000_000) == 0
    library.failing = "cuMemGetInfo_v2"
    assert taken_device_bytes(cuda, 7_000_000_000) == 0
