"""Holds an engine's stream to the contract, at the cost of a dictionary look-up per event."""

from __future__ import annotations

import math

from core.api.messages import Embedding, EngineEvent, Finished, ReasoningDelta, Score, TextDelta, ToolCallDelta, Usage
from core.api.requests import EngineRequest
from core.engine.admission import count_endings

__all__ = ["ContractError", "StreamCheck"]


class ContractError(Exception):
    """The engine broke the contract of `core.api.protocols.Engine.stream`; the message says how."""


class StreamCheck:
    """Sees every event of one stream; one object per request."""

    def __init__(self, request: EngineRequest) -> None:
        self._open = set(range(count_endings(request)))
        self._usage_seen = False

    def see(self, event: EngineEvent) -> int:
        """Check the next event; return how many generated tokens it stands for.

        Raises:
            ContractError: it must not come, or not now.
        """
        kind = type(event)
        if self._usage_seen:
            msg = f"the engine sent {kind.__name__} after Usage"
            raise ContractError(msg)
        if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
            if event.choice not in self._open:
                msg = (
                    f"the engine sent {kind.__name__} of choice {event.choice}, which is finished or was not asked for"
                )
                raise ContractError(msg)
            return event.tokens
        if isinstance(event, Finished | Embedding | Score):
            ending = event.choice if isinstance(event, Finished) else event.index
            if ending not in self._open:
                msg = f"the engine sent {kind.__name__} {ending} twice, or nobody asked for it"
                raise ContractError(msg)
            if isinstance(event, Score) and not math.isfinite(event.score):
                msg = f"the engine sent Score {ending} of {event.score}, which is no finite number"
                raise ContractError(msg)
            self._open.remove(ending)
        elif isinstance(event, Usage):
            self._usage_seen = True
            if min(event.prompt_tokens, event.completion_tokens, event.cached_tokens, event.reasoning_tokens) < 0:
                msg = "the engine sent a Usage with a negative count"
                raise ContractError(msg)
        else:
            msg = f"the engine sent {kind.__name__}, which is no event"  # type: ignore[unreachable]  # plugins err
            raise ContractError(msg)
        return 0

    def end(self) -> None:
        """The stream is over.

        Raises:
            ContractError: something is missing.
        """
        if self._open or not self._usage_seen:
            msg = "the engine ended the stream early"
            raise ContractError(msg)
