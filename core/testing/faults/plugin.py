"""The backend ``faults``, which brings no model of its own.

An operator declares deployments of it, with any file as their weights. Deployments of one source are of the same
weights and say the same, so one can take over from another::

    [deployments."sound@faults"]
    source = "./any-file"

    [deployments."dying@faults"]
    source = "./any-file"
    settings = { fault = "die", after_tokens = 5 }
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from core.api import BackendSettings, BackendSpec, hookimpl

__all__ = ["Fault", "FaultsSettings", "Garbage", "gateway_backends"]

Fault = Literal[
    "none",
    "refuse",
    "hang",
    "stall",
    "die",
    "engine_error",
    "broken",
    "garbage",
    "slow",
    "exhaust_memory",
    "fail_load",
]
Garbage = Literal["bytes", "message", "oversized"]


class FaultsSettings(BackendSettings):
    """``[backends.faults]``, and the ``settings`` of a deployment."""

    fault: Fault = Field("none", description="what goes wrong; docs/doctor.md tells what each one does")
    after_tokens: NonNegativeInt = Field(
        0, description="tokens of an answer before it goes wrong; 0: before the first. Not for hang, refuse, fail_load"
    )
    share: float = Field(1.0, ge=0.0, le=1.0, description="chance of each request to be hit, drawn from seed")
    only_every: PositiveInt = Field(1, description="of the requests, only every so manieth may be hit")
    only_first: NonNegativeInt | None = Field(
        None, description="so many requests are hit by a process, and no more after them; unset: no end"
    )
    seed: int = Field(0, description="of the draws")
    garbage: Garbage = Field(
        "bytes",
        description="what garbage is: bytes on all connections, a message of no known form, or one over the limit",
    )
    oversized_bytes: NonNegativeInt = Field(
        64 * 1024 * 1024 + 1, description="length of an oversized message; limits.max_frame_bytes should be less"
    )
    ballast_bytes: NonNegativeInt = Field(
        64 * 1024 * 1024, description="what exhaust_memory takes and keeps before it runs out"
    )
    permanent: bool = Field(default=False, description="fail_load says that trying again cannot help")
    journal: Path | None = Field(
        None, description="file that gets a line with the id of each request that is hit, before anything goes wrong"
    )
    load_s: NonNegativeFloat = Field(0.0, description="time to load")
    slots: PositiveInt = Field(64, description="choices that run at once")
    tokens: PositiveInt = Field(32, description="words of an answer, unless the request sets a limit below")
    first_token_s: NonNegativeFloat = Field(
        0.0, description="time before the first token; with fault = slow of the requests that are hit"
    )
    tokens_per_s: NonNegativeFloat = Field(
        0.0, description="speed of each choice, 0: as fast as possible; with fault = slow of the requests that are hit"
    )


@hookimpl
def gateway_backends() -> tuple[BackendSpec, ...]:
    """The runtime."""
    return (
        BackendSpec(
            name="faults",
            engine="core.testing.faults.engine:FaultsEngine",
            settings=FaultsSettings,
            capabilities=frozenset({"n", "seed", "stop", "continuation"}),
            description="Fails to order: hangs, dies, talks garbage. For drills.",
        ),
    )
