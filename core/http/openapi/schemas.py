"""The schemas of the document, made of the very structs and models that bodies are checked with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from core.dialects.openai.chat import ChatBody
from core.dialects.openai.completions import CompletionBody
from core.dialects.openai.embeddings import EmbeddingsBody
from core.dialects.openai.fields import ACCEPTED, CHAT, COMPLETION, EMBEDDINGS, RERANK, Fields
from core.dialects.openai.rerank import RerankBody
from core.gateway.explaining import ExplainedRoute
from core.http.admin import bodies, views
from core.http.admin.deployments import Operation
from core.http.admin.events import EventData
from core.http.openapi import answers
from core.wire.control import Overrides

__all__ = ["ref", "schemas"]

_REF = "#/components/schemas/{name}"

_REQUESTS: Mapping[type[msgspec.Struct], Fields] = {
    ChatBody: CHAT,
    CompletionBody: COMPLETION,
    EmbeddingsBody: EMBEDDINGS,
    RerankBody: RERANK,
}
_MODELS: tuple[type[BaseModel], ...] = (
    bodies.AliasBody,
    bodies.BackendPatch,
    bodies.DeploymentPatch,
    bodies.PullBody,
    bodies.ResetBody,
)
_ANSWERS: tuple[type[msgspec.Struct], ...] = (
    *(getattr(answers, name) for name in answers.__all__),
    views.Aliases,
    views.AliasView,
    views.Backends,
    views.BackendView,
    views.Deployments,
    views.DeploymentView,
    views.Pulled,
    views.Reloaded,
    EventData,
    ExplainedRoute,
    Operation,
    Overrides,
)


def ref(kind: type) -> dict[str, str]:
    """Return the reference to the schema of a struct or model."""
    return {"$ref": _REF.format(name=kind.__name__)}


def schemas() -> dict[str, Any]:
    """Return all of them by name."""
    _, found = msgspec.json.schema_components((*_REQUESTS, *_ANSWERS), ref_template=_REF)
    made: dict[str, Any] = found | {kind.__name__: kind.model_json_schema() for kind in _MODELS}
    for body, fields in _REQUESTS.items():
        _tell_fields(made[body.__name__], fields)
    return _renamed(dict(sorted(made.items())))


def _tell_fields(schema: dict[str, Any], fields: Fields) -> None:
    """Add what the struct leaves to `fields`: words for each field, those that change nothing, and no others."""
    properties = schema["properties"]
    for name, value in properties.items():
        if name in fields.honoured:
            properties[name] = {"description": fields.honoured[name], **_without_ref(value)}
    properties |= {name: {"description": f"accepted; {why}"} for name, why in ACCEPTED.items()}
    properties |= {
        name: {"description": f"not supported: {refused.remedy}", "enum": [None, *map(_value, refused.harmless)]}
        for name, refused in fields.refused.items()
    }
    schema["additionalProperties"] = False


def _without_ref(value: dict[str, Any]) -> dict[str, Any]:
    return {"allOf": [value]} if "$ref" in value else value


def _value(harmless: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(harmless))


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    """Give private structs names for the public: ``core.dialects.openai.tools._Tool`` becomes ``tools.Tool``."""
    names: dict[str, str] = {}
    for name in found:
        *modules, last = name.split(".")
        names[name] = ".".join([*modules[-1:], last.removeprefix("_")])
    if len(set(names.values())) != len(names):
        msg = f"two schemas have one name among {sorted(names.values())}"
        raise ValueError(msg)
    targets = {_REF.format(name=old): _REF.format(name=new) for old, new in names.items()}
    return {names[name]: _redirected(schema, targets) for name, schema in found.items()}


def _redirected(value: Any, targets: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: targets[one] if key == "$ref" else _redirected(one, targets)
            for key, one in value.items()
            if key != "discriminator"  # msgspec's holds names that are not renamed; the tags say it all
        }
    if isinstance(value, list):
        return [_redirected(one, targets) for one in value]
    return value
