"""A file server that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.settings import WeightsTable


@dataclass
class Served:
    """One path of the server.

    Attributes:
        cut_after: bytes after which the connection is closed, this many times per entry.
        hold_after: bytes after which the body waits until the server's ``go_on`` is set.
    """

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    hold_after: int | None = None


class FileServer:
    """Serves ``files`` and remembers what it was asked: (method, path, Range or None)."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.go_on = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            def do_HEAD(self) -> None:
                outer._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Tests kill clients; that is no news."""

        self._httpd = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._httpd.server_address[1]}"

    def gets(self, path: str) -> list[str | None]:
        """The Range header of each GET of ``path``."""
        return [wanted for method, asked, wanted in self.requests if (method, asked) == ("GET", path)]

    def close(self) -> None:
        self.go_on.set()
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        wanted = handler.headers.get("Range")
        self.requests.append((handler.command, path, wanted))
        served = self.files.get(path, Served(status=404, content=b"no"))
        status, body, extra = served.status, served.content, dict(served.headers)
        current = handler.headers.get("If-Range") in {
            None,
            served.headers.get("ETag"),
            served.headers.get("Last-Modified"),
        }
        if wanted and served.ranges and current and status == 200:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status, body = 206, served.content[first:]
            extra["Content-Range"] = f"bytes {first}-{len(served.content) - 1}/{len(served.content)}"
            if first >= len(served.content):
                status, body = 416, b""
                extra["Content-Range"] = f"bytes */{len(served.content)}"
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **extra}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if served.cut_after:
            body = body[: served.cut_after.pop(0)]
            handler.close_connection = True
        try:
            if served.hold_after is None:
                handler.wfile.write(body)
            else:
                handler.wfile.write(body[: served.hold_after])
                handler.wfile.flush()
                self.go_on.wait(20)
                handler.wfile.write(body[served.hold_after :])
        except ConnectionError:  # the client was killed: that is what some tests do
            handler.close_connection = True


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def served() -> type[Served]:
    """`Served`, which tests cannot import from here."""
    return Served


@pytest.fixture
def weights(tmp_path: Path, server: FileServer) -> WeightsTable:
    """A cache folder of this test's own, and the hub that is the test's server."""
    return WeightsTable(cache_dir=tmp_path / "cache", hf_endpoint=server.url)
