"""A safetensors folder, read by transformers; what can be wrong with one is told in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from core.api import EngineLoadError
from torch_backend.device import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Checkpoint"]


class Checkpoint:
    """What lies in a folder.

    Args:
        folder: with a config.json and safetensors.
        name: the served name.
        trusted: whether Python code in the folder may run.

    Attributes:
        folder: as given.
        config: of the model.

    Raises:
        EngineLoadError: transformers does not know the architecture; trying again cannot help.
    """

    def __init__(self, folder: Path, name: str, *, trusted: bool) -> None:
        self.folder = folder
        self._name = name
        self._trusted = trusted
        self.config: PreTrainedConfig = self._read(AutoConfig)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""
        return self._read(AutoTokenizer)

    def outline(self, auto: Any) -> PreTrainedModel:
        """Return the model on the ``meta`` device: its modules, without their weights.

        Args:
            auto: one of transformers' ``AutoModelFor...``.
        """
        try:
            with torch.device("meta"):
                return auto.from_config(self.config, trust_remote_code=self._trusted)
        except Exception as error:
            raise self._failed(error) from error

    def weights(self, auto: Any, dtype: Dtype, device: str) -> PreTrainedModel:
        """Return the whole model, on the device and ready to compute."""
        try:
            model, told = auto.from_pretrained(
                self.folder,
                config=self.config,
                dtype=getattr(torch, dtype),
                use_safetensors=True,  # never a pickle
                trust_remote_code=self._trusted,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise self._failed(error) from error
        if missing := sorted(told["missing_keys"]):
            msg = f"The weights in {self.folder} lack {len(missing)} tensors, among them {missing[0]}."
            raise EngineLoadError(msg, permanent=True)
        return model.eval().requires_grad_(requires_grad=False).to(device)

    def _read(self, auto: Any) -> Any:
        try:
            return auto.from_pretrained(self.folder, trust_remote_code=self._trusted, local_files_only=True)
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> EngineLoadError:
        if "trust_remote_code" in str(error):
            reason = (
                "it needs Python code of its own repository; if you have read that code, add "
                f"{self._name!r} to trust_remote_code of [backends.torch]"
            )
        else:
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            if isinstance(error, SafetensorError):
                reason = f"a file of weights is damaged: {reason}"
        permanent = not isinstance(error, MemoryError | torch.OutOfMemoryError)
        return EngineLoadError(f"{self.folder} cannot be loaded: {reason}.", permanent=permanent)
