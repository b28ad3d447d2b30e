"""Drills: what a client hears is judged rightly, and nothing of an operator's is touched."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from core.registry import build_table, load_registry
from core.routing.routes import RouteOptions
from core.settings import Settings, load_settings
from core.testing.drills import (
    DRILLS,
    Drill,
    Verdict,
    advice,
    configuration_of,
    remedy,
    routes_of,
    run_drills,
    time_of,
    to_toml,
)
from core.testing.drills.asking import Heard, ask, expected_text
from core.testing.drills.configuration import SOUND, journal_of
from core.testing.faults.plugin import Fault, FaultsSettings, Garbage

BY_ID = {drill.id: drill for drill in DRILLS}
PROMPT = "Tell me"
WHOLE = expected_text(PROMPT)


def chunk(text: str, finish: str | None = None) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


ERROR = 'data: {"error": {"message": "it died"}}'
DONE = "data: [DONE]"


class _Cut(httpx.AsyncByteStream):
    """A body that breaks off as a connection does."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._text.encode()
        msg = "peer closed connection"
        raise httpx.RemoteProtocolError(msg)


async def hear(response: httpx.Response, *, streamed: bool = True) -> Heard:
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: response), base_url="http://gateway"
    ) as client:
        return await ask(client, "drill/x", PROMPT, streamed=streamed, within_s=1.0)


@pytest.mark.parametrize(
    ("lines", "ending", "text"),
    [
        ([chunk("a"), chunk(" b"), chunk("", "stop"), DONE], "whole", "a b"),
        ([chunk("a"), ERROR], "error", "a"),
        ([": keep-alive", ERROR], "error", ""),
        ([chunk("a")], "illegal", "a"),
        ([chunk("a"), DONE], "illegal", "a"),
        ([chunk("a", "stop")], "illegal", "a"),
        ([chunk("a"), ERROR, DONE], "illegal", "a"),
        ([chunk("a", "stop"), DONE, chunk("b")], "illegal", "a"),
        ([chunk("a", "stop"), ERROR], "illegal", "a"),
        (["data: {"], "illegal", ""),
        ([], "illegal", ""),
    ],
)
async def test_a_stream_has_two_legal_endings(lines: list[str], ending: str, text: str) -> None:
    """A finish reason and [DONE], or an error event and nothing after it."""
    heard = await hear(httpx.Response(200, text="\n\n".join([*lines, ""])))
    assert (heard.ending, heard.text) == (ending, text), heard.detail


async def test_a_connection_that_breaks_is_no_ending() -> None:
    heard = await hear(httpx.Response(200, stream=_Cut(chunk("a") + "\n\n")))
    assert (heard.ending, heard.text) == ("illegal", "a")


async def test_answers_and_refusals_for_the_whole() -> None:
    body = {"choices": [{"message": {"content": "a b"}, "finish_reason": "stop"}]}
    headers = {"x-request-id": "id-1", "x-gateway-replica": "x@faults#0"}
    heard = await hear(httpx.Response(200, json=body, headers=headers), streamed=False)
    assert (heard.ending, heard.text, heard.id, heard.replica) == ("whole", "a b", "id-1", "x@faults#0")
    heard = await hear(httpx.Response(503, json={"error": {"message": "nobody"}}), streamed=False)
    assert (heard.ending, heard.detail) == ("error", "503: nobody")
    heard = await hear(httpx.Response(200, text="no json"), streamed=False)
    assert heard.ending == "illegal"


# --- judging, by a gateway that is made up


