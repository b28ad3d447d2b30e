"""Which fields each endpoint honours, accepts or refuses, and what their values must be.

The one place that decides it: error messages are made of these phrases, and docs/openai.md shows the
same tables (a test compares). A path writes ``[]`` for any index or key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ACCEPTED", "CHAT", "COMPLETION", "EMBEDDINGS", "RERANK", "Fields", "Refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A field of OpenAI's that would change the output and that is not honoured.

    Attributes:
        remedy: what to do instead.
        harmless: values that mean the same as leaving it out; null always does.
    """

    remedy: str
    harmless: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """What one endpoint makes of each field.

    Attributes:
        honoured: path -> what the value must be, to follow the words "must be".
        refused: top-level field -> why and what else. Fields in `ACCEPTED` may hold anything.
    """

    honoured: Mapping[str, str]
    refused: Mapping[str, Refused]


ACCEPTED: Mapping[str, str] = {
    "metadata": "nothing is stored",
    "store": "nothing is stored",
    "service_tier": "there is one tier",
    "safety_identifier": "no one is reported",
    "prompt_cache_key": "prefix caches find their entries by the prompt itself",
    "prompt_cache_options": "as prompt_cache_key",
    "prompt_cache_retention": "as prompt_cache_key",
}
"""Field -> why it changes nothing here. Accepted on every endpoint, with any value."""

_BOOLEAN = "true or false"
_INT32 = "an integer from 1 to 2147483647"
_TOKENS = "token ids: integers from 0 to 2147483647"
_NAME = "1 to 64 letters, digits, '_' or '-'"

_MODEL = {
    "model": "the name of a model or alias, 1 to 256 characters",
    "user": "a string; routing policies may look at it",
}
_GENERATION = _MODEL | {
    "stream": _BOOLEAN,
    "stream_options": 'an object such as {"include_usage": true}, and only with "stream": true',
    "stream_options.include_usage": _BOOLEAN,
    "stream_options.include_obfuscation": f"{_BOOLEAN}; chunks are never padded",
    "n": "an integer from 1 to 128",
    "temperature": "a number from 0 to 2",
    "top_p": "a number above 0 and at most 1",
    "top_k": "an integer from 0 to 2147483647, where 0 or -1 switches it off",
    "min_p": "a number from 0 to 1",
    "seed": "a signed 64-bit integer",
    "stop": "a non-empty string or an array of up to 4 of them",
    "presence_penalty": "a number from -2 to 2",
    "frequency_penalty": "a number from -2 to 2",
    "repetition_penalty": "a number above 0 and at most 10",
    "logit_bias": "an object of token ids, each with a number from -100 to 100",
}

CHAT = Fields(
    honoured=_GENERATION
    | {
        "messages": "a non-empty array of messages",
        "messages[]": "an object with 'role' and 'content'",
        "messages[].role": "'system', 'developer', 'user', 'assistant' or 'tool' (instead of the legacy 'function' use "
        "'tool' with 'tool_call_id')",
        "messages[].content": "a string or a non-empty array of text parts; null only in an assistant message that has "
        "'tool_calls'",
        "messages[].content[]": 'an object such as {"type": "text", "text": "..."}',
        "messages[].content[].type": "'text', or 'refusal' in an assistant message (images, audio and files are not "
        "supported)",
        "messages[].content[].text": "a string",
        "messages[].content[].refusal": "a string",
        "messages[].content[].prompt_cache_breakpoint": "anything; it changes nothing here",
        "messages[].name": "a string",
        "messages[].tool_calls": "an array of tool calls, and only in an assistant message",
        "messages[].tool_calls[]": "an object with 'id', 'type' and 'function'",
        "messages[].tool_calls[].id": "a string",
        "messages[].tool_calls[].type": "'function'",
        "messages[].tool_calls[].function": "an object with 'name' and 'arguments'",
        "messages[].tool_calls[].function.name": "a string",
        "messages[].tool_calls[].function.arguments": "a string that holds JSON",
        "messages[].tool_call_id": "the 'id' of the tool call that a tool message answers, a string",
        "messages[].refusal": "a string, and only in an assistant message",
        "messages[].reasoning_content": "a string, and only in an assistant message",
        "messages[].annotations": "anything, and only in an assistant message; it changes nothing here",
        "messages[].audio": "null (audio is not supported)",
        "messages[].function_call": "null (use 'tool_calls')",
        "max_tokens": _INT32,
        "max_completion_tokens": f"{_INT32}, and equal to 'max_tokens' if both are given",
        "logprobs": _BOOLEAN,
        "top_logprobs": 'an integer from 0 to 20, and only with "logprobs": true',
        "response_format": "an object with a 'type'",
        "response_format.type": "'text', 'json_object' or 'json_schema'",
        "response_format.json_schema": "an object with 'name' and 'schema'",
        "response_format.json_schema.name": _NAME,
        "response_format.json_schema.description": "a string",
        "response_format.json_schema.schema": "a JSON Schema: an object, true or false",
        "response_format.json_schema.strict": _BOOLEAN,
        "tools": "an array of up to 128 tools with different names",
        "tools[]": "an object with 'type' and 'function'",
        "tools[].type": "'function'",
        "tools[].function": "an object with a 'name'",
        "tools[].function.name": _NAME,
        "tools[].function.description": "a string",
        "tools[].function.parameters": "a JSON Schema of type object",
        "tools[].function.strict": _BOOLEAN,
        "tool_choice": "'none', 'auto', 'required' or "
        '{"type": "function", "function": {"name": "..."}}; the last two only with \'tools\'',
        "tool_choice.type": "'function'",
        "tool_choice.function": "an object with a 'name'",
        "tool_choice.function.name": "the name of one of the 'tools'",
        "parallel_tool_calls": _BOOLEAN,
        "modalities": 'the array ["text"]',
    },
    refused={
        "functions": Refused(remedy="use 'tools'"),
        "function_call": Refused(remedy="use 'tool_choice'"),
        "audio": Refused(remedy="this gateway answers in text; leave it out"),
        "prediction": Refused(remedy="predicted outputs are not supported; leave it out"),
        "reasoning_effort": Refused(remedy="leave it out, or say it in a system message", harmless=("none",)),
        "verbosity": Refused(remedy="leave it out, or say it in a system message", harmless=("medium",)),
        "web_search_options": Refused(remedy="this gateway does not search the web; offer a search among 'tools'"),
        "moderation": Refused(remedy="this gateway does not moderate; leave it out"),
    },
)

COMPLETION = Fields(
    honoured=_GENERATION
    | {
        "prompt": f"a non-empty string, an array of them, or one array or several of {_TOKENS}",
        "max_tokens": f"{_INT32} (16 if left out)",
        "logprobs": "an integer from 0 to 5",
        "echo": _BOOLEAN,
        "suffix": "a string",
        "best_of": "equal to 'n', as candidates are not ranked",
    },
    refused={},
)

EMBEDDINGS = Fields(
    honoured=_MODEL
    | {
        "input": f"a non-empty string, an array of up to 2048 of them, or one array or several of {_TOKENS}",
        "encoding_format": "'float' or 'base64'",
        "dimensions": _INT32,
    },
    refused={},
)

RERANK = Fields(
    honoured=_MODEL
    | {
        "query": "a non-empty string",
        "documents": "an array of 1 to 2048 texts",
        "documents[]": 'a non-empty string, or an object such as {"text": "..."}',
        "documents[].text": "a non-empty string",
        "top_n": _INT32,
        "return_documents": _BOOLEAN,
    },
    refused={},
)
