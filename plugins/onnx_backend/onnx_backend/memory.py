"""How much memory a device has left."""

from __future__ import annotations

from decoding.memory import free_host_bytes

from onnx_backend import cuda_driver
from onnx_backend.device import DeviceChoice

__all__ = ["free_device_bytes"]


def free_device_bytes(choice: DeviceChoice) -> int | None:
    """Return the free memory of a device, None if its driver does not tell; CoreML's is the host's."""
    return cuda_driver.free_bytes(choice.index) if choice.memory == "cuda" else free_host_bytes()
