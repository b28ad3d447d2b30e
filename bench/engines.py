r"""Engines side by side: the same demo model, one thread each, asked in turns in one run.

    python bench/engines.py                      the torch backend, `transformers serve --continuous-batching`,
                                                 and a static batch of `model.generate`
    python bench/engines.py --sides onnx onnx-int4 genai-engine genai-generator optimum llamacpp torch \
        --int4 FOLDER --optimum FOLDER --optimum-python PYTHON
    python bench/engines.py --sides onnx genai-engine --int4 FOLDER --context 900 --rounds 3

Prints what each took to load and to keep, tokens per second of wall time and of the serving processes' CPU time at 1, 4
and 16 streams, and the TTFT of a short prompt that arrives while a long one is computed; with `--context`, the speed of
the steps after prompts of so many tokens instead. Needs the backends, the demo weights, and for the peers
`pip install "transformers[serving]" onnxruntime-genai`. `--int4` is a folder that onnxruntime-genai's builder made of
the demo model (`-p int4 -e cpu`), `--optimum` one that optimum exported, which only an interpreter of its own runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import psutil
from client import Reply, connect, http_request
from overhead import TOPICS, free_port, gateway, server

CONTEXT_TOKENS = 8192
SLOTS = 16
PEERS = Path(__file__).parent / "peers"
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_salt = itertools.count()


Messages = list[dict[str, str]]


@dataclass
class Turn:
    """One turn of one side: tokens made, seconds of wall and of CPU time, and the times to first tokens."""

    made: int
    took_s: float
    cpu_s: float
    ttfts_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Tokens per second of wall time."""
        return self.made / self.took_s

    @property
    def per_cpu_s(self) -> float:
        """Tokens per second of CPU time."""
        return self.made / self.cpu_s

    def __sub__(self, other: Turn) -> Turn:
        """What this turn did beyond what the other did."""
        return Turn(self.made - other.made, self.took_s - other.took_s, self.cpu_s - other.cpu_s)


@dataclass
class Side:
    """An engine that is measured; ``port`` and ``model`` where it is asked over HTTP.

    ``turn`` is called with conversations and the number of tokens to generate for each.
    """

    name: str
    turn: Callable[[list[Messages], int], Turn]
    process: psutil.Process
    load_s: float
    port: int = 0
    model: str = ""


def messages(topic: str) -> Messages:
    """Return one conversation."""
    return [{"role": "user", "content": f"Write a long essay about {topic}."}]


def salted(text: str) -> Messages:
    """Return a conversation that no prefix cache knows: not every engine here has one."""
    return [{"role": "user", "content": f"{time.time_ns() % 1_000_000}-{next(_salt)}: {text}"}]


def short_conversations(count: int) -> list[Messages]:
    """Return conversations of some 50 tokens, each one different."""
    return [salted(f"Write a long essay about {TOPICS[i % 16]}.") for i in range(count)]


