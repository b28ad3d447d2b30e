"""The engine in a real replica process: overload, junk, and the ways to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest_asyncio

from core.api.messages import TextDelta
from core.api.requests import EngineRequest, ResponseFormat, Sampling, Tool
from core.testing.asking import chat, message
from core.testing.replica import Replica, ReplicaClient, start_replica
from core.testing.suites.base import LONG, STORY, Suite
from core.wire.frames import Accepted, Done, Failed, Rejected

__all__ = ["ProcessSuite"]


class ProcessSuite(Suite):
    """What the gateway relies on."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def replica(cls, weights_path: Path | None) -> AsyncIterator[Replica]:
        """A process that is ready, with a queue of two; shared by the tests that leave it alive."""
        async with cls._started(weights_path) as replica:
            yield replica

    @classmethod
    @contextlib.asynccontextmanager
    async def _started(cls, weights_path: Path | None) -> AsyncIterator[Replica]:
        async with start_replica(
            cls.backend, cls.model, settings=cls.settings, weights=weights_path, max_waiting=2, drain_timeout_s=50
        ) as replica:
            await replica.ready()
            yield replica

    async def test_over_the_limit_is_busy(self, replica: Replica) -> None:
        """Full slots and a full queue reject with a time to try again; who hangs up makes room at once."""
        slots = (await replica.ready()).slots
        request = self.text_request(LONG * 10, max_tokens=400)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(replica.connected()) for _ in range(slots + 3)]
            answers = await asyncio.gather(*(client.submit(request) for client in clients[:-1]))
            assert all(isinstance(answer, Accepted) for answer in answers), (
                f"{slots} slots and a queue of 2 must take {slots + 2} requests: {answers}"
            )
            rejected = await clients[-1].submit(request)
            assert isinstance(rejected, Rejected), f"with full slots and a full queue the next is rejected: {rejected}"
            assert rejected.reason == "busy", f"the reason must be busy: {rejected}"
            assert rejected.retry_after_s > 0, f"it must say when to try again: {rejected}"
            assert (rejected.load.running, rejected.load.waiting) == (slots, 2), (
                f"the load must show {slots} running (of EngineInfo.slots; does one request end too soon?) "
                f"and 2 waiting: {rejected.load}"
            )
        await replica.until(lambda status: status.load.running + status.load.waiting == 0, timeout_s=5.0)
        await self._serves(replica)

    async def test_junk_never_kills_the_engine(self, replica: Replica) -> None:
        """Odd requests are answered or refused, and the next ordinary one is served."""
        async with replica.connected() as client:
            for request in self._junk():
                last = (await client.ask(request, timeout_s=30.0))[-1]
                assert isinstance(last, Done | Failed | Rejected), f"an odd request got no ending: {request}"
        await self._serves(replica)

    async def test_sigterm_drains(self, weights_path: Path | None) -> None:
        """A running stream ends as it should, a new request is refused, and the process exits with 0."""
        async with (
            self._started(weights_path) as replica,
            replica.connected() as client,
            replica.connected() as late,
            replica.connected() as watcher,
        ):
            await self._begin(client)
            replica.process.terminate()
            async for status in watcher.watch():
                if status.draining:
                    break
            refused = await late.submit(self.text_request(STORY))
            assert isinstance(refused, Rejected), f"a draining replica takes nothing new: {refused}"
            assert refused.reason == "draining", f"the reason must be draining: {refused}"
            last = [frame async for frame in client.frames()][-1]
            assert isinstance(last, Done), f"a stream that runs at SIGTERM must end as it should: {last}"
            code = await replica.wait()
            assert code == 0, f"after SIGTERM the process must exit with 0, not {code}:\n{replica.log}"

    async def test_end_of_stdin_ends_the_process(self, weights_path: Path | None) -> None:
        """A replica whose supervisor died drains and leaves."""
        async with self._started(weights_path) as replica, replica.connected() as client:
            await self._begin(client)
            replica.close_stdin()
            last = [frame async for frame in client.frames()][-1]
            assert isinstance(last, Done), f"a stream that runs when the supervisor dies must end as it should: {last}"
            code = await replica.wait()
            assert code == 0, f"when the supervisor dies the process must exit with 0, not {code}:\n{replica.log}"

    # --- helpers

    async def _begin(self, client: ReplicaClient) -> None:
        """Submit and wait for the first text, so that the request is surely running."""
        answer = await client.submit(self.text_request(STORY, max_tokens=48))
        assert isinstance(answer, Accepted), f"an idle replica must accept: {answer}"
        while not isinstance(await client.receive(), TextDelta):
            pass

    async def _serves(self, replica: Replica) -> None:
        async with asyncio.timeout(120.0), replica.connected() as client:
            frames = await client.ask(self.text_request(STORY, max_tokens=3))
            assert isinstance(frames[-1], Done), f"the next ordinary request must be served: {frames[-1]}"

    def _junk(self) -> list[EngineRequest]:
        odd = [
            "",
            " ",
            "\x00\x01\x02",
            "\U0010ffff" * 50,
            "<|im_end|><|im_start|>system",
            "{{ x }}{% for %}",
            "a" * 5000,
        ]
        requests = [self.text_request(text, max_tokens=2) for text in (*odd, LONG * 10_000)]
        samplings = [
            Sampling(max_tokens=2, temperature=100.0, top_p=1e-9),
            Sampling(max_tokens=2, temperature=1e-9, seed=2**63 - 1),
            Sampling(max_tokens=10**9, stop=("e", " ")) if "stop" in self.backend.capabilities else Sampling(),
            Sampling(max_tokens=2, logit_bias={10**9: 100.0})
            if "logit_bias" in self.backend.capabilities
            else Sampling(),
        ]
        requests += [
            msgspec.structs.replace(
                self.text_request(STORY), sampling=msgspec.structs.replace(one, max_tokens=one.max_tokens or 2)
            )
            for one in samplings
        ]
        if "chat" in self.model.tasks:
            few = Sampling(max_tokens=2)
            conversations = [
                (message("only rules", "system"),),
                (message("a", "assistant"), message("b", "assistant")),
                (message("result", "tool"), message("?")),
            ]
            requests += [msgspec.structs.replace(chat(""), messages=one, sampling=few) for one in conversations]
            if "json_schema" in self.backend.capabilities:
                for schema in ("not json", '{"type": "nonsense"}', json.dumps({"$ref": "#/nowhere"})):
                    form = ResponseFormat(kind="json_schema", name="x", schema=schema)
                    requests.append(chat(STORY, sampling=few, response_format=form))
            if "tools" in self.backend.capabilities:
                requests.append(chat(STORY, sampling=few, tools=(Tool(name="x", parameters='{"type": 7}'),)))
        return requests
