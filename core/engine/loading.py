"""From the strings in a `ReplicaConfig` to an engine object."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from core.api.errors import EngineLoadError
from core.api.protocols import Engine, EngineContext, ReplicaConfig
from core.words import describe

__all__ = ["make_engine"]


def make_engine(config: ReplicaConfig) -> Engine:
    """Import the engine's class and call it; may take seconds, as the runtime is imported too.

    Raises:
        EngineLoadError: permanent; a package is missing or broken, or the settings are wrong.
    """
    engine_class = _import(config.engine)
    settings_class = _import(config.settings_class)
    try:
        settings = settings_class(**config.settings)
    except ValidationError as error:
        told = describe(error, model=settings_class, where=f"[backends.{config.model.backend}]")
        raise EngineLoadError(told, permanent=True) from None  # its traceback repeats what was given, secrets too
    context = EngineContext(
        model=config.model,
        weights=None if config.weights is None else Path(config.weights),
        settings=settings,
        scratch=Path(config.scratch),
    )
    return cast("Engine", engine_class(context))


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        message = f"{path} needs the Python package {missing!r}: install it for {sys.executable}."
        raise EngineLoadError(message, permanent=True) from error
    except (ImportError, AttributeError, OSError) as error:
        message = f"{path} cannot be imported: {error}"
        raise EngineLoadError(message, permanent=True) from error
