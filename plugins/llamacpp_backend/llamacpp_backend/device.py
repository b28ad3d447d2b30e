"""Which device to run on: a pure choice between what was asked for and what the installed wheel offers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.api import EngineLoadError
from llamacpp_backend.settings import DeviceRequest

__all__ = ["ALL_THAT_FIT", "DeviceChoice", "OfferedDevice", "choose_device"]

Kind = Literal["cuda", "rocm", "metal", "vulkan"]

ALL_THAT_FIT = -1
_KINDS: dict[str, Kind] = {"cuda": "cuda", "rocm": "rocm", "metal": "metal", "mtl": "metal", "vulkan": "vulkan"}
_BEST_FIRST: tuple[Kind, ...] = ("cuda", "rocm", "metal", "vulkan")
_NAME = re.compile(r"([a-z]+)(\d*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferedDevice:
    """A GPU as llama.cpp names it: ``CUDA0``, ``Metal``, ``Vulkan1``; integrated ones share the host's memory."""

    name: str
    integrated: bool = False

    @property
    def kind(self) -> Kind | None:
        """Its family, None when it is none we know."""
        match = _NAME.match(self.name)
        return _KINDS.get(match[1].lower()) if match else None

    @property
    def label(self) -> str:
        """As `core.api.EngineInfo.device` writes it: ``cuda:0``."""
        match = _NAME.match(self.name)
        return f"{self.kind}:{(match and match[2]) or 0}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceChoice:
    """What to run on.

    Attributes:
        device: ``cpu``, or GPUs joined by ``+`` (``cuda:0+cuda:1``): llama.cpp spreads layers over all of a kind.
        n_gpu_layers: for llama.cpp; `ALL_THAT_FIT` lets it measure.
        reason: why it is not what was asked for, or an empty string.
    """

    device: str
    n_gpu_layers: int
    reason: str = ""

    @property
    def is_cpu(self) -> bool:
        """Whether no GPU has a part in it."""
        return self.device == "cpu"


def choose_device(
    requested: DeviceRequest, offered: Sequence[OfferedDevice], n_gpu_layers: int | None = None
) -> DeviceChoice:
    """Return what to run on.

    Raises:
        EngineLoadError: the named device is not there; trying again cannot help.
    """
    if requested == "cpu":
        return DeviceChoice(device="cpu", n_gpu_layers=0)
    kinds = _BEST_FIRST if requested == "auto" else (requested,)
    for kind in kinds:
        found = [device for device in offered if device.kind == kind]
        # An integrated GPU beside a real one would only slow it down; llama.cpp leaves it out as well.
        found = [device for device in found if not device.integrated] or found
        if found:
            if n_gpu_layers == 0:
                return DeviceChoice(device="cpu", n_gpu_layers=0, reason="n_gpu_layers is 0")
            layers = ALL_THAT_FIT if n_gpu_layers is None else n_gpu_layers
            return DeviceChoice(device="+".join(device.label for device in found), n_gpu_layers=layers)
    names = ", ".join(device.name for device in offered) or "none"
    if requested == "auto":
        reason = f"the installed xllamacpp wheel finds no GPU (it offers: {names})"
        return DeviceChoice(device="cpu", n_gpu_layers=0, reason=reason)
    msg = (
        f"device = {requested!r} was asked for, but the installed xllamacpp wheel finds none (it offers: {names}). "
        "Install the wheel for your hardware, or set device = 'auto' to allow the CPU."
    )
    raise EngineLoadError(msg, permanent=True)
