"""The commands that manage a running gateway: each asks a real HTTP worker, whose supervisor only pretends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from core.__main__ import main
from core.api.messages import EngineInfo
from core.wire.control import AdminEvent, AdminReply, Change, Operate, ReplicaStatus

Run = Callable[..., Awaitable[int]]
KEY = "k" * 20


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch) -> None:
    """No configuration of this machine's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AI_GATEWAY_URL", raising=False)


@pytest.fixture
def run(lab, monkeypatch) -> Run:
    """Run a command against the worker of `lab`; returns its exit code."""
    monkeypatch.setenv("AI_GATEWAY_URL", url(lab))
    return lambda *arguments: asyncio.to_thread(main, arguments)


def url(lab) -> str:
    return str(lab.client.base_url).removesuffix("/admin/v1/")


async def test_deployments_are_a_table_that_marks_what_was_changed(run, lab, capsys) -> None:
    lab.supervisor.set(ReplicaStatus(replica="echo@echo#0", state="ready", socket="x", rss_bytes=2_500_000_000))
    await lab.client.patch("deployments/org/big@echo", json={"enabled": False, "weight": 2.5, "max_waiting": 9})
    assert await run("deployments") == 0
    captured = capsys.readouterr()
    rows = {line.split()[0]: line for line in captured.out.splitlines()}

    assert rows["DEPLOYMENT"].split()[:4] == ["DEPLOYMENT", "ENABLED", "PRIORITY", "WEIGHT"]
    assert rows["org/big@echo"].split()[1:6] == ["no", "[yes]", "7", "2.5", "[1]"]
    assert "9 [3]" in rows["org/big@echo"]
    assert "2.50 GB" in rows["echo@echo"]
    assert "ready" in rows["echo@echo"]
    assert "[" not in rows["echo@echo"]
    assert "--reset NAME" in captured.err


async def test_deployments_as_json_are_what_the_api_tells(run, lab, capsys) -> None:
    assert await run("deployments", "--json") == 0
    captured = capsys.readouterr()

    assert json.loads(captured.out) == (await lab.client.get("deployments")).json()["deployments"]
    assert captured.err == ""


