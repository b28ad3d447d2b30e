"""Chat templates, in the manner of the families; the texts are made up for these tests."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from decoding.template import ChatTemplate
from decoding.testing import byte_level, sentencepiece_bpe

from core.api import Content, EngineLoadError, FunctionCall, Message, RequestError, Tool, ToolCall

CHATML = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN = """\
{%- if tools %}<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' else '' }} Tools:
{% for t in tools %}{{ t | tojson }}
{% endfor %}<tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|im_start|>user
<tool_response>{{ m.content }}</tool_response><|im_end|>
{% elif not (tools and loop.first and m.role == 'system') %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for c in m.tool_calls %}{% set f = c.function %}
{{- '<tool_call>{"name": "' + f.name + '", "arguments": ' }}{{ f.arguments | tojson -}}
}</tool_call>{% endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""

DEEPSEEK = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")

LLAMA = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m.role not in ('user', 'assistant', 'system', 'tool') %}{{ raise_exception('No such role.') }}{% endif %}
{%- if m.tool_calls and m.tool_calls | length != 1 %}{{ raise_exception('One call at a time!') }}{% endif %}
<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>

{% if tools and loop.first %}{{ tools | tojson }} {"name": ..., "parameters": ...} {{ strftime_now('%Y') }} {% endif %}
{%- if m.tool_calls %}{{ m.content }}{{ m.tool_calls[0].function.name }}
{{- ' ' }}{{ m.tool_calls[0].function.arguments | tojson }}
{%- else %}{{ m.content }}{% endif %}<|eot_id|>
{%- endfor %}<|start_header_id|>assistant<|end_header_id|>

"""

MISTRAL = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST] {{ m.content }}[/INST]
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"name": "' + m.name + '", ' }}"content": "{{ m.content -}}
", "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- elif m.role == 'assistant' and m.tool_calls %}[TOOL_CALLS] [
{%- for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('Ids have nine letters.') }}{% endif %}
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson -}}
, "id": "{{ c.id }}"}{{ ', ' if not loop.last }}{% endfor %}]{{ eos_token }}
{%- elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}
{%- else %}{{ raise_exception('Only user, assistant and tool are known.') }}{% endif %}
{%- endfor %}"""

ALTERNATING = """\
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate.') }}{% endif %}
<{{ m.role }}>{{ m.content.strip() }}</{{ m.role }}>
{%- endfor %}<model>"""

TOOL = Tool(name="get_weather", description="Wetter für Köln", parameters='{"type":"object","properties":{"city":{}}}')


def template(source: str | None, override: str | None = None) -> ChatTemplate:
    tokenizer = sentencepiece_bpe() if source in (MISTRAL, ALTERNATING) else byte_level()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, override)


def message(role: str, text: str = "", **fields: Any) -> Message:
    return Message(role=role, content=(Content(text=text),) if text else (), **fields)  # type: ignore[arg-type]


def called(*cities: str) -> list[Message]:
    """A conversation in which the assistant asked for each city's weather, and got it."""
    calls = tuple(
        ToolCall(id=f"call_{city}", function=FunctionCall(name="get_weather", arguments=f'{{"city": "{city}"}}'))
        for city in cities
    )
    results = [message("tool", f"{city}: rain", tool_call_id=f"call_{city}") for city in cities]
    return [message("user", "Weather?"), message("assistant", tool_calls=calls), *results]


@pytest.mark.parametrize(
    ("source", "tools", "calls"),
    [
        (CHATML, False, False),
        (QWEN, True, True),
        (LLAMA, True, True),
        (MISTRAL, True, True),
        (ALTERNATING, False, False),
    ],
    ids=["chatml", "qwen", "llama", "mistral", "alternating"],
)
def test_what_a_template_knows_is_found_out(source: str, tools: bool, calls: bool) -> None:
    """By trying, not by its name."""
    found = template(source)

    assert (found.knows_tools, found.knows_tool_calls) == (tools, calls)


def test_a_conversation() -> None:
    """Ends where the answer begins; a developer is a system, parts of a content are one text."""
    parts = Message(role="user", content=(Content(text="Hi "), Content(text="there")))

    assert template(CHATML).render([message("developer", "Be kind."), parts]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    )


