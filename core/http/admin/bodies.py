"""What is sent to the admin API: bodies and query parameters, checked, each mistake told of its field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
)
from sanic import Request

from core.errors import GatewayError
from core.settings import LARGEST_NUMBER, MOST_REPLICAS, DeploymentTable
from core.words import closest

__all__ = ["AliasBody", "BackendPatch", "DeploymentPatch", "PullBody", "ResetBody", "flag", "read", "seconds"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _takes_back(text: str) -> Any:
    return Field(default=None, description=f"{text}; null takes the override back")


_Number = Annotated[int, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]


class DeploymentPatch(_Body):
    """What of a deployment may be changed while the gateway runs; keys left out stay as they are."""

    enabled: bool | None = _takes_back("whether it takes requests")
    priority: _Number | None = _takes_back("tier; higher is preferred")
    weight: PositiveFloat | None = _takes_back("share among equals of a tier")
    replicas: Annotated[PositiveInt, Field(le=MOST_REPLICAS)] | None = _takes_back("processes that serve it")
    pinned: bool | None = _takes_back("never unloaded to make room for another deployment")
    max_waiting: Annotated[_Number, Field(ge=0)] | None = _takes_back("requests that may wait per replica")
    max_waiting_prompt_tokens: Annotated[_Number, Field(gt=0)] | None = _takes_back(
        "estimated prompt tokens that may wait per replica"
    )


class BackendPatch(_Body):
    """What of a backend may be changed while the gateway runs."""

    enabled: bool | None = _takes_back("whether its deployments take requests")


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Name = Annotated[str, Field(min_length=1, max_length=256)]


class AliasBody(_Body):
    """What a name shall stand for."""

    models: Annotated[
        list[_Name],
        Field(min_length=1, max_length=64),
        BeforeValidator(_as_list),
        WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1, "minLength": 1}),
    ] = Field(description="models, aliases or deployments, in the order in which they are tried, or one of them")


class ResetBody(_Body):
    """Whose changes are taken back."""

    names: Annotated[list[_Name], Field(min_length=1)] = Field(
        description="deployments, backends (@name) and aliases; * is everything"
    )


class PullBody(_Body):
    """Whose weights are fetched."""

    name: _Name = Field(description="a model, an alias, or one deployment")


_BodyT = TypeVar("_BodyT", bound=BaseModel)


def read(request: Request, model: type[_BodyT]) -> _BodyT:
    """Return the checked body.

    Raises:
        GatewayError: 400, which names the first field at fault and tells all mistakes.
    """
    try:
        given = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        message = f"The request body is not valid JSON: {error}."
        raise GatewayError.invalid(message, code="invalid_json") from None
    if not isinstance(given, dict):
        example = ", ".join(f'"{name}": ...' for name in list(model.model_fields)[:2])
        message = f"The request body must be a JSON object such as {{{example}}}."
        raise GatewayError.invalid(message, code="invalid_type")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _explained(error, model) from None


def flag(request: Request, name: str) -> bool:
    """Return a query parameter that is ``true``, ``false`` or absent.

    Raises:
        GatewayError: 400, it is something else.
    """
    text = request.args.get(name, "false").lower()
    if text not in {"true", "false"}:
        message = f"The query parameter '{name}' must be true or false, not '{text[:80]}'."
        raise GatewayError.invalid(message, param=name, code="invalid_value")
    return bool(text == "true")


def seconds(request: Request, name: str, *, most: float) -> float:
    """Return a query parameter that is a number of seconds, 0 when it is absent.

    Raises:
        GatewayError: 400, it is no such number or above ``most``.
    """
    text = request.args.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:  # a NaN is neither
        message = f"The query parameter '{name}' must be a number of seconds from 0 to {most:g}, not '{text[:80]}'."
        raise GatewayError.invalid(message, param=name, code="invalid_value")
    return value


def _explained(error: ValidationError, model: type[BaseModel]) -> GatewayError:
    told, codes, params = [], [], []
    for mistake in error.errors(include_url=False):
        path = mistake["loc"]
        params.append(_written(path))
        match mistake["type"]:
            case "extra_forbidden":
                codes.append("unknown_parameter")
                told.append(f"'{params[-1]}' is not known here; {_hint(str(path[0]), model)}")
            case "missing":
                codes.append("missing_required_parameter")
                told.append(f"'{params[-1]}' is missing; it must be {_phrase(path, model)}.")
            case kind:
                codes.append("invalid_type" if kind.endswith("_type") else "invalid_value")
                what = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
                told.append(f"'{params[-1]}' {what[:1].lower()}{what[1:]}: {_phrase(path, model)}.")
    return GatewayError.invalid("\n".join(told), param=params[0], code=codes[0])


def _hint(name: str, model: type[BaseModel]) -> str:
    keys = model.model_fields
    if close := closest(name, keys):
        return f"did you mean '{close}'?"
    if model is DeploymentPatch and name in DeploymentTable.model_fields:
        return "it cannot be changed at run time: change it in the configuration, then: python -m core reload."
    return f"it takes {', '.join(keys)}."


def _phrase(path: Sequence[str | int], model: type[BaseModel]) -> str:
    field = model.model_fields.get(str(path[0]))
    return (field.description or "").partition(";")[0] if field else ""


def _written(path: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
