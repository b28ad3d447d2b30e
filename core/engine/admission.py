"""Who runs and who waits: a FIFO queue over the engine's slots; pure.

A request costs as many slots as it has choices (all slots at most). The head of the queue waits until
its whole cost is free and nobody overtakes it, so a wide request is never starved by narrow ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from core.api.requests import ChatRequest, CompletionRequest, EngineRequest, RerankRequest

__all__ = ["Admission", "Ticket", "count_endings", "estimate_prompt_tokens"]

_BYTES_PER_TOKEN = 4


def count_endings(request: EngineRequest) -> int:
    """How many choices (or embeddings, or scores) the request must yield."""
    if isinstance(request, ChatRequest):
        return request.n
    if isinstance(request, CompletionRequest):
        return request.n * len(request.prompts)
    return len(request.documents if isinstance(request, RerankRequest) else request.inputs)


def estimate_prompt_tokens(request: EngineRequest) -> int:
    """Prompt tokens, guessed at four bytes of text each; token ids are counted, those of a cut answer too."""
    if isinstance(request, ChatRequest):
        texts: list[str | tuple[int, ...]] = [message.text for message in request.messages]
        texts += [tool.parameters + tool.description for tool in request.tools]
    elif isinstance(request, RerankRequest):
        texts = [request.query + document for document in request.documents]  # read together, pair by pair
    else:
        texts = list(request.prompts if isinstance(request, CompletionRequest) else request.inputs)
    continued = getattr(request, "continued", None)
    said = len(continued.token_ids) if continued else 0
    return said + sum(
        -(-len(text.encode(errors="replace")) // _BYTES_PER_TOKEN) if isinstance(text, str) else len(text)
        for text in texts
    )


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's place. ``started`` is set when it may run.

    Attributes:
        cost: slots it takes while it runs.
        prompt_tokens: estimate, counted while it waits.
    """

    cost: int
    prompt_tokens: int
    started: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Admits tickets up to its bounds. Every ticket that entered must leave, once."""

    def __init__(self, *, slots: int, max_waiting: int, max_waiting_prompt_tokens: int) -> None:
        self.slots = slots
        self._max_waiting = max_waiting
        self._max_waiting_prompt_tokens = max_waiting_prompt_tokens
        self._free = slots
        self._running: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()
        self.waiting_prompt_tokens = 0

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def enter(self, request: EngineRequest) -> Ticket | None:
        """Return the request's ticket, started if there is room; None when the queue is full."""
        ticket = Ticket(
            cost=max(1, min(count_endings(request), self.slots)), prompt_tokens=estimate_prompt_tokens(request)
        )
        if self._waiting or ticket.cost > self._free:
            tokens = self.waiting_prompt_tokens + ticket.prompt_tokens
            if len(self._waiting) >= self._max_waiting or tokens > self._max_waiting_prompt_tokens:
                return None
        self._waiting.append(ticket)
        self.waiting_prompt_tokens += ticket.prompt_tokens
        self._start_next()
        return ticket

    def bound(self, *, max_waiting: int, max_waiting_prompt_tokens: int) -> None:
        """Set other bounds; who waits already stays."""
        self._max_waiting = max_waiting
        self._max_waiting_prompt_tokens = max_waiting_prompt_tokens

    def leave(self, ticket: Ticket) -> None:
        """The ticket's request is over, or gave up waiting; start those who follow."""
        if ticket in self._running:
            self._running.remove(ticket)
            self._free += ticket.cost
        else:
            self._waiting.remove(ticket)
            self.waiting_prompt_tokens -= ticket.prompt_tokens
        self._start_next()

    def _start_next(self) -> None:
        while self._waiting and self._waiting[0].cost <= self._free:
            ticket = self._waiting.popleft()
            self.waiting_prompt_tokens -= ticket.prompt_tokens
            self._running.add(ticket)
            self._free -= ticket.cost
            ticket.started.set()
