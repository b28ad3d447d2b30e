"""Which handler answers at which URL."""

from __future__ import annotations

from typing import Any

from sanic import Sanic

from core.http import admin, failures, health, inference, models, openapi

__all__ = ["install"]


def install(app: Sanic[Any, Any]) -> None:
    """Add every route and the error handler."""
    app.add_route(inference.chat, "/v1/chat/completions", methods=["POST"])
    app.add_route(inference.completions, "/v1/completions", methods=["POST"])
    app.add_route(inference.embeddings, "/v1/embeddings", methods=["POST"])
    app.add_route(inference.rerank, "/v1/rerank", methods=["POST"])
    app.add_route(models.list_models, "/v1/models", methods=["GET"])
    app.add_route(models.show_model, "/v1/models/<name:path>", methods=["GET"])
    app.add_route(health.health, "/health", methods=["GET", "HEAD"])
    app.add_route(health.livez, "/livez", methods=["GET", "HEAD"])
    app.add_route(health.readyz, "/readyz", methods=["GET", "HEAD"])
    app.add_route(health.metrics_page, "/metrics", methods=["GET"])
    app.add_route(openapi.show_document, "/openapi.json", methods=["GET"])
    admin.install(app)
    failures.install(app)
