"""Sessions that run where they say, and files that cannot be loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_backend import session
from onnx_backend.device import DeviceChoice
from onnx_backend.runtime import load_runtime
from onnx_backend.session import Opened, open_session, providers, session_options
from onnx_backend.settings import OnnxSettings

from core.api import EngineLoadError

CPU = DeviceChoice(device="cpu")
GPU = DeviceChoice(device="cuda:0")
Open = Callable[..., Opened]


def write(file: Path, *nodes: onnx.NodeProto, external: bool = False, opset: int = 17, ir: int = 9) -> Path:
    """A graph from ``x [rows, 4]`` to ``y``, with a weight ``w [4, 4]``."""
    weight = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [weight],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=ir)
    onnx.save(model, file, save_as_external_data=external, location=f"{file.name}.data", size_threshold=0)
    return file


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def load(file: Path, choice: DeviceChoice = CPU, **settings: Any) -> Opened:
        return open_session(file, choice, OnnxSettings(**settings), 1, cache_dir=tmp_path)

    return load


@pytest.fixture
def refused(opened: Open) -> Callable[..., str]:
    def load(file: Path, choice: DeviceChoice = CPU, *, permanent: bool = True, **settings: Any) -> str:
        with pytest.raises(EngineLoadError) as caught:
            opened(file, choice, **settings)
        assert caught.value.permanent is permanent
        assert str(caught.value).endswith(".")
        return str(caught.value)

    return load


def test_a_graph_runs(opened: Open, tmp_path: Path) -> None:
    """On the CPU, with its weights beside it; and it says so."""
    loaded = opened(write(tmp_path / "m.onnx", external=True), device="cpu")
    (result,) = loaded.session.run(None, {"x": np.ones((2, 4), np.float32)})
    assert result.tolist() == [[24, 28, 32, 36]] * 2
    assert loaded.choice == CPU
    told = loaded.details(GPU)
    assert (told["provider_requested"], told["provider"]) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert told["nodes"] == "CPUExecutionProvider 1"
    assert str(told["build"]).startswith("onnxruntime")


def test_no_retry_behind_our_back(opened: Open, tmp_path: Path) -> None:
    """Neither when a session is made, nor in a run."""
    assert not opened(write(tmp_path / "m.onnx")).session._enable_fallback


def test_options() -> None:
    """Each setting reaches ONNX Runtime."""
    levels = load_runtime().GraphOptimizationLevel
    options = session_options(OnnxSettings(), 3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.graph_optimization_level == levels.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert not options.enable_profiling
    others = session_options(OnnxSettings(spinning=True, arena=False, graph_level="basic"), 1)
    assert others.graph_optimization_level == levels.ORT_ENABLE_BASIC
    assert others.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert not others.enable_cpu_mem_arena


def test_fixed_sizes(tmp_path: Path) -> None:
    """What the graph leaves open can be closed, for providers that compile shapes."""
    file = write(tmp_path / "m.onnx")
    loaded = open_session(file, CPU, OnnxSettings(), 1, cache_dir=tmp_path, fixed={"rows": 3})
    assert loaded.session.get_inputs()[0].shape == [3, 4]


def test_provider_options(tmp_path: Path) -> None:
    """TensorRT has CUDA behind it, on the same device; what is compiled is kept where it is told to be."""
    assert providers(CPU, tmp_path) == [("CPUExecutionProvider", {})]
    ((name, cuda),) = providers(DeviceChoice(device="cuda:1"), tmp_path)
    assert (name, cuda["device_id"]) == ("CUDAExecutionProvider", "1")
    assert cuda["arena_extend_strategy"] == "kSameAsRequested"
    first, second = providers(DeviceChoice(device="tensorrt:1"), tmp_path)
    assert (first[0], second) == ("TensorrtExecutionProvider", ("CUDAExecutionProvider", cuda))
    assert (first[1]["device_id"], first[1]["trt_engine_cache_path"]) == ("1", str(tmp_path))
    ((name, coreml),) = providers(DeviceChoice(device="coreml"), tmp_path)
    assert (name, coreml["ModelCacheDirectory"]) == ("CoreMLExecutionProvider", str(tmp_path))
    assert (coreml["ModelFormat"], coreml["RequireStaticInputShapes"]) == ("MLProgram", "1")


def test_damaged_and_missing_files(refused: Callable[..., str], tmp_path: Path) -> None:
    """One sentence with the file in it; trying again cannot help."""
    good = write(tmp_path / "good.onnx").read_bytes()
    for name, content in (("cut", good[:100]), ("other", b"not a graph at all" * 10)):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        assert refused(file) == f"'{file}' is damaged or no ONNX graph: fetch the model again."
    absent = tmp_path / "absent.onnx"
    assert refused(absent) == f"'{absent}' does not exist."
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    assert str(empty) in refused(empty)


def test_weights_beside_the_graph(refused: Callable[..., str], tmp_path: Path) -> None:
    """The missing file is named, not the one that refers to it."""
    file = write(tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(b"xx")
    assert "cut short" in refused(file)
    data.unlink()
    assert refused(file).startswith(f"'{data}' is missing")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("NoSuchOp", ["x"], ["y"], domain="com.microsoft"), "NoSuchOp.* is not a registered"),
        (helper.make_node("MatMul", ["x", "nowhere"], ["y"]), "'nowhere' is not a graph input"),
        (helper.make_node("Transpose", ["x", "w"], ["y"]), "Transpose"),
    ],
)
def test_unsupported_graphs(refused: Callable[..., str], tmp_path: Path, node: onnx.NodeProto, said: str) -> None:
    """Valid protobuf, but nothing that this build can run: its reason is told without its sources' paths."""
    told = refused(write(tmp_path / "m.onnx", node))
    assert re.search(said, told)
    assert "onnxruntime_src" not in told
    assert "[ONNXRuntimeError]" not in told


