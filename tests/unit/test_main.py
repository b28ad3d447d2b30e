"""The command line on a plugin of this test's own, found as any installed plugin is."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from core.__main__ import main

PLUGIN = """
from core.api import BackendSettings, BackendSpec, ModelSpec, hookimpl

class DemoSettings(BackendSettings):
    slots: int = 4

@hookimpl
def gateway_backends():
    return (BackendSpec(name="demo", engine="cli_demo.engine:Engine", settings=DemoSettings),)

@hookimpl
def gateway_models():
    return (
        ModelSpec(name="small", backend="demo", source="{folder}/small.gguf", aliases=("gpt",), memory_bytes=10**9),
        ModelSpec(name="large", backend="demo", source="{folder}/large.gguf", enabled=False, context_tokens=8192),
        ModelSpec(name="plain", backend="demo", priority=1),
    )
"""
TABLE = '[plugins]\nallow = ["cli_demo"]\n[weights]\ncache_dir = "{folder}/cache"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An installed plugin and, where the tests stand, a configuration that allows no other."""
    site = tmp_path / "site"
    info = site / "cli_demo-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cli-demo\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[gateway.plugins]\ncli_demo = cli_demo_plugin\n")
    (site / "cli_demo_plugin.py").write_text(PLUGIN.format(folder=tmp_path))
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "cli_demo_plugin", raising=False)
    configure(tmp_path)
    yield tmp_path
    sys.modules.pop("cli_demo_plugin", None)


def configure(folder, more=""):
    (folder / "gateway.toml").write_text(TABLE.format(folder=folder) + more)


