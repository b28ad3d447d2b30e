"""Messages as chat templates take them: plain dictionaries."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from typing import Any

import msgspec

from core.api import Content, Message, RequestError, ToolCall
from decoding.tools.prompt import call_text, result_text

__all__ = ["bodies", "calls_as_text", "instruct", "one_call_each", "without_system"]

_ID_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH = 9

Body = dict[str, Any]


def calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Return the messages for a template that knows neither tool calls nor their results: both become plain text."""
    rewritten: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            text = result_text(message)
            if index and messages[index - 1].role == "tool":
                # Results of parallel calls make one turn: many templates want the roles to alternate.
                text = f"{rewritten.pop().text}\n{text}"
            rewritten.append(Message(role="user", content=(Content(text=text),)))
        elif message.tool_calls:
            content = (*message.content, Content(text=call_text(message.tool_calls)))
            rewritten.append(msgspec.structs.replace(message, content=content, tool_calls=()))
        else:
            rewritten.append(message)
    return rewritten


def bodies(messages: Sequence[Message], *, decode_arguments: bool) -> list[Body]:
    """Return the messages as dictionaries, in the words of OpenAI's API.

    Args:
        messages: of one request, in order.
        decode_arguments: the arguments of tool calls become objects; they stay JSON text otherwise.

    Raises:
        RequestError: an earlier tool call has arguments that are not a JSON object.
    """
    names = {call.id: call.function.name for message in messages for call in message.tool_calls}
    return [_body(message, names, f"messages[{index}]", decode_arguments) for index, message in enumerate(messages)]


def instruct(messages: Sequence[Body], instructions: str) -> list[Body]:
    """Return the messages with ``instructions`` at the end of the system message that begins them."""
    if messages and messages[0]["role"] == "system":
        return [messages[0] | {"content": f"{messages[0]['content']}\n\n{instructions}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def without_system(messages: Sequence[Body]) -> list[Body]:
    """Return the messages with each system message put before the text of the next user message."""
    rewritten: list[Body] = []
    held: list[str] = []
    for message in messages:
        if message["role"] == "system":
            held.append(message["content"])
        elif message["role"] == "user" and held:
            rewritten.append(message | {"content": "\n\n".join([*held, message["content"]])})
            held = []
        else:
            rewritten.append(message)
    if held:
        rewritten.append({"role": "user", "content": "\n\n".join(held)})
    return rewritten


def one_call_each(messages: Sequence[Body]) -> list[Body]:
    """Return the messages with parallel tool calls told one after the other, each with its result."""
    rewritten: list[Body] = []
    told: set[int] = set()
    for index, message in enumerate(messages):
        if index in told:
            continue
        calls = message.get("tool_calls", ())
        if len(calls) < 2:  # noqa: PLR2004 - parallel means at least two
            rewritten.append(message)
            continue
        results = {}
        for at in range(index + 1, len(messages)):
            if messages[at]["role"] != "tool":
                break
            results[messages[at]["tool_call_id"]] = at
        for number, call in enumerate(calls):
            rewritten.append(message | {"content": "" if number else message["content"], "tool_calls": [call]})
            if call["id"] in results:
                told.add(results[call["id"]])
                rewritten.append(messages[results[call["id"]]])
    return rewritten


def _short_id(call: str) -> str:
    """Return a tool call's id as the strictest templates want it (Mistral's): nine letters and digits."""
    number = int.from_bytes(hashlib.blake2b(call.encode(errors="replace"), digest_size=8).digest())
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ID_ALPHABET))
        digits.append(_ID_ALPHABET[digit])
    return "".join(digits)


def _body(message: Message, names: dict[str, str], where: str, decode_arguments: bool) -> Body:  # noqa: FBT001
    body: Body = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    name = message.name
    if message.role == "tool":
        call = message.tool_call_id or ""
        body["tool_call_id"] = _short_id(call)
        name = name or names.get(call, "")
    if name is not None:
        body["name"] = name
    if message.reasoning:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls:
        body["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{number}].function.arguments", decode_arguments)
            for number, call in enumerate(message.tool_calls)
        ]
    return body


def _call(call: ToolCall, param: str, decode_arguments: bool) -> Body:  # noqa: FBT001
    # Templates take arguments apart; text that is not JSON would fail deep inside them.
    arguments: Any = call.function.arguments
    try:
        decoded = msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError as error:
        msg = f"'{param}' must be a JSON object: {error}"
        raise RequestError(msg, param=param) from error
    function = {"name": call.function.name, "arguments": decoded if decode_arguments else arguments}
    return {"id": _short_id(call.id), "type": "function", "function": function}