async def test_changes_are_taken_back_by_name_or_all(run, lab, capsys) -> None:
    await lab.client.patch("deployments/echo@echo", json={"priority": 5})
    await lab.client.patch("backends/echo", json={"enabled": False})
    await lab.client.put("aliases/x", json={"models": ["echo", "org/big"]})
    assert await run("deployments", "--reset", "echo@echo") == 0
    assert capsys.readouterr().out == "@echo: enabled = false\nx -> echo, org/big\n"
    assert await run("reset", "@echo") == 0
    assert capsys.readouterr().out == "x -> echo, org/big\n"
    assert await run("reset", "--all") == 0
    assert capsys.readouterr().out == "Nothing is changed: all is as configured.\n"
    assert await run("deployments", "--all") == 0
    assert capsys.readouterr().out == "Nothing is changed: all is as configured.\n"
    assert await run("deployments", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {}


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (("disable", "org/big@echo"), {"enabled": False}),
        (("enable", "org/big@echo"), {"enabled": True}),
        (("priority", "org/big@echo", "-4"), {"priority": -4}),
        (("weight", "org/big@echo", "0.5"), {"weight": 0.5}),
        (("replicas", "org/big@echo", "3"), {"replicas": 3}),
        (("priority", "org/big@echo", "--reset"), {"priority": None}),
        (("limits", "org/big@echo", "--max-waiting", "0"), {"max_waiting": 0}),
        (("limits", "org/big@echo", "--max-waiting-prompt-tokens", "7"), {"max_waiting_prompt_tokens": 7}),
        (("limits", "org/big@echo", "--reset"), {"max_waiting": None, "max_waiting_prompt_tokens": None}),
    ],
)
async def test_each_key_has_its_command(run, lab, capsys, arguments, change) -> None:
    assert await run(*arguments) == 0
    assert lab.supervisor.commands == [Change(deployments={"org/big@echo": change})]
    out = capsys.readouterr().out
    assert out.startswith("org/big@echo: ")
    assert all(key in out for key in change)
    assert await run(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["id"] == "org/big@echo"


async def test_limits_are_printed_without_a_change(run, lab, capsys) -> None:
    assert await run("limits", "org/big@echo") == 0
    assert "max_waiting = 3, max_waiting_prompt_tokens = 262144" in capsys.readouterr().out
    assert lab.supervisor.commands == []


async def test_a_whole_backend_is_disabled_and_enabled(run, lab, capsys) -> None:
    assert await run("disable", "echo", "--backend") == 0
    assert capsys.readouterr().out == "echo is disabled: echo@echo, org/big@echo\n"
    assert await run("deployments") == 0
    assert "its backend is disabled" in capsys.readouterr().out
    assert await run("enable", "echo", "--backend") == 0
    assert lab.supervisor.commands == [Change(backends={"echo": False}), Change(backends={"echo": True})]


async def test_an_alias_is_given_and_removed_and_reset(run, lab, capsys) -> None:
    assert await run("alias", "gpt-4", "org/big", "echo") == 0
    assert await run("alias", "gpt-4", "--remove") == 0
    assert await run("alias", "gpt-4", "--reset") == 0
    assert capsys.readouterr().out.splitlines() == ["gpt-4 -> org/big, echo", "gpt-4 -> nothing", "gpt-4 -> echo"]
    assert lab.supervisor.commands == [
        Change(aliases={"gpt-4": ("org/big", "echo")}),
        Change(aliases={"gpt-4": ()}),
        Change(aliases={"gpt-4": None}),
    ]


async def test_aliases_and_backends_are_tables(run, lab, capsys) -> None:
    """Of the running gateway, with what was changed in it."""
    await lab.client.put("aliases/new", json={"models": ["org/big", "echo"]})
    await lab.client.delete("aliases/gpt-4")
    await lab.client.patch("backends/echo", json={"enabled": False})
    assert await run("alias") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["new"] == ["org/big,", "echo", "yes", "changed", "at", "run", "time"]
    assert rows["gpt-4"] == ["nothing", "yes", "-"]
    assert rows["parrot"][:2] == ["echo", "no"]
    assert await run("backends") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("echo     no [yes]  echo@echo, org/big@echo")
    for command in ("alias", "backends"):
        assert await run(command, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)) in {1, 3}


@pytest.mark.parametrize("action", ["load", "unload", "restart", "drain"])
async def test_each_operation_has_its_command(run, lab, capsys, action) -> None:
    assert await run(action, "org/big@echo") == 0
    assert lab.supervisor.commands == [Operate(deployment="org/big@echo", action=action)]
    assert capsys.readouterr().out.startswith("org/big@echo is stopped")


async def test_waiting_ends_well_or_with_exit_code_1(run, lab, capsys) -> None:
    """A load that goes on is not one that is done; one that failed says why."""
    lab.supervisor.set(ReplicaStatus(replica="echo@echo#0", state="starting"))
    assert await run("load", "echo@echo", "--wait", "0.1") == 1
    assert "goes on" in capsys.readouterr().out
    failed = ReplicaStatus(replica="echo@echo#0", state="failed", reason="out of memory")
    lab.supervisor.on_operate = lambda _: lab.supervisor.set(failed)
    assert await run("load", "echo@echo", "--wait") == 1
    assert capsys.readouterr().err == "error: echo@echo cannot be loaded; it is failed: out of memory.\n"
    lab.supervisor.on_operate = lambda _: lab.supervisor.set(
        ReplicaStatus(replica="echo@echo#0", state="ready", socket="x")
    )
    assert await run("load", "echo@echo", "--wait") == 0
    assert capsys.readouterr().out == "echo@echo is ready.\n"


