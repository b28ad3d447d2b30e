"""A text, several, or the same as token ids: how legacy prompts and embedding inputs are written."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from core.dialects.openai.decode import invalid
from core.dialects.openai.fields import Fields
from core.dialects.openai.generation import MAX_INT32

__all__ = ["Texts", "texts"]

_Text = Annotated[str, Meta(min_length=1)]
_TokenId = Annotated[int, Meta(ge=0, le=MAX_INT32)]
_TokenIds = Annotated[list[_TokenId], Meta(min_length=1)]

# One union of items, as msgspec tells arrays apart only by their items' types; `texts` refuses mixtures.
Texts = _Text | Annotated[list[_Text | _TokenId | _TokenIds], Meta(min_length=1)]


def texts(given: Texts, param: str, fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    """Return each text, or each sequence of token ids.

    Raises:
        GatewayError: texts and token ids are mixed.
    """
    if isinstance(given, str):
        return (given,)
    kinds = set(map(type, given))
    if len(kinds) > 1:
        raise invalid(fields, param)
    if kinds == {int}:
        return (tuple(given),)  # type: ignore[arg-type] # kinds says so
    return tuple(item if isinstance(item, str) else tuple(item) for item in given)  # type: ignore[arg-type] # no int
