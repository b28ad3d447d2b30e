"""What people are told about a wrong configuration: the mistake, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError

__all__ = ["closest", "describe", "did_you_mean", "masked", "type_at"]

_MOST_LISTED = 12
_SECRET = re.compile(r"(^|_)(key|token|password|passphrase|secret|credentials?)$", re.IGNORECASE)
_MASK = "***"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped one resembles most, None when it resembles none."""
    return next(iter(get_close_matches(name, sorted(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the closest of the known names, or else a list of them."""
    names = sorted(known)
    if close := closest(name, names):
        return f"did you mean {close!r}?"
    if not names:
        return "there are none"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"there are {', '.join(names[:_MOST_LISTED])}{more}"


def describe(
    error: ValidationError, *, model: type[BaseModel], where: str | Callable[[Sequence[str | int]], str]
) -> str:
    """Return one line per mistake: where it stands, key, what is wrong.

    ``model`` is what was validated: it knows the keys that could be meant. ``where`` names the file or table,
    or finds it for a path of keys. What is or may hold a secret is never repeated.
    """
    lines = []
    for mistake in error.errors(include_url=False):
        path = mistake["loc"]
        place = where if isinstance(where, str) else where(path)
        key = ".".join(str(part) for part in path)
        if mistake["type"] == "extra_forbidden":
            told = f"there is no such key{_meant(model, path)}"
        else:
            told = mistake["msg"].removeprefix("Value error, ")
            if _is_plain(mistake["input"]) and not _may_be_secret(model, path):
                told += f" (got {mistake['input']!r})"
        lines.append(": ".join(filter(None, (place, key, told))))
    return "\n".join(lines)


def masked(path: Sequence[str], value: Any) -> Any:
    """Return the value of a key for people: secrets, known by the name of their key, are masked, and those within."""
    if value is not None and any(map(_SECRET.search, path)):
        return _MASK
    if isinstance(value, Mapping):
        return {key: masked((str(key),), inner) for key, inner in value.items()}
    return [masked((), inner) for inner in value] if isinstance(value, list | tuple) else value


def type_at(model: type[BaseModel], path: Sequence[str | int]) -> Any:
    """Return the type of the value at a path of keys, None where ``model`` does not say."""
    kind: Any = model
    for part in path:
        if _is_model(kind):
            field = kind.model_fields.get(part)
            kind = None if field is None else _plain(field.annotation)
        else:
            items = get_args(kind)
            mapping = get_origin(kind) is dict
            kind = _plain(items[1] if mapping else items[0]) if items else None
    return kind


def _is_plain(value: object) -> bool:
    """Whether it may be repeated: a whole table would bury the message, and who knows what it holds."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _may_be_secret(model: type[BaseModel], path: Sequence[str | int]) -> bool:
    """Whether a key says that it holds a secret, by name or type, or should hold a table, which may have such keys."""
    kinds: list[Any] = [model]
    for part in path:
        if _SECRET.search(str(part)):
            return True
        tables = [kind for kind in kinds if _is_model(kind)]
        fields = [table.model_fields[part].annotation for table in tables if part in table.model_fields]
        if fields:  # else it is an item's number, its name, or a branch of a union
            kinds = [part for field in fields for part in _within(field)]
    return any(kind is Any or (isinstance(kind, type) and issubclass(kind, _HIDDEN)) for kind in kinds)


_HIDDEN = (BaseModel, Secret, SecretStr, SecretBytes)


def _within(kind: Any) -> Iterator[Any]:
    """Yield a type and all that it is made of."""
    yield get_origin(kind) or kind
    for part in get_args(kind):
        yield from _within(part)


def _meant(model: type[BaseModel], path: Sequence[str | int]) -> str:
    table = type_at(model, path[:-1])
    if not _is_model(table):
        return ""
    keys = table.model_fields
    if close := closest(str(path[-1]), keys):
        return f"; did you mean {close!r}?"
    return f"; keys are {', '.join(keys)}" if keys else "; there are none"


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain(kind: Any) -> Any:
    """Strip ``Annotated`` and ``| None``."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        options = [one for one in get_args(kind) if one is not NoneType]
        return _plain(options[0]) if len(options) == 1 else None
    return kind
