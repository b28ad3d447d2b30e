"""A decoder's safetensors folder -> a graph, by onnxruntime-genai's model builder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from onnx_backend.exporting.progress import ExportError, Progress

__all__ = ["UnknownDecoderError", "export_decoder"]

_PRECISIONS = {
    ("cpu", "none"): "fp32",
    ("cuda", "none"): "fp16",
    ("cpu", "int8"): "int8",
    ("cuda", "int8"): "int8",
    ("cpu", "int4"): "int4",
    ("cuda", "int4"): "int4",
}
_UNKNOWN = "is not currently supported"


class UnknownDecoderError(ExportError):
    """The builder does not know the model's architecture."""


def export_decoder(
    source: Path, out: Path, *, quantization: str, block_size: int, target: str, progress: Progress
) -> None:
    """Write model.onnx, its weights and genai_config.json into ``out``.

    Only the last position's logits are computed, and the last layer's vectors are an output: for embeddings.

    Args:
        source: safetensors folder.
        out: folder that is there.
        quantization: none, int8 or int4.
        block_size: weights that share a scale.
        target: cpu or cuda.
        progress: told how it goes.

    Raises:
        UnknownDecoderError: the builder does not know the model.
        ExportError: it failed.
    """
    options = ["prune_lm_head=true", "include_hidden_states=true"]
    if quantization != "none":
        options.append(f"block_size={block_size}")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layers = int(config.get("num_hidden_layers") or 0)
    progress.tell("exporting", 0.0 if layers else None)
    with tempfile.TemporaryDirectory(dir=out, prefix=".cache-") as cache:  # removed with it, should this be killed
        command = [sys.executable, "-I", "-u", "-m", "onnxruntime_genai.models.builder", "-i", str(source)]
        command += ["-o", str(out), "-p", _PRECISIONS[target, quantization], "-e", target, "-c", cache]
        process = subprocess.Popen(  # noqa: S603 - our own words and the names of folders
            [*command, "--extra_options", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said = ""
        with process:
            for raw in process.stdout or ():
                line = raw.decode(errors="replace").strip()
                sys.stderr.write(f"{line}\n")
                said = line or said
                if line.startswith("Reading layer ") and layers:
                    progress.tell("exporting", min(1.0, (int(line.split()[2]) + 1) / layers))
                elif line.startswith("Saving ONNX model"):
                    progress.tell("saving" if quantization == "none" else "quantising")
    if process.returncode != 0:
        name = config["architectures"][0]
        refusal = f"onnxruntime-genai's model builder failed on {name} ({said.rstrip('.')})"
        raise UnknownDecoderError(refusal) if _UNKNOWN in said else ExportError(refusal)
