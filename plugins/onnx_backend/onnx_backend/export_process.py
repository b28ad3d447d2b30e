"""Runs the package `onnx_backend.exporting` in the environment that has what it needs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx_backend
from core.api import PreparationError, PreparationProgress
from onnx_backend.child import run, tail
from onnx_backend.environment import python_of
from onnx_backend.plan import Export

__all__ = ["run_export"]

# Of this installation the exporting process sees this one package, and nothing that lies beside it.
_START = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("onnx_backend", sys.argv[1], submodule_search_locations=[sys.argv[2]])
sys.modules["onnx_backend"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from onnx_backend.exporting.main import main
main(sys.argv[3:])
"""
_VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
    # Threads of torch that spin while they wait made a check of a minute last a quarter of an hour on a busy machine.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def run_export(environment: Path, export: Export, out: Path, log: Path, report: PreparationProgress) -> None:
    """Fill the folder ``out``; what the libraries say goes to ``log``.

    Raises:
        PreparationError: it failed.
    """
    package = Path(onnx_backend.__file__).parent
    source = export.source
    options = {
        "source": source.path.resolve(),
        "form": source.form,
        "kind": source.kind,
        "out": out,
        "quantization": export.quantization,
        "block-size": export.block_size,
        "target": export.target,
    }
    refusals = []

    def hear(line: str) -> None:
        told = json.loads(line)
        if "refusal" in told:
            refusals.append(told["refusal"])
        else:
            report(told["stage"], told["share"])

    command = [str(python_of(environment)), "-I", "-u", "-c", _START, str(package / "__init__.py"), str(package)]
    arguments = [f"--{name}={value}" for name, value in options.items()]
    log.unlink(missing_ok=True)
    if run([*command, *arguments], log, hear, os.environ | _VARIABLES, keep_output=False) == 0:
        return
    said = tail(log)
    reason = refusals[0] if refusals else f"the exporting process ended: {said[-1] if said else 'it said nothing'}"
    msg = f"{source.path} cannot be exported: {reason.rstrip('.')}; see {log}."
    raise PreparationError(msg)
