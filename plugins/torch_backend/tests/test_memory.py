"""How much memory is left."""

from __future__ import annotations

import pytest
import torch
from torch_backend.memory import free_device_bytes, own_device_bytes


def test_this_machine() -> None:
    """The CPU's memory is the host's."""
    assert free_device_bytes("cpu") > 0


def test_nothing_is_on_a_device_that_is_the_host() -> None:
    """What is on the host, its resident size tells."""
    assert own_device_bytes("cpu") == 0


def test_of_a_device_what_torch_keeps_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that one device, and with what is kept for later."""
    reserved = {"cuda:0": 5, "cuda:1": 7}
    monkeypatch.setattr(torch.cuda, "memory_reserved", reserved.__getitem__)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 9)
    assert [own_device_bytes(device) for device in ("cuda:0", "cuda:1", "mps")] == [5, 7, 9]
