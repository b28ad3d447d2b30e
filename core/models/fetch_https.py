"""Fetch a file over HTTPS: resumed where it stopped, believed only if its sha256 is right.

The half of a file lies in ``<name>.part`` and the server's strong validator of it (RFC 9110, 13.1.5)
in ``<name>.part.etag``. With both, the rest is asked for with Range and If-Range; a server that
answers with the whole file, because it changed or because it knows no ranges, starts it again.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from core.models.cache import Cache, publish, require_room, sha256_of
from core.models.errors import PullError
from core.models.source import UrlSource, is_loopback

if TYPE_CHECKING:
    from core.models.pull import Progress

__all__ = ["fetch"]

_TIMEOUT_S = 60.0
_RETRY_AFTER_S = (1.0, 2.0, 4.0, 8.0)
"""Waits between attempts; an attempt that brought bytes begins the row again."""
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Interrupted(Exception):  # noqa: N818 - not an error yet: it may be resumed
    """The transfer stopped for a reason that may pass."""


def fetch(source: UrlSource, cache: Cache, progress: Progress) -> Path:
    """Fetch the file and return its final path. The caller holds the source's lock."""
    target = cache.target(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target.with_name(target.name + ".part"))
    # A link must not lead out of https; and proxies may compress, which would change every byte.
    with httpx.Client(
        follow_redirects=True,
        timeout=_TIMEOUT_S,
        headers={"Accept-Encoding": "identity", "User-Agent": "ai-gateway"},
        event_hooks={"request": [_refuse_plain_http(source)]},
    ) as client:
        resumed = part.size_bytes > 0
        found = _download(client, source, part, progress)
        if found != source.sha256 and resumed:
            part.discard()  # the old half was bad; a fresh copy may be good
            found = _download(client, source, part, progress)
    if found != source.sha256:
        part.discard()
        msg = (
            f"{source.url} has sha256 {found}, but the source says {source.sha256}: either the file was changed or "
            f"damaged, or the source is out of date. Nothing was kept."
        )
        raise PullError(msg)
    publish(part.path, target)
    part.discard()
    return target


class _Part:
    """The half of a file and the validator that says which version it is half of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._validator_path = path.with_name(path.name + ".etag")

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str | None:
        return self._validator_path.read_text(encoding="utf-8") if self._validator_path.exists() else None

    def digest(self) -> hashlib._Hash:
        """The sha256 of what is there, ready for more."""
        with self.path.open("a+b") as file:
            file.seek(0)
            return hashlib.file_digest(file, "sha256")

    def begin(self, validator: str | None) -> None:
        self.discard()
        if validator is not None:
            self._validator_path.write_text(validator, encoding="utf-8")

    def discard(self) -> None:
        # The validator goes last: a half without it is never resumed, a validator without a half is harmless.
        self.path.unlink(missing_ok=True)
        self._validator_path.unlink(missing_ok=True)


def _download(client: httpx.Client, source: UrlSource, part: _Part, progress: Progress) -> str:
    """Bring the part to its full length, resuming after interruptions; return its sha256."""
    waits_s = iter(_RETRY_AFTER_S)
    while True:
        before_bytes = part.size_bytes
        try:
            return _attempt(client, source, part, progress)
        except (_Interrupted, httpx.TransportError) as error:
            if part.size_bytes > before_bytes:
                waits_s = iter(_RETRY_AFTER_S)
            wait_s = next(waits_s, None)
            if wait_s is None:
                kept = f" {part.size_bytes} bytes are kept and the next pull goes on from there." * bool(part.validator)
                msg = f"{source.url} could not be fetched: {error or type(error).__name__}. Try again later.{kept}"
                raise PullError(msg) from error
            time.sleep(wait_s)
        except httpx.HTTPError as error:  # too many redirects and the like: trying again cannot help
            msg = f"{source.url} could not be fetched: {error}."
            raise PullError(msg) from error


def _attempt(client: httpx.Client, source: UrlSource, part: _Part, progress: Progress) -> str:
    offset_bytes, validator = part.size_bytes, part.validator
    headers = {}
    if offset_bytes and validator:
        headers = {"Range": f"bytes={offset_bytes}-", "If-Range": validator}
    with client.stream("GET", source.url, headers=headers) as response:
        if headers and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The part is already whole (killed just before its rename), or longer than the file ever was.
            return sha256_of(part.path)
        if response.status_code in _TRANSIENT:
            msg = f"the server answered {response.status_code}"
            raise _Interrupted(msg)
        if not response.is_success:
            raise PullError(_refusal(source, response))
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            part.begin(_strong_validator(response))
            offset_bytes = 0
        elif _first_byte(response) != offset_bytes:
            part.discard()
            msg = "the server answered with a range that was not asked for"
            raise _Interrupted(msg)
        remaining_bytes = _content_length(response)
        if remaining_bytes is not None:
            require_room(part.path.parent, remaining_bytes)
        total_bytes = None if remaining_bytes is None else offset_bytes + remaining_bytes
        digest = part.digest()
        progress(offset_bytes, total_bytes)
        with part.path.open("ab") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                digest.update(chunk)
                offset_bytes += len(chunk)
                progress(offset_bytes, total_bytes)
        return digest.hexdigest()


def _first_byte(response: httpx.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _content_length(response: httpx.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def _strong_validator(response: httpx.Response) -> str | None:
    etag: str = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str | None = response.headers.get("Last-Modified")
    return modified


def _refusal(source: UrlSource, response: httpx.Response) -> str:
    remedy = {
        401: "it wants a login: download the file yourself and give its path as the source",
        403: "it wants a login: download the file yourself and give its path as the source",
        404: "there is no such file: correct the URL",
        410: "there is no such file any more: correct the URL",
    }.get(response.status_code, "the server refuses it")
    return f"{source.url} answered {response.status_code} {response.reason_phrase}: {remedy}."


def _refuse_plain_http(source: UrlSource) -> Callable[[httpx.Request], None]:
    def check(request: httpx.Request) -> None:
        to_itself = source.url.startswith("http://") and is_loopback(request.url.host)
        if request.url.scheme != "https" and not to_itself:
            msg = f"{source.url} redirects to {request.url.host} without https: refused."
            raise PullError(msg)

    return check
