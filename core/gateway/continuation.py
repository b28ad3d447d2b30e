"""Streams that outlive their replica: what was told of an answer, and the answer that goes on where one was cut off."""

from __future__ import annotations

import logging
from array import array
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from core.api.messages import EngineEvent, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from core.api.requests import ChatRequest, CompletionRequest, Continued, EngineRequest
from core.errors import GatewayError
from core.gateway.answer import Answer, ReplicaFailedError
from core.gateway.metrics import count_continuation
from core.gateway.search import Search
from core.routing.table import Deployment, RouteOptions

__all__ = ["Continuous", "Told"]

_log = logging.getLogger("gateway.continuation")
# Of text, and of token ids: more than any model's context, but not more than a worker can remember of each stream.
_MOST_REMEMBERED = 1 << 20


class Told:
    """What the client has of one text."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._ids = array("q")
        self._characters = 0
        self._whole = True

    def add(self, events: Sequence[EngineEvent]) -> None:
        """Remember events that the client is about to get."""
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                self._text.append(event.text)  # type: ignore[union-attr]
            elif kind is ReasoningDelta:
                self._reasoning.append(event.text)  # type: ignore[union-attr]
            else:
                self._whole = self._whole and kind is not ToolCallDelta
                continue
            self._ids.extend(event.token_ids)  # type: ignore[union-attr]
            self._characters += len(event.text)  # type: ignore[union-attr]
        if self._characters > _MOST_REMEMBERED or len(self._ids) > _MOST_REMEMBERED:
            self._whole = False
        if not self._whole:
            self._text, self._reasoning, self._ids = [], [], array("q")

    def as_continued(self) -> Continued | None:
        """Return what another replica has to know to go on; None if it cannot: a call is half told, or too much."""
        if not self._whole:
            return None
        return Continued(token_ids=tuple(self._ids), text="".join(self._text), reasoning="".join(self._reasoning))


class Continuous:
    """An answer that goes on elsewhere when its replica fails midway, as docs/continuation.md says.

    Iterate over it as over an `Answer`; a `Finished` comes no sooner than an event that follows it, so that the last
    one comes with the usage, and nothing after them. `close` it in any case.

    Attributes:
        answer: the one that gives events now.
    """

    def __init__(self, search: Search, answer: Answer, request: EngineRequest, options: RouteOptions) -> None:
        self._search = search
        self._request = request
        self._options = options
        self._told = Told() if options.continuation != "off" and _is_one_text(request) else None
        self.answer = answer

    async def __aiter__(self) -> AsyncIterator[Sequence[EngineEvent]]:
        """Yield batches of events until the answer is whole.

        Raises:
            ReplicaFailedError: the replica failed or died, and nobody could go on; what was yielded is only a part.
            GatewayError: its time was up.
        """
        held: Sequence[EngineEvent] = ()
        ended = False
        while True:
            try:
                async for events in self.answer:
                    batch, held = _split([*held, *events] if held else events)
                    if not batch:
                        continue
                    if self._told is not None:
                        self._told.add(batch)
                    ended = type(batch[-1]) is Usage
                    yield batch
            except (GatewayError, ReplicaFailedError) as failure:
                if ended:
                    return
                if self._told is None or isinstance(failure, GatewayError):
                    raise
                held = ()
                await self._go_on(self._told, failure)
            else:
                if held:
                    yield held
                return

    def close(self) -> None:
        """Give the connection back; cancels the request unless the answer is whole. Idempotent."""
        self.answer.close()

    async def _go_on(self, told: Told, failure: ReplicaFailedError) -> None:
        """Let another replica answer from here.

        Raises:
            ReplicaFailedError: ``failure``, nobody could.
        """
        broken, continued = self.answer, told.as_continued()
        if continued is None or not isinstance(self._request, ChatRequest | CompletionRequest):
            count_continuation("impossible")
            raise failure
        broken.close()
        request = msgspec.structs.replace(self._request, continued=continued)
        goes_on = self._search.answer_instead(broken, failure, request, self._twins(broken))
        refusal: GatewayError | None = None
        while True:
            try:
                self.answer = await goes_on
                break
            except GatewayError as error:
                if error.code == "cannot_continue":  # it has done nothing: the next one may
                    refusal, goes_on = error, self._search.next_answer()
                    continue
                count_continuation("refused" if refusal else "nobody")
                why = (refusal or error).message
                _log.warning("request %s, cut off at %s, goes on nowhere: %s", request.id, broken.replica.name, why)
                raise failure from error
        count_continuation("continued")
        _log.warning(
            "request %s, cut off at %s after %d characters, goes on at %s",
            request.id,
            broken.replica.name,
            len(continued.text) + len(continued.reasoning),
            self.answer.replica.name,
        )

    def _twins(self, broken: Answer) -> Callable[[Deployment], bool]:
        """Return which deployments may go on: they hold the same weights, and their backend can do it."""
        dead, anywhere = broken.replica.deployment, self._options.continuation == "any_backend"

        def is_twin(deployment: Deployment) -> bool:
            if "continuation" not in deployment.backend.capabilities:
                return False
            if deployment.id == dead.id:
                return True
            same_weights = deployment.spec.source is not None and deployment.spec.source == dead.spec.source
            return same_weights and (anywhere or deployment.spec.backend == dead.spec.backend)

        return is_twin


def _split(events: Sequence[EngineEvent]) -> tuple[Sequence[EngineEvent], Sequence[EngineEvent]]:
    """Return the events, and apart from them the ends that nothing follows yet."""
    upto = len(events)
    while upto and type(events[upto - 1]) is Finished:
        upto -= 1
    return (events, ()) if upto == len(events) else (events[:upto], events[upto:])


def _is_one_text(request: EngineRequest) -> bool:
    """Whether an answer is a single text, of which no log probabilities are wanted."""
    if not isinstance(request, ChatRequest | CompletionRequest):
        return False
    prompts = len(request.prompts) if isinstance(request, CompletionRequest) else 1
    return request.n * prompts == 1 and request.sampling.logprobs is None
