"""What a request costs does not grow with what else is served; bench/routing.py measures it, this counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from core.api.messages import Finished, Load, Usage
from core.api.protocols import Candidate
from core.gateway.replica import Replica
from core.wire.frames import Accepted, Done, Submit
from core.wire.stream import FrameStream

Lab = Any


async def answer(stream: FrameStream[Any], _submit: Submit) -> None:
    stream.send(Accepted(load=Load()))
    stream.send(Finished())
    stream.send(Usage())
    stream.send(Done(load=Load()))


class Sees:
    """A policy that remembers whom it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def rank(self, _request: Any, candidates: Any) -> list[Candidate]:
        self.seen += [candidate.replica for candidate in candidates]
        return list(candidates)


async def test_only_the_routes_own_deployments_are_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of those the tiers that are needed, once each."""
    for number in range(100):
        lab.deployment(f"m{number}@b")
    await lab.replica("m7@b", answer)
    await lab.replica("m8@b", answer)
    looked: Counter[str] = Counter()
    ready = lab.fleet.ready

    def counted(deployment: str) -> Mapping[str, Replica]:
        looked[deployment] += 1
        found: Mapping[str, Replica] = ready(deployment)
        return found

    monkeypatch.setattr(lab.fleet, "ready", counted)
    policy = Sees()
    found = await lab.search(["m7@b"], ["m8@b", "m9@b"], policy=policy).next_answer()
    found.close()

    assert looked == {"m7@b": 1}
    assert policy.seen == ["m7@b#0"]
