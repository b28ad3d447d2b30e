"""What the echo plugin declares; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from core.api import BackendSettings, BackendSpec, ModelSpec, hookimpl

__all__ = ["EchoSettings", "gateway_backends", "gateway_models"]


class EchoSettings(BackendSettings):
    """``[backends.echo]``. The last five are failures on order, for tests of what is around an engine."""

    tokens: NonNegativeInt = Field(
        0, description="words of an answer: the message is repeated to fill them; 0: said back once"
    )
    tokens_per_s: NonNegativeFloat = Field(0.0, description="speed of each choice; 0: as fast as possible")
    prefill_s: NonNegativeFloat = Field(0.0, description="time before the first token")
    load_s: NonNegativeFloat = Field(0.0, description="time to load")
    slots: PositiveInt = Field(16, description="choices that run at once")
    ballast_bytes: NonNegativeInt = Field(0, description="memory that it takes and does nothing with")
    fail_load: Literal["", "temporary", "permanent"] = Field("", description="refuse to load")
    raise_after_tokens: NonNegativeInt | None = Field(None, description="fail each request after so many tokens")
    break_after_tokens: NonNegativeInt | None = Field(None, description="break for good after so many tokens")
    hang_after_tokens: NonNegativeInt | None = Field(None, description="stand still after so many tokens")
    die_after_tokens: NonNegativeInt | None = Field(None, description="kill the process after so many tokens")


@hookimpl
def gateway_backends() -> tuple[BackendSpec, ...]:
    """The runtime."""
    return (
        BackendSpec(
            name="echo",
            engine="echo_backend.engine:EchoEngine",
            settings=EchoSettings,
            capabilities=frozenset({"n", "seed", "stop", "tools", "tool_choice", "echo", "dimensions", "continuation"}),
            description="Says your words back; one word is one token.",
        ),
    )


@hookimpl
def gateway_models() -> tuple[ModelSpec, ...]:
    """The model that needs no weights."""
    return (
        ModelSpec(
            name="echo",
            backend="echo",
            tasks=("chat", "completion", "embeddings", "rerank"),
            context_tokens=32_768,
            aliases=("parrot",),
            priority=0,
            description="Says your words back.",
        ),
    )
