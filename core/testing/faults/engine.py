"""The engine: words for tokens, text from the prompt alone, and the faults."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from core.api import (
    ChatRequest,
    CompletionRequest,
    Continued,
    EngineBrokenError,
    EngineContext,
    EngineError,
    EngineEvent,
    EngineInfo,
    EngineLoadError,
    EngineRequest,
    Finished,
    FinishReason,
    Load,
    RequestError,
    TextDelta,
    Usage,
)
from core.testing.faults import sockets
from core.testing.faults.plugin import FaultsSettings
from core.testing.faults.words import TOKENS, pieces_of, prompts_of

__all__ = ["FaultsEngine"]

_LONGEST_STEP_S = 0.05
_POLL_S = 0.02
_READ_S = 0.02
"""What the peer takes to read what was said."""
_BALLAST_STEP_BYTES = 8 * 1024 * 1024


class FaultsEngine:
    """One object per replica; everything happens in its one event loop. It takes its whole process along."""

    def __init__(self, context: EngineContext) -> None:
        self._context_tokens = context.model.context_tokens
        self._settings = cast("FaultsSettings", context.settings)
        self._random = random.Random(self._settings.seed)  # noqa: S311 - faults, not secrets
        self._running = 0
        self._steps = 0
        self._requests = 0
        self._hits = 0
        self._broken = False
        self._ballast: list[bytearray] = []
        self._refusing: asyncio.Task[None] | None = None

    async def load(self) -> EngineInfo:
        """Take ``load_s``, then be ready, or fail as the settings want it."""
        settings = self._settings
        await asyncio.sleep(settings.load_s)
        if settings.fault == "fail_load":
            msg = "fault = fail_load, as configured"
            raise EngineLoadError(msg, permanent=settings.permanent)
        if settings.fault == "refuse":
            self._refusing = asyncio.create_task(_refuse_connections())
        return EngineInfo(context_tokens=self._context_tokens, slots=settings.slots, details={"fault": settings.fault})

    def load_now(self) -> Load:
        """Steps move as long as something runs that does not hang."""
        return Load(running=self._running, steps=self._steps)

    async def close(self) -> None:
        """Nothing to give back but the task that refuses."""
        if self._refusing is not None:
            self._refusing.cancel()

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        """Serve one request: each step gives one event to each choice, as a batch on a device would."""
        answers, usage = self._plan(request)
        fault = self._settings.fault if self._is_hit(request) else "none"
        paced = fault == "slow" or self._settings.fault != "slow"
        told = 0
        self._running += 1
        try:
            if paced:
                await self._work(self._settings.first_token_s)
            if fault == "hang":
                await asyncio.Event().wait()
            due = time.monotonic()
            while answers:
                if fault not in {"none", "slow"} and told >= self._settings.after_tokens:
                    async for rubbish in self._fail():
                        yield rubbish
                for answer in tuple(answers):
                    if (event := next(answer, None)) is not None:
                        yield event
                    else:
                        answers.remove(answer)
                told += 1
                due += 1 / self._settings.tokens_per_s if paced and self._settings.tokens_per_s else 0.0
                await self._work(due - time.monotonic())
            yield usage
        finally:  # however it ends: to the end, by an error, by a cancel
            self._running -= 1

    def _is_hit(self, request: EngineRequest) -> bool:
        """Whether this request is hit; if so, the journal has it before anything goes wrong."""
        settings = self._settings
        self._requests += 1
        drawn = self._random.random() < settings.share
        over = settings.only_first is not None and self._hits >= settings.only_first
        hit = settings.fault != "none" and drawn and not over and self._requests % settings.only_every == 0
        self._hits += hit
        if hit and settings.journal is not None:
            with settings.journal.open("a") as journal:
                journal.write(f"{request.id}\n")
        return hit

    # --- what goes wrong

    async def _fail(self) -> AsyncGenerator[EngineEvent, None]:
        """Go wrong as the settings want it; what was said so far has been read by then."""
        fault = self._settings.fault
        why = f"fault = {fault}, as configured"
        await asyncio.sleep(_READ_S)
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault in {"stall", "die"}:
            await asyncio.Event().wait()
        if fault == "garbage":
            async for event in self._garbage():
                yield event
        if fault == "exhaust_memory":
            self._exhaust_memory()
        if fault == "broken":
            self._broken = True
        raise EngineBrokenError(why) if self._broken else EngineError(why)

    async def _garbage(self) -> AsyncGenerator[EngineEvent, None]:
        """Break the protocol; the peer hangs up."""
        if self._settings.garbage == "bytes":
            sockets.scribble(b"Segmentation fault (core dumped)\n")
            await asyncio.Event().wait()
        elif self._settings.garbage == "message":
            yield TextDelta(text=cast("str", 17))
        else:
            yield TextDelta(text="x" * self._settings.oversized_bytes)

    def _exhaust_memory(self) -> None:
        """Take memory and keep it, as a leak does; the operating system's limit may come sooner.

        Raises:
            MemoryError: always.
        """
        while sum(map(len, self._ballast)) < self._settings.ballast_bytes:
            self._ballast.append(bytearray(os.urandom(1)) * _BALLAST_STEP_BYTES)
        msg = f"fault = exhaust_memory, as configured: {self._settings.ballast_bytes} bytes are taken"
        raise MemoryError(msg)

    # --- what to say

    def _plan(self, request: EngineRequest) -> tuple[list[Iterator[EngineEvent]], Usage]:
        """The events of each choice, and the usage of the whole answer."""
        if not isinstance(request, ChatRequest | CompletionRequest):
            msg = "This backend generates text and nothing else."
            raise RequestError(msg)
        prompts, known = prompts_of(request), request.continued
        _refuse(known is not None and len(prompts) * request.n > 1, "it has several choices")
        _refuse(known is not None and any(not 0 <= one < TOKENS for one in known.token_ids), "its tokens are not ours")
        answers: list[Iterator[EngineEvent]] = []
        prompt_tokens = completion_tokens = 0
        for prompt in prompts:
            prompt_tokens += (words := len(prompt.split()))
            if (room := self._context_tokens - words) <= 0:
                msg = f"The prompt has {words} tokens, but the context holds {self._context_tokens}."
                field = "messages" if isinstance(request, ChatRequest) else "prompt"
                raise RequestError(msg, param=field, code="context_length_exceeded")
            most = min(room, self._settings.tokens)
            asked = request.sampling.max_tokens
            limit = most if asked is None else min(asked, most)
            for draw in range(request.n):
                pieces = pieces_of(prompt, limit, draw=draw, known=() if known is None else known.token_ids)
                reason: FinishReason = "stop" if limit == self._settings.tokens else "length"
                if (end := _first_stop(pieces, request.sampling.stop)) is not None:
                    pieces, reason = _cut(pieces, end), "stop"
                text = "".join(piece for _, piece in pieces)
                ours = known is None or (text.startswith(known.text) and not known.reasoning)
                _refuse(not ours, "it is another one")
                completion_tokens += len(pieces)
                answers.append(_events(len(answers), pieces, reason, known))
        return answers, Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    # --- time

    async def _work(self, seconds: float) -> None:
        """Spend time as a device would, in steps. With none to spend, the host lets others in between events."""
        self._steps += 1
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LONGEST_STEP_S))
            self._steps += 1


def _refuse(condition: bool, why: str) -> None:  # noqa: FBT001 - reads as an assertion does
    if condition:
        msg = f"This answer cannot be continued: {why}."
        raise RequestError(msg, code="cannot_continue")


async def _refuse_connections() -> None:
    while not sockets.refuse_connections():  # noqa: ASYNC110 - nobody tells an engine of connections
        await asyncio.sleep(_POLL_S)


def _first_stop(pieces: list[tuple[int, str]], stops: Sequence[str]) -> int | None:
    """Where the text ends because one of the stop strings begins there."""
    text = "".join(piece for _, piece in pieces)
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def _cut(pieces: list[tuple[int, str]], end: int) -> list[tuple[int, str]]:
    """The tokens whose text begins before ``end``, and of it what lies before."""
    cut, at = [], 0
    for token, piece in pieces:
        if at >= end:
            break
        cut.append((token, piece[: end - at]))
        at += len(piece)
    return cut


def _events(
    choice: int, pieces: list[tuple[int, str]], reason: FinishReason, continued: Continued | None
) -> Iterator[EngineEvent]:
    """One delta a token; of a continued answer, what lies beyond what the client has."""
    known_ids, known_text = (0, "") if continued is None else (len(continued.token_ids), continued.text)
    untold: list[int] = []
    at = 0
    for position, (token, piece) in enumerate(pieces):
        if position >= known_ids:
            untold.append(token)
        beyond = piece[max(0, len(known_text) - at) :]
        at += len(piece)
        if beyond:
            yield TextDelta(choice=choice, text=beyond, token_ids=tuple(untold))
            untold = []
    yield Finished(choice=choice, reason=reason)
