"""What fits into the memory that is there: weights, and slots of the KV cache."""

from __future__ import annotations

from pathlib import Path

import psutil

from core.api import EngineLoadError

__all__ = ["check_weights", "fitting_slots", "free_host_bytes"]

_CGROUP = Path("/sys/fs/cgroup")
_MIB = 2**20


def fitting_slots(*, slots: int, context_tokens: int, token_bytes: int, free_bytes: int | None, share: float) -> int:
    """Return how many slots to make, at most ``slots``.

    Args:
        slots: as configured.
        context_tokens: length of each.
        token_bytes: keys and values of one token in all layers.
        free_bytes: what the device has left beside the weights; None if it does not tell, and all slots are made.
        share: of it that the cache may take.

    Raises:
        EngineLoadError: not even one fits.
    """
    if free_bytes is None:
        return slots
    slot_bytes = context_tokens * token_bytes
    budget_bytes = int(free_bytes * share)
    fitting = min(slots, budget_bytes // slot_bytes)
    if fitting:
        return fitting
    msg = (
        f"The KV cache of one slot needs {slot_bytes // _MIB} MiB for {context_tokens} tokens, and "
        f"{budget_bytes // _MIB} MiB are free for it: set context_tokens of this deployment to at most "
        f"{budget_bytes // token_bytes}, or free memory on the device."
    )
    raise EngineLoadError(msg)


def check_weights(weights_bytes: int, free_bytes: int | None, *, remedy: str) -> None:
    """Refuse weights that do not fit.

    Args:
        weights_bytes: what they take once loaded.
        free_bytes: what the device has left; None if it does not tell.
        remedy: how this backend makes them smaller: ``set dtype to one of 16 bits``.

    Raises:
        EngineLoadError: they do not; the system would end some process to make room.
    """
    if free_bytes is not None and weights_bytes > free_bytes:
        msg = (
            f"The weights need {weights_bytes // _MIB} MiB and {free_bytes // _MIB} MiB are free: stop another "
            f"model, take a smaller one, or {remedy}."
        )
        raise EngineLoadError(msg)


def free_host_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the host's free memory, or what the control group (version 2, then 1) leaves of it."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return min(free, max(0, int((cgroup / limit).read_text()) - int((cgroup / used).read_text())))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return free
