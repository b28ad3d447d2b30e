"""How many CPUs this process may really use: affinity and the quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["default_threads", "quota", "usable_cpus"]

_CGROUP = Path("/sys/fs/cgroup")


def default_threads() -> int:
    """Return the threads to compute with: they spin while they wait, so one CPU is left to everything else."""
    return max(1, usable_cpus() - 1)


def usable_cpus() -> int:
    """Return the CPUs of this process, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    limit = quota(_CGROUP)
    return allowed if limit is None else max(1, min(allowed, math.floor(limit)))


def quota(cgroup: Path) -> float | None:
    """Return the CPUs that a control group (version 2, then 1) grants, None when it sets no limit."""
    try:
        allowed, _, period = (cgroup / "cpu.max").read_text().partition(" ")
    except OSError:
        try:
            allowed = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return int(allowed) / int(period) if int(allowed) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None
