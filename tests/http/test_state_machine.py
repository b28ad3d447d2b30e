"""Random operations on one gateway: nothing wedges, every request ends in one legal way, and ``/health`` is true.

The whole gateway is in the test's loop, its replicas as well (`InProcessLauncher`), so that thousands of operations
take seconds; the frames, the sockets and HTTP are real. `Truth` is what the gateway should be, as far as its operator
can know it; what ``/health`` says is held against it after each operation.

``TEST_SEED`` plays one seed again, ``TEST_STEPS`` so many operations of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import uvloop
from echo_backend.engine import EchoEngine
from echo_backend.plugin import EchoSettings

from core.api import EngineContext, ModelSpec, Sampling
from core.errors import GatewayError
from core.http.gateway import Gateway
from core.testing import chat, collect, eventually, start_gateway
from core.testing.faults.engine import FaultsEngine
from core.testing.faults.plugin import FaultsSettings
from core.wire.control import Action, Change, Operate, Reload

SEEDS = [int(os.environ["TEST_SEED"])] if "TEST_SEED" in os.environ else range(10)
STEPS = int(os.environ.get("TEST_STEPS", "1000"))
SETTLE_EVERY = 200
WITHIN_S = 10.0
"""Longer than anything may take here: what has not happened by then is wedged."""

PLUGINS = """
[plugins]
allow = ["echo", "faults"]
"""
HEAD = f"""
log_level = "ERROR"
{PLUGINS}
[supervisor]
backoff_initial_s = 0.02
backoff_max_s = 0.05
crash_loop_failures = 4
healthy_after_s = 0.5
failed_retry_s = 0.2
drain_timeout_s = 0.3
kill_after_s = 0.2
status_interval_s = 0.25
memory_limit_bytes = 1000000000000
"""
CONFIG = """
[limits]
timeout_s = 5
[routing]
retry_share = 1.0
retry_burst = 1000.0
retry_backoff_s = 0.01
retry_backoff_max_s = 0.05
breaker_open_s = 0.05
breaker_open_max_s = 0.1
[aliases]
"team" = ["fast", "slow", "lazy"]
"chain" = ["team", "echo"]
[backends.faults]
tokens = 64
[backends.echo]
tokens = 64
tokens_per_s = 500
[deployments."fast@faults"]
source = "/dev/null"
replicas = 2
settings = { tokens_per_s = 2000 }
[deployments."slow@faults"]
source = "/dev/null"
settings = { tokens_per_s = 150, slots = 4 }
[deployments."lazy@faults"]
source = "/dev/null"
load = "on_demand"
idle_unload_s = 0.1
settings = { tokens_per_s = 1000 }
[deployments."hurt@faults"]
source = "/dev/null"
settings = { fault = "engine_error", share = 0.5, after_tokens = 3 }
[deployments."off@faults"]
source = "/dev/null"
enabled = false
[deployments."echo@echo"]
replicas = 2
"""
MORE = """
[deployments."more@faults"]
source = "/dev/null"
aliases = ["filed"]
"""
FILES = {
    "plain": CONFIG,
    "more": CONFIG + MORE,
    "off": CONFIG.replace('[deployments."slow@faults"]', '[deployments."slow@faults"]\nenabled = false'),
    "broken": CONFIG + "[deployments",
    "wrong": CONFIG + "[deployments.'fast@nobody']\nsource = '/dev/null'\n",
}
ACTIONS: tuple[Action, ...] = ("load", "unload", "restart", "drain")
PROMPTS = ("one two three", "a b c d e f g", "tell me more about it")
NAMES = (
    "fast",
    "slow",
    "lazy",
    "hurt",
    "off",
    "echo",
    "slow@faults",
    "team",
    "chain",
    "filed",
    "new",
    "newer",
    "nobody",
)


# --- what should be -----------------------------------------------------------------------------


@dataclass
class Shall:
    """What a deployment should be."""

    enabled: bool = True
    replicas: int = 1


@dataclass
class Truth:
    """What was configured and ordered, and what follows from it.

    Attributes:
        file: what the configuration holds, a key of ``FILES``.
        overrides, backends, aliases: what was changed at run time.
        out: deployments that were unloaded or drained by hand, and which of the two.
    """

    file: str = "plain"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    backends: dict[str, bool] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)

    def configured(self) -> dict[str, Shall]:
        """What the file says of each deployment, by id."""
        configured = {
            "echo@echo": Shall(replicas=2),
            "fast@faults": Shall(replicas=2),
            "hurt@faults": Shall(),
            "lazy@faults": Shall(),
            "off@faults": Shall(enabled=False),
            "slow@faults": Shall(enabled=self.file != "off"),
        }
        if self.file == "more":
            configured["more@faults"] = Shall()
        return configured

    def deployments(self) -> dict[str, Shall]:
        """By id."""
        configured = self.configured()
        for name, one in configured.items():
            override = self.overrides.get(name, {})
            one.enabled = override.get("enabled", one.enabled) and self.backends.get(name.partition("@")[2], True)
            one.replicas = override.get("replicas", one.replicas)
        return configured

    def targets(self, name: str, path: tuple[str, ...] = ()) -> set[str]:
        """The deployments behind a name. ``KeyError``: it is unknown, or leads to what is, or round in a circle."""
        if of_model := {one for one in self.deployments() if name in (one, one.partition("@")[0])}:
            return of_model
        means = {"team": ("fast", "slow", "lazy"), "chain": ("team", "echo"), "parrot": ("echo",)}
        means |= {"filed": ("more",)} if self.file == "more" else {}
        entries = (means | self.aliases).get(name)
        if not entries or name in path:
            raise KeyError(name)
        return {target for entry in entries for target in self.targets(entry, (*path, name))}

    def makes_sense(self) -> bool:
        """Whether there is a gateway like that."""
        try:
            for name in ("team", "chain", *self.aliases):
                if self.aliases.get(name) != ():
                    self.targets(name)
        except KeyError:
            return False
        return self.file not in {"broken", "wrong"}

    def status(self, name: str) -> int:
        """What a request for a name gets in the end."""
        try:
            behind = {one for one in self.targets(name) if self.deployments()[one].enabled}
        except KeyError:
            return 404
        if not behind:
            return 404
        return 200 if any("ready" in self.states(one) for one in behind) else 503

    def states(self, deployment: str) -> set[str]:
        """The states that its replicas come to rest in."""
        if not self.deployments()[deployment].enabled or self.out.get(deployment) == "drain":
            return {"stopped"}
        if deployment == "lazy@faults":  # each request brings it back
            return {"stopped", "ready"}
        return {"stopped"} if deployment in self.out else {"ready"}

    # --- what is done to it

    def after(self, change: Callable[[Truth], None]) -> Truth:
        """What it is after a change; what is enabled anew was never taken out."""
        after = copy.deepcopy(self)
        change(after)
        if after.makes_sense():
            before, now = self.deployments(), after.deployments()
            after.out = {
                name: how for name, how in self.out.items() if name in now and before[name].enabled >= now[name].enabled
            }
        return after

    def override(self, deployment: str, key: str, value: Any) -> None:
        """What is set to what is configured is no override; of other keys it makes no difference here."""
        self.overrides.setdefault(deployment, {})[key] = value
        if value is None or value == getattr(self.configured()[deployment], key, None):
            del self.overrides[deployment][key]
        if not self.overrides[deployment]:
            del self.overrides[deployment]

    def switch(self, backend: str, enabled: bool | None) -> None:
        self.backends.pop(backend, None)
        if enabled is False:  # else it is as configured
            self.backends[backend] = enabled

    def name(self, alias: str, targets: tuple[str, ...] | None) -> None:
        self.aliases.pop(alias, None)
        if targets is not None:
            self.aliases[alias] = targets

    def reset(self, what: str) -> None:
        for changed in (self.overrides, self.aliases):
            for name in [name for name in changed if what in (name, "*")]:
                del changed[name]
        for backend in [backend for backend in self.backends if what in (f"@{backend}", "*")]:
            del self.backends[backend]

    def operate(self, deployment: str, action: str) -> None:
        self.out.pop(deployment, None)
        if action in {"unload", "drain"}:
            self.out[deployment] = action


# --- a client -----------------------------------------------------------------------------------


@dataclass
class Reply:
    """What came back; ``whole`` unless the connection ended before the body did."""

    status: int
    headers: dict[str, str]
    body: str
    whole: bool


async def ask(port: int, method: str, path: str, body: object, received: bytearray) -> Reply:
    """Send one request on a connection of its own; a cancel hangs up, and leaves what came in ``received``."""
    content = b"" if body is None else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json"]
        head += [f"Content-Length: {len(content)}", "", ""]
        writer.write("\r\n".join(head).encode() + content)
        while more := await reader.read(1 << 16):
            received += more
    finally:
        writer.close()
    lines, _, rest = received.decode().partition("\r\n\r\n")
    first, *others = lines.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
    status = int(first.split()[1])
    if "chunked" not in headers.get("transfer-encoding", ""):
        return Reply(status, headers, rest, whole=len(rest.encode()) == int(headers["content-length"]))
    text, whole = "", False
    while rest and not whole:
        size, _, rest = rest.partition("\r\n")
        whole = int(size, 16) == 0
        text, rest = text + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return Reply(status, headers, text, whole=whole)


def judge(reply: Reply, asked: dict[str, Any], known: dict[tuple[str, str], list[str]]) -> None:
    """Hold an answer against what its backend says to the prompt, and its end against what is legal."""
    assert reply.whole, f"cut in its middle: {reply}"
    if reply.status != 200:
        error = json.loads(reply.body)["error"]
        assert error["message"], reply
        assert error["code"] != "internal_error", reply
        assert reply.status in {404, 429, 502, 503}, reply
        assert (reply.status in {429, 503}) <= ("retry-after" in reply.headers), reply
        return
    wanted = known[reply.headers["x-gateway-backend"], asked["messages"][0]["content"]][: asked["max_tokens"]]
    if not asked["stream"]:
        (choice,) = json.loads(reply.body)["choices"]
        assert choice["finish_reason"] in {"length", "stop"}, reply
        assert choice["message"]["content"].split() == wanted, reply
        return
    *events, end = reply.body.split("\n\n")
    assert end == "", reply
    told = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
    errors = [event for event in told if event.startswith('{"error"')]
    chunks = [json.loads(event) for event in told if event != "[DONE]" and event not in errors]
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).split()
    reasons = [reason for chunk in chunks if (reason := chunk["choices"][0]["finish_reason"])]
    end_of_it = (told.count("[DONE]"), len(errors), len(reasons))
    assert end_of_it in {(1, 0, 1), (0, 1, 0)}, f"no legal end: {reply}"
    assert told[-1] in {"[DONE]", *errors}, f"something after the end: {reply}"
    assert said == wanted[: len(said)], f"it should have said {wanted}: {reply}"
    assert errors or said == wanted, f"a clean end to a part of {wanted}: {reply}"


async def what_is_said() -> dict[tuple[str, str], list[str]]:
    """What each backend says to each prompt, word for word."""
    engines: dict[str, tuple[Any, Any]] = {
        "faults": (FaultsEngine, FaultsSettings(tokens=64)),
        "echo": (EchoEngine, EchoSettings(tokens=64)),
    }
    said = {}
    for backend, (engine, settings) in engines.items():
        model = ModelSpec(name="m", backend=backend)
        made = engine(EngineContext(model=model, weights=None, settings=settings, scratch=Path("unused")))
        for prompt in PROMPTS:
            request = chat(prompt, sampling=Sampling(max_tokens=64))
            said[backend, prompt] = (await collect(request, made.stream(request))).text.split()
    return said


# --- playing ------------------------------------------------------------------------------------


class Victim(Protocol):
    """A replica's process, or what stands for it."""

    def kill(self) -> None: ...
    def terminate(self) -> None: ...


