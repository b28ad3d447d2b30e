"""Fetch a repository, or one file of it, from a Hugging Face hub with the hub's own client.

Every file is taken at one commit, checked against the hub's sha256 where it states one, and written
down in a receipt only when all are there.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from core.models.cache import Cache, require_room, sha256_of
from core.models.data_files import WANTED, is_data
from core.models.errors import PullError
from core.models.source import HubSource

if TYPE_CHECKING:
    from core.models.pull import Progress

    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm  # generic in its type stubs only

__all__ = ["fetch"]

# A failed connection: httpx.HTTPError in release 1 of the client, httpx2.HTTPError in release 2.
_CLIENT_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def fetch(source: HubSource, cache: Cache, endpoint: str, progress: Progress) -> Path:
    """Fetch what the source names and return its path. The caller holds the source's lock."""
    cache.hub.mkdir(parents=True, exist_ok=True)
    try:
        return _fetch(source, cache, endpoint.rstrip("/"), progress)
    except OSError as error:
        if error.errno is not None:  # the disk's; the client's own have no number
            raise
        raise PullError(_explain(source, endpoint, error)) from error
    except (_CLIENT_HTTP_ERROR, RuntimeError, ValueError) as error:
        raise PullError(_explain(source, endpoint, error)) from error


def _fetch(source: HubSource, cache: Cache, endpoint: str, progress: Progress) -> Path:
    info = HfApi(endpoint=endpoint).model_info(source.repo, revision=source.revision, files_metadata=True)
    offered = {file.rfilename: file for file in info.siblings or ()}
    wanted = [offered[name] for name in _choose(source, list(offered))]

    def is_here(name: str) -> bool:
        return isinstance(try_to_load_from_cache(source.repo, name, cache.hub, info.sha), str)

    require_room(cache.hub, sum(file.size or 0 for file in wanted if not is_here(file.rfilename)))

    total_bytes = sum(file.size or 0 for file in wanted) or None
    done_bytes = 0
    files: dict[Path, int] = {}
    for file in wanted:
        progress(done_bytes, total_bytes)
        path = Path(
            hf_hub_download(
                source.repo,
                file.rfilename,
                revision=info.sha,  # one commit for all files, even if the branch moves meanwhile
                cache_dir=cache.hub,
                endpoint=endpoint,
                tqdm_class=_bar(done_bytes, total_bytes, progress),
            )
        )
        _check(source, path, file.lfs.sha256 if file.lfs else None)
        files[path] = path.stat().st_size
        done_bytes += files[path]
    progress(done_bytes, done_bytes)

    depth = wanted[0].rfilename.count("/")
    path = next(iter(files)) if source.file else next(iter(files)).parents[depth]
    cache.write_receipt(source, path, files)
    return path


def _choose(source: HubSource, offered: list[str]) -> list[str]:
    if source.file is None:
        chosen = [name for name in offered if is_data(name)]
        if not chosen:
            msg = f"hf:{source.repo} holds no weights that are safe to read as data ({', '.join(WANTED[:4])} ...)."
            raise PullError(msg)
        return chosen
    if source.file not in offered:
        near = difflib.get_close_matches(source.file, offered, n=5, cutoff=0.3)
        msg = f"hf:{source.repo}@{source.revision} holds no file {source.file}; near are {', '.join(near) or 'none'}."
        raise PullError(msg)
    return [source.file]


def _check(source: HubSource, path: Path, hub_sha256: str | None) -> None:
    if hub_sha256 is None and source.sha256 is None:
        return
    found = sha256_of(path)
    if hub_sha256 not in {None, found}:
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        msg = f"{path.name} was damaged on its way (sha256 {found}, the hub says {hub_sha256}): pull again."
        raise PullError(msg)
    if source.sha256 not in {None, found}:
        msg = (
            f"hf:{source.repo}/{source.file}@{source.revision} has sha256 {found}, but the source says "
            f"{source.sha256}: the file was changed, or the source is out of date."
        )
        raise PullError(msg)


def _bar(before_bytes: int, total_bytes: int | None, progress: Progress) -> type[tqdm[Any]]:
    """A class that the client takes for a progress bar and that tells ``progress`` instead of drawing."""

    class Bar(_Tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self.done_bytes = before_bytes

        def update(self, n: float | None = 1) -> None:
            self.done_bytes += int(n or 0)
            progress(self.done_bytes, total_bytes)

        def update_transfer(self, n: float) -> None:
            """Bytes on the network; `update` counts the same ones again when they are on disk."""

    return Bar


def _explain(source: HubSource, endpoint: str, error: Exception) -> str:
    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache either" hides why the hub was no help
    repo = f"hf:{source.repo}"
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    message = f"{repo} could not be fetched from {endpoint} (weights.hf_endpoint): {reason}. Pull again to go on."
    match error:
        case GatedRepoError():
            message = (
                f"{repo} is gated: accept its terms at {endpoint}/{source.repo}, then set HF_TOKEN and pull again."
            )
        case RepositoryNotFoundError():
            message = f"{endpoint} shows no repository {source.repo}: correct the name or, if private, set HF_TOKEN."
        case RevisionNotFoundError():
            message = f"{repo} has no revision {source.revision}: correct what follows the @."
        case OfflineModeIsEnabled():
            message = (
                f"{repo} is not here and HF_HUB_OFFLINE is set: unset it, or copy the cache folder from elsewhere."
            )
        case HfHubHTTPError(response=response):
            message = f"{endpoint} answered {response.status_code} for {repo}: try again later, or check HF_TOKEN."
    return message
