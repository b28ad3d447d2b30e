"""Which form a chat template teaches; the pieces of templates are as their models have them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from decoding.tools import FORMS, HERMES, LLAMA3, MISTRAL, MISTRAL_V11, PLAIN, ToolForm, form_of

_QWEN = (
    "{%- if tools %}{{- '<tools>' }}...within <tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>'
)
_QWEN_CODER = "{%- if tools %}<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>"
_LLAMA = (
    "<|start_header_id|>system<|end_header_id|>{%- if tools is not none %}"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
)
_MISTRAL_7B = '{{- "[AVAILABLE_TOOLS] [" }}{%- for tool in tools %}{{- "[TOOL_CALLS] [" }}'
_MINISTRAL = "{%- if tools %}{{- '[TOOL_CALLS]' + tool['function']['name'] + '[ARGS]' + arguments }}"


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, PLAIN),
        ("{% for message in messages %}<|im_start|>{{ message.content }}", PLAIN),
        (_QWEN, HERMES),
        (_QWEN.replace("\\", ""), HERMES),
        (_QWEN_CODER, PLAIN),
        (_LLAMA, LLAMA3),
        (_MISTRAL_7B, MISTRAL),
        (_MINISTRAL, MISTRAL_V11),
    ],
)
def test_the_form_is_read_off_the_template(template: str | None, form: ToolForm) -> None:
    """No tools, or a form that is not known here: our own."""
    assert form_of(template, {}) == form


def test_a_list_is_written_as_the_template_writes_it() -> None:
    """Nemo has no space there."""
    assert form_of(_MISTRAL_7B.replace("CALLS] [", "CALLS]["), {}).opening == "["


def test_marks_that_are_special_tokens_are_known_by_their_ids() -> None:
    """Others of the vocabulary are no business of the form."""
    special = {"</s>": 2, "[TOOL_CALLS]": 9, "[ARGS]": 32}
    assert form_of(_MINISTRAL, special).tokens == {"[TOOL_CALLS]": 9, "[ARGS]": 32}
    assert form_of(_QWEN, special).tokens == {}


def test_forms_have_names_of_their_own() -> None:
    """They are compared and shown by them."""
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert [form.native for form in FORMS] == [False, True, True, True, True]


def test_nothing_heavy_is_imported() -> None:
    """llama.cpp's backend needs neither numpy nor transformers for its tools."""
    code = (
        "import sys, decoding.tools, decoding.grammar, decoding.schema_size;"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