def test_bos_is_the_template_s_business() -> None:
    """It is in the text exactly when the template writes it."""
    user = [message("user", "Hi")]

    assert template(MISTRAL).render(user) == "<s>[INST] Hi[/INST]"
    assert template(ALTERNATING).render(user) == "<user>Hi</user><model>"


def test_tools_are_shown_as_they_are() -> None:
    """Letters of other languages are not escaped; a template that knows no tools shows none."""
    user = [message("user", "Hi")]

    assert '"name": "get_weather", "description": "Wetter für Köln"' in template(QWEN).render(user, [TOOL])
    assert "get_weather" not in template(QWEN).render(user)
    assert template(CHATML).render(user, [TOOL]) == template(CHATML).render(user)


def test_tools_that_a_template_would_refuse_are_not_given_to_it() -> None:
    """It knows none, then; the caller tells of them in another way."""
    chat = template("{% if tools %}{{ raise_exception('No tools here.') }}{% endif %}" + CHATML)

    assert not chat.knows_tools
    assert chat.render([message("user", "Hi")], [TOOL]) == template(CHATML).render([message("user", "Hi")])


def test_earlier_calls_in_the_template_s_own_form() -> None:
    """Arguments as objects, ids of nine letters that are the same for call and result."""
    qwen = template(QWEN).render(called("Köln"), [TOOL])
    mistral = template(MISTRAL).render(called("Bonn", "Köln"), [TOOL])

    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}</tool_call>' in qwen
    assert "<tool_response>Köln: rain</tool_response>" in qwen
    ids = re.findall(r'"id": "(\w{9})"', mistral)
    assert len(set(ids)) == 2
    assert re.findall(r'"call_id": "(\w+)"', mistral) == ids
    assert mistral.count('[TOOL_RESULTS] {"name": "get_weather"') == 2


def test_parallel_calls_where_the_template_takes_one_at_a_time() -> None:
    """They are told one after the other, each with its result."""
    user, assistant, *results = called("Bonn", "Köln")
    assistant = msgspec.structs.replace(assistant, content=(Content(text="Let me see."),))
    messages = [user, assistant, *results, message("assistant", "Rain."), message("user", "Ok")]
    rendered = template(LLAMA).render(messages)

    assert rendered.count("Let me see.") == 1
    told = re.findall(r'(get_weather \{"city": "\w+"\}|\w+: rain|Rain\.)', rendered)
    assert told == ['get_weather {"city": "Bonn"}', "Bonn: rain", 'get_weather {"city": "Köln"}', "Köln: rain", "Rain."]


def test_earlier_calls_in_plain_text() -> None:
    """Where the template knows none; the results of parallel calls make one turn, so that roles alternate."""
    rendered = template(ALTERNATING).render(called("Bonn", "Köln"))

    assert rendered == (
        "<user>Weather?</user><assistant>"
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Bonn"}}</tool_call>'
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}</tool_call></assistant>'
        "<user><tool_response>Bonn: rain</tool_response>\n<tool_response>Köln: rain</tool_response></user><model>"
    )


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '"x"', ""])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    """By name, where templates take them apart."""
    call = ToolCall(id="a", function=FunctionCall(name="f", arguments=arguments))

    with pytest.raises(RequestError, match="must be a JSON object") as caught:
        template(QWEN).render([message("user", "Hi"), message("assistant", tool_calls=(call,))], instructions="Be.")

    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_instructions_join_the_system_message() -> None:
    """Or make one."""
    chat = template(CHATML)

    assert "system\nBe kind.\n\nUse tools.<|im_end|>" in chat.render(
        [message("system", "Be kind."), message("user", "Hi")], instructions="Use tools."
    )
    assert chat.render([message("user", "Hi")], instructions="Use tools.").startswith("<|im_start|>system\nUse tools.<")


@pytest.mark.parametrize("source", [MISTRAL, ALTERNATING], ids=["refused", "out of turn"])
def test_a_system_message_without_a_role_for_it(source: str) -> None:
    """Stands before what the user says next."""
    rendered = template(source).render(
        [message("system", "Be kind."), message("user", "Hi"), message("assistant", "Yes?"), message("user", "Bye")]
    )

    assert "Be kind.\n\nHi" in rendered
    assert rendered.count("Be kind.") == 1


def test_a_system_message_that_no_user_follows() -> None:
    """Is said by the user itself."""
    assert template(MISTRAL).render([message("system", "Begin.")]) == "<s>[INST] Begin.[/INST]"


