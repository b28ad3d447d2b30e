"""Requests -> the JSON bodies of llama.cpp's endpoints."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from typing import Any

import msgspec
from decoding.tools import call_text, result_text, tool_prompt

from core.api import ChatRequest, Message, RequestError, Sampling, Tool, ToolCall

__all__ = ["TemplateCaps", "chat_body", "sampling_body"]

_SEEDS = 2**32 - 1
_ID_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH = 9
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
    names = {call.id: call.function.name for message in messages for call in message.tool_calls}
    rendered: list[Body] = []
    for index, message in enumerate(messages):
        body = _message(message, caps, names, f"messages[{index}]")
        if rendered and message.role == "tool" and body["role"] == "user" and messages[index - 1].role == "tool":
            # Results of parallel calls make one turn: many templates want the roles to alternate.
            rendered[-1]["content"] += "\n" + body["content"]
        else:
            rendered.append(body)
    if prompt is not None:
        if rendered and rendered[0]["role"] == "system":
            rendered[0]["content"] = f"{rendered[0]['content']}\n\n{prompt}"
        else:
            rendered.insert(0, {"role": "system", "content": prompt})
    return rendered


def _message(message: Message, caps: TemplateCaps, names: dict[str, str], where: str) -> Body:
    if message.role == "developer":
        return {"role": "system", "content": message.text}
    if message.role == "tool":
        if not caps.supports_tool_calls:
            return {"role": "user", "content": result_text(message)}
        call = message.tool_call_id or ""
        name = message.name or names.get(call, "")
        return {"role": "tool", "content": message.text, "tool_call_id": _short_id(call), "name": name}
    body: Body = {"role": message.role, "content": message.text}
    if message.reasoning:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls and caps.supports_tool_calls:
        body["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)]
    elif message.tool_calls:
        body["content"] = message.text + call_text(message.tool_calls)
    return body


def _call(call: ToolCall, where: str) -> Body:
    # Templates take arguments apart; text that is not JSON would fail deep inside llama.cpp.
    try:
        msgspec.json.decode(call.function.arguments, type=dict[str, Any])
    except msgspec.DecodeError as error:
        param = f"{where}.function.arguments"
        msg = f"'{param}' must be a JSON object: {error}"
        raise RequestError(msg, param=param) from error
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": _short_id(call.id), "type": "function", "function": function}


def _short_id(call: str) -> str:
    """Return the call's id as the strictest templates want it (Mistral's): nine letters and digits."""
    number = int.from_bytes(hashlib.blake2b(call.encode(errors="replace"), digest_size=8).digest())
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ID_ALPHABET))
        digits.append(_ID_ALPHABET[digit])
    return "".join(digits)
