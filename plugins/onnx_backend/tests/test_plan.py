"""What a model is exported to, and what makes another export necessary."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from onnx_backend.environment import export_requirements
from onnx_backend.plan import plan_export
from onnx_backend.settings import OnnxSettings
from onnx_backend.sources import Source
from packaging.requirements import Requirement


def source(kind: str = "decoder") -> Source:
    return Source(path=Path(__file__), form="safetensors", kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("export_for", "device", "gpu_installed", "target"),
    [
        ("auto", "auto", False, "cpu"),
        ("auto", "auto", True, "cuda"),
        ("auto", "cpu", True, "cpu"),
        ("auto", "coreml", True, "cpu"),
        ("auto", "cuda:1", False, "cuda"),
        ("auto", "tensorrt", False, "cuda"),
        ("cpu", "cuda", True, "cpu"),
        ("cuda", "cpu", False, "cuda"),
    ],
)
def test_target(export_for, device, gpu_installed, target):
    """What the operator says, else for the device that will be taken."""
    settings = OnnxSettings(export_for=export_for, device=device)
    assert plan_export(source(), settings, gpu_installed=gpu_installed).target == target


@pytest.mark.parametrize(
    ("quantization", "kind", "target", "found"),
    [
        ("auto", "decoder", "cpu", "int8"),
        ("auto", "decoder", "cuda", "none"),
        ("auto", "encoder", "cpu", "none"),
        ("auto", "cross_encoder", "cpu", "none"),
        ("int4", "decoder", "cuda", "int4"),
        ("none", "decoder", "cpu", "none"),
    ],
)
def test_quantization(quantization, kind, target, found):
    """Only decoders on a CPU are quantised unasked."""
    settings = OnnxSettings(quantization=quantization, export_for=target)
    assert plan_export(source(kind), settings, gpu_installed=False).quantization == found


def test_name(tmp_path: Path) -> None:
    """It changes with all that changes the result, and with nothing else."""
    weights = tmp_path / "My model (7B)"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"12345")
    (weights / "README.md").write_text("hello")
    given = Source(path=weights, form="safetensors", kind="decoder")

    def name(requirements=("torch",), **settings):
        return plan_export(given, OnnxSettings(**settings), gpu_installed=False).name(requirements)

    first = name()
    names = {
        first,
        name(("torch>1",)),
        name(quantization="int4"),
        name(quantization="none"),
        name(block_size=32),
        name(export_for="cuda"),
    }
    assert len(names) == 6
    assert first.startswith("My-model-7B-")
    assert first == name(slots=3, min_agreement=0.1, device="cpu", quantization="int8")
    assert name(quantization="none") == name(quantization="none", block_size=32)
    (weights / "README.md").write_text("goodbye!")
    assert name() == first
    os.utime(weights / "model.safetensors", ns=(1, 1))
    second = name()
    (weights / "model.safetensors").write_bytes(b"123456")
    os.utime(weights / "model.safetensors", ns=(1, 1))
    assert len({first, second, name()}) == 3
    assert dataclasses.replace(given, path=tmp_path).identity() != given.identity()


def test_requirements() -> None:
    """They are those of the extra, without those of serving."""
    names = {Requirement(one).name for one in export_requirements()}
    assert {"torch", "onnxruntime-genai", "transformers", "gguf"} <= names
    assert not names & {"filelock", "pydantic", "onnxruntime", "ai-gateway", "pytest"}