def test_a_refusal_says_why() -> None:
    """In the template's own words, as a fault of the request."""
    with pytest.raises(RequestError, match=r"refuses these messages: Roles must alternate\.$") as caught:
        template(ALTERNATING).render([message("user", "Hi"), message("user", "Hi")])

    assert caught.value.param == "messages"


@pytest.mark.parametrize("source", ["{{ messages[3].content.nothing.at_all }}", "{{ 1 + messages[0].content }}"])
def test_a_template_that_fails_is_a_refusal(source: str) -> None:
    """Whatever Python or Jinja calls it."""
    with pytest.raises(RequestError, match=r"refuses these messages: \w+Error: "):
        template(source).render([message("user", "Hi")])


def test_a_template_is_sandboxed() -> None:
    """A model's file runs no code here."""
    with pytest.raises(RequestError, match="SecurityError"):
        template("{{ messages.__class__.__mro__[1].__subclasses__() }}").render([message("user", "Hi")])


def test_a_message_is_never_a_template() -> None:
    """What a client writes is only ever text."""
    assert "{{ 7 * 6 }}" in template(CHATML).render([message("user", "{{ 7 * 6 }}")])


def test_no_template() -> None:
    """Chats are refused with the remedy; other tasks do not need one."""
    chat = template(None)

    with pytest.raises(RequestError, match="have 'chat_template' set") as caught:
        chat.render([message("user", "Hi")])
    assert caught.value.param == "messages"
    assert (chat.source, chat.reasoning, chat.knows_tools) == (None, None, False)


def test_the_operator_s_template_wins() -> None:
    """Over none and over the model's own."""
    assert template(None, override=ALTERNATING).render([message("user", "Hi")]) == "<user>Hi</user><model>"
    assert template(CHATML, override=QWEN).source == QWEN


def test_a_template_that_is_no_jinja_is_told_at_load() -> None:
    """With the line; loading again does not help."""
    with pytest.raises(EngineLoadError, match=r"line 2.*chat_template") as caught:
        template(None, override="{% for m in messages %}\n{% endif %}")
    assert caught.value.permanent


def test_a_template_of_its_own_for_tools() -> None:
    """Transformers then takes it by its name, and so is it looked at here."""
    tokenizer = byte_level()
    tokenizer.chat_template = {"default": CHATML, "tool_use": QWEN}
    chat = ChatTemplate(tokenizer)

    assert (chat.source, chat.knows_tools) == (QWEN, True)
    assert "Tools:" in chat.render([message("user", "Hi")], [TOOL])
    assert "Tools:" not in chat.render([message("user", "Hi")])


def test_reasoning_marks() -> None:
    """From the template; else from the vocabulary, if the model has tokens for both."""
    assert template(QWEN).reasoning == ("<think>", "</think>")
    assert template(MISTRAL.replace("[INST]", "[THINK]...[/THINK][INST]")).reasoning == ("[THINK]", "[/THINK]")
    assert template(CHATML).reasoning is None
    tokenizer = byte_level()
    tokenizer.add_tokens(["</think>"])
    tokenizer.chat_template = CHATML
    assert ChatTemplate(tokenizer).reasoning == ("<think>", "</think>")


def test_earlier_reasoning_is_given_to_the_template() -> None:
    """Under the name that templates know."""
    messages = [message("user", "Hi"), message("assistant", "Yes.", reasoning="Hm."), message("user", "Ok")]

    assert "<think>Hm.</think>Yes." in template(QWEN).render(messages)


def test_a_prompt_that_opens_reasoning() -> None:
    """Only when it ends there, whatever a user wrote."""
    opened, closed = template(DEEPSEEK), template(QWEN)

    assert opened.opens_reasoning(opened.render([message("user", "Hi")]))
    user = [message("user", "What does <think>")]
    assert not closed.opens_reasoning(closed.render(user))
    assert not closed.opens_reasoning(closed.render(user, thinking=False))
    assert not template(None).opens_reasoning("<think>")


def test_thinking_is_switched_where_there_is_a_switch() -> None:
    """None leaves it to the template."""
    user = [message("user", "Hi")]

    assert template(QWEN).render(user, thinking=False).endswith("<think>\n\n</think>\n\n")
    assert template(QWEN).render(user, thinking=True) == template(QWEN).render(user)
    assert template(CHATML).render(user, thinking=False) == template(CHATML).render(user)
