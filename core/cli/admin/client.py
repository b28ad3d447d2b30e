"""Speaks to the admin API of a running gateway, as any client would."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from core.cli.common import DEFAULT_URL, URL_VARIABLE, CommandError, url_of_gateway
from core.settings import SettingsError, load_settings

__all__ = ["Client", "Event", "RefusedError", "path_of"]

_TIMEOUT_S = 60.0


class RefusedError(CommandError):
    """The gateway refuses; ``code`` is that of its error."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: dict[str, Any]
    id: str


def path_of(*names: str) -> str:
    """Return a path of names that may hold any character."""
    return "/".join(quote(name, safe="@/") for name in names)


class Client:
    """A connection to ``/admin/v1``; use it in a ``with`` block."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Take ``--url`` and ``--key`` from the command line, else from the environment and the settings."""
        self._url = url_of_gateway(arguments)
        key = arguments.key or _key_of_settings(arguments.config)
        headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
        try:
            # Not through a proxy of the environment: the gateway is usually this machine.
            self._http = httpx.Client(
                base_url=f"{self._url}/admin/v1/", headers=headers, timeout=_TIMEOUT_S, trust_env=False
            )
        except httpx.InvalidURL as error:
            msg = f"{self._url} is no URL of a gateway ({error}); one looks like {DEFAULT_URL}"
            raise CommandError(msg) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        parameters: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> Any:
        """Send one request and return the JSON of its answer; ``wait_s`` is how long the gateway may take more.

        Raises:
            CommandError: nobody answers, or the gateway refuses; the message says what to do.
        """
        with self._talking():
            response = self._http.request(
                method, path, json=body, params=parameters, timeout=httpx.Timeout(_TIMEOUT_S + wait_s, connect=5.0)
            )
        self._check(response)
        return response.json()

    def events(self, path: str, *, last_id: str = "") -> Iterator[Event]:
        """Yield the events of a stream until it ends.

        Raises:
            CommandError: as `ask`.
        """
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with (
            self._talking(),
            self._http.stream("GET", path, headers=headers, timeout=httpx.Timeout(None, connect=5.0)) as response,
        ):
            if not response.is_success:
                response.read()
            self._check(response)
            yield from _events(response.iter_lines())

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        error: dict[str, Any] = {}
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = dict(response.json()["error"])
        if response.status_code == httpx.codes.UNAUTHORIZED:
            msg = f"{self._url} wants the key of its [admin] table: give it with --key, or set GATEWAY_ADMIN__KEY."
        elif not error or error.get("code") == "unknown_url":
            msg = f"{response.url} answered {response.status_code} {response.reason_phrase}: is that an AI gateway?"
        else:
            raise RefusedError(str(error["message"]), str(error.get("code")))
        raise CommandError(msg)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            msg = (
                f"{self._url} cannot be talked to ({error or type(error).__name__}): is the gateway running? "
                f"Name another one with --url, or in {URL_VARIABLE}."
            )
            raise CommandError(msg) from error


def _key_of_settings(config: str | None) -> str | None:
    """The key of the gateway's own settings, if they can be read: a file with a mistake shall not lock anybody out."""
    with contextlib.suppress(SettingsError):
        return load_settings(config).admin.key
    return None


def _events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if not line:
            if "data" in fields:
                yield Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", ""))
            fields = {}
            continue
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")