def long_conversations(count: int, tokens: int) -> list[Messages]:
    """Return conversations of about so many tokens."""
    words = " ".join(f"item {number}," for number in range(tokens // 4))
    return [salted(f"Summarise this list: {words}") for _ in range(count)]


def body(model: str, said: list[dict[str, str]], tokens: int) -> bytes:
    """Return a chat request that is streamed and never ends early (the demo model's end tokens are biased away)."""
    fields = {"model": model, "messages": said, "stream": True, "max_tokens": tokens, "temperature": 0}
    return json.dumps(fields | {"stream_options": {"include_usage": True}}).encode()


def generated(reply: Reply) -> int:
    """Return how many tokens an answer has."""
    found = _USAGE.findall(reply.body)
    return int(found[-1]) if found else reply.chunks


def cpu_s(root: psutil.Process) -> float:
    """Return the CPU seconds of a process and its children."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


async def streams(port: int, model: str, conversations: list[Messages], tokens: int) -> list[Reply]:
    """Run one stream for each conversation, all at once."""
    connections = [await connect("127.0.0.1", port) for _ in conversations]
    requests = [http_request("/v1/chat/completions", body(model, said, tokens)) for said in conversations]
    replies = await asyncio.gather(*(one.ask(request) for one, request in zip(connections, requests, strict=True)))
    for one in connections:
        one.close()
    assert all(reply.status == 200 for reply in replies), replies[0].body[:500]
    return list(replies)


def http_side(name: str, port: int, model: str, root: psutil.Process, load_s: float) -> Side:
    """Return a side that is asked over HTTP."""

    def turn(conversations: list[Messages], tokens: int) -> Turn:
        before_s, began_s = cpu_s(root), time.perf_counter()
        replies = asyncio.run(streams(port, model, conversations, tokens))
        took_s = time.perf_counter() - began_s
        made = sum(map(generated, replies))
        return Turn(made, took_s, cpu_s(root) - before_s, [reply.ttft_s for reply in replies])

    return Side(name, turn, root, load_s, port, model)


def own(backend: str, folder: Path, settings: str, stack: contextlib.ExitStack, *, weights: Path | None = None) -> Side:
    """Start the gateway with one backend, on the demo model or on weights that are named."""
    port = free_port()
    # The builder's graphs give no hidden states unless told to, so nothing is embedded.
    source = "" if weights is None else f"source = '{weights.resolve()}'\ntasks = ['chat', 'completion']"
    config = f"""
[plugins]
allow = ["{backend}"]
[deployments."smollm2-135m@{backend}"]
context_tokens = {CONTEXT_TOKENS}
{source}
settings = {{ slots = {SLOTS}, threads = 1{settings} }}
"""
    name = backend if weights is None else f"{backend} int4"
    place = folder / name
    place.mkdir()
    began_s = time.perf_counter()
    stack.enter_context(gateway(config, port, place))
    return http_side(name, port, "smollm2-135m", newest_child(), time.perf_counter() - began_s)


def serve(weights: Path, dtype: str, stack: contextlib.ExitStack) -> Side:
    """Start `transformers serve`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(weights), "--continuous-batching"]
    command += ["--device", "cpu", "--dtype", dtype, "--port", str(port), "--host", "127.0.0.1"]
    began_s = time.perf_counter()
    stack.enter_context(server(command, port, "/health", cwd=weights, env={"OMP_NUM_THREADS": "1"}))
    return http_side("transformers serve", port, str(weights), newest_child(), time.perf_counter() - began_s)


def library(name: str, stack: contextlib.ExitStack, *command: str, python: str = sys.executable) -> Side:
    """Start a program of `bench/peers`."""
    began_s = time.perf_counter()
    process = subprocess.Popen(
        [python, str(PEERS / command[0]), *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
    )
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    assert stdout.readline().strip() == "ready"
    load_s = time.perf_counter() - began_s

    def turn(conversations: list[Messages], tokens: int) -> Turn:
        stdin.write(json.dumps({"tokens": tokens, "messages": conversations}) + "\n")
        stdin.flush()
        took_s, used_s = json.loads(stdout.readline())
        return Turn(len(conversations) * tokens, took_s, used_s)

    return Side(name, turn, psutil.Process(process.pid), load_s)


def newest_child() -> psutil.Process:
    """Return the process that was started last."""
    return max(psutil.Process().children(), key=lambda process: process.create_time())


def resident_bytes(root: psutil.Process) -> int:
    """Return the resident memory of a process and its children."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


async def ttft_beside_a_long_prompt(side: Side, long_tokens: int) -> float:
    """Return the seconds to the first token of a short prompt that arrives while a long one is computed."""
    (said,) = long_conversations(1, long_tokens)
    long, short = await connect("127.0.0.1", side.port), await connect("127.0.0.1", side.port)
    busy = asyncio.create_task(long.ask(http_request("/v1/chat/completions", body(side.model, said, 4))))
    await asyncio.sleep(1.0)
    assert not busy.done(), "the long prompt was over too soon to be measured beside"
    reply = await short.ask(http_request("/v1/chat/completions", body(side.model, messages("tea"), 8)))
    await busy
    long.close()
    short.close()
    return reply.ttft_s


def ask(side: Side, count: int, tokens: int, context: int) -> Turn:
    """Take one turn; after long prompts, that of the steps alone: a turn of so many tokens more, less one of few."""
    if not context:
        return side.turn(short_conversations(count), tokens)
    few = side.turn(long_conversations(count, context), 1)
    return side.turn(long_conversations(count, context), tokens + 1) - few


def report(turns: dict[str, list[Turn]], count: int) -> None:
    """Print the medians of one number of streams, each as a ratio to the first side too."""
    first = statistics.median(turn.per_cpu_s for turn in next(iter(turns.values())))
    for name, measured in turns.items():
        per_s, per_cpu_s = (
            statistics.median(getattr(turn, what) for turn in measured) for what in ("per_s", "per_cpu_s")
        )
        ttfts = [ttft for turn in measured for ttft in turn.ttfts_s]
        ttft = f"   TTFT {1000 * statistics.median(ttfts):7.0f} ms" if ttfts else ""
        row = f"{count:2} streams  {name:18} {per_s:7.1f} tokens/s {per_cpu_s:7.1f} per CPU second"
        print(f"{row}   first/this {first / per_cpu_s:.2f}{ttft}", flush=True)


def starters(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, Callable[[], Side]]:
    """Return what starts each side."""
    dtype = options.dtype
    int4 = options.int4 or Path("int4")
    return {
        "torch": lambda: own("torch", folder, f', dtype = "{dtype}"', stack),
        "llamacpp": lambda: own("llamacpp", folder, "", stack),
        "onnx": lambda: own("onnx", folder, "", stack),
        "onnx-int4": lambda: own("onnx", folder, "", stack, weights=int4),
        "genai-generator": lambda: library("genai Generator", stack, "genai.py", str(int4), "generator"),
        "genai-engine": lambda: library("genai Engine", stack, "genai.py", str(int4), "engine"),
        "optimum": lambda: library(
            "optimum generate", stack, "optimum_static.py", options.optimum, python=options.optimum_python
        ),
        "serve": lambda: serve(converted(), dtype, stack),
        "static": lambda: library("static batch", stack, "transformers_static.py", str(converted()), dtype),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = tuple(starters(argparse.Namespace(dtype="", int4=None), Path(), contextlib.ExitStack()))
    parser.add_argument("--sides", nargs="+", choices=sides, default=["torch", "serve", "static"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--dtype", default="bfloat16", help="of the torch engines")
    parser.add_argument("--long", type=int, default=4000, help="tokens of the long prompt; 0: leave that part out")
    parser.add_argument("--context", type=int, default=0, help="measure steps after prompts of so many tokens")
    parser.add_argument("--int4", type=Path, help="folder of onnxruntime-genai's builder")
    parser.add_argument("--optimum", help="folder of optimum's export")
    parser.add_argument("--optimum-python", default=sys.executable, help="interpreter that has optimum-onnx")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        start = starters(options, Path(folder), stack)
        running = [start[name]() for name in options.sides]
        for count in options.streams:
            turns: dict[str, list[Turn]] = {side.name: [] for side in running}
            for number in range(options.rounds + 1):
                for side in running:
                    turn = ask(side, count, options.tokens, options.context)
                    if number:  # the first turn warms caches up
                        turns[side.name].append(turn)
            report(turns, count)
        for side in running:
            held = resident_bytes(side.process) / 1e6
            print(f"{side.name:18} ready after {side.load_s:5.1f} s   resident now {held:6.0f} MB", flush=True)
        for side in running:
            if side.port and options.long and not options.context:
                measured = [asyncio.run(ttft_beside_a_long_prompt(side, options.long)) for _ in range(3)]
                beside = f"short prompt beside {options.long} tokens"
                print(f"{beside}  {side.name:18} TTFT {statistics.median(measured):.2f} s", flush=True)


def converted() -> Path:
    """Return the folder where the torch backend keeps the demo model as safetensors."""
    from torch_backend.gguf import converted as convert  # noqa: PLC0415 - not needed for `--help`

    from core.testing import demo_weights  # noqa: PLC0415 - as above

    return convert(demo_weights(), "bfloat16", None)


if __name__ == "__main__":
    main()
