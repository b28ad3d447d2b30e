"""``GET /openapi.json``: every route of the server, with schemas made of what bodies are checked with."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from core.http.openapi.answers import Error
from core.http.openapi.managing import MANAGING
from core.http.openapi.operation import JSON
from core.http.openapi.public import PUBLIC
from core.http.openapi.schemas import ref, schemas

__all__ = ["document", "show_document"]

_DESCRIPTION = (
    "One OpenAI-compatible server in front of many local model runtimes. Every error has OpenAI's shape; "
    "docs/errors.md lists them."
)


async def show_document(_request: Request) -> HTTPResponse:
    """``GET /openapi.json``."""
    return HTTPResponse(_encoded(), content_type=JSON)


@functools.cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in (*PUBLIC, *MANAGING):
        paths.setdefault(operation.path, {})[operation.method] = operation.written()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI Gateway",
            "version": metadata.version("ai-gateway"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "models", "description": "Asking models, and which there are"},
            {"name": "operations", "description": "How the gateway is"},
            {"name": "admin", "description": "Managing the gateway while it runs: docs/admin.md"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {
                "Error": _error("What went wrong, and what to do"),
                "NoKey": _error("The key of the admin API is missing or wrong"),
                "NotAllowed": _error(
                    "There is no key and this is not the loopback interface, or a page of another site"
                ),
            },
            "parameters": {
                "RequestId": {
                    "name": "x-request-id",
                    "in": "header",
                    "required": False,
                    "description": "comes back in the answer, and stands in the log",
                    "schema": {"type": "string"},
                }
            },
            "headers": {"RequestId": {"description": "the request's, or a fresh one", "schema": {"type": "string"}}},
            "securitySchemes": {
                "adminKey": {"type": "http", "scheme": "bearer", "description": "admin.key of the configuration"}
            },
        },
    }


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": ref(Error)}}}
