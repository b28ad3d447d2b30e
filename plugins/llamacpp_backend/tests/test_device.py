"""The choice of a device, for hardware that is not here."""

from __future__ import annotations

import pytest
from llamacpp_backend.device import ALL_THAT_FIT, OfferedDevice, choose_device

from core.api import EngineLoadError

CUDA = OfferedDevice(name="CUDA0")
CUDA_1 = OfferedDevice(name="CUDA1")
METAL = OfferedDevice(name="MTL0", integrated=True)
VULKAN = OfferedDevice(name="Vulkan0")
VULKAN_INTEGRATED = OfferedDevice(name="Vulkan1", integrated=True)
ROCM = OfferedDevice(name="ROCm0")


@pytest.mark.parametrize(
    ("offered", "device"),
    [
        ([CUDA], "cuda:0"),
        ([CUDA, CUDA_1], "cuda:0+cuda:1"),
        ([VULKAN, CUDA], "cuda:0"),
        ([ROCM, VULKAN], "rocm:0"),
        ([METAL], "metal:0"),
        ([OfferedDevice(name="Metal")], "metal:0"),
        ([VULKAN_INTEGRATED, VULKAN], "vulkan:0"),
        ([VULKAN_INTEGRATED], "vulkan:1"),
    ],
)
def test_auto_takes_the_best(offered: list[OfferedDevice], device: str) -> None:
    """All layers that fit go there, and there is nothing to explain."""
    choice = choose_device("auto", offered)
    assert (choice.device, choice.n_gpu_layers, choice.reason) == (device, ALL_THAT_FIT, "")


def test_auto_falls_back_and_says_so() -> None:
    """Without a GPU the CPU serves, and the reason names what was offered."""
    choice = choose_device("auto", [OfferedDevice(name="BLAS")])
    assert choice.is_cpu
    assert choice.n_gpu_layers == 0
    assert "BLAS" in choice.reason


@pytest.mark.parametrize(("named", "device"), [("cuda", CUDA), ("metal", METAL), ("vulkan", VULKAN)])
def test_a_named_device_is_taken_or_refused(named: str, device: OfferedDevice) -> None:
    """It is never replaced by another."""
    assert choose_device(named, [VULKAN, CUDA, METAL]).device == device.label
    others = [other for other in (CUDA, METAL, VULKAN) if other is not device]
    with pytest.raises(EngineLoadError, match=named) as caught:
        choose_device(named, others)
    assert caught.value.permanent


def test_cpu_by_name_ignores_gpus() -> None:
    """Without a reason: it is what was asked for."""
    choice = choose_device("cpu", [CUDA], 10)
    assert (choice.device, choice.n_gpu_layers, choice.reason) == ("cpu", 0, "")


def test_layers_as_configured() -> None:
    """A number is passed on; none at all is the CPU, and is said."""
    assert choose_device("auto", [CUDA], 12).n_gpu_layers == 12
    assert choose_device("cuda", [CUDA], 0).reason == "n_gpu_layers is 0"