async def test_reload_prints_the_difference(run, lab, capsys) -> None:
    body = {
        "generation": 5,
        "changed": [{"key": "routing.policy", "before": "least_loaded", "after": "sticky"}],
        "restart_needed": ["the plugin sticky was installed"],
        "overridden": ["x: y still holds"],
        "warnings": ["a@echo: weights are not on disk"],
        "restarts": ["a@echo", "b@echo"],
        "starts": [],
        "ends": ["c@echo"],
    }
    lab.supervisor.replies += [AdminReply(body=json.dumps(body).encode())] * 2
    assert await run("reload") == 0
    captured = capsys.readouterr()
    assert captured.err == "warning: a@echo: weights are not on disk\n"
    assert captured.out.splitlines() == [
        'routing.policy: "least_loaded" -> "sticky"',
        "needs a restart: the plugin sticky was installed",
        "overridden: x: y still holds",
        "restarts replicas of: a@echo, b@echo",
        "ends replicas of: c@echo",
        "In effect: generation 5.",
    ]
    assert await run("reload", "--dry-run") == 0
    assert "In effect" not in capsys.readouterr().out
    assert [one.dry_run for one in lab.supervisor.commands] == [False, True]
    assert await run("reload") == 0
    assert capsys.readouterr().out == "Nothing has changed.\n"


async def test_a_refused_reload_is_a_line_for_each_mistake(run, lab, capsys) -> None:
    lab.supervisor.replies.append(AdminReply(status=400, message="a: wrong\nb: wrong", code="invalid_settings"))
    assert await run("reload") == 1
    assert capsys.readouterr().err == "error: a: wrong\nerror: b: wrong\n"


async def test_explain_prints_who_is_asked_and_why_the_others_are_not(run, lab, capsys, tmp_path) -> None:
    lab.supervisor.set(
        ReplicaStatus(replica="echo@echo#0", state="ready", socket="x", info=EngineInfo(slots=4)),
        ReplicaStatus(replica="echo@echo#1", state="failed", reason="code 4"),
    )
    assert await run("explain", "gpt-4", "What is the time?") == 0
    first, _, chosen, failed = capsys.readouterr().out.splitlines()
    assert first == "gpt-4 is an alias; least_loaded ranks (by [routing])"
    assert chosen.split()[:3] == ["->", "1", "1"]
    assert chosen.split()[4] == "echo@echo#0"
    assert "it is failed: code 4" in failed

    body = tmp_path / "body.json"
    body.write_text('{"model": "overridden", "input": "x"}')
    assert await run("explain", "gpt-4", "--body", str(body), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["task"]) == ("gpt-4", "embeddings")
    body.write_text("[]")
    assert await run("explain", "gpt-4", "--body", str(body)) == 1
    assert "must be a JSON object" in capsys.readouterr().err


async def test_explain_says_that_nobody_can(run, lab, capsys) -> None:
    await lab.client.patch("backends/echo", json={"enabled": False})
    assert await run("explain", "gpt-4") == 0
    out = capsys.readouterr().out
    assert "the backend echo is disabled" in out
    assert "refused: The model 'gpt-4' is disabled." in out


