"""The exporting process: weights in, a folder out."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from onnx_backend.exporting.progress import ExportError, Progress, end_with_parent
from onnx_backend.receipt import AGREEMENT

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Export, check, and write what was found; tell it in lines of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--form", choices=["gguf", "safetensors"], required=True)
    parser.add_argument("--kind", choices=["decoder", "encoder", "cross_encoder"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quantization", choices=["none", "int8", "int4"], required=True)
    parser.add_argument("--block-size", type=int, required=True)
    parser.add_argument("--target", choices=["cpu", "cuda"], required=True)
    options = parser.parse_args(arguments)
    end_with_parent()
    progress = Progress()
    try:
        with tempfile.TemporaryDirectory(dir=options.out, prefix=".source-") as place:
            _export(options, Path(place), progress)
    except ExportError as error:
        progress.refuse(str(error))
    except MemoryError:
        progress.refuse("there is too little memory")
    except OSError as error:
        traceback.print_exc(file=sys.stderr)
        progress.refuse(error.strerror or str(error))
    except Exception as error:  # noqa: BLE001 - the libraries' own, whose trace the log has
        traceback.print_exc(file=sys.stderr)
        progress.refuse(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _export(options: argparse.Namespace, place: Path, progress: Progress) -> None:
    progress.tell("reading weights")
    # These imports take seconds and more: the stage should be told before.
    from onnx_backend.exporting.source_model import copy_files, folder_of_gguf  # noqa: PLC0415

    source = options.source
    if options.form == "gguf":
        source = place / "dequantised"
        folder_of_gguf(options.source, source)
    graph = options.out / "model.onnx"
    if options.kind == "decoder":
        from onnx_backend.exporting.agreement import check_decoder  # noqa: PLC0415

        exporter = _export_decoder(source, options, progress)
        copy_files(source, options.out)
        agreement = check_decoder(source, graph, progress)
    else:
        from onnx_backend.exporting.encoder import export_encoder  # noqa: PLC0415
        from onnx_backend.exporting.vectors import check_encoder  # noqa: PLC0415

        progress.tell("exporting")
        export_encoder(source, options.out, options.quantization, options.block_size)
        copy_files(source, options.out)
        agreement = check_encoder(source, graph, options.kind, progress)
        exporter = "torch"
    found = asdict(agreement) | {
        "kind": options.kind,
        "source": str(options.source),
        "quantization": options.quantization,
        "block_size": options.block_size,
        "target": options.target,
        "exporter": f"{exporter} {version(exporter)}",
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    shutil.rmtree(place, ignore_errors=True)
    (options.out / AGREEMENT).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _export_decoder(source: Path, options: argparse.Namespace, progress: Progress) -> str:
    """Make the graph, and return the distribution that made it."""
    from onnx_backend.exporting.decoder import UnknownDecoderError, export_decoder  # noqa: PLC0415

    wanted = {name: getattr(options, name) for name in ("quantization", "block_size", "target")}
    try:
        export_decoder(source, options.out, **wanted, progress=progress)
    except UnknownDecoderError:
        from onnx_backend.exporting.traced import trace_decoder  # noqa: PLC0415

        trace_decoder(source, options.out, **wanted, progress=progress)
        return "transformers"
    return "onnxruntime-genai"
