"""What NVIDIA's driver tells: it is there wherever a CUDA device can be used, with no package to install."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

__all__ = ["device_count", "free_bytes"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def device_count() -> int:
    """Return how many devices ``CUDA_VISIBLE_DEVICES`` leaves to this process; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def free_bytes(index: int) -> int | None:
    """Return the free memory of a device; None if the driver does not tell."""
    driver = _driver()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    # The context that CUDA's runtime, and so ONNX Runtime, uses too: asking costs no memory of its own.
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        return _free_bytes_of(driver, context)
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _free_bytes_of(driver: Any, context: ctypes.c_void_p) -> int | None:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuCtxPushCurrent_v2(context):
        return None
    try:
        return None if driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) else free.value
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@cache
def _driver() -> Any:
    """The driver's library, ready to be asked; None where there is none, or none that works."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return None if driver.cuInit(0) else driver
