"""How a family of models writes tool calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

__all__ = ["FORMS", "HERMES", "LLAMA3", "MISTRAL", "MISTRAL_V11", "PLAIN", "ToolForm", "form_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolForm:
    """One way to write calls; each but the last field is part of the text, in this order::

        mark opening before_name NAME after_name ARGUMENTS tail closing

    A further call begins with ``separator``, and with ``mark`` again unless ``listed``.

    Attributes:
        name: of the form.
        mark: what tells a call from text.
        opening: between the mark and the call.
        before_name, after_name: around the name.
        tail: after the arguments.
        closing: after the last call of a list.
        separator: between two calls.
        listed: the mark stands once, before the first of the calls.
        bare: the mark may be missing if the answer is nothing but calls.
        inner: marks within a call.
        tokens: the marks that are special tokens of the vocabulary -> their ids; the others are ordinary text.
    """

    name: Literal["plain", "hermes", "mistral", "mistral_v11", "llama3"]
    mark: str
    opening: str = ""
    before_name: str = '{"name": "'
    after_name: str = '", "arguments": '
    tail: str = "}"
    closing: str = ""
    separator: str = ""
    listed: bool = False
    bare: bool = False
    inner: tuple[str, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        """Whether the chat template shows the tools; if not, `decoding.tools.tool_prompt` has to."""
        return self.name != "plain"

    @property
    def json(self) -> bool:
        """Whether a call is one JSON object; else name and arguments stand side by side."""
        return self.before_name.startswith("{")

    def head(self, name: str) -> str:
        """Return what stands between ``opening`` and a call's arguments."""
        return self.before_name + msgspec.json.encode(name).decode()[1:-1] + self.after_name


_CLOSE = "</tool_call>"
PLAIN = ToolForm(name="plain", mark="<tool_call>", tail="}" + _CLOSE, inner=(_CLOSE,))
"""Our own, for models whose template knows no tools."""
HERMES = ToolForm(name="hermes", mark="<tool_call>", opening="\n", tail="}\n" + _CLOSE, separator="\n", inner=(_CLOSE,))
"""Hermes 2 and 3, Qwen 2.5 and 3."""
MISTRAL = ToolForm(name="mistral", mark="[TOOL_CALLS]", opening=" [", closing="]", separator=", ", listed=True)
"""Mistral with a tokenizer of version 3 to 7: Mistral 7B v0.3, Nemo, Large 2."""
MISTRAL_V11 = ToolForm(
    name="mistral_v11",
    mark="[TOOL_CALLS]",
    before_name="",
    after_name="[ARGS]",
    tail="",
    inner=("[CALL_ID]", "[ARGS]"),
)
"""Mistral with a tokenizer of version 11 and later: Small 3.2, Magistral, Devstral, Ministral 3."""
LLAMA3 = ToolForm(
    name="llama3", mark="<|python_tag|>", after_name='", "parameters": ', separator="; ", listed=True, bare=True
)
"""Llama 3.1, 3.2 and 3.3."""
FORMS = (PLAIN, HERMES, MISTRAL, MISTRAL_V11, LLAMA3)

_MISTRAL_LIST = re.compile(r"\[TOOL_CALLS\](\s*\[)")


def form_of(template: str | None, special_tokens: Mapping[str, int]) -> ToolForm:
    """Return the form that a chat template teaches; `PLAIN` if it knows no tools, or only a form unknown here.

    Args:
        template: the chat template's source; None: the model has none.
        special_tokens: text -> id of the tokens that are special in the `LLTokenizer` which the grammars run on:
            a grammar has to name them, it cannot spell them.
    """
    form = _taught(template or "")
    tokens = {mark: special_tokens[mark] for mark in (form.mark, *form.inner) if mark in special_tokens}
    return replace(form, tokens=tokens)


def _taught(template: str) -> ToolForm:
    if "tools" not in template:
        return PLAIN
    if "[TOOL_CALLS]" in template:
        if "[ARGS]" in template:
            return MISTRAL_V11
        written = _MISTRAL_LIST.search(template)
        return replace(MISTRAL, opening=written[1]) if written else PLAIN
    if "<tool_call>" in template and '"arguments": ' in template.replace("\\", ""):
        return HERMES
    if "<|start_header_id|>" in template and '"parameters": ' in template.replace("\\", ""):
        return LLAMA3
    return PLAIN
