"""How much memory is left."""

from __future__ import annotations

from torch_backend.memory import free_device_bytes


def test_this_machine() -> None:
    """The CPU's memory is the host's."""
    assert free_device_bytes("cpu") > 0
