"""The operations of the admin API."""

from __future__ import annotations

from typing import Any, get_args

from core.api.requests import Task
from core.dialects.openai.chat import ChatBody
from core.dialects.openai.completions import CompletionBody
from core.dialects.openai.embeddings import EmbeddingsBody
from core.dialects.openai.rerank import RerankBody
from core.gateway.explaining import ExplainedRoute
from core.http.admin import bodies, deployments, views
from core.http.openapi.operation import EVENT_STREAM, JSON, Answer, Operation, header, in_path, query
from core.wire.control import Action, Overrides

__all__ = ["MANAGING"]

_ID = in_path("name", "the id of a deployment: model@backend")
_DOES: dict[Action, str] = {
    "load": "Start what is not started of a deployment",
    "unload": "Give the memory of a deployment back; running requests get the drain time",
    "restart": "Restart the replicas of a deployment, one after another",
    "drain": "Let a deployment finish what it runs, then unload it",
}
_WAIT = query(
    "wait_s",
    "wait this long until it is over; a load that fails meanwhile is a 503 with the reason",
    type="number",
    minimum=0,
    maximum=3600,
    default=0,
)
_EVENTS = (
    "Server-sent events: the event's name is its kind (replica, breaker, overrides, configuration, evicted), its data "
    "an EventData, its id for Last-Event-ID. Comments keep it open. The last event is `end`, whose data says why: "
    "connect again."
)
_PULL = (
    "Server-sent events: `progress` {deployment, stage, and done_bytes with total_bytes or share}, then exactly one "
    "`done` (Pulled) or `error` (Error and Pulled). Ended when the client leaves."
)


def _manage(
    method: str,
    path: str,
    name: str,
    summary: str,
    answer: type | None,
    *,
    description: str = "",
    body: Any = None,
    parameters: tuple[dict[str, Any], ...] = (),
    status: int = 200,
    kind: str = JSON,
) -> Operation:
    return Operation(
        method=method,
        path=f"/admin/v1{path}",
        name=name,
        summary=summary,
        description=description,
        tag="admin",
        parameters=parameters,
        body=body,
        answers={status: Answer(description="as it is then", content={kind: answer})},
        admin=True,
    )


def _operate(action: Action) -> Operation:
    content = {JSON: deployments.Operation}
    return Operation(
        method="post",
        path=f"/admin/v1/deployments/{{name}}/{action}",
        name=f"{action}_deployment",
        summary=_DOES[action],
        tag="admin",
        parameters=(_ID, _WAIT),
        answers={
            200: Answer(description="it is done", content=content),
            202: Answer(description="it has begun", content=content),
        },
        admin=True,
    )


_BACKEND = in_path("name", "the name of a backend")
_ALIAS = in_path("name", "any name but a model's")

MANAGING: tuple[Operation, ...] = (
    _manage("get", "/deployments", "list_deployments", "List the deployments", views.Deployments),
    _manage(
        "get",
        "/deployments/{name}",
        "show_deployment",
        "Show a deployment",
        views.DeploymentView,
        parameters=(_ID,),
    ),
    _manage(
        "patch",
        "/deployments/{name}",
        "patch_deployment",
        "Change a deployment: a JSON merge patch",
        views.DeploymentView,
        body=bodies.DeploymentPatch,
        parameters=(_ID,),
    ),
    *map(_operate, get_args(Action)),
    _manage("get", "/backends", "list_backends", "List the backends", views.Backends),
    _manage("get", "/backends/{name}", "show_backend", "Show a backend", views.BackendView, parameters=(_BACKEND,)),
    _manage(
        "patch",
        "/backends/{name}",
        "patch_backend",
        "Enable or disable all deployments of a backend: a JSON merge patch",
        views.BackendView,
        body=bodies.BackendPatch,
        parameters=(_BACKEND,),
    ),
    _manage("get", "/aliases", "list_aliases", "List the aliases", views.Aliases),
    _manage(
        "put",
        "/aliases/{name}",
        "put_alias",
        "Let a name stand for models",
        views.AliasView,
        body=bodies.AliasBody,
        parameters=(_ALIAS,),
    ),
    _manage(
        "delete",
        "/aliases/{name}",
        "delete_alias",
        "Let a name stand for nothing, or for what it did at first",
        views.AliasView,
        parameters=(_ALIAS, query("reset", "true: for what it did at first", type="boolean", default=False)),
    ),
    _manage("post", "/reset", "reset", "Take changes back", Overrides, body=bodies.ResetBody),
    _manage(
        "post",
        "/reload",
        "reload",
        "Read the configuration again",
        views.Reloaded,
        parameters=(query("dry_run", "true: only say what would change", type="boolean", default=False),),
    ),
    _manage(
        "post",
        "/pull",
        "pull",
        "Fetch and prepare weights",
        None,
        description=_PULL,
        body=bodies.PullBody,
        kind=EVENT_STREAM,
    ),
    _manage(
        "get",
        "/events",
        "events",
        "Hear of every change of state",
        None,
        description=_EVENTS,
        parameters=(
            header("Last-Event-ID", "the last event heard; those after it that are kept are told first", type="string"),
            query("after", "as Last-Event-ID", type="string"),
        ),
        kind=EVENT_STREAM,
    ),
    _manage(
        "post",
        "/route/explain",
        "explain",
        "Say where a request would go and why, without sending it anywhere",
        ExplainedRoute,
        description="Other headers of the request are shown to the policy, as those of a real one are.",
        body=(ChatBody, CompletionBody, EmbeddingsBody, RerankBody),
        parameters=(
            query("task", "which endpoint the body is for; default: told by its fields", enum=list(get_args(Task))),
        ),
    ),
)
