"""Counts of what is in flight come back to zero over real connections, however requests end."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from core.api.messages import Finished, Load, TextDelta, Usage
from core.errors import GatewayError
from core.settings import RoutingTable
from core.wire.frames import Accepted, Done, Failed, Rejected, Submit
from core.wire.stream import FrameStream

Lab = Any


async def test_two_hundred_requests_with_every_ending_leave_nothing_behind(lab: Lab) -> None:
    draw = random.Random(7)  # noqa: S311 - scripts, not secrets

    async def anything(stream: FrameStream[Any], _submit: Submit) -> None:
        kind = draw.randrange(8)
        if kind == 0:
            stream.close()
            return
        if kind == 1:
            stream.send(Rejected(reason="busy", message="no", retry_after_s=0.001))
            return
        if kind == 2:
            stream.send(Rejected(reason="invalid", message="no"))
            return
        stream.send(Accepted(load=Load()))
        for _ in range(draw.randrange(4)):
            stream.send(TextDelta(text="x"))
            await asyncio.sleep(draw.random() * 0.004)
        if kind == 3:
            stream.send(Failed(reason=draw.choice(["engine", "invalid", "timeout", "draining"]), message="oh"))
        elif kind == 4:
            await stream.receive()  # until it is cancelled
        elif kind == 5:
            stream.close()
        else:
            stream.send(Finished())
            stream.send(Usage())
            stream.send(Done(load=Load()))

    async def ask() -> None:
        options = {"attempt_timeout_s": draw.choice([None, 0.01]), "hedge_after_s": draw.choice([None, 0.002])}
        search = lab.search(["m@b"], options=options)
        try:
            async with asyncio.timeout(draw.choice([0.005, 0.05])):
                await search.whole_answer()
        except (GatewayError, TimeoutError):
            pass

    lab.deployment("m@b")
    for _ in range(4):
        await lab.replica("m@b", anything)
    lab.routing = RoutingTable(
        breaker_failures=20, breaker_open_s=0.002, breaker_open_max_s=0.004, retry_backoff_s=0.001, retry_burst=1000
    )
    for _ in range(10):
        asked = [asyncio.create_task(ask()) for _ in range(20)]
        await asyncio.sleep(0.003)
        for one in draw.sample(asked, 4):
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    for one in lab.fleet.ready("m@b").values():
        assert (one.in_flight, one.in_flight_prompt_tokens, one.in_flight_output_tokens) == (0, 0, 0)
        assert one.breaker.admits(asyncio.get_running_loop().time() + 60)
    assert len(lab.submitted) > 50
