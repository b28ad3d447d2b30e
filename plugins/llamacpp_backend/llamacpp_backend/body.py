"""Requests -> the JSON bodies of llama.cpp's endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from decoding.messages import bodies, calls_as_text, instruct
from decoding.tools import tool_prompt

from core.api import ChatRequest, Message, Sampling, Tool

__all__ = ["TemplateCaps", "chat_body", "sampling_body"]

_SEEDS = 2**32 - 1
_GREEDY_BELOW = 1e-6  # llama.cpp divides by the temperature in float32: near 1e-38 that gives random tokens

Body = dict[str, Any]


class TemplateCaps(msgspec.Struct, frozen=True):
    """What the model's chat template can express, as llama.cpp found out by trying it."""

    supports_tools: bool = False
    supports_tool_calls: bool = False


def sampling_body(sampling: Sampling, choice: int, context_tokens: int) -> Body:
    """Return the sampling fields of draw number ``choice``; stop strings are not among them (see `Choice`)."""
    body: Body = {
        "n_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        # OpenAI's penalties look at the whole text, llama.cpp's at its last 64 tokens unless told.
        "repeat_last_n": context_tokens,
        "stream": True,
        "timings_per_token": True,
    }
    if (sampling.temperature or 0.0) < _GREEDY_BELOW:
        # The likeliest token whatever else is asked; sorting the whole vocabulary for top_p costs 1 ms a token.
        body |= {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}
    if sampling.seed is not None:
        body["seed"] = (sampling.seed + choice) % _SEEDS
    if sampling.logit_bias:
        body["logit_bias"] = [[token, bias] for token, bias in sampling.logit_bias.items()]
    return body


def chat_body(request: ChatRequest, caps: TemplateCaps, grammar: str | None) -> Body:
    """Return the fields of a chat that all its choices share.

    With ``grammar`` the answer is bound by it; without, llama.cpp's own parser reads the tool calls that a
    template which knows tools provokes.

    Raises:
        RequestError: an earlier tool call has arguments that are not JSON.
    """
    shown = request.tools if request.tool_choice.mode != "none" else ()
    prompt = tool_prompt(shown, request.tool_choice) if shown and not caps.supports_tools else None
    body: Body = {"messages": _messages(request.messages, caps, prompt)}
    if shown and caps.supports_tools:
        body["tools"] = [_tool(tool) for tool in shown]
        # llama.cpp refuses tools with a foreign grammar, but with "none" the template still shows them.
        body["tool_choice"] = "none" if grammar else "auto"
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if grammar:
        # Thinking would have to fit into the grammar, so a bound answer begins at once.
        body |= {
            "grammar": grammar,
            "reasoning_format": "none",
            "chat_template_kwargs": {"enable_thinking": False},
        }
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": max(1, request.sampling.logprobs)}
    return body


def _tool(tool: Tool) -> Body:
    parameters = msgspec.Raw(tool.parameters.encode())
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _messages(messages: Sequence[Message], caps: TemplateCaps, prompt: str | None) -> list[Body]:
    told = bodies(messages if caps.supports_tool_calls else calls_as_text(messages), decode_arguments=False)
    return told if prompt is None else instruct(told, prompt)
