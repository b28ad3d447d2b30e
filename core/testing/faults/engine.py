"""The engine: words for tokens, text from the prompt alone, and the faults."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Iterator
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

__all__ = ["FaultsEngine"]

_LONGEST_STEP_S = 0.05
_POLL_S = 0.02
_READ_S = 0.02
"""What the peer takes to read what was said."""
_BALLAST_STEP_BYTES = 8 * 1024 * 1024
_MOST_FRAME_BYTES = 64 * 1024 * 1024
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
_VOCABULARY = [first + second for first in _SYLLABLES for second in _SYLLABLES]


class FaultsEngine:
    """One object per replica; everything happens in its one event loop.

    What is said depends on the prompt and on every word said before, so two replicas say the same, and one that
    continues from wrong words says something else.
    """

    def __init__(self, context: EngineContext) -> None:
        self._context_tokens = context.model.context_tokens
        self._settings = cast("FaultsSettings", context.settings)
        self._random = random.Random(self._settings.seed)  # noqa: S311 - faults, not secrets
        self._running = 0
        self._steps = 0
        self._requests = 0
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
            self._refusing = asyncio.create_task(_refuse())
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
        hit = self._draw()
        fault = self._settings.fault if hit else "none"
        paced = hit or self._settings.fault != "slow"
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

    def _draw(self) -> bool:
        """Whether this request is hit."""
        self._requests += 1
        drawn = self._random.random() < self._settings.share
        return drawn and self._requests % self._settings.only_every == 0

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
        """Break the protocol, and wait for the peer to hang up."""
        if self._settings.garbage == "bytes":
            sockets.scribble(b"Segmentation fault (core dumped)\n")
        elif self._settings.garbage == "message":
            yield TextDelta(text=cast("str", 17))
        else:
            yield TextDelta(text="x" * (_MOST_FRAME_BYTES + 1))
        await asyncio.Event().wait()

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
        if isinstance(request, ChatRequest):
            prompts = [" ".join(f"{message.role}: {message.text}" for message in request.messages)]
            field = "messages"
        elif isinstance(request, CompletionRequest):
            prompts = [str(prompt) for prompt in request.prompts]
            field = "prompt"
        else:
            msg = "This backend generates text and nothing else."
            raise RequestError(msg)
        continued = request.continued
        if continued is not None and len(prompts) * request.n > 1:
            msg = "An answer of several choices cannot be continued."
            raise RequestError(msg, code="cannot_continue")
        answers: list[Iterator[EngineEvent]] = []
        prompt_tokens = completion_tokens = 0
        for prompt in prompts:
            prompt_tokens += (words := len(prompt.split()))
            if (room := self._context_tokens - words) <= 0:
                msg = f"The prompt has {words} tokens, but the context holds {self._context_tokens}."
                raise RequestError(msg, param=field, code="context_length_exceeded")
            for draw in range(request.n):
                pieces, reason = self._say(f"{draw}|{prompt}", request, room)
                completion_tokens += len(pieces)
                answers.append(_events(len(answers), pieces, reason, continued))
        return answers, Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    def _say(
        self, prompt: str, request: ChatRequest | CompletionRequest, room: int
    ) -> tuple[list[tuple[int, str]], FinishReason]:
        """The tokens of one answer, id and text, and why it ends there."""
        asked, most = request.sampling.max_tokens, min(room, self._settings.tokens)
        limit = most if asked is None else min(asked, most)
        known = () if request.continued is None else request.continued.token_ids
        if any(not 0 <= token < len(_VOCABULARY) for token in known):
            msg = "These are no tokens of this model."
            raise RequestError(msg, code="cannot_continue")
        pieces: list[tuple[int, str]] = []
        text = ""
        state = hashlib.blake2b(prompt.encode(), digest_size=16).digest()
        for position in range(limit):
            token = known[position] if position < len(known) else int.from_bytes(state[:4], "big") % len(_VOCABULARY)
            state = hashlib.blake2b(state + token.to_bytes(4, "big"), digest_size=16).digest()
            piece = _VOCABULARY[token] if position == 0 else f" {_VOCABULARY[token]}"
            pieces.append((token, piece))
            text += piece
            if stops := [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]:
                return _cut(pieces, min(stops)), "stop"
        return pieces, "stop" if limit == self._settings.tokens else "length"

    # --- time

    async def _work(self, seconds: float) -> None:
        """Spend time as a device would, in steps. With none to spend, the host lets others in between events."""
        self._steps += 1
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LONGEST_STEP_S))
            self._steps += 1


async def _refuse() -> None:
    while not sockets.refuse_connections():  # noqa: ASYNC110 - nobody tells an engine of connections
        await asyncio.sleep(_POLL_S)


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
