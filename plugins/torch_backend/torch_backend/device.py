"""Which device to run on, and in which number format: pure choices; `find_devices` asks torch what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.api import EngineLoadError
from torch_backend.settings import DtypeRequest

__all__ = ["DeviceChoice", "Dtype", "Found", "choose_device", "choose_dtype", "find_devices"]

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What this build of torch finds on this machine.

    Attributes:
        build: torch's version.
        cuda_devices: how many.
        cuda_has_bfloat16: whether they compute in it.
        mps: whether Apple's GPU can be used.
    """

    build: str
    cuda_devices: int = 0
    cuda_has_bfloat16: bool = False
    mps: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceChoice:
    """What to run on.

    Attributes:
        device: ``cpu``, ``mps`` or ``cuda:N``.
        reason: why it is not what was asked for, or an empty string.
    """

    device: str
    reason: str = ""

    @property
    def kind(self) -> str:
        """``cpu``, ``mps`` or ``cuda``."""
        return self.device.partition(":")[0]


def find_devices() -> Found:
    """Ask torch."""
    import torch  # noqa: PLC0415 - the choices below are made, and tested, without it

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Found(
        build=torch.__version__,
        cuda_devices=devices,
        cuda_has_bfloat16=devices > 0 and torch.cuda.is_bf16_supported(including_emulation=False),
        mps=torch.backends.mps.is_available(),
    )


def choose_device(requested: str, found: Found) -> DeviceChoice:
    """Return what to run on.

    Args:
        requested: ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.
        found: what there is.

    Raises:
        EngineLoadError: the named device is not there; trying again cannot help.
    """
    if requested == "cpu":
        return DeviceChoice(device="cpu")
    if requested == "auto":
        if found.cuda_devices:
            return DeviceChoice(device="cuda:0")
        if found.mps:
            return DeviceChoice(device="mps")
        return DeviceChoice(device="cpu", reason=f"torch {found.build} finds no CUDA device and no MPS")
    kind, _, number = requested.partition(":")
    if kind == "cuda" and int(number or 0) < found.cuda_devices:
        return DeviceChoice(device=f"cuda:{number or 0}")
    if kind == "mps" and found.mps:
        return DeviceChoice(device="mps")
    offers = [f"cuda:{index}" for index in range(found.cuda_devices)] + ["mps"] * found.mps + ["cpu"]
    msg = (
        f"device = {requested!r} was asked for, but torch {found.build} finds only {', '.join(offers)}. "
        "Install the build of torch for your hardware, or set device = 'auto' to allow the CPU."
    )
    raise EngineLoadError(msg, permanent=True)


def choose_dtype(requested: DtypeRequest, device: DeviceChoice, found: Found) -> Dtype | None:
    """Return the number format of weights and caches; None where it is worth a measurement: on the CPU."""
    if requested != "auto":
        return requested
    if device.kind == "cpu":
        return None
    return "bfloat16" if device.kind == "cuda" and found.cuda_has_bfloat16 else "float16"
