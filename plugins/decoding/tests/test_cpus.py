"""How many CPUs there really are."""

from __future__ import annotations

from pathlib import Path

import pytest
from decoding import cpus


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    """Both versions of control groups, limited and not."""
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpus.quota(tmp_path) == expected


@pytest.mark.parametrize(("usable", "threads"), [(1, 1), (2, 1), (8, 7)])
def test_one_cpu_is_left(monkeypatch: pytest.MonkeyPatch, usable: int, threads: int) -> None:
    """Unless there is only one."""
    monkeypatch.setattr(cpus, "usable_cpus", lambda: usable)
    assert cpus.default_threads() == threads
