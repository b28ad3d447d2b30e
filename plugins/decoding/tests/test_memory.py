"""What fits: weights, slots."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from decoding.memory import check_weights, fitting_slots, free_host_bytes

from core.api import EngineLoadError

MIB = 2**20


def test_as_many_as_fit() -> None:
    """All that were asked for, or as many as the share of the free memory holds."""

    def fit(free_mib: int, share: float = 1.0) -> int:
        return fitting_slots(
            slots=8, context_tokens=1024, token_bytes=1024, free_bytes=free_mib * MIB, share=share
        )  # a slot is 1 MiB

    assert [fit(100), fit(8), fit(7), fit(1)] == [8, 8, 7, 1]
    assert fit(8, share=0.5) == 4


def test_not_one_fits() -> None:
    """The remedy is a number that does fit."""
    with pytest.raises(EngineLoadError, match="context_tokens of this deployment to at most 512,") as caught:
        fitting_slots(slots=8, context_tokens=1024, token_bytes=1024, free_bytes=MIB, share=0.5)
    assert not caught.value.permanent  # another model may stop
    assert fitting_slots(slots=8, context_tokens=512, token_bytes=1024, free_bytes=MIB, share=0.5) == 1


def test_weights() -> None:
    """Refused before they are read."""
    check_weights(MIB, MIB, remedy="")
    with pytest.raises(EngineLoadError, match=r"need 3 MiB and 1 MiB are free: .*, or melt them\.") as caught:
        check_weights(3 * MIB, MIB, remedy="melt them")
    assert not caught.value.permanent


def test_nobody_knows() -> None:
    """A device that does not tell what is free is not refused anything."""
    check_weights(3 * MIB, None, remedy="")
    assert fitting_slots(slots=8, context_tokens=1 << 20, token_bytes=1 << 20, free_bytes=None, share=0.1) == 8


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "3000\n", "memory.current": "1000\n"}, 2000),
        ({"memory.max": "1000\n", "memory.current": "3000\n"}, 0),
        ({"memory/memory.limit_in_bytes": "5000\n", "memory/memory.usage_in_bytes": "1000\n"}, 4000),
        ({"memory.max": "max\n", "memory.current": "1000\n"}, None),
        ({}, None),
    ],
)
def test_control_groups(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    """A container's limit counts, not the host's memory."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = free_host_bytes(tmp_path)
    if expected is None:
        assert found == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    else:
        assert found == expected
