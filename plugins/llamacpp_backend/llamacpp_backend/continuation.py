"""Answers that another replica began: what comes out the same again is answered again, else the told text goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from decoding.remainder import refuse

from core.api import ChatRequest, CompletionRequest, Continued, Sampling, Usage
from llamacpp_backend.body import chat_body
from llamacpp_backend.served import ServedModel

__all__ = ["Told", "is_repeatable", "told"]

_GREEDY_BELOW = 1e-6
# A template with one of these may let the model write more than the text that clients see.
_MARKS_OF_THOUGHT = re.compile("think|reason|thought|channel", re.IGNORECASE)


def is_repeatable(sampling: Sampling) -> bool:
    """Whether the same request gives the same answer again."""
    return sampling.seed is not None or (sampling.temperature or 0.0) < _GREEDY_BELOW


@dataclass(frozen=True, kw_only=True)
class Told:
    """A prompt, and the beginning of its answer that was told elsewhere, as tokens."""

    prompt: list[int]
    answer: list[int]

    def left(self, max_tokens: int | None, context_tokens: int) -> int:
        """Return how many tokens the answer may have yet."""
        room = context_tokens - len(self.prompt) - len(self.answer)
        return room if max_tokens is None else min(room, max_tokens - len(self.answer))

    def usage(self, rest: Usage) -> Usage:
        """Return the usage of the whole answer, given that of its rest."""
        return Usage(
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.answer) + rest.completion_tokens,
            cached_tokens=min(len(self.prompt), rest.cached_tokens),
        )


async def told(request: ChatRequest | CompletionRequest, continued: Continued, model: ServedModel) -> Told:
    """Return prompt and told text as the tokens that llama.cpp makes of them.

    Raises:
        RequestError: what was told is not all that the model has written, or a form binds it.
    """
    if continued.reasoning:
        refuse("its reasoning cannot be given back to llama.cpp")
    text = continued.text
    if isinstance(request, ChatRequest):
        if request.response_format.kind != "text":
            refuse("llama.cpp cannot enter a grammar midway")
        if request.tools and request.tool_choice.mode != "none":
            refuse("llama.cpp would read no tool calls in it")
        if _MARKS_OF_THOUGHT.search(model.template):
            refuse("the model may have thought what was not told")
        prompt: str | tuple[int, ...] = await model.rendered(chat_body(request, model.caps, None))
        param = "messages"
    else:
        prompt, param = request.prompts[0], "prompt"
        echo = await model.text_of(prompt) if request.echo else ""
        if not text.startswith(echo):
            refuse("its prompt is not told yet")
        text = text.removeprefix(echo)
    return Told(prompt=await model.tokens_of(prompt, param=param), answer=await model.tokens_of_text(text))
