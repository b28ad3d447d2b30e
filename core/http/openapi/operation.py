"""One operation of the document: a method at a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.http.openapi.schemas import ref

__all__ = ["EVENT_STREAM", "JSON", "Answer", "Operation", "header", "in_path", "query"]

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a status means: of each content type, the struct that its body is, or None for text."""

    description: str
    content: Mapping[str, type | None]

    def written(self) -> dict[str, Any]:
        """Return it as the document has it."""
        return {
            "description": self.description,
            "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
            "content": {
                kind: {"schema": ref(struct) if struct else {"type": "object" if kind == JSON else "string"}}
                for kind, struct in self.content.items()
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A method at a path.

    Attributes:
        path: with ``{name}`` for what varies.
        name: unique; what generated clients call it.
        body: the struct or model of the request body; None: it has none.
        answers: by status; errors are added to all.
        admin: it stands behind the guard of the admin API.
    """

    method: str
    path: str
    name: str
    summary: str
    description: str = ""
    tag: str
    parameters: tuple[dict[str, Any], ...] = ()
    body: type | tuple[type, ...] | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    admin: bool = False

    def written(self) -> dict[str, Any]:
        """Return it as the document has it."""
        errors = {"401": "NoKey", "403": "NotAllowed"} if self.admin else {}
        made: dict[str, Any] = {
            "operationId": self.name,
            "summary": self.summary,
            "tags": [self.tag],
            "parameters": [*self.parameters, {"$ref": "#/components/parameters/RequestId"}],
            "responses": {
                **{str(status): answer.written() for status, answer in self.answers.items()},
                **{status: {"$ref": f"#/components/responses/{name}"} for status, name in errors.items()},
                "default": {"$ref": "#/components/responses/Error"},
            },
        }
        if self.description:
            made["description"] = self.description
        if self.body is not None:
            kinds = self.body if isinstance(self.body, tuple) else (self.body,)
            schema = ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [ref(kind) for kind in kinds]}
            made["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
        if self.admin:
            # Without a key configured, being on the loopback interface is enough.
            made["security"] = [{"adminKey": []}, {}]
        return made


def in_path(name: str, description: str) -> dict[str, Any]:
    """Return a parameter of the path; it may hold slashes, as they are or percent-coded."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return a query parameter."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return a header that a client may send."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
