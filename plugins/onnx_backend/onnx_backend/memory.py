"""How much memory a device has left, and how much of it is ours."""

from __future__ import annotations

from decoding.memory import free_host_bytes

from onnx_backend import cuda_driver
from onnx_backend.device import DeviceChoice

__all__ = ["free_device_bytes", "taken_device_bytes"]


def free_device_bytes(choice: DeviceChoice) -> int | None:
    """Return the free memory of a device, None if its driver does not tell; CoreML's is the host's."""
    return cuda_driver.free_bytes(choice.index) if choice.memory == "cuda" else free_host_bytes()


def taken_device_bytes(choice: DeviceChoice, free_before: int | None) -> int:
    """Return what a device that is not the host has lost since it had ``free_before`` bytes left; 0 if nobody knows.

    ONNX Runtime does not tell what it has allocated there; what other processes took meanwhile is in it too.
    """
    left = cuda_driver.free_bytes(choice.index) if choice.memory == "cuda" else None
    return 0 if left is None or free_before is None else max(0, free_before - left)
