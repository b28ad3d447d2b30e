"""What the gateway costs: against the engine alone, and against a bare Sanic handler.

    python bench/overhead.py echo      requests and streams per second, one HTTP worker, ratio to bare Sanic
    python bench/overhead.py engine    tokens per second and TTFT, ratio to llama.cpp's own server

The two sides are asked in turns in one run; medians and ratios are printed, since timings on shared
machines are noisy. Needs the echo example, or the llama.cpp backend with the demo weights.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from client import Reply, connect, hammer, http_request

HERE = Path(__file__).parent
TOPICS = ("rivers", "copper mining", "the moon", "bread", "chess", "bicycles", "volcanoes", "jazz") * 2


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], port: int, path: str, *, cwd: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a server until the block ends; wait until ``path`` answers 200."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **env}, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError, urllib.error.URLError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2)
                    break
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"{command} ended:\n{log.read().decode()[-3000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(60)


def gateway(config: str, port: int, folder: Path) -> contextlib.AbstractContextManager[None]:
    """Run the gateway with one HTTP worker on a configuration."""
    file = folder / "gateway.toml"
    file.write_text(config)
    command = [sys.executable, "-m", "sanic", "core.app", "--port", str(port)]
    return server(command, port, "/readyz", cwd=folder, env={"GATEWAY_CONFIG": str(file)})


def chat_body(model: str, topic: str, tokens: int, *, stream: bool) -> bytes:
    """Return a chat request."""
    message = {"role": "user", "content": f"Write a long essay about {topic}."}
    body = {"model": model, "messages": [message], "stream": stream, "max_tokens": tokens, "temperature": 0}
    return json.dumps(body).encode()


# --- echo against bare Sanic --------------------------------------------------------------------


def echo(rounds: int, seconds: float, tokens: int) -> None:
    """Print requests and streams per second of both, in turns."""
    bare_port, gateway_port = free_port(), free_port()
    config = f"""
[plugins]
allow = ["echo"]
[deployments."echo@echo"]
settings = {{ slots = 64, tokens = {tokens} }}
"""
    bare_command = [sys.executable, "-m", "sanic", "bare:app", "--port", str(bare_port), "--single-process"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(server(bare_command, bare_port, "/", cwd=HERE, env={"BENCH_TOKENS": str(tokens)}))
        stack.enter_context(gateway(config, gateway_port, Path(folder)))
        for name, stream, concurrency in (("requests/s", False, 1), ("requests/s", False, 16), ("streams/s", True, 16)):
            rates: dict[str, list[float]] = {"bare": [], "gateway": []}
            request = http_request("/v1/chat/completions", chat_body("echo", "rivers", tokens, stream=stream))
            for _ in range(rounds):
                for side, port in (("bare", bare_port), ("gateway", gateway_port)):
                    began_s = time.perf_counter()
                    replies = asyncio.run(hammer("127.0.0.1", port, request, concurrency=concurrency, seconds=seconds))
                    assert all(reply.status == 200 for reply in replies), replies[0]
                    rates[side].append(len(replies) / (time.perf_counter() - began_s))
            bare, through = statistics.median(rates["bare"]), statistics.median(rates["gateway"])
            row = f"{name:10} c={concurrency:<3} bare {bare:8.0f}   gateway {through:8.0f}   ratio {through / bare:.2f}"
            print(row, flush=True)


# --- llama.cpp alone against the gateway --------------------------------------------------------

LLAMA_SERVER = """
import sys, threading, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, port, slots, context, threads, batch = sys.argv[1], *map(int, sys.argv[2:])
p.hostnames = ["127.0.0.1"]; p.port = port; p.n_parallel = slots; p.n_ctx = context
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads; p.n_batch = p.n_ubatch = batch
server = xllamacpp.Server(p)
threading.Event().wait()
"""


async def streams(port: int, model: str, count: int, tokens: int) -> tuple[float, list[Reply]]:
    """Run ``count`` streams at once; return tokens per second over all, and the replies."""
    connections = [await connect("127.0.0.1", port) for _ in range(count)]
    requests = [
        http_request("/v1/chat/completions", chat_body(model, TOPICS[i % 16], tokens, stream=True))
        for i in range(count)
    ]
    began_s = time.perf_counter()
    replies = await asyncio.gather(*(one.ask(request) for one, request in zip(connections, requests, strict=True)))
    took_s = time.perf_counter() - began_s
    for one in connections:
        one.close()
    assert all(reply.status == 200 for reply in replies), replies[0]
    return sum(reply.chunks for reply in replies) / took_s, list(replies)


def engine(rounds: int, tokens: int, threads: int) -> None:
    """Print tokens per second and median TTFT of both, in turns."""
    weights = subprocess.run(
        [sys.executable, "-m", "core", "models", "--json"], check=True, capture_output=True, text=True
    ).stdout
    path = next(row["weights"] for row in json.loads(weights) if row["deployment"] == "smollm2-135m@llamacpp")
    direct_port, gateway_port, slots, context = free_port(), free_port(), 16, 1024
    config = f"""
[plugins]
allow = ["llamacpp"]
[deployments."smollm2-135m@llamacpp"]
context_tokens = {context}
settings = {{ slots = {slots}, threads = {threads}, n_batch = 256 }}
"""
    sizes = [str(number) for number in (direct_port, slots, context * slots, threads, 256)]
    direct_command = [sys.executable, "-c", LLAMA_SERVER, path, *sizes]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(server(direct_command, direct_port, "/health", cwd=Path(folder), env={}))
        stack.enter_context(gateway(config, gateway_port, Path(folder)))
        sides = (("direct", direct_port, "any"), ("gateway", gateway_port, "smollm2-135m"))
        for count in (1, 4, 16):
            rates: dict[str, list[float]] = {"direct": [], "gateway": []}
            ttfts: dict[str, list[float]] = {"direct": [], "gateway": []}
            for turn in range(rounds + 1):
                for side, port, model in sides:
                    rate, replies = asyncio.run(streams(port, model, count, tokens))
                    if turn:  # the first turn warms caches up
                        rates[side].append(rate)
                        ttfts[side] += [reply.ttft_s for reply in replies]
            direct, through = statistics.median(rates["direct"]), statistics.median(rates["gateway"])
            direct_ms, through_ms = (1000 * statistics.median(ttfts[side]) for side in ("direct", "gateway"))
            print(
                f"{count:2} streams: direct {direct:7.1f} tokens/s   gateway {through:7.1f}   "
                f"ratio {through / direct:.3f}   median TTFT {direct_ms:.1f} and {through_ms:.1f} ms",
                flush=True,
            )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("echo", "engine"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one turn (echo)")
    parser.add_argument("--tokens", type=int, default=0, help="tokens per answer (default 32 for echo, 64 for engine)")
    parser.add_argument("--threads", type=int, default=1, help="engine threads, both sides (engine)")
    options = parser.parse_args()
    if options.what == "echo":
        echo(options.rounds, options.seconds, options.tokens or 32)
    else:
        engine(options.rounds, options.tokens or 64, options.threads)


if __name__ == "__main__":
    main()