def test_no_kernel(refused: Callable[..., str], tmp_path: Path) -> None:
    """The operator is known, but not for this type of number."""
    narrow = helper.make_node("Cast", ["x"], ["n"], to=TensorProto.BFLOAT16)
    narrow_softmax = helper.make_node("Softmax", ["n"], ["s"])
    wide = helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT)
    told = refused(write(tmp_path / "m.onnx", narrow, narrow_softmax, wide))
    assert "for CPUExecutionProvider: Could not find an implementation for" in told


def test_made_for_a_newer_runtime(refused: Callable[..., str], tmp_path: Path) -> None:
    """The version is in the reason."""
    assert "Unsupported model IR version: 99" in refused(write(tmp_path / "m.onnx", ir=99))


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """A build for GPUs. On a machine without CUDA's libraries its CUDA sessions open on the CPU and raise nothing."""
    real = load_runtime()

    def pretend(effect: Any = None) -> list[Any]:
        asked: list[Any] = []

        def make(file: Path, options: Any, *, providers: list[Any], enable_fallback: bool) -> Any:
            asked.append(providers)
            if providers[0][0] == "CPUExecutionProvider" or effect is None:
                cpu = [("CPUExecutionProvider", {})]
                return real.InferenceSession(file, options, providers=cpu, enable_fallback=enable_fallback)
            if isinstance(effect, Exception):
                raise effect
            return effect

        fake = SimpleNamespace(
            InferenceSession=make,
            SessionOptions=real.SessionOptions,
            GraphOptimizationLevel=real.GraphOptimizationLevel,
        )
        monkeypatch.setattr(session, "load_runtime", lambda: fake)
        return asked

    return pretend


def on_cuda(**nodes: int) -> Any:
    """A session whose nodes run on so many providers."""
    parts = [
        SimpleNamespace(ep_name=f"{name}ExecutionProvider", get_nodes=lambda count=count: range(count))
        for name, count in nodes.items()
    ]
    return SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: parts,
    )


def test_a_named_device_that_gives_way(
    gpu_build: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    """A session on the CPU is not what was asked for."""
    gpu_build()
    assert "could not start CUDAExecutionProvider" in refused(write(tmp_path / "m.onnx"), GPU, device="cuda")


def test_auto_gives_way_with_a_reason(gpu_build: Callable[..., Any], opened: Open, tmp_path: Path) -> None:
    """It runs on the CPU, and says why."""
    asked = gpu_build()
    loaded = opened(write(tmp_path / "m.onnx"), GPU)
    assert [options[0][0] for options in asked] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert loaded.choice.device == "cpu"
    assert loaded.choice.reason.startswith("not cuda:0: onnxruntime")
    assert not loaded.choice.reason.endswith(".")
    assert loaded.details(GPU)["provider"] == "CPUExecutionProvider"


def test_a_provider_that_raises(
    gpu_build: Callable[..., Any], opened: Open, refused: Callable[..., str], tmp_path: Path
) -> None:
    """As above."""
    gpu_build(RuntimeError("CUDA failure 35: CUDA driver version is insufficient"))
    file = write(tmp_path / "m.onnx")
    assert "failure 35" in refused(file, GPU, device="cuda:0")
    assert "failure 35" in opened(file, GPU).choice.reason


@pytest.mark.parametrize("effect", [RuntimeError("CUDA failure 2: out of memory"), MemoryError()])
def test_no_memory(
    gpu_build: Callable[..., Any], refused: Callable[..., str], tmp_path: Path, effect: Exception
) -> None:
    """Another model may stop: it is worth trying again."""
    gpu_build(effect)
    assert "no memory left" in refused(write(tmp_path / "m.onnx"), GPU, permanent=False, device="cuda")


def test_a_provider_that_computes_nothing(
    gpu_build: Callable[..., Any], opened: Open, refused: Callable[..., str], tmp_path: Path
) -> None:
    """A provider that was started but was given no node is not claimed to be used."""
    gpu_build(on_cuda(CPU=7))
    file = write(tmp_path / "m.onnx")
    assert "can compute no part of" in refused(file, GPU, device="cuda")
    assert opened(file, GPU).choice.device == "cpu"


def test_where_the_nodes_run(gpu_build: Callable[..., Any], opened: Open, tmp_path: Path) -> None:
    """A few of them always stay on the CPU."""
    gpu_build(on_cuda(CUDA=40, CPU=2))
    loaded = opened(write(tmp_path / "m.onnx"), GPU, device="cuda")
    assert loaded.choice is GPU
    assert loaded.details(GPU)["nodes"] == "CPUExecutionProvider 2, CUDAExecutionProvider 40"


def test_a_damaged_file_is_no_fault_of_the_device(
    gpu_build: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    """Under ``auto`` what stops the CPU too is what is told."""
    gpu_build()
    assert "does not exist" in refused(tmp_path / "absent.onnx", GPU)