class MadeUp:
    """Answers as told, and says in the journal that everything was hit."""

    def __init__(self, folder: Path, drill: Drill, answer: Any, **health: Any) -> None:
        self.requests = 0
        self._journal = journal_of(drill, folder)
        self._answer = answer
        replica = {"state": "ready", "reason": None, "restarts": 0, "breaker": {"state": "closed"}}
        deployment = {"state": "ready", "in_flight": 0, "queued": 0, "replicas": [replica | health]}
        self.health = {
            "requests_in_flight": 0,
            "deployments": {f"{drill.id}@faults": deployment, f"{SOUND}@faults": deployment},
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(200, json=self.health)
        if request.url.path == "/metrics":
            return httpx.Response(200, text='gateway_policy_failures_total{policy="odd",reason="raised"} 2.0\n')
        self.requests += 1
        with self._journal.open("a") as journal:
            journal.write(f"id-{self.requests}\n")
        body = json.loads(request.content)
        content: str = self._answer(expected_text(body["messages"][0]["content"]), body["stream"])
        return httpx.Response(200, text=content, headers={"x-request-id": f"id-{self.requests}"})


def ends(text: str, *, streamed: bool, error: bool = False) -> str:
    if not streamed:
        return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    lines = [chunk(text), ERROR] if error else [chunk(text), chunk("", "stop"), DONE]
    return "\n\n".join([*lines, ""])


def first(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run one drill against a made-up gateway; return its finding, and those of the rest by their ids."""

    async def run(id_: str, answer: Any, *, continuation: Any = "same_backend", **health: Any) -> tuple[Any, Any]:
        drill = BY_ID[id_]
        made_up = MadeUp(tmp_path, drill, answer, **health)
        client = httpx.AsyncClient

        def made(**options: Any) -> httpx.AsyncClient:
            return client(**{**options, "limits": httpx.Limits(), "transport": httpx.MockTransport(made_up)})

        with monkeypatch.context() as patched:
            patched.setattr(httpx, "AsyncClient", made)
            patched.setattr("core.testing.drills.meeting._SETTLED_S", 0.5)
            options = RouteOptions(continuation=continuation)
            found = await run_drills("http://gateway", [drill], Settings(), options, tmp_path)
        journal_of(drill, tmp_path).unlink()
        return found[0], {finding.drill: finding for finding in found[1:]}

    return run


async def test_whole_answers_pass(judged: Any) -> None:
    finding, rest = await judged("engine-error-before", lambda text, streamed: ends(text, streamed=streamed))
    assert finding.verdict == "ok", finding.seen
    assert rest["left-behind"].verdict == "ok"


async def test_a_policy_that_failed_is_told(judged: Any) -> None:
    _, rest = await judged("engine-error-before", lambda text, streamed: ends(text, streamed=streamed))
    assert rest["policy"].verdict == "failed"
    assert "odd: raised, 2 times" in rest["policy"].seen


@pytest.mark.parametrize("id_", ["engine-error-before", "engine-error-after", "slow"])
async def test_a_clean_end_to_a_broken_answer_is_found(judged: Any, id_: str) -> None:
    finding, _ = await judged(id_, lambda text, streamed: ends(first(text, 5), streamed=streamed))
    assert finding.verdict == "failed"
    assert "as if it were whole" in finding.seen


async def test_a_word_said_twice_is_found(judged: Any) -> None:
    """What a bad continuation would do."""

    def answer(text: str, streamed: bool) -> str:
        return ends(f"{first(text, 5)} {text.split(maxsplit=4)[4]}", streamed=streamed)

    finding, _ = await judged("engine-error-after", answer)
    assert finding.verdict == "failed"


@pytest.mark.parametrize(
    ("id_", "continuation", "verdict"),
    [
        ("engine-error-before", "off", "failed"),
        ("engine-error-after", "off", "ok"),
        ("engine-error-after", "same_backend", "failed"),
        ("slow", "off", "failed"),
        ("alone-after", "same_backend", "failed"),  # its other request was answered, by nobody
    ],
)
async def test_an_error_is_right_where_nothing_else_can_be(
    judged: Any, id_: str, continuation: str, verdict: str
) -> None:
    def answer(text: str, streamed: bool) -> str:
        return ends(first(text, 5) if streamed else text, streamed=streamed, error=streamed)

    finding, _ = await judged(id_, answer, continuation=continuation, restarts=1)
    assert finding.verdict == verdict, finding.seen


async def test_health_that_hides_a_death_is_found(judged: Any) -> None:
    def answer(text: str, streamed: bool) -> str:
        return ends(text, streamed=streamed)

    finding, _ = await judged("die-before", answer, restarts=0)
    assert finding.verdict == "failed"
    assert "/health does not tell" in finding.seen
    finding, _ = await judged("die-before", answer, restarts=1)
    assert finding.verdict == "ok", finding.seen


# --- configurations


def table_of(settings: Settings) -> Any:
    return build_table(load_registry(settings.plugins), settings)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An operator's settings that hold all that a drill must not touch."""
    (tmp_path / "gateway.toml").write_text(
        """
        log_level = "WARNING"
        [plugins]
        allow = ["echo", "sticky"]
        deny = ["faults"]
        [routing]
        policy = "round_robin"
        retry_burst = 7
        [supervisor]
        launcher = "local"
        memory_limit_bytes = 1
        log_dir = "/nowhere"
        [admin]
        key = "0123456789abcdef"
        database = "/nowhere/db"
        [aliases]
        "mine" = "echo"
        [routes."mine"]
        policy = "sticky"
        settings = { header = "x-\\"me\\"\\u007f" }
        attempt_timeout_s = 2.5
        hedge_after_ms = 300
        [routes."echo@echo"]
        policy = "round_robin"
        [deployments."echo@echo"]
        load = "startup"
        [backends.echo]
        tokens = 5
        """
    )
    return load_settings(tmp_path / "gateway.toml")


def test_the_configuration_of_a_drill(settings: Settings, tmp_path: Path) -> None:
    """It is a valid one, routes as the operator's does, and loads, writes and listens to nothing of it."""
    (global_, mine) = routes_of(settings, table_of(settings))
    assert global_.names == ("[routing]", '[routes."echo@echo"]')
    registry = load_registry(settings.plugins)
    declared = [model.spec.deployment for model in registry.models]
    tables = configuration_of(settings, mine, DRILLS, tmp_path, declared=declared)
    (tmp_path / "drill.toml").write_text(to_toml(tables))
    assert tomllib.loads(to_toml(tables)) == json.loads(json.dumps(tables))

    drilled = load_settings(tmp_path / "drill.toml")
    table = table_of(drilled)
    assert {one.backend.name for one in table.deployments.values() if one.spec.enabled} == {"faults"}
    assert drilled.routing == settings.routing
    assert drilled.supervisor.memory_limit_bytes is None
    assert drilled.supervisor.log_dir == tmp_path / "logs"
    assert drilled.admin.key is None
    assert drilled.admin.database.parent == tmp_path
    route = table.resolve("drill/hang")
    assert [[one.id for one in tier] for tier in route.tiers] == [["hang@faults", f"{SOUND}@faults"]]
    assert (route.policy, route.options.attempt_timeout_s, route.options.hedge_after_s) == ("sticky", 2.5, 0.3)
    assert [[one.id for one in tier] for tier in table.resolve("drill/alone-after").tiers] == [["alone-after@faults"]]
    for drill in DRILLS:  # a policy that leaves equals in their order asks the faulty replica of each
        (tier,) = table.resolve(f"drill/{drill.id}").tiers
        assert tier[0].id == f"{drill.id}@faults"


def test_a_gateway_without_plugins_is_drilled_too(tmp_path: Path) -> None:
    settings = Settings(plugins={"deny": ("*",)})
    (route,) = routes_of(settings, table_of(settings))
    tables = configuration_of(settings, route, DRILLS, tmp_path)
    assert tables["plugins"] == {"allow": ["faults"], "deny": []}


# --- advice


def test_how_long_a_hang_lasts() -> None:
    """Whatever notices it first."""
    settings, hang = Settings(), BY_ID["hang"]
    assert time_of(hang, settings, RouteOptions()) == (60.0, "supervisor.stall_timeout_s")
    assert time_of(hang, settings, RouteOptions(attempt_timeout_s=2.0)) == (2.0, "attempt_timeout_s")
    assert time_of(hang, settings, RouteOptions(hedge_after_s=0.8)) == (0.8, "hedge_after_ms")
    impatient = Settings(limits={"first_token_timeout_s": 5.0})
    assert time_of(hang, impatient, RouteOptions()) == (5.0, "limits.first_token_timeout_s")
    assert time_of(BY_ID["stall"], settings, RouteOptions(attempt_timeout_s=2.0))[0] == 60.0
    assert "attempt_timeout_s" in remedy(hang, impatient, RouteOptions())
    assert remedy(hang, settings, RouteOptions()) == ""


def said(settings: Settings) -> Iterator[str]:
    table = table_of(settings)
    yield from advice(settings, table, routes_of(settings, table))


def about(settings: Settings, *words: str) -> Sequence[str]:
    return [line for line in said(settings) if all(word in line for word in words)]


def test_advice() -> None:
    """Only what a setting makes worse is said."""
    echo: Any = {"plugins": {"allow": ("echo", "faults")}}
    plain = Settings(**echo)
    assert about(plain, "[routing]", "attempt_timeout_s", "60 s")
    assert about(plain, "nobody to fail over to", "echo")
    assert not about(plain, "continuation")
    assert not about(plain, "retry")
    hedged = Settings(**echo, routes={"echo": {"hedge_after_ms": 800}})
    assert not about(hedged, '[routes."echo"]', "attempt_timeout_s")
    good = Settings(**echo, routing={"attempt_timeout_s": 5.0}, deployments={"echo@echo": {"replicas": 2}})
    assert [line for line in said(good) if "same weights" not in line] == []
    bad = Settings(**echo, routing={"retry_burst": 0.0, "continuation": "off"})
    assert about(bad, "retry_burst")
    assert about(bad, 'continuation = "off"')
    assert "retry_burst" in remedy(BY_ID["die-before"], bad, RouteOptions())


# --- documentation


def test_the_documentation_tells_every_fault_and_every_setting() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    for word in (*get_args(Fault), *get_args(Garbage), *FaultsSettings.model_fields, *get_args(Verdict)):
        assert f"`{word}`" in page or f'"{word}"' in page, word
