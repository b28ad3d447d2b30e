"""The OpenAPI document: valid, complete, and true."""

from __future__ import annotations

import json
import re

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from sanic import Sanic

from core.api.messages import (
    Embedding,
    EngineInfo,
    Finished,
    ReasoningDelta,
    Score,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from core.dialects import openai
from core.dialects.openai.fields import ACCEPTED, CHAT, COMPLETION, EMBEDDINGS, RERANK
from core.errors import GatewayError
from core.http import routes
from core.http.admin.bodies import DeploymentPatch
from core.http.openapi import document
from core.settings import DeploymentTable, LimitsTable
from core.wire.control import DeploymentOverride, ReplicaStatus


def operations() -> dict[tuple[str, str], dict]:
    return {(path, method): one for path, ones in document()["paths"].items() for method, one in ones.items()}


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_every_route_is_in_the_document_and_no_other() -> None:
    """As the router has them."""
    app: Sanic = Sanic("all_routes", configure_logging=False)
    routes.install(app)
    found = {
        ("/" + re.sub(r"<(\w+):\w+>", r"{\1}", route.path), method.lower())
        for route in app.router.routes
        for method in route.methods
    }

    only_refuses = {("/admin/v1/deployments/{name}", "post")}  # says which operations there are
    assert operations().keys() == found - only_refuses


def test_every_operation_has_its_own_name_and_what_varies_in_its_path_is_told() -> None:
    names = [one["operationId"] for one in operations().values()]
    assert len(set(names)) == len(names)
    for (path, _), one in operations().items():
        told = {given["name"] for given in one["parameters"] if given.get("in") == "path"}
        assert told == set(re.findall(r"{(\w+)}", path))
        assert one["summary"]


def test_the_admin_routes_and_no_others_want_the_key() -> None:
    for (path, _), one in operations().items():
        assert ("security" in one) == path.startswith("/admin/v1/")


@pytest.mark.parametrize(
    ("name", "fields"),
    [("ChatBody", CHAT), ("CompletionBody", COMPLETION), ("EmbeddingsBody", EMBEDDINGS), ("RerankBody", RERANK)],
)
def test_a_request_body_has_every_field_and_no_other(name, fields) -> None:
    """Honoured, accepted, refused: as docs/openai.md has them."""
    schema = document()["components"]["schemas"][name]
    top = {path for path in fields.honoured if "." not in path and "[" not in path}

    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == top | ACCEPTED.keys() | fields.refused.keys()
    assert all("description" in one for one in schema["properties"].values())


def test_a_request_is_held_to_the_schema(holds) -> None:
    """The schema takes what the gateway takes, and refuses what it refuses."""
    good = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5, "store": True}
    holds("ChatBody", good)
    for wrong in ({"temperature": 3}, {"n": 0}, {"temprature": 1}, {"messages": []}):
        with pytest.raises(jsonschema.ValidationError):
            holds("ChatBody", good | wrong)
    holds("AliasBody", {"models": "x"})
    holds("AliasBody", {"models": ["x", "y"]})


def test_what_may_be_changed_is_one_list() -> None:
    """In the body, on the wire, and as keys of the configuration."""
    assert tuple(DeploymentPatch.model_fields) == DeploymentOverride.__struct_fields__
    assert DeploymentPatch.model_fields.keys() <= DeploymentTable.model_fields.keys()


def parsed(parse, **fields):
    return parse(json.dumps({"model": "m"} | fields).encode(), LimitsTable())


def test_what_models_answer_is_what_the_document_says(holds) -> None:
    """Whole and streamed, with all that an answer may hold."""
    likely = TokenLogprob(token="b", logprob=-2.0)  # noqa: S106 - of a model
    logprob = TokenLogprob(token="a", logprob=-1.0, top=(likely,))  # noqa: S106 - of a model
    events = [
        ReasoningDelta(text="hm"),
        TextDelta(text="a", logprobs=(logprob,)),
        ToolCallDelta(id="c", name="f", arguments="{"),
        ToolCallDelta(arguments="}"),
        Finished(reason="tool_calls"),
        Usage(prompt_tokens=1, completion_tokens=2),
    ]
    legacy = [events[1], Finished(), events[-1]]
    messages = [{"role": "user", "content": "x"}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for parse, fields, said, whole, chunk in (
        (openai.parse_chat, {"messages": messages}, events, "ChatCompletion", "ChatCompletionChunk"),
        (openai.parse_completion, {"prompt": "x"}, legacy, "Completion", "Completion"),
    ):
        holds(whole, json.loads(openai.reply(parsed(parse, **fields), "m", said)))
        for more in ({"stream": True}, options):
            stream = openai.Stream(parsed(parse, **fields, **more), "m")
            text = (stream.chunks(said) + stream.end()).decode()
            chunks = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
            assert chunks.pop() == "[DONE]"
            for one in chunks:
                holds(chunk, json.loads(one))
            error = stream.error(GatewayError.engine_failed("It died."))
            holds("Error", json.loads(error.removeprefix(b"data: ")))


def test_vectors_and_rankings_are_what_the_document_says(holds) -> None:
    usage = Usage(prompt_tokens=3)
    for encoding in ("float", "base64"):
        request = parsed(openai.parse_embeddings, input="x", encoding_format=encoding)
        vector = Embedding(index=0, vector=b"\0\0\x80?")
        holds("EmbeddingList", json.loads(openai.reply(request, "m", [vector, usage])))
    for documents in (True, False):
        request = parsed(openai.parse_rerank, query="x", documents=["y"], return_documents=documents)
        holds("Ranking", json.loads(openai.reply(request, "m", [Score(index=0, score=0.5), usage])))


async def test_answers_are_what_the_document_says(start, holds) -> None:
    config = {"deployments": {"a@echo": {"source": "/dev/null"}}, "aliases": {"x": "echo"}}
    async with start(**config) as lab:
        lab.supervisor.set(ReplicaStatus(replica="a@echo#0", state="ready", socket="x", info=EngineInfo(slots=2)))
        await lab.client.patch("deployments/a@echo", json={"priority": 3})
        for path, name in (
            ("deployments", "Deployments"),
            ("deployments/a@echo", "DeploymentView"),
            ("backends", "Backends"),
            ("backends/echo", "BackendView"),
            ("aliases", "Aliases"),
            ("deployments/nobody@echo", "Error"),
        ):
            holds(name, (await lab.client.get(path)).json())
        holds("AliasView", (await lab.client.put("aliases/y", json={"models": "echo"})).json())
        holds("Operation", (await lab.client.post("deployments/a@echo/load")).json())
        holds("Overrides", (await lab.client.post("reset", json={"names": ["x"]})).json())
        holds("Reloaded", (await lab.client.post("reload")).json())
        chat = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
        holds("ExplainedRoute", (await lab.client.post("route/explain", json=chat)).json())
        root = str(lab.client.base_url).removesuffix("/admin/v1/")
        async with httpx.AsyncClient(base_url=root, trust_env=False) as client:
            told = (await client.get("/openapi.json")).json()
            holds("ModelList", (await client.get("/v1/models")).json())
            holds("Model", (await client.get("/v1/models/x")).json())
            holds("Health", (await client.get("/health")).json())
            holds("Ready", (await client.get("/readyz")).json())
            holds("Live", (await client.get("/livez")).json())
    assert told == json.loads(json.dumps(document()))
