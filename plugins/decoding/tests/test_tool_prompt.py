"""What a model is told of tools that its template does not know."""

from __future__ import annotations

from decoding.tools import PLAIN, call_text, result_text, tool_prompt

from core.api import Content, FunctionCall, Message, Tool, ToolCall, ToolChoice


def test_prompt_shows_every_tool_and_what_must_happen() -> None:
    """Name, description and schema of each; a forced call is asked for."""
    tools = [Tool(name="f", description="Does f.", parameters='{"type":"object"}'), Tool(name="g")]
    prompt = tool_prompt(tools, ToolChoice(mode="named", name="g"))
    assert '{"name":"f","description":"Does f.","parameters":{"type":"object"}}' in prompt
    assert "You must call the function g now." in prompt


def test_earlier_turns_look_as_the_prompt_says() -> None:
    """The calls the model made, and what they gave."""
    prompt = tool_prompt([Tool(name="f")], ToolChoice())
    assert PLAIN.mark + PLAIN.head("<name of the function>") in prompt
    call = ToolCall(id="1", function=FunctionCall(name="f", arguments='{"a": 1}'))
    assert call_text([call, call]) == '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>' * 2
    assert call_text([]) == ""
    result = result_text(Message(role="tool", content=(Content(text="12"),), tool_call_id="1"))
    assert result == "<tool_response>12</tool_response>"
    assert "<tool_response> and </tool_response>" in prompt
