"""What the files of a model and of its operator say (end tokens, chat template), and where more of them may lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.api import EngineLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["default_cache_dir", "end_tokens", "ends_in", "read_template"]


def default_cache_dir(backend: str) -> Path:
    """Return the folder for what a backend makes of its models: in ``ai-gateway`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ai-gateway" / backend


def ends_in(folder: Path, config: PreTrainedConfig) -> int | list[int] | None:
    """Return what a model's generation_config.json names as the tokens that end an answer; without one, its config.

    Raises:
        EngineLoadError: the file cannot be read; trying again cannot help.
    """
    file = folder / "generation_config.json"
    if not file.is_file():
        return getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    try:
        told: int | list[int] | None = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{file} cannot be read: {error}."
        raise EngineLoadError(msg, permanent=True) from error
    return told


def end_tokens(told: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer: those that a model's files name, and its tokenizer's own.

    Raises:
        EngineLoadError: what the files name is no token's id; trying again cannot help.
    """
    named = told if isinstance(told, list) else [told]
    ends = [token for token in [*named, tokenizer.eos_token_id] if token is not None]
    if strange := [token for token in ends if not isinstance(token, int)]:
        msg = f"The model's files name {strange[0]!r} as eos_token_id, which is no token's id."
        raise EngineLoadError(msg, permanent=True)
    return frozenset(ends)


def read_template(file: Path | None) -> str | None:
    """Return the chat template that an operator gives instead of the model's own; None: no file was named.

    Raises:
        EngineLoadError: the file cannot be read; trying again cannot help.
    """
    try:
        return None if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"chat_template = '{file}' cannot be read: {error}."
        raise EngineLoadError(msg, permanent=True) from error
