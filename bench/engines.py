"""Engines side by side: the same demo model, one thread each, asked in turns in one run.

    python bench/engines.py                      the torch backend, `transformers serve --continuous-batching`,
                                                 and a static batch of `model.generate`
    python bench/engines.py --sides torch llamacpp --dtype float32

Prints tokens per second of wall time and of the serving processes' CPU time at 1, 4 and 16 streams, and the TTFT of a
short prompt that arrives while a long one is computed. Needs the torch backend, the demo weights, and for the peer
`pip install "transformers[serving]"`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')

STATIC = """
import json, sys, time, torch, os
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, dtype = sys.argv[1:]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    texts = [tokenizer.apply_chat_template(m, add_generation_prompt=True, tokenize=False) for m in asked["messages"]]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    began, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        model.generate(**batch, do_sample=False, min_new_tokens=asked["tokens"], max_new_tokens=asked["tokens"])
    print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]), flush=True)
"""


@dataclass
class Turn:
    """One turn of one side: tokens per second of wall time and of CPU time, and the times to first tokens."""

    per_s: float
    per_cpu_s: float
    ttfts_s: list[float] = field(default_factory=list)


@dataclass
class Side:
    """An engine that is measured; ``port`` and ``model`` where it is asked over HTTP."""

    name: str
    turn: Callable[[int, int], Turn]
    port: int = 0
    model: str = ""


def messages(topic: str) -> list[dict[str, str]]:
    """Return one conversation."""
    return [{"role": "user", "content": f"Write a long essay about {topic}."}]


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


async def streams(port: int, model: str, count: int, tokens: int) -> list[Reply]:
    """Run ``count`` streams at once."""
    connections = [await connect("127.0.0.1", port) for _ in range(count)]
    requests = [
        http_request("/v1/chat/completions", body(model, messages(TOPICS[i % 16] + " " * (i // 8)), tokens))
        for i in range(count)
    ]
    replies = await asyncio.gather(*(one.ask(request) for one, request in zip(connections, requests, strict=True)))
    for one in connections:
        one.close()
    assert all(reply.status == 200 for reply in replies), replies[0].body[:500]
    return list(replies)


def http_side(name: str, port: int, model: str, root: psutil.Process) -> Side:
    """Return a side that is asked over HTTP."""

    def turn(count: int, tokens: int) -> Turn:
        before_s, began_s = cpu_s(root), time.perf_counter()
        replies = asyncio.run(streams(port, model, count, tokens))
        took_s = time.perf_counter() - began_s
        made = sum(map(generated, replies))
        return Turn(made / took_s, made / (cpu_s(root) - before_s), [reply.ttft_s for reply in replies])

    return Side(name, turn, port, model)


def own(backend: str, folder: Path, dtype: str, stack: contextlib.ExitStack) -> Side:
    """Start the gateway with one backend."""
    port = free_port()
    settings = {
        "torch": f'slots = {SLOTS}, threads = 1, dtype = "{dtype}"',
        "llamacpp": f"slots = {SLOTS}, threads = 1",
    }
    config = f"""
[plugins]
allow = ["{backend}"]
[deployments."smollm2-135m@{backend}"]
context_tokens = {CONTEXT_TOKENS}
settings = {{ {settings[backend]} }}
"""
    place = folder / backend
    place.mkdir()
    stack.enter_context(gateway(config, port, place))
    return http_side(backend, port, "smollm2-135m", newest_child())


def peer(weights: Path, dtype: str, stack: contextlib.ExitStack) -> Side:
    """Start `transformers serve`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(weights), "--continuous-batching"]
    command += ["--device", "cpu", "--dtype", dtype, "--port", str(port), "--host", "127.0.0.1"]
    stack.enter_context(server(command, port, "/health", cwd=weights, env={"OMP_NUM_THREADS": "1"}))
    return http_side("transformers serve", port, str(weights), newest_child())


def static(weights: Path, dtype: str, stack: contextlib.ExitStack) -> Side:
    """Start a process that generates static batches."""
    process = subprocess.Popen(
        [sys.executable, "-c", STATIC, str(weights), dtype],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    assert stdout.readline().strip() == "ready"

    def turn(count: int, tokens: int) -> Turn:
        asked = {"tokens": tokens, "messages": [messages(TOPICS[i % 16] + " " * (i // 8)) for i in range(count)]}
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        took_s, used_s = json.loads(stdout.readline())
        return Turn(count * tokens / took_s, count * tokens / used_s)

    return Side("static batch", turn)


def newest_child() -> psutil.Process:
    """Return the process that was started last."""
    return max(psutil.Process().children(), key=lambda process: process.create_time())


async def ttft_beside_a_long_prompt(side: Side, long_tokens: int) -> float:
    """Return the seconds to the first token of a short prompt that arrives while a long one is computed."""
    words = " ".join(f"item {number}," for number in range(long_tokens // 4))
    salt = f"{time.time()} "  # so that no prefix cache knows it
    long, short = await connect("127.0.0.1", side.port), await connect("127.0.0.1", side.port)
    said = [{"role": "user", "content": f"{salt}Summarise this list: {words}"}]
    busy = asyncio.create_task(long.ask(http_request("/v1/chat/completions", body(side.model, said, 4))))
    await asyncio.sleep(1.0)
    assert not busy.done(), "the long prompt was over too soon to be measured beside"
    reply = await short.ask(http_request("/v1/chat/completions", body(side.model, messages("tea"), 8)))
    await busy
    long.close()
    short.close()
    return reply.ttft_s


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


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = ("torch", "llamacpp", "serve", "static")
    parser.add_argument("--sides", nargs="+", choices=sides, default=["torch", "serve", "static"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--dtype", default="bfloat16", help="of the torch engines")
    parser.add_argument("--long", type=int, default=4000, help="tokens of the long prompt; 0: leave that part out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        weights = converted()
        start: dict[str, Callable[[], Side]] = {
            "torch": lambda: own("torch", Path(folder), options.dtype, stack),
            "llamacpp": lambda: own("llamacpp", Path(folder), options.dtype, stack),
            "serve": lambda: peer(weights, options.dtype, stack),
            "static": lambda: static(weights, options.dtype, stack),
        }
        running = [start[name]() for name in options.sides]
        for count in options.streams:
            turns: dict[str, list[Turn]] = {side.name: [] for side in running}
            for number in range(options.rounds + 1):
                for side in running:
                    turn = side.turn(count, options.tokens)
                    if number:  # the first turn warms caches up
                        turns[side.name].append(turn)
            report(turns, count)
        for side in running:
            if side.port and options.long:
                measured = [asyncio.run(ttft_beside_a_long_prompt(side, options.long)) for _ in range(3)]
                print(
                    f"short prompt beside {options.long} tokens  {side.name:18} TTFT {statistics.median(measured):.2f} s"
                )


def converted() -> Path:
    """Return the folder where the torch backend keeps the demo model as safetensors."""
    from torch_backend.gguf import converted as convert  # noqa: PLC0415 - not needed for `--help`

    from core.testing import demo_weights  # noqa: PLC0415 - as above

    return convert(demo_weights(), "bfloat16", None)


if __name__ == "__main__":
    main()
