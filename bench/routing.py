"""What routing gives and what it costs.

    python bench/routing.py conversations    prefix_affinity against round_robin: cached prompt tokens and TTFT
    python bench/routing.py cost             microseconds per request with 10, 1,000 and 10,000 deployments

The sides are asked in turns in one run; medians are printed, since timings on shared machines are noisy. The first
needs the llama.cpp backend with the demo weights, the second the echo example.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from client import connect, http_request
from overhead import free_port, gateway

from core.api.messages import EngineInfo, Load
from core.api.protocols import RouteRequest
from core.api.requests import ChatRequest, Content, Message
from core.gateway.answer import Deadline
from core.gateway.fleet import Fleet
from core.gateway.ranking import Ranker
from core.gateway.replica import Replica, ReplicaStream
from core.gateway.retries import RetryBudget
from core.gateway.search import Search
from core.registry import build_generation, load_registry, make_policies, receive_generation
from core.routing.table import Table
from core.settings import Settings
from core.wire.control import DeploymentOverride, DeploymentStatus, Overrides, ReplicaStatus, Snapshot

POLICIES = ("round_robin", "prefix_affinity")
WORDS = (
    *("river", "copper", "bread", "moon", "chess", "volcano", "bicycle", "jazz", "harbour", "lantern", "orchard"),
    *("compass", "violin", "glacier", "market", "engine", "garden", "thunder", "saddle", "mirror", "paper"),
    *("candle", "forest", "anchor", "bridge", "desert", "kettle", "needle", "ocean", "pepper", "rocket"),
)

# --- conversations over replicas with a prefix cache --------------------------------------------


@dataclass
class Seen:
    """What one side was told, over all of its turns but the first of each conversation."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    first_ttft_s: list[float] = field(default_factory=list)


def prose(draw: random.Random, words: int) -> str:
    """Return text that no other draw gives."""
    return " ".join(draw.choice(WORDS) for _ in range(words))


