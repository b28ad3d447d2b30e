"""How much memory a device has left, and how much of it is ours."""

from __future__ import annotations

import torch
from decoding.memory import free_host_bytes

__all__ = ["free_device_bytes", "own_device_bytes"]


def free_device_bytes(device: str) -> int:
    """Return the free memory of a device as `torch_backend.device.DeviceChoice` names it."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_host_bytes()


def own_device_bytes(device: str) -> int:
    """Return what this process has allocated on a device that is not the host, used or kept; 0 on the CPU.

    The driver's own context, some hundred MiB on CUDA, is not in it.
    """
    if device.startswith("cuda"):
        return torch.cuda.memory_reserved(device)
    return torch.mps.driver_allocated_memory() if device == "mps" else 0
