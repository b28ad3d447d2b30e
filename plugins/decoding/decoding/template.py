"""A model's chat template: messages -> the text that the model continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
from jinja2 import TemplateError, TemplateSyntaxError

from core.api import Content, EngineLoadError, FunctionCall, Message, RequestError, Tool, ToolCall
from decoding.messages import bodies, calls_as_text, instruct, one_call_each, without_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatTemplate"]

_REASONING_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_SWITCHES = ("enable_thinking", "thinking")  # Qwen's word and others', DeepSeek's and Granite's


class ChatTemplate:
    """Renders conversations in transformers' sandbox; what a template can express is found out by trying it.

    What a template cannot express is told in plain text instead: tool calls and results, parallel calls, a system
    message. The rendered text holds the BOS where the template writes one, so it is to be encoded without another
    (`Vocabulary.encode` with ``framed=False``).

    Args:
        tokenizer: of the model, with its template.
        override: a template that the operator gives instead; never a request's.

    Attributes:
        source: the template that is used with tools, None if the model has none: every chat is then refused.
        knows_tools: it shows the tools of a request.
        knows_tool_calls: it shows earlier tool calls and their results.
        reasoning: the marks around reasoning blocks, or None.

    Raises:
        EngineLoadError: the template is no valid Jinja.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, override: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._override = override
        self.source = override or (_source(tokenizer) if tokenizer.chat_template else None)
        self._knows_system = self._knows_parallel_calls = True
        self.knows_tools = self.knows_tool_calls = False
        if self.source is not None:
            self._try_out()
        self.reasoning = next((marks for marks in _REASONING_MARKS if self._has(*marks)), None)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        instructions: str | None = None,
        thinking: bool | None = None,
    ) -> str:
        """Return the prompt that ends where the assistant's answer begins.

        Args:
            messages: the conversation.
            tools: shown by a template that knows tools, ignored by others.
            instructions: added to the system message (`decoding.tools.prompt.tool_prompt`).
            thinking: let the model think or not, where its template has a switch; None: the template's default.

        Raises:
            RequestError: the template refuses the messages, or there is none; or earlier arguments are no JSON object.
        """
        if self.source is None:
            msg = "This model has no chat template; use completions, or have 'chat_template' set in its configuration."
            raise RequestError(msg, param="messages")
        told = bodies(messages if self.knows_tool_calls else calls_as_text(messages), decode_arguments=True)
        if instructions is not None:
            told = instruct(told, instructions)
        if not self._knows_parallel_calls:
            told = one_call_each(told)
        if not self._knows_system:
            told = without_system(told)
        switches = dict.fromkeys(_SWITCHES, thinking) if thinking is not None else {}
        try:
            return self._apply(told, tools if self.knows_tools else (), switches)
        except Exception as error:
            # Whatever goes wrong in a template is about what it was given; it was tried out when the model was loaded.
            reason = str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}"
            msg = f"The model's chat template refuses these messages: {reason}"
            raise RequestError(msg, param="messages") from error

    def opens_reasoning(self, prompt: str) -> bool:
        """Whether a rendered prompt ends in a reasoning block that the answer goes on with."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[0])

    def _apply(self, messages: list[dict[str, Any]], tools: Sequence[Tool], switches: dict[str, Any]) -> str:
        rendered = self._tokenizer.apply_chat_template(
            messages,
            tools=[_tool(tool) for tool in tools] or None,
            chat_template=self._override,
            add_generation_prompt=True,
            tokenize=False,
            **switches,
        )
        return cast("str", rendered)

    # --- what it can express

    def _try_out(self) -> None:
        user = Message(role="user", content=(Content(text="zuser"),))
        system = Message(role="system", content=(Content(text="zsystem"),))
        tool = Tool(name="ztool", description="A tool.")
        calls = tuple(
            ToolCall(id=f"call{letter}", function=FunctionCall(name="ztool", arguments=f'{{"x": "z{letter}"}}'))
            for letter in "ab"
        )
        results = [
            Message(role="tool", content=(Content(text=f"zresult{call.id}"),), tool_call_id=call.id) for call in calls
        ]
        self._knows_system = self._shows([system, user], (), "zsystem")
        self.knows_tools = self._shows([user], (tool,), "ztool")
        tools = (tool,) if self.knows_tools else ()
        called = [user, Message(role="assistant", tool_calls=calls[:1]), results[0]]
        self.knows_tool_calls = self._shows(called, tools, "ztool", "za", "zresultcalla")
        called = [user, Message(role="assistant", tool_calls=calls), *results]
        self._knows_parallel_calls = self._shows(called, tools, "za", "zb", "zresultcalla", "zresultcallb")

    def _shows(self, messages: list[Message], tools: Sequence[Tool], *words: str) -> bool:
        try:
            rendered = self._apply(bodies(messages, decode_arguments=True), tools, {})
        except TemplateSyntaxError as error:
            msg = f"The chat template is not valid Jinja (line {error.lineno}): {error.message}; set 'chat_template'."
            raise EngineLoadError(msg, permanent=True) from error
        except Exception:  # noqa: BLE001 - a template fails in many ways on what it does not know
            return False
        return all(word in rendered for word in words)

    def _has(self, *marks: str) -> bool:
        vocabulary = self._tokenizer.get_added_vocab()
        return any(mark in (self.source or "") for mark in marks) or all(mark in vocabulary for mark in marks)


def _source(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the template that transformers takes when there are tools."""
    try:
        source: str = tokenizer.get_chat_template(tools=[])
    except ValueError:  # several, and none of them is the default
        return None
    return source


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = msgspec.json.decode(tool.parameters)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }
