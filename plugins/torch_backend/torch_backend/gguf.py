"""GGUF files as safetensors folders: transformers takes long to read one, so that is done once a machine."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from decoding.folder import default_cache_dir
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.api import EngineLoadError
from torch_backend.device import Dtype

__all__ = ["converted", "is_gguf"]

_MAGIC = b"GGUF"


def is_gguf(file: Path) -> bool:
    """Whether a file says that it is one."""
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def converted(file: Path, dtype: Dtype, cache_dir: Path | None) -> Path:
    """Return a folder with the weights and the tokenizer of a GGUF file, made at the first call.

    A replica that asks meanwhile waits for it. What changes the result (the file, the number format, the version
    of transformers) makes another folder.

    Raises:
        EngineLoadError: transformers cannot read the file; trying again cannot help.
    """
    file = file.resolve()
    state = file.stat()
    told = f"{file}|{state.st_size}|{state.st_mtime_ns}|{dtype}|{transformers.__version__}"
    root = cache_dir or default_cache_dir("torch")
    folder = root / f"{file.stem}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{folder.name}.lock"):
        if not folder.is_dir():
            beginning = f".making-{folder.name}-"
            for left in root.glob(f"{beginning}*"):  # by a process that was killed: the lock is ours
                shutil.rmtree(left, ignore_errors=True)
            made = Path(tempfile.mkdtemp(dir=root, prefix=beginning))
            try:
                _convert(file, getattr(torch, dtype), made)
                made.rename(folder)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    return folder


def _convert(file: Path, dtype: torch.dtype, folder: Path) -> None:
    place, name = str(file.parent), file.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, local_files_only=True)
        # Releases that could keep the weights as they are in the file are told not to.
        plain = transformers.GgufConfig(dequantize=True) if hasattr(transformers, "GgufConfig") else None
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, dtype=dtype, quantization_config=plain, local_files_only=True
        )
    except OSError as error:
        if error.errno is not None:  # the disk's, not transformers'
            raise
        raise _unreadable(file, error) from error
    except Exception as error:  # a damaged file fails anywhere in the reader: ValueError, struct.error, KeyError ...
        raise _unreadable(file, error) from error
    model.hf_quantizer = None  # or save_pretrained refuses
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unreadable(file: Path, error: Exception) -> EngineLoadError:
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return EngineLoadError(f"transformers cannot read {file}: {reason}.", permanent=True)
