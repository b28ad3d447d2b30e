"""A real gateway, started as a user starts it, on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import psutil

__all__ = ["Gateway", "eventually", "start_gateway"]

_QUICK = """
[supervisor]
backoff_initial_s = 0.2
stall_timeout_s = 20
drain_timeout_s = 5
kill_after_s = 1
status_interval_s = 0.05
log_dir = "logs"
"""


@dataclass
class Gateway:
    """A gateway at work: its main process, where it listens, and the file that its log goes to."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def children(self) -> list[psutil.Process]:
        """All processes of the gateway but the main one."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def one(self, *words: str) -> psutil.Process:
        """The one process whose command line has all these words."""
        (found,) = [child for child in self.children() if all(word in " ".join(_command_line(child)) for word in words)]
        return found

    def http_workers(self) -> list[psutil.Process]:
        """The processes that listen on the port."""
        port = int(self.url.rsplit(":", 1)[1])
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if any(one.laddr and one.laddr.port == port for one in _connections(child))
            and "spawn_main" in " ".join(_command_line(child))
        ]

    def health(self) -> dict[str, Any]:
        """The body of ``GET /health``."""
        with httpx.Client(base_url=self.url) as client:
            return cast("dict[str, Any]", client.get("/health").json())

    def chat(self, text: str = "Hello there", **more: Any) -> httpx.Response:
        """Ask, the model ``echo`` unless told otherwise; ``more`` are fields of the request."""
        body = {"model": "echo", "messages": [{"role": "user", "content": text}], **more}
        with httpx.Client(base_url=self.url, timeout=30) as client:
            return client.post("/v1/chat/completions", json=body)


def _command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _connections(process: psutil.Process) -> list[Any]:
    with contextlib.suppress(psutil.Error):
        return list(process.net_connections("tcp"))
    return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], *, within_s: float = 15.0) -> Any:
    """Return the condition's first true value; that nobody answers yet counts as false."""
    limit = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.HTTPError, psutil.Error, ValueError):
            if value := condition():
                return value
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)


@contextlib.contextmanager
def start_gateway(
    config: str,
    *options: str,
    wait: bool = True,
    quick: bool = True,
    folder: Path | None = None,
    process_group: int | None = None,
) -> Iterator[Gateway]:
    """Serve a configuration until the block ends; then nothing of it is left.

    ``options`` are those of ``sanic core.app``. ``wait`` is for the first answer, not for models. ``quick`` puts
    keys of ``[supervisor]`` before ``config`` that suit tests. ``folder`` is where it runs, and is kept: what was
    changed at run time is found there by the next one. Weights come from the usual cache, or from
    ``GATEWAY_WEIGHTS__CACHE_DIR``. ``process_group`` is that to join; None: the caller's.
    """
    kept, folder = folder is not None, folder or Path(tempfile.mkdtemp(prefix="gw"))
    (folder / "gateway.toml").write_text(_QUICK + config if quick else config)
    port = _free_port()
    log = folder / "log"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_") or "WEIGHTS" in name
    }
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "sanic", "core.app", "--port", str(port), *options],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=process_group,
        )
    running = Gateway(process, f"http://127.0.0.1:{port}", log)
    known: list[psutil.Process] = []
    try:

        def up() -> bool:
            assert process.poll() is None, log.read_text()
            return httpx.get(f"{running.url}/livez", trust_env=False).status_code == 200

        if wait:
            eventually(up, within_s=30)
        known = running.children()
        yield running
    finally:
        with contextlib.suppress(psutil.Error):
            known += running.children()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            for child in known:
                with contextlib.suppress(psutil.Error):
                    child.kill()
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)