def test_plugins_are_listed_with_what_they_brought(folder, capsys):
    assert main(["plugins", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "cli_demo")
    assert (row["distribution"], row["version"], row["status"], row["reason"]) == ("cli-demo", "1.2", "loaded", "")
    assert any("demo" in thing for thing in row["brought"])

    assert main(["plugins"]) == 0
    assert "cli-demo" in capsys.readouterr().out


def test_a_plugin_that_fails_is_listed_with_its_reason(folder, capsys):
    """A broken plugin is no reason to fail: the listing is how it is found."""
    (folder / "site" / "cli_demo_plugin.py").write_text("import not_there_at_all")
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "failed" in out
    assert "not_there_at_all" in out


def test_models_tell_where_the_weights_are_or_how_to_get_them(folder, capsys):
    (folder / "small.gguf").write_bytes(b"w")
    assert main(["models", "--json"]) == 0
    rows = {row["deployment"]: row for row in json.loads(capsys.readouterr().out)}

    assert rows["small@demo"]["weights"] == str(folder / "small.gguf")
    assert rows["small@demo"]["pull"] is None
    assert rows["large@demo"]["weights"] is None
    assert rows["large@demo"]["pull"] is None
    absent = (
        f"weights are not on disk; there is nothing at {folder / 'large.gguf'}; put the weights there or correct the "
        f"source"
    )
    assert [rows[name]["missing"] for name in ("small@demo", "large@demo", "plain@demo")] == [None, absent, None]
    assert (rows["large@demo"]["enabled"], rows["large@demo"]["context_tokens"]) == (False, 8192)
    assert (rows["plain@demo"]["source"], rows["plain@demo"]["pull"]) == (None, None)

    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert len({line.index("demo") for line in lines[1:]}) <= 3
    (large,) = (line for line in lines if line.startswith("large@demo"))
    assert "nothing at its path" in large


def test_models_tell_what_fetches_them(folder, capsys):
    """A disabled one by its full name: its model's name would pull the others."""
    configure(folder, '[deployments."large@demo"]\nsource = "hf:o/large"\n')
    assert main(["models", "--json"]) == 0
    rows = {row["deployment"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["large@demo"]["pull"] == "python -m core pull large@demo"
    assert rows["large@demo"]["missing"] == "weights are not on disk; fetch them with: python -m core pull large@demo"

    assert main(["models"]) == 0
    assert "python -m core pull large@demo" in capsys.readouterr().out


def test_aliases_tell_who_declared_them(folder, capsys):
    configure(folder, '[aliases]\nfast = ["plain", "small"]\nsmall = "plain"\n[routes."fast"]\npolicy = "weighted"\n')
    assert main(["aliases", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in told["aliases"]}

    assert rows["gpt"]["targets"] == ["small"]
    assert "cli-demo 1.2" in rows["gpt"]["declared_by"][0]
    assert (rows["fast"]["targets"], rows["fast"]["explicit"]) == (["plain", "small"], True)
    assert (rows["fast"]["policy"], rows["gpt"]["policy"]) == ("weighted", "least_loaded")
    assert any("'small'" in warning for warning in told["warnings"])

    assert main(["aliases"]) == 0
    assert "fast   plain, small  weighted      configuration" in capsys.readouterr().out


def test_pull_takes_models_aliases_and_deployments(folder, capsys):
    """Each name is resolved, each deployment pulled once, and the paths go to stdout."""
    (folder / "small.gguf").write_bytes(b"w")
    (folder / "large.gguf").write_bytes(b"w")
    assert main(["pull", "gpt", "small", "large@demo", "plain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"small@demo: {folder / 'small.gguf'}",
        f"large@demo: {folder / 'large.gguf'}",
        "plain@demo: needs no weights",
    ]


def test_pull_goes_on_after_a_failure_and_then_fails(folder, capsys):
    (folder / "large.gguf").write_bytes(b"w")
    assert main(["pull", "small", "large@demo"]) == 1
    captured = capsys.readouterr()
    assert "error: small@demo: there is nothing at" in captured.err
    assert "large@demo" in captured.out


@pytest.mark.parametrize(
    ("name", "words"), [("smal", "did you mean 'small'"), ("large", "name the one to pull: large@demo")]
)
def test_pull_of_a_wrong_name_says_what_to_write(folder, capsys, name, words):
    assert main(["pull", name]) == 1
    assert words in capsys.readouterr().err


def test_pull_reports_progress_in_lines_without_a_terminal(folder, capsys, monkeypatch):
    """A log is no place for a bar."""

    def fetch(source, weights, *, progress):
        for done in (0, 40_000_000, 98_000_000):
            progress(done, 98_000_000)
        return folder / "small.gguf"

    monkeypatch.setattr("core.registry.weights.pull", fetch)
    monkeypatch.setattr("core.cli.meters._LINE_INTERVAL_S", 0)
    assert main(["pull", "small"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"small@demo: fetching {folder}/small.gguf",
        "small@demo: 40 of 98 MB",
        "small@demo: 98 of 98 MB",
    ]


def test_pull_draws_a_bar_on_a_terminal(folder, capsys, monkeypatch):
    def fetch(source, weights, *, progress):
        progress(0, None)
        progress(98_000_000, 98_000_000)
        return folder / "small.gguf"

    monkeypatch.setattr("core.registry.weights.pull", fetch)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["pull", "small"]) == 0
    assert "small@demo: 100%" in capsys.readouterr().err


def test_check_passes_and_warns(folder, capsys):
    """Absent weights of an enabled deployment are told, those of a disabled one are not."""
    assert main(["check"]) == 0
    captured = capsys.readouterr()
    assert "In order: 3 deployment(s), 1 alias(es)." in captured.out
    assert f"warning: small@demo: weights are not on disk; there is nothing at {folder / 'small.gguf'};" in captured.err
    assert "large@demo" not in captured.err


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[limits]\ntimeout = 1\n", "there is no such key"),
        ("[backends.demo]\nslot = 1\n", "there is no such key"),
        ("[backends.other]\nx = 1\n", "install the package that brings it"),
        ('[routing]\npolicy = "lest_loaded"\n', "lest_loaded"),
        ('[supervisor]\nlauncher = "nowhere"\n', "nowhere"),
        ('[aliases]\na = "smal"\n', "did you mean 'small'"),
        ('[deployments."small@demo"]\nsource = "small"\n', "it must begin with hf:"),
        ("[limits\n", "is not valid TOML"),
    ],
)
def test_check_finds_each_kind_of_mistake(folder, capsys, table, words):
    """Exit 1, a line that begins with error:, no traceback."""
    configure(folder, table)
    assert main(["check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error: ") and words in line for line in lines)


def test_check_warns_of_a_plugin_that_is_not_there(folder, capsys):
    """A typing mistake in plugins.allow loads nothing, which nothing else would tell."""
    (folder / "gateway.toml").write_text('[plugins]\nallow = ["cli_dmeo"]\n')
    assert main(["check"]) == 0
    told = capsys.readouterr().err
    assert "warning: plugins.allow: no plugin 'cli_dmeo' is installed; did you mean 'cli_demo'?" in told
    assert "warning: no deployment is enabled" in told


def test_check_warns_of_weights_to_be_fetched(folder, capsys):
    configure(folder, '[deployments."small@demo"]\nsource = "hf:o/small"\n')
    assert main(["check"]) == 0
    assert (
        "small@demo: weights are not on disk; fetch them with: python -m core pull small@demo"
        in capsys.readouterr().err
    )


def test_check_tells_of_every_mistake_not_only_the_first(folder, capsys):
    configure(folder, '[aliases]\na = "x"\nb = "y"\n[backends.demo]\nslot = 1\n')
    assert main(["check"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3


def test_check_tells_of_another_core_package(folder, capsys, monkeypatch):
    """Its files and ours would lie in one folder."""
    monkeypatch.setattr(
        "core.cli.check.metadata.packages_distributions", lambda: {"core": ["ai-gateway", "some-project"]}
    )
    assert main(["check"]) == 0
    assert "some-project installs a package `core` too" in capsys.readouterr().err


def test_check_tells_of_a_broken_plugin_and_passes(folder, capsys):
    (folder / "site" / "cli_demo_plugin.py").write_text("import not_there_at_all")
    assert main(["check"]) == 0
    assert "warning: plugin cli_demo of cli-demo 1.2: failed:" in capsys.readouterr().err


def test_a_configuration_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["check", "--config", str(tmp_path / "none.toml")]) == 1
    assert capsys.readouterr().err == f"error: The configuration file {tmp_path / 'none.toml'} does not exist.\n"


@pytest.mark.parametrize("arguments", [[], ["dance"], ["pull"], ["models", "--jsn"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m core" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["weight", "a@b", "nan"], "nan"),
        (["weight", "a@b", "inf"], "inf"),
        (["load", "a@b", "--wait", "nan"], "nan"),
        (["alias", "x", "\udced\udca0"], "UTF-8"),
        (["chat", "\udcff"], "UTF-8"),
    ],
)
def test_what_no_gateway_could_be_sent_is_wrong_usage(arguments, words, capsys):
    """Numbers that JSON does not have, and bytes of the shell that are no text."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_the_module_runs():
    """``python -m core`` is wired to `main`."""
    done = subprocess.run([sys.executable, "-m", "core", "--help"], capture_output=True, text=True, check=True)
    assert "plugins" in done.stdout


# --- chat


class Gateway(HTTPServer):
    """Answers every chat with ``events`` and remembers the bodies."""

    def __init__(self):
        self.bodies = []
        self.status = 200
        self.answer = b""
        super().__init__(("127.0.0.1", 0), Handler)

    def say(self, *events):
        self.answer = "".join(f": comment\n\ndata: {event}\n\n" for event in events).encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(json.dumps({"data": [{"id": "asleep", "active": False}, {"id": "awake", "active": True}]}).encode())

    def do_POST(self):
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.reply(self.server.answer, self.server.status)

    def reply(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def delta(text):
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.fixture
def gateway():
    server = Gateway()
    server.say(delta("Hello"), delta(" there"), json.dumps({"choices": []}), "[DONE]")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def chat(gateway, *arguments):
    return main(["chat", "--url", f"http://127.0.0.1:{gateway.server_address[1]}", *arguments])


def test_chat_says_one_message_to_the_first_active_model(gateway, capsys):
    assert chat(gateway, "Hi") == 0
    assert capsys.readouterr().out == "Hello there\n"
    assert gateway.bodies == [{"model": "awake", "messages": [{"role": "user", "content": "Hi"}], "stream": True}]


def test_chat_takes_the_base_url_of_the_openai_client(gateway, capsys):
    """With ``/v1``, as the README teaches it."""
    assert main(["chat", "--url", f"http://127.0.0.1:{gateway.server_address[1]}/v1/", "Hi"]) == 0
    assert capsys.readouterr().out == "Hello there\n"


def test_chat_reads_a_pipe(gateway, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("sys.stdin.read", lambda: "piped\n", raising=False)
    assert chat(gateway, "--model", "small") == 0
    assert gateway.bodies[0]["messages"] == [{"role": "user", "content": "piped"}]
    assert gateway.bodies[0]["model"] == "small"


def test_chat_remembers_the_conversation(gateway, capsys, monkeypatch):
    """Each question goes with all that was said before."""
    questions = iter(["one", "", "two"])

    def ask(_prompt):
        try:
            return next(questions)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert chat(gateway) == 0
    assert [message["content"] for message in gateway.bodies[1]["messages"]] == ["one", "Hello there", "two"]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([delta("Hel")], "cut short"),
        ([delta("Hel"), '{"error": {"message": "The replica died."}}'], "The replica died."),
    ],
)
def test_chat_tells_of_a_broken_stream(gateway, capsys, events, words):
    """Half an answer is not passed off as a whole one."""
    gateway.say(*events)
    assert chat(gateway, "Hi") == 1
    captured = capsys.readouterr()
    assert captured.out == "Hel\n"
    assert words in captured.err


def test_chat_passes_on_the_gateways_refusal(gateway, capsys):
    gateway.status, gateway.answer = 404, b'{"error": {"message": "The model does not exist."}}'
    assert chat(gateway, "--model", "x", "Hi") == 1
    assert capsys.readouterr().err == "error: The model does not exist.\n"


def test_chat_takes_the_gateway_of_the_environment(gateway, capsys, monkeypatch):
    monkeypatch.setenv("AI_GATEWAY_URL", f"http://127.0.0.1:{gateway.server_address[1]}")
    assert main(["chat", "Hi"]) == 0


def test_chat_without_a_gateway_asks_whether_it_runs(capsys):
    assert main(["chat", "--url", "http://127.0.0.1:1", "Hi"]) == 1
    assert "is the gateway running?" in capsys.readouterr().err
