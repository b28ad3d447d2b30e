"""One request over HTTP, and how its answer ended."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from core.api import ChatRequest
from core.testing.asking import message, new_id
from core.testing.drills.declared import TOKENS
from core.testing.faults.words import pieces_of, prompts_of

__all__ = ["Ending", "Heard", "ask", "expected_text"]

Ending = Literal["whole", "error", "late", "illegal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What a client got.

    Attributes:
        id: of the request, as the engine knows it; empty when nothing came.
        replica: who answered; empty when none did.
        ending: ``whole``: with a finish reason, as a complete answer ends; ``error``: an error status or event;
            ``late``: not at all in the time given; ``illegal``: in some other way, which ``detail`` tells.
        text: what there is of the answer.
        took_s: from the first byte sent to the end.
        detail: the error's message.
    """

    prompt: str
    streamed: bool
    id: str
    replica: str
    ending: Ending
    text: str
    took_s: float
    detail: str = ""


def expected_text(prompt: str) -> str:
    """What a replica without a fault answers."""
    (said,) = prompts_of(ChatRequest(id=new_id(), messages=(message(prompt),)))
    return "".join(piece for _, piece in pieces_of(said, TOKENS))


async def ask(client: httpx.AsyncClient, model: str, prompt: str, *, streamed: bool, within_s: float) -> Heard:
    """Send a request and read its answer to the end; raises nothing."""
    began_s = time.monotonic()
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": streamed,
        "user": prompt,
    }
    reading = _Reading()
    ending: Ending
    detail = ""
    try:
        async with client.stream(
            "POST", "/v1/chat/completions", json=body, timeout=within_s, headers={"x-session-id": prompt}
        ) as response:
            reading.id = response.headers.get("x-request-id", "")
            reading.replica = response.headers.get("x-gateway-replica", "")
            if response.status_code != httpx.codes.OK:
                content = json.loads(await response.aread())
                ending, detail = "error", f"{response.status_code}: {content['error']['message']}"
            elif streamed:
                ending, detail = await reading.stream(response.aiter_lines())
            else:
                ending, detail = reading.whole(json.loads(await response.aread()))
    except httpx.TimeoutException:
        ending, detail = "late", f"no end within {within_s:.0f} s"
    except (httpx.HTTPError, ValueError, LookupError) as error:
        ending, detail = "illegal", f"{type(error).__name__}: {error}"
    took_s = time.monotonic() - began_s
    return Heard(
        prompt=prompt,
        streamed=streamed,
        id=reading.id,
        replica=reading.replica,
        ending=ending,
        text=reading.text,
        took_s=took_s,
        detail=detail,
    )


class _Reading:
    """What has been read of an answer."""

    def __init__(self) -> None:
        self.id = ""
        self.replica = ""
        self.text = ""
        self._finish: str | None = None

    def whole(self, body: dict[str, Any]) -> tuple[Ending, str]:
        (choice,) = body["choices"]
        self.text = choice["message"]["content"]
        return "whole", choice["finish_reason"]

    async def stream(self, lines: AsyncIterator[str]) -> tuple[Ending, str]:
        """Read events up to the end of the body: one ending, and nothing after it."""
        ending: Ending | None = None
        detail = ""
        async for line in lines:
            if not line.startswith("data: "):
                continue
            if ending is not None:
                return "illegal", f"something follows the end: {line}"
            if line == "data: [DONE]":
                ending = "whole" if self._finish else "illegal"
                detail = self._finish or "it ends with [DONE] and no finish reason"
                continue
            event = json.loads(line.removeprefix("data: "))
            self.id = self.id or event.get("id", "")  # headers that left with a keep-alive do not have it
            if "error" in event:
                ending, detail = "error", event["error"]["message"]
                if self._finish:
                    ending, detail = "illegal", f"an error follows a finish reason: {detail}"
                continue
            for choice in event["choices"]:
                self.text += choice["delta"].get("content") or ""
                self._finish = choice["finish_reason"] or self._finish
        return (ending, detail) if ending else ("illegal", "the stream just stopped")
