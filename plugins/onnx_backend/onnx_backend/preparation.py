"""Weights that are no ONNX -> a graph, exported, quantised and checked by a process in an environment of its own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import cast

from core.api import PreparationContext, PreparationError, PreparationProgress
from onnx_backend.environment import export_requirements, get_environment
from onnx_backend.export_process import run_export
from onnx_backend.made_once import make_once
from onnx_backend.plan import Export, plan_export
from onnx_backend.receipt import AGREEMENT, read_agreement
from onnx_backend.settings import OnnxSettings
from onnx_backend.sources import Source, find_source

__all__ = ["OnnxPreparation"]


class OnnxPreparation:
    """Makes the graph of one deployment's weights, unless they came with one."""

    def __init__(self, context: PreparationContext) -> None:
        self._settings = cast("OnnxSettings", context.settings)
        self._cache_dir = context.cache_dir

    def find(self, weights: Path) -> Path | None:
        """Return ``weights`` if they are ONNX, else what was made of them; None: it is yet to be.

        Raises:
            PreparationError: they can be neither loaded nor exported, or what was made of them agrees too little.
        """
        source = find_source(weights, self._settings.graph)
        return weights if source.form == "onnx" else self._find_export(self._folder(self._plan(source)))

    def make(self, weights: Path, report: PreparationProgress) -> Path:
        """Export, quantise and check; the environment to do so in is made before.

        Raises:
            PreparationError: it cannot be made, or agrees too little.
            OSError: the disk is full, or may not be written.
        """
        source = find_source(weights, self._settings.graph)
        if source.form == "onnx":
            return weights
        export = self._plan(source)
        folder = self._folder(export)

        def build(made: Path) -> None:
            environment = get_environment(self._cache_dir / "environments", report)
            log = self._cache_dir / f"{folder.name}.log"
            run_export(environment, export, made, log, report)
            self._check(read_agreement(made), export.quantization)

        make_once(
            folder,
            is_made=lambda: self._find_export(folder) is not None,
            make=build,
            wait=lambda: report("waiting for another process that prepares these weights", None),
        )
        return folder

    def _plan(self, source: Source) -> Export:
        return plan_export(source, self._settings, gpu_installed=_gpu_installed())

    def _folder(self, export: Export) -> Path:
        return self._cache_dir / export.name(export_requirements())

    def _find_export(self, folder: Path) -> Path | None:
        agreement = read_agreement(folder)
        if agreement is None:
            return None
        self._check(agreement, agreement.get("quantization", "none"))
        return folder

    def _check(self, agreement: dict[str, object] | None, quantization: str) -> None:
        if agreement is None:
            msg = f"The export wrote no {AGREEMENT}."
            raise PreparationError(msg)
        share = cast("float", agreement["share"])
        if share >= self._settings.min_agreement:
            return
        better = {"int4": 'quantization = "int8" or a smaller block_size', "int8": 'quantization = "none"'}
        msg = (
            f"The exported graph ({_words(quantization)}) agrees with its model in {share:.1%} of what was compared, "
            f"less than min_agreement = {self._settings.min_agreement:g}: "
            f"set {better.get(quantization, 'export_for to the other kind of device')}, or a lower min_agreement."
        )
        raise PreparationError(msg)


def _words(quantization: str) -> str:
    return "not quantised" if quantization == "none" else quantization


def _gpu_installed() -> bool:
    try:
        distribution("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return True