async def test_events_are_lines_and_go_on_when_the_supervisor_was_away(run, lab, tmp_path, monkeypatch) -> None:
    """Nothing is missed, nothing is told twice, until Ctrl-C."""
    monkeypatch.setattr("core.cli.admin.events._RECONNECT_S", 0.01)
    event = AdminEvent(id=1, at_unix_s=1.0, kind="replica", subject="echo@echo#0", data={"after": "ready", "x": ""})
    lines: list[str] = []

    def stop(line: str, **_kwargs) -> None:
        lines.append(line)
        if len(lines) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", lambda *line, **kwargs: stop(*line, **kwargs) if line else None)
    task = asyncio.create_task(run("events"))
    async with asyncio.timeout(10):
        while not lab.supervisor.listeners:
            await asyncio.sleep(0.01)
        lab.supervisor.tell(event)
        while len(lines) < 1:
            await asyncio.sleep(0.01)
        socket, lab.gateway.management._socket = lab.gateway.management._socket, tmp_path / "none"
        lab.supervisor.listeners.pop().close()
        while len(lines) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        lab.gateway.management._socket = socket
        while not lab.supervisor.listeners:
            await asyncio.sleep(0.01)
        lab.supervisor.tell(AdminEvent(id=2, at_unix_s=1.0, kind="evicted", subject="echo@echo", data={}))
        assert await task == 130

    assert lines[0].endswith("replica  echo@echo#0  after=ready")
    assert "supervisor is away" in lines[1]
    assert lines[2].endswith("evicted  echo@echo")
    assert [one.after for one in lab.supervisor.commands] == [None, 1]


async def test_the_key_comes_from_the_command_line_the_environment_or_the_file(
    start, capsys, tmp_path, monkeypatch
) -> None:
    async with start(admin={"key": KEY}) as lab:
        command = ["deployments", "--url", url(lab)]

        async def code(*more: str) -> int:
            return await asyncio.to_thread(main, [*command, *more])

        assert await code() == 1
        told = capsys.readouterr().err
        assert "--key" in told
        assert "GATEWAY_ADMIN__KEY" in told
        assert len(told.splitlines()) == 1
        assert await code("--key", "wrong") == 1
        assert await code("--key", KEY) == 0
        (tmp_path / "other.toml").write_text(f'[admin]\nkey = "{KEY}"\n')
        assert await code("--config", "other.toml") == 0
        monkeypatch.setenv("GATEWAY_ADMIN__KEY", KEY)
        assert await code() == 0


async def test_a_refused_value_is_told_without_words_of_another_way(run, capsys) -> None:
    """Null is what the API takes, not the command line."""
    assert await run("weight", "echo@echo", "0") == 1
    assert capsys.readouterr().err == "error: 'weight' should be greater than 0: share among equals of a tier.\n"


async def test_a_broken_file_locks_nobody_out(run, tmp_path) -> None:
    """Least of all from the reload that says what is wrong with it."""
    (tmp_path / "gateway.toml").write_text("[limits\n")
    assert await run("reload") == 0


@pytest.mark.parametrize("command", [["deployments"], ["events"], ["load", "a@b"], ["explain", "m"], ["reload"]])
def test_without_a_gateway_it_is_one_line_with_the_remedy(command, capsys) -> None:
    assert main([*command, "--url", "http://127.0.0.1:1"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: http://127.0.0.1:1 cannot be talked to (")
    assert "is the gateway running?" in told
    assert len(told.splitlines()) == 1


def test_a_wrong_url_is_one_line(capsys) -> None:
    for wrong in ("nonsense", "http://[::1", "ftp://x"):
        assert main(["deployments", "--url", wrong]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    for command in ("deployments", "chat"):
        assert main([command, *["Hi"] * (command == "chat"), "--url", "127.0.0.1:8080"]) == 1
        told = capsys.readouterr().err
        assert told == "error: 127.0.0.1:8080 is no URL of a gateway; one looks like http://127.0.0.1:8080\n"


async def test_what_is_no_gateway_is_said_so(lab, capsys) -> None:
    """Here: another path of the same server."""
    assert await asyncio.to_thread(main, ["deployments", "--url", url(lab) + "/elsewhere"]) == 1
    assert "is that an AI gateway?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["alias", "x"],
        ["alias", "--remove"],
        ["alias", "x", "m", "--remove"],
        ["alias", "x", "--remove", "--reset"],
        ["priority", "a@b"],
        ["priority", "a@b", "high"],
        ["priority", "a@b", "1", "--reset"],
        ["deployments", "--reset", "x", "--all"],
        ["load"],
        ["reset"],
        ["reset", "x", "--all"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