async def turn(port: int, name: str, messages: list[dict[str, str]], tokens: int) -> tuple[str, dict[str, Any], float]:
    """Ask for the next answer; return it, its usage, and the seconds to its first token."""
    body = {
        "model": name,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = await connect("127.0.0.1", port)
    reply = await connection.ask(http_request("/v1/chat/completions", json.dumps(body).encode()))
    connection.close()
    assert reply.status == 200, reply
    lines = [line[6:] for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return text, usage, reply.ttft_s


async def converse(port: int, policy: str, system: str, seen: Seen, *, draw: random.Random, options: Any) -> None:
    """One person: asks, reads, thinks, asks again."""
    messages = [{"role": "system", "content": system}] if system else []
    await asyncio.sleep(draw.uniform(0, options.think_s * options.conversations / 2))
    for number in range(options.turns):
        messages.append({"role": "user", "content": f"Tell me more about {prose(draw, options.words)}."})
        text, usage, ttft_s = await turn(port, policy, messages, options.tokens)
        messages.append({"role": "assistant", "content": text})
        if number:
            seen.prompt_tokens += usage["prompt_tokens"]
            seen.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
            seen.ttft_s.append(ttft_s)
        else:
            seen.first_ttft_s.append(ttft_s)
        await asyncio.sleep(draw.uniform(0, 2 * options.think_s))


async def crowd(port: int, policy: str, system: str, seen: Seen, *, people: list[random.Random], options: Any) -> None:
    """All people at once."""
    await asyncio.gather(*(converse(port, policy, system, seen, draw=one, options=options) for one in people))


def conversations(options: Any) -> None:
    """Print what share of the prompts was cached, and the median TTFT, of both policies in turns."""
    port = free_port()
    config = f"""
[plugins]
allow = ["{options.backend}"]
[deployments."smollm2-135m@{options.backend}"]
replicas = {options.replicas}
context_tokens = 2048
settings = {{ threads = 1, slots = {options.slots} }}
"""
    for policy in POLICIES:
        config += f'[routes."{policy}"]\nmodels = "smollm2-135m@{options.backend}"\npolicy = "{policy}"\n'
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder, gateway(config, port, Path(folder)):
        for shared in (False, True):
            seen = {policy: Seen() for policy in POLICIES}
            for _ in range(options.rounds):
                for policy in POLICIES:
                    system = f"You are a helpful guide. {prose(draw, 150)}" if shared else ""
                    people = [random.Random(draw.random()) for _ in range(options.conversations)]
                    asyncio.run(crowd(port, policy, system, seen[policy], people=people, options=options))
            print("with one system prompt for all" if shared else "each with a beginning of its own", flush=True)
            for policy, one in seen.items():
                print(
                    f"  {policy:16} cached {one.cached_tokens / one.prompt_tokens:5.1%} of {one.prompt_tokens} prompt tokens"
                    f"   median TTFT {statistics.median(one.ttft_s):.3f} s"
                    f" (of first turns {statistics.median(one.first_ttft_s):.3f} s)",
                    flush=True,
                )
            before, after = (statistics.median(seen[policy].ttft_s) for policy in POLICIES)
            print(f"  ratio of TTFT {after / before:.2f}", flush=True)


# --- what a request's way to its replica costs --------------------------------------------------


class Arrived(BaseException):
    """A request has found its replica, and would connect now."""


class Elsewhere(Fleet):
    """A fleet without sockets."""

    async def acquire(self, replica: Replica) -> ReplicaStream:
        del replica
        raise Arrived


def plan(count: int) -> Settings:
    """So many deployments, each of a model of its own, and so many aliases, each of two models."""
    return Settings(
        plugins={"allow": ["echo"]},
        deployments={
            f"m{number}@echo": {"source": "/dev/null", "priority": 1, "replicas": 2} for number in range(count)
        },
        aliases={f"a{number}": [f"m{number}", f"m{(number + 7) % count}"] for number in range(count)},
    )


def everything_ready(table: Table) -> Snapshot:
    """The snapshot of a gateway in which all is loaded."""
    return Snapshot(
        number=1,
        fingerprint=table.fingerprint,
        supervisor_pid=1,
        deployments=tuple(
            DeploymentStatus(
                deployment=name,
                state="ready",
                replicas=tuple(
                    ReplicaStatus(
                        replica=f"{name}#{index}",
                        state="ready",
                        socket=f"/run/{name}#{index}",
                        load=Load(),
                        info=EngineInfo(slots=16),
                    )
                    for index in range(2)
                ),
            )
            for name in table.deployments
        ),
    )


def timed(what: Callable[[], Any], rounds: int = 5) -> tuple[float, Any]:
    """Return the median milliseconds, and the last result."""
    took_ms, result = [], None
    for _ in range(rounds):
        began_s = time.perf_counter()
        result = what()
        took_ms.append(1000 * (time.perf_counter() - began_s))
    return statistics.median(took_ms), result


class Side:
    """A gateway of a size, without its sockets."""

    def __init__(self, count: int) -> None:
        registry = load_registry(Settings(plugins={"allow": ["echo"]}).plugins)
        settings = plan(count)
        build_ms, generation = timed(lambda: build_generation(registry, settings))
        configuration = generation.configuration()
        receive_ms, worker = timed(lambda: receive_generation(registry, configuration))
        override = Overrides(deployments={"m0@echo": DeploymentOverride(weight=2.0)})
        change_ms, changed = timed(lambda: build_generation(registry, settings, override, before=generation))
        configuration = changed.configuration()
        follow_ms, generation = timed(lambda: receive_generation(registry, configuration, before=worker))
        self.table = generation.table
        self.fleet = Elsewhere(self.table, Path("unused"), max_frame_bytes=1 << 26)
        snapshot = everything_ready(self.table)
        encode_ms, frame = timed(lambda: msgspec.msgpack.encode(snapshot))
        decode_ms, snapshot = timed(lambda: msgspec.msgpack.decode(frame, type=Snapshot))
        update_ms, _ = timed(lambda: self.fleet.update(snapshot))
        self.routing = settings.routing
        self.names = list(self.table.routes)
        first_us = 1e3 * timed(lambda: [self.table.resolve(name) for name in self.names], 1)[0] / len(self.names)
        self.rankers = {
            policy: Ranker(
                make_policies(
                    registry,
                    settings.model_copy(update={"routing": Settings(routing={"policy": policy}).routing}),
                    self.table,
                ),
                timeout_s=1.0,
            )
            for policy in ("least_loaded", "round_robin", "prefix_affinity")
        }
        print(
            f"{count:6} deployments: table {build_ms:8.1f} ms, in an HTTP worker {receive_ms:8.1f} ms; after a "
            f"change of one {change_ms:6.2f} ms, in an HTTP worker {follow_ms:6.2f} ms; snapshot "
            f"{len(frame) / 1000:8.1f} kB, encoded in {encode_ms:6.2f} ms, decoded in {decode_ms:6.2f} ms, taken over in "
            f"{update_ms:6.2f} ms; first use of a name {first_us:5.1f} us",
            flush=True,
        )

    async def requests(self, policy: str, names: list[str]) -> float:
        """Route a request for each name; return microseconds per request."""
        ranker, table, fleet = self.rankers[policy], self.table, self.fleet
        request = ChatRequest(id="1", messages=(Message(role="user", content=(Content(text="Hello there"),)),))
        deadline, routing, budget = Deadline(at_s=math.inf), self.routing, RetryBudget()
        began_s = time.perf_counter()
        for name in names:
            search = Search(
                fleet,
                ranker,
                table.resolve(name),
                RouteRequest(name=name, task="chat", headers={}, request=request),
                needs={},
                deadline=deadline,
                routing=routing,
                budget=budget,
            )
            try:
                await search.next_answer()
            except Arrived:
                continue
            raise AssertionError(name)
        return 1e6 * (time.perf_counter() - began_s) / len(names)


async def sides_of(counts: tuple[int, ...]) -> dict[int, Side]:
    """Make the sides where they can see the time of a loop."""
    return {count: Side(count) for count in counts}


def cost(options: Any) -> None:
    """Print microseconds per request of each size and policy, in turns."""
    sides = asyncio.run(sides_of((10, 1_000, 10_000)))
    draw = random.Random(options.seed)
    for policy in ("least_loaded", "round_robin", "prefix_affinity"):
        took_us: dict[int, list[float]] = {count: [] for count in sides}
        for number in range(options.rounds + 1):
            for count, side in sides.items():
                took = asyncio.run(side.requests(policy, draw.choices(side.names, k=options.requests)))
                if number:  # the first turn warms up
                    took_us[count].append(took)
        medians = {count: statistics.median(took) for count, took in took_us.items()}
        told = "   ".join(f"{count}: {median:6.1f}" for count, median in medians.items())
        print(f"{policy:16} microseconds per request   {told}   ratio {medians[10_000] / medians[10]:.2f}", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("conversations", "cost"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    group = parser.add_argument_group("conversations")
    group.add_argument("--backend", default="llamacpp", choices=("llamacpp", "torch", "onnx"))
    group.add_argument("--replicas", type=int, default=4)
    group.add_argument("--slots", type=int, default=4, help="of each replica; each holds one prefix")
    group.add_argument("--conversations", type=int, default=8, help="at the same time")
    group.add_argument("--turns", type=int, default=5)
    group.add_argument("--words", type=int, default=30, help="of a question")
    group.add_argument("--tokens", type=int, default=24, help="of an answer")
    group.add_argument("--think-s", type=float, default=1.0, help="mean time between an answer and the next question")
    group = parser.add_argument_group("cost")
    group.add_argument("--requests", type=int, default=5000, help="in one turn")
    options = parser.parse_args()
    if options.what == "cost":
        cost(options)
    else:
        conversations(options)


if __name__ == "__main__":
    main()
