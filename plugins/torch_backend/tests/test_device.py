"""Which device, and in which number format."""

from __future__ import annotations

import pytest
from torch_backend.device import DeviceChoice, Found, choose_device, choose_dtype, find_devices

from core.api import EngineLoadError

NOTHING = Found(build="2.13")
TWO_GPUS = Found(build="2.13", cuda_devices=2, cuda_has_bfloat16=True)
OLD_GPU = Found(build="2.13", cuda_devices=1)
APPLE = Found(build="2.13", mps=True)


@pytest.mark.parametrize(
    ("requested", "found", "expected"),
    [
        ("auto", TWO_GPUS, "cuda:0"),
        ("auto", APPLE, "mps"),
        ("auto", NOTHING, "cpu"),
        ("cuda", TWO_GPUS, "cuda:0"),
        ("cuda:1", TWO_GPUS, "cuda:1"),
        ("mps", APPLE, "mps"),
        ("cpu", TWO_GPUS, "cpu"),
    ],
)
def test_choice(requested: str, found: Found, expected: str) -> None:
    """The best there is, or what was named; only an unexpected outcome has a reason."""
    choice = choose_device(requested, found)
    assert choice.device == expected
    assert bool(choice.reason) == (requested == "auto" and expected == "cpu")


@pytest.mark.parametrize(
    ("requested", "found"), [("cuda", NOTHING), ("cuda:2", TWO_GPUS), ("mps", TWO_GPUS), ("cuda:0", APPLE)]
)
def test_a_named_device_must_be_there(requested: str, found: Found) -> None:
    """No silent fall to another; the message names what there is."""
    with pytest.raises(EngineLoadError, match=r"finds only .*cpu") as caught:
        choose_device(requested, found)
    assert caught.value.permanent


@pytest.mark.parametrize(
    ("requested", "device", "found", "expected"),
    [
        ("auto", "cpu", NOTHING, None),
        ("auto", "cuda:0", TWO_GPUS, "bfloat16"),
        ("auto", "cuda:0", OLD_GPU, "float16"),
        ("auto", "mps", APPLE, "float16"),
        ("float32", "cuda:0", TWO_GPUS, "float32"),
        ("bfloat16", "cpu", NOTHING, "bfloat16"),
    ],
)
def test_number_format(requested: str, device: str, found: Found, expected: str | None) -> None:
    """Measured on the CPU, known elsewhere, as asked for if asked for."""
    assert choose_dtype(requested, DeviceChoice(device=device), found) == expected  # type: ignore[arg-type]


def test_this_machine() -> None:
    """Torch can be asked, and whatever it says leads to a device."""
    assert choose_device("auto", find_devices()).kind in {"cpu", "cuda", "mps"}
