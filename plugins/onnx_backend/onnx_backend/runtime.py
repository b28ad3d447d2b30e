"""Which build of ONNX Runtime is installed, and its module: all of this plugin gets it from here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from core.api import EngineLoadError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["build_name", "choose_build", "load_runtime", "plain_words"]

_MODULE = "onnxruntime"
_INSTALL = 'pip install "ai-gateway-onnx[cpu]", or "ai-gateway-onnx[cuda]" for NVIDIA GPUs'
# Of "[ONNXRuntimeError] : 1 : FAIL : Load model from X failed:/onnxruntime_src/a/b.cc:46 int f(int) What is wrong."
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:|/\S+\.(cc|h):\d+ .*?\) (?=[A-Z])")
_MOST_TOLD = 300


def choose_build(installed: Sequence[str]) -> str:
    """Return the one distribution that the module onnxruntime comes from.

    Args:
        installed: all that bring it: ``onnxruntime``, ``onnxruntime-gpu``, ``onnxruntime-directml`` ...

    Raises:
        EngineLoadError: none or several do; trying again cannot help.
    """
    match sorted(set(installed)):
        case []:
            msg = f"ONNX Runtime is not installed: {_INSTALL}."
        case [build]:
            return build
        case several:
            msg = (
                f"{' and '.join(several)} are both installed, and each overwrites files of the other: "
                f"pip uninstall -y {' '.join(several)}, then {_INSTALL}. "
                "To remove only one would break the other."
            )
    raise EngineLoadError(msg, permanent=True)


@cache
def build_name() -> str:
    """Return the installed build and its version: ``onnxruntime-gpu 1.31.1``.

    Raises:
        EngineLoadError: as `choose_build`.
    """
    build = choose_build(metadata.packages_distributions().get(_MODULE, ()))
    return f"{build} {metadata.version(build)}"


@cache
def load_runtime() -> ModuleType:
    """Return the module ``onnxruntime``. Its wheels report what they do to their makers unless told not to.

    Raises:
        EngineLoadError: it cannot be used; the message says what to install. Trying again cannot help.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    name = build_name()
    try:
        import onnxruntime  # noqa: PLC0415 - not before the build is known to be sound
        from onnxruntime import InferenceSession  # noqa: F401, PLC0415 - without its files the folder still imports
    except ImportError as error:
        build = name.partition(" ")[0]
        msg = f"{name} cannot be imported ({error}): pip install --force-reinstall --no-deps {build}."
        raise EngineLoadError(msg, permanent=True) from error
    return onnxruntime


def plain_words(error: Exception) -> str:
    """Return what an exception of ONNX Runtime says, without the place in its sources and the last full stop."""
    return " ".join(_NOISE.sub("", str(error)).split()).rstrip(".")[:_MOST_TOLD]