@dataclass
class Ground:
    """Where a play takes place.

    Attributes:
        head: what every configuration begins with.
        living: the replicas that live, by name; given what ``/health`` says.
        worker: the HTTP worker's own view, where it is in this process.
    """

    port: int
    file: Path
    head: str
    living: Callable[[dict[str, Any]], Mapping[str, Victim]]
    worker: Gateway | None = None


class Play:
    """One gateway, what is done to it, and whether it does what it should."""

    def __init__(self, ground: Ground, draw: random.Random, known: dict[tuple[str, str], list[str]]) -> None:
        self.ground = ground
        self.draw = draw
        self.known = known
        self.truth = Truth()
        self.background: set[asyncio.Task[None]] = set()
        self.history: deque[str] = deque(maxlen=30)
        self.answers: Counter[int] = Counter()

    async def ask(self, method: str, path: str, body: object = None) -> Reply:
        received = bytearray()
        try:
            async with asyncio.timeout(WITHIN_S):
                return await ask(self.ground.port, method, path, body, received)
        except TimeoutError:
            pytest.fail(f"{method} {path} {body}: no whole answer within {WITHIN_S:g} s; so far {bytes(received)!r}")

    async def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.ask("GET", "/health")).body)
        return found

    # --- requests

    def drawn_request(self, most_tokens: int) -> dict[str, Any]:
        return {
            "model": self.draw.choice(NAMES),
            "messages": [{"role": "user", "content": self.draw.choice(PROMPTS)}],
            "max_tokens": self.draw.randint(1, most_tokens),
            "stream": self.draw.random() < 0.6,
        }

    async def request(self) -> str:
        """Ask, and wait for the answer."""
        body = self.drawn_request(6)
        self.history[-1] = f"request {body}"
        reply = await self.ask("POST", "/v1/chat/completions", body)
        judge(reply, body, self.known)
        self.answers[reply.status] += 1
        assert (reply.status == 404) == (self.truth.status(body["model"]) == 404), reply
        return f"{body['model']} stream={body['stream']} {reply.status}"

    async def request_in_background(self) -> str:
        """Ask, and go on; some leave before the end."""
        body = self.drawn_request(40)
        leave_after_s = self.draw.choice((None, None, self.draw.uniform(0, 0.1)))

        async def play() -> None:
            with contextlib.suppress(TimeoutError) if leave_after_s else contextlib.nullcontext():
                async with asyncio.timeout(leave_after_s):
                    judge(await self.ask("POST", "/v1/chat/completions", body), body, self.known)

        if len(self.background) < 20:
            self.background.add(asyncio.create_task(play()))
            await asyncio.sleep(0)
        return f"{body['model']} stream={body['stream']} leaves after {leave_after_s}"

    # --- accidents

    async def kill(self) -> str:
        """Kill a replica in the middle of what it does."""
        name, victim = await self.victim()
        if victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        return name

    async def terminate(self) -> str:
        """Send a replica SIGTERM behind the supervisor's back."""
        name, victim = await self.victim()
        if victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.terminate()
        return name

    async def victim(self) -> tuple[str, Victim | None]:
        living = self.ground.living(await self.health())
        name = self.draw.choice([*sorted(living), "nobody"])
        return name, living.get(name)

    # --- an operator's commands: over HTTP, or straight to the supervisor

    async def manage(self, command: Change | Operate | Reload, method: str, path: str, body: object = None) -> int:
        """Give a command one way or the other; return the status of the reply."""
        if self.ground.worker is None or self.draw.random() < 0.5:
            reply = await self.ask(method, f"/admin/v1{path}", body)
            assert reply.whole, reply
            if reply.status >= 400:
                self.history.append(f"refused: {reply.body}")
            return reply.status
        management = self.ground.worker.management
        do = {Change: management.change, Operate: management.operate, Reload: management.reload}[type(command)]
        try:
            async with asyncio.timeout(WITHIN_S):
                await do(command)
        except GatewayError as error:
            self.history.append(f"refused: {error}")
            return error.status
        return 200

    async def change_deployment(self) -> str:
        """Override a key of a deployment, or take the override back."""
        one = self.draw.choice(sorted(self.truth.deployments()))
        key, values = self.draw.choice(
            [("enabled", (True, False, False, None)), ("replicas", (1, 2, 3, None))] * 3
            + [("priority", (1, 10, None)), ("weight", (1.0, 3.5, None)), ("max_waiting", (0, 50, None))]
        )
        value = self.draw.choice(values)
        status = await self.manage(
            Change(deployments={one: {key: value}}), "PATCH", f"/deployments/{one}", {key: value}
        )
        self.became(status, lambda truth: truth.override(one, key, value))
        return f"{one} {key} = {value}"

    async def change_backend(self) -> str:
        """Disable or enable all of a backend."""
        name, enabled = self.draw.choice(("echo", "faults")), self.draw.choice((True, False, None))
        status = await self.manage(Change(backends={name: enabled}), "PATCH", f"/backends/{name}", {"enabled": enabled})
        self.became(status, lambda truth: truth.switch(name, enabled))
        return f"{name} enabled = {enabled}"

    async def change_alias(self) -> str:
        """Let a name stand for others, sensible or not, or for nothing, or for what it did at first."""
        name = self.draw.choice(("team", "new", "newer"))
        targets = tuple(self.draw.sample(("fast", "slow", "lazy@faults", "echo", "team", "new", "newer", "gone"), 2))
        meant = self.draw.choice((targets, targets, (), None))
        if meant:
            way = ("PUT", f"/aliases/{name}", {"models": meant})
        else:
            way = ("DELETE", f"/aliases/{name}{'' if meant == () else '?reset=true'}", None)
        status = await self.manage(Change(aliases={name: meant}), *way)
        if status != 404 or meant:  # that what is not there cannot be deleted
            self.became(status, lambda truth: truth.name(name, meant))
        return f"{name} = {meant}: {status}"

    async def reset(self) -> str:
        """Take back all that was changed of something."""
        what = self.draw.choice((*sorted(self.truth.deployments()), "@faults", "@echo", "team", "new", "*"))
        status = await self.manage(Change(reset=(what,)), "POST", "/reset", {"names": [what]})
        if status != 404:  # nothing of that name is changed
            self.became(status, lambda truth: truth.reset(what))
        return f"{what}: {status}"

    async def operate(self) -> str:
        """Load, unload, restart or drain a deployment."""
        one, action = self.draw.choice(sorted(self.truth.deployments())), self.draw.choice(ACTIONS)
        status = await self.manage(Operate(deployment=one, action=action), "POST", f"/deployments/{one}/{action}")
        if status in {200, 202}:
            self.truth.operate(one, action)
        else:
            assert status == 409, status
            assert not self.truth.deployments()[one].enabled
        return f"{action} {one}: {status}"

    async def reload(self) -> str:
        """Edit the configuration, well or badly, and have it read again."""
        name = self.draw.choice(sorted(FILES))
        self.ground.file.write_text(self.ground.head + FILES[name])
        status = await self.manage(Reload(), "POST", "/reload")
        self.became(status, lambda truth: setattr(truth, "file", name))
        return f"{name}: {status}"

    def became(self, status: int, change: Callable[[Truth], None]) -> None:
        """Note a change, or that it was refused, as it had to be."""
        after = self.truth.after(change)
        assert (status == 200) == after.makes_sense(), f"{status} for a change that makes sense: {after.makes_sense()}"
        if status == 200:
            self.truth = after

    # --- what must hold

    async def check(self) -> None:
        """Wait until ``/health`` is the truth; parts of it must be so at any time."""
        limit_s = time.monotonic() + WITHIN_S
        while problem := self.untrue(await self.ask("GET", "/health")):
            assert time.monotonic() < limit_s, problem
            await asyncio.sleep(0.005)

    def untrue(self, reply: Reply) -> str:
        """What is not the truth yet; what may never be is an AssertionError."""
        health = json.loads(reply.body)
        found, wanted = health["deployments"], self.truth.deployments()
        verdict = health["status"]
        serving = [
            replica["replica"]
            for one in found.values()
            for replica in one["replicas"]
            if one["enabled"] and replica["state"] == "ready" and replica["breaker"]["state"] == "closed"
        ]
        assert (reply.status == 503) == (verdict == "unhealthy"), reply
        assert (verdict == "healthy") == (health["reasons"] == []), reply
        assert verdict != "unhealthy" or not serving, f"{serving} can serve: {reply}"
        if found.keys() != wanted.keys():
            return f"{sorted(found)} instead of {sorted(wanted)}"
        for name, one in wanted.items():
            states = {replica["replica"]: replica["state"] for replica in found[name]["replicas"]}
            shall = {f"{name}#{index}" for index in range(one.replicas)}
            if found[name]["enabled"] != one.enabled:
                return f"enabled: {found[name]['enabled']} of {name}"
            if not one.enabled and set(states.values()) & {"ready", "starting"}:
                return f"{name} is disabled, and runs: {states}"
            if not shall <= states.keys() or any(states[gone] != "draining" for gone in states.keys() - shall):
                return f"replicas of {name}: {states} instead of {one.replicas}"
        return self.left_behind(health)

    def left_behind(self, health: dict[str, Any]) -> str:
        """What is counted as in flight although nobody asks."""
        self.background = {task for task in self.background if not task.done() or task.result()}
        if self.background:
            return ""
        if health["requests_in_flight"]:
            return f"requests_in_flight is {health['requests_in_flight']}, and nobody asks"
        fleet = self.ground.worker.fleet if self.ground.worker else None
        for replica in (one for name in health["deployments"] if fleet for one in fleet.ready(name).values()):
            if replica.in_flight or replica.in_flight_prompt_tokens or replica.in_flight_output_tokens:
                return f"the HTTP worker counts something in flight on {replica.name}, and nobody asks"
        return ""

    async def settle(self) -> None:
        """Let everything come to rest: then it is known exactly, and every name is answered as it must be."""
        for task in self.background:
            await task
        await self.until(self.unsettled)
        for name in NAMES:
            body = self.drawn_request(8) | {"model": name}
            expected = self.truth.status(name)
            reply = await self.ask("POST", "/v1/chat/completions", body)
            judge(reply, body, self.known)
            legal = {expected, 200, 502, 503} if name == "hurt" and expected != 404 else {expected}
            assert reply.status in legal, f"{name}: {expected} is right, not {reply}"
        await self.until(self.unsettled)

    async def until(self, problem_in: Callable[[dict[str, Any]], str]) -> None:
        limit_s = time.monotonic() + WITHIN_S
        while problem := problem_in(await self.health()):
            assert time.monotonic() < limit_s, problem
            await asyncio.sleep(0.01)

    def unsettled(self, health: dict[str, Any]) -> str:
        """What is still on its way."""
        ready = set()
        for name, one in health["deployments"].items():
            if one["in_flight"] or one["queued"]:
                return f"{name} has requests"
            for replica in one["replicas"]:
                if replica["state"] not in self.truth.states(name):
                    return f"{replica['replica']} is {replica['state']}, not {self.truth.states(name)}: {replica}"
                if replica["breaker"]["state"] == "open" and replica["breaker"]["retry_in_s"]:
                    return f"the breaker of {replica['replica']} is open"
                ready |= {replica["replica"]} if replica["state"] == "ready" else set()
        if ready != (living := self.ground.living(health).keys()):
            return f"{sorted(ready)} are ready, and {sorted(living)} live"
        return f"{health['requests_in_flight']} requests in flight" if health["requests_in_flight"] else ""

    async def all_again(self) -> None:
        """Undo everything, and load everything."""
        self.ground.file.write_text(self.ground.head + CONFIG)
        assert (await self.ask("POST", "/admin/v1/reset", {"names": ["*"]})).status == 200
        assert (await self.ask("POST", "/admin/v1/reload")).status == 200
        self.truth = Truth()
        for name, one in self.truth.deployments().items():
            if one.enabled:
                assert (await self.ask("POST", f"/admin/v1/deployments/{name}/load")).status in {200, 202}
        await self.settle()
        health = await self.ask("GET", "/health")
        assert (health.status, self.truth.status("team"), self.truth.status("chain")) == (200, 200, 200)

    async def run(self, steps: int) -> None:
        """Play so many random operations; what goes wrong is told with the last of them."""
        number = 0
        try:
            await self.settle()
            for number in range(1, steps + 1):
                await self.step()
                if number % SETTLE_EVERY == 0:
                    await self.settle()
            await self.all_again()
        except (AssertionError, TimeoutError, pytest.fail.Exception) as problem:
            told = "\n".join(self.history)
            pytest.fail(f"operation {number}: {problem or type(problem).__name__}\n{told}")
        finally:
            for task in self.background:
                task.cancel()
            await asyncio.gather(*self.background, return_exceptions=True)

    async def step(self) -> None:
        operation = self.draw.choices(list(OPERATIONS), OPERATIONS.values())[0]
        self.history.append(f"{operation.__name__} ...")
        async with asyncio.timeout(2 * WITHIN_S):
            told = await operation(self)
            self.history[-1] = f"{operation.__name__} {told}"
            await self.check()


