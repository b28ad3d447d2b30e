"""What the machine has, and what a model may need that was never loaded on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from core.supervisor.memory import Bytes

__all__ = ["guess", "has_device", "host_bytes", "size_on_disk"]

_DEVICE_FILES = ("dev/nvidia0", "dev/kfd", "dev/dxg")
"""Made by the drivers of NVIDIA, of AMD, and of either in Windows' Linux."""
_WEIGHTS_FACTOR = 2
_RUNTIME_BYTES = 512 << 20


def host_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process and its children may use: the machine's, or less if a cgroup says so."""
    return min([psutil.virtual_memory().total, *_cgroup_limits(root)])


def has_device(root: Path = Path("/")) -> bool:
    """Whether the machine has a device with memory of its own, whoever can use it."""
    return any((root / file).exists() for file in _DEVICE_FILES)


def size_on_disk(path: Path | None) -> int:
    """Return the size of a file, or of all files in a folder, in bytes; 0 if there is nothing to see."""
    try:
        if path is None or not path.is_dir():
            return 0 if path is None else path.stat().st_size
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError:
        return 0


def guess(*, declared_bytes: int, weights_bytes: int, on_device: bool) -> tuple[Bytes, str]:
    """Return what a model may need that was never loaded here, and where the figure comes from, for people.

    On a machine with a device nobody knows before the load which of the two memories it will need. It is counted
    where it matters more, on the device, so that nothing is kept out of a host that it would hardly touch.
    """
    if declared_bytes:
        size, known = declared_bytes, "as declared"
    elif weights_bytes:
        size, known = _WEIGHTS_FACTOR * weights_bytes + _RUNTIME_BYTES, "guessed from the size of its weights"
    else:
        return Bytes(), ""
    return (Bytes(device=size) if on_device else Bytes(host=size)), known


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The limits of every cgroup that this process is in, up to the root; both versions may be mounted."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            folder, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            folder, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A container sees its own cgroup as the root of the mount, under whatever name it has outside.
        for group in (folder / path.strip("/"), *(folder / path.strip("/")).parents):
            if group.is_relative_to(folder):
                yield from _number_in(group / file)


def _number_in(file: Path) -> Iterator[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return
    if text.isdecimal():  # else it says "max"
        yield int(text)