OPERATIONS: dict[Callable[[Play], Any], int] = {
    Play.request: 30,
    Play.request_in_background: 12,
    Play.kill: 8,
    Play.terminate: 2,
    Play.change_deployment: 20,
    Play.change_backend: 4,
    Play.change_alias: 8,
    Play.reset: 4,
    Play.operate: 18,
    Play.reload: 4,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_operations(in_one_loop: Any, seed: int) -> None:
    """After each the truth is told; in the end all can be loaded again and answers."""

    async def run() -> None:
        async with in_one_loop(HEAD + CONFIG) as gateway:
            file = gateway.folder / "gateway.toml"
            ground = Ground(gateway.port, file, HEAD, lambda _: gateway.launcher.running, gateway.app.ctx.gateway)
            await Play(ground, random.Random(seed), await what_is_said()).run(STEPS)  # noqa: S311 - the same again

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as every process of a gateway runs
        runner.run(run())


@pytest.mark.timeout(180)
def test_random_operations_on_processes() -> None:
    """The same with real processes, and two HTTP workers that must both know what one was told."""
    with start_gateway(PLUGINS + CONFIG, "--workers", "2") as gateway:
        file = gateway.log.parent / "gateway.toml"
        head = file.read_text().removesuffix(CONFIG)
        eventually(lambda: gateway.health()["status"] == "healthy")

        def living(health: dict[str, Any]) -> dict[str, Victim]:
            names = {
                replica["pid"]: replica["replica"]
                for deployment in health["deployments"].values()
                for replica in deployment["replicas"]
            }
            found: dict[str, Victim] = {}
            for one in gateway.children():
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    if "core.engine" in one.cmdline():
                        found[names.get(one.pid, f"process {one.pid}")] = one
            return found

        ground = Ground(int(gateway.url.rpartition(":")[2]), file, head, living)

        async def run() -> None:
            await Play(ground, random.Random(1), await what_is_said()).run(100)  # noqa: S311 - the same again

        asyncio.run(run())
