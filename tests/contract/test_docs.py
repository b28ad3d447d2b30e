"""The documentation is true: its examples run, and nothing that it must tell is missing."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from core.api import (
    BackendSpec,
    Candidate,
    ChatRequest,
    EngineContext,
    Finished,
    Load,
    Message,
    ModelSpec,
    PreparationError,
    ReplicaConfig,
    RequestRecord,
    RouteRequest,
    Usage,
    hooks,
)
from core.api.requests import Content
from core.api.specs import Capability
from core.registry import (
    DeploymentWeights,
    Registry,
    build_table,
    load_registry,
    make_launcher,
    make_observers,
    make_policies,
)
from core.registry.loader import PluginStatus
from core.routing.table import Declared, assemble
from core.settings import PluginsTable, Settings, WeightsTable

ROOT = Path(__file__).parents[2]
PLUGINS = (ROOT / "docs" / "plugins.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {
    match[1]: match[0]
    for match in re.finditer(r"^## `(gateway_\w+)\(.*?(?=^## |\Z)", PLUGINS, re.MULTILINE | re.DOTALL)
}


def blocks(text: str, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(text) if found == language]


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The plugin of one section, installed as pip would do it, and loaded."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    paths = []
    for code in blocks(SECTIONS[request.param], "python"):
        name = re.match(r"# (\S+\.py)\n", code)
        assert name, "an example begins with the name of its file"
        path = tmp_path / name[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
        paths.append(name[1])
    info = tmp_path / "example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    module = paths[0].removesuffix(".py").replace("/", ".")
    (info / "entry_points.txt").write_text(f"[gateway.plugins]\nexample = {module}\n")
    importlib.invalidate_caches()
    yield load_registry(PluginsTable(allow=("example", "echo", "llamacpp")))
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def settings_of(section: str) -> Settings:
    """What the section advises to write into gateway.toml."""
    (text,) = blocks(SECTIONS[section], "toml")
    return settings(text)


def settings(text: str) -> Settings:
    return Settings.model_validate(tomllib.loads(text))


# --- docs/plugins.md


@pytest.mark.parametrize("hook", hooks.HOOK_NAMES)
def test_every_hook_has_its_section(hook: str) -> None:
    """Under its exact signature."""
    function = getattr(hooks, hook)

    assert f"## `{hook}() -> {inspect.signature(function).return_annotation}`\n" in PLUGINS
    assert hook in SECTIONS


@pytest.mark.parametrize("status", get_args(PluginStatus))
def test_every_status_is_told(status: str) -> None:
    """In the table of statuses."""
    assert f"| `{status}` |" in PLUGINS


@pytest.mark.parametrize("example", hooks.HOOK_NAMES, indirect=True)
def test_the_example_of_a_hook_is_a_plugin(example: Registry, request: pytest.FixtureRequest) -> None:
    """It loads, and brings exactly what its section is about."""
    hook = request.node.callspec.params["example"]
    (record,) = [one for one in example.plugins if one.name == "example"]

    assert (record.status, record.reason) == ("loaded", "")
    assert {what.partition(" ")[0] for what in record.brought} == {
        hook.removeprefix("gateway_").replace("policies", "policy").removesuffix("s")
    }


@pytest.mark.parametrize("example", ["gateway_backends"], indirect=True)
async def test_the_example_of_a_backend_answers(example: Registry, tmp_path: Path) -> None:
    """With the settings of its section; every choice ends once, and usage comes last."""
    deployment = build_table(example, settings_of("gateway_backends")).deployments["loud@shout"]
    engine_type: Any = importlib.import_module("shout.engine").ShoutEngine
    engine = engine_type(
        EngineContext(model=deployment.spec, weights=None, settings=deployment.settings, scratch=tmp_path)
    )
    chat = ChatRequest(id="1", n=2, messages=(Message(role="user", content=(Content(text="say hello"),)),))

    assert (await engine.load()).slots == 8
    events = [event async for event in engine.stream(chat)]
    assert "".join(event.text for event in events[:2]) == "SAY HELLO "
    assert [event.choice for event in events if isinstance(event, Finished)] == [0, 1]
    assert events[-1] == Usage(prompt_tokens=2, completion_tokens=4)
    assert engine.load_now() == Load(running=0, steps=4)


@pytest.mark.parametrize("example", ["gateway_backends"], indirect=True)
def test_the_example_of_a_preparation(example: Registry, tmp_path: Path) -> None:
    """Named by the path that the page names, it makes what is found then, and refuses what it cannot make."""
    (path,) = re.findall(r'BackendSpec\(preparation="(\S+)"\)', SECTIONS["gateway_backends"])
    deployment = build_table(example, settings_of("gateway_backends")).deployments["loud@shout"]
    source, told = tmp_path / "words", []
    deployment = replace(
        deployment,
        spec=replace(deployment.spec, source=str(source)),
        backend=replace(deployment.backend, preparation=path),
    )
    weights = DeploymentWeights(deployment, WeightsTable(cache_dir=tmp_path / "cache"))
    source.write_text("say hello")

    assert "not yet prepared for shout" in weights.find().missing
    made = weights.get(preparing=lambda *progress: told.append(progress))
    assert made is not None
    assert made.read_text() == "SAY HELLO"
    assert weights.find().path == made
    assert told == [("raising the voice", None), ("raising the voice", 1.0)]
    source.write_bytes(b"\xff")
    with pytest.raises(PreparationError, match="holds no text"):
        weights.get()


@pytest.mark.parametrize("example", ["gateway_models"], indirect=True)
def test_the_example_of_a_model(example: Registry) -> None:
    """On a backend of another plugin, changed by the configuration of its section."""
    configured = settings_of("gateway_models")
    if "llamacpp" not in example.backends:
        pytest.skip("the llama.cpp backend is not installed")
    found = build_table(example, configured).deployments["mistral-7b-house@llamacpp"]

    assert (found.spec.priority, found.spec.aliases) == (5, ("gpt-4",))


@pytest.mark.parametrize("example", ["gateway_policies"], indirect=True)
def test_the_example_of_a_policy_ranks(example: Registry) -> None:
    """As its docstring says."""
    configured = settings_of("gateway_policies")
    policy = make_policies(example, configured)[""]
    waiting = Candidate(replica="w", deployment="m@b", model="m", backend="b", load=Load(running=1, waiting=1))
    busy = Candidate(replica="b", deployment="m@b", model="m", backend="b", load=Load(running=5))

    def rank(tokens: int) -> list[Candidate]:
        chat = ChatRequest(id="1", messages=())
        request = RouteRequest(name="m", task="chat", estimated_prompt_tokens=tokens, headers={}, request=chat)
        return list(policy.rank(request, [busy, waiting]))

    assert rank(1000) == [waiting, busy]
    assert rank(1001) == [busy]


@pytest.mark.parametrize("example", ["gateway_launchers"], indirect=True)
async def test_the_example_of_a_launcher_runs_a_replica(example: Registry, tmp_path: Path) -> None:
    """A real process, which listens, ends when it is told to, and tells how."""
    configured = settings_of("gateway_launchers")
    build_table(example, configured)
    scratch = tmp_path / "s"
    scratch.mkdir()
    config = ReplicaConfig(
        replica="echo@echo#0",
        model=ModelSpec(name="echo", backend="echo"),
        engine="echo_backend.engine:EchoEngine",
        settings_class="echo_backend.plugin:EchoSettings",
        settings={},
        weights=None,
        socket=str(scratch / "r"),
        scratch=str(scratch),
        fingerprint="",
    )
    process = await make_launcher(example, configured).launch(config, python=None)
    try:
        async with asyncio.timeout(20):
            while not Path(config.socket).exists():
                await asyncio.sleep(0.02)
            process.terminate()
            assert (await process.wait()).code == 0
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("example", ["gateway_launchers"], indirect=True)
async def test_the_example_of_a_launcher_tells_a_death(example: Registry, tmp_path: Path) -> None:
    """By signal, with the last words; here of a process that was given no valid engine."""
    launcher = make_launcher(example, settings_of("gateway_launchers"))
    config = ReplicaConfig(
        replica="echo@echo#0",
        model=ModelSpec(name="echo", backend="echo"),
        engine="not_there:Engine",
        settings_class="not_there:Settings",
        settings={},
        weights=None,
        socket=str(tmp_path / "r"),
        scratch=str(tmp_path),
        fingerprint="",
    )
    broken = await launcher.launch(config, python=None)
    killed = await launcher.launch(config, python=None)
    killed.kill()

    async with asyncio.timeout(20):
        assert (await killed.wait()).signal == signal.SIGKILL.name
        end = await broken.wait()
    assert end.code
    assert "not_there" in end.stderr_tail


@pytest.mark.parametrize("example", ["gateway_observers"], indirect=True)
def test_the_example_of_an_observer_counts(example: Registry) -> None:
    """It is made for the process, beside the log."""
    bill: Any = make_observers(example)[-1]
    for tokens in (3, 4):
        bill.request_finished(
            RequestRecord(id="1", name="m", task="chat", replica=None, outcome="stop", completion_tokens=tokens)
        )

    assert bill.tokens == {"m": 7}


# --- all pages


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_piece_of_configuration_is_valid(page: Path) -> None:
    """What a reader copies into gateway.toml is right."""
    for text in blocks(page.read_text(), "toml"):
        if "[project" not in text:
            settings(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files that a page names are there."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readmes_policy_is_a_plugin() -> None:
    """The first plugin that a newcomer reads."""
    (code,) = [block for block in blocks((ROOT / "README.md").read_text(), "python") if "hookimpl" in block]
    scope: dict[str, Any] = {"__name__": "my_package.plugin"}
    exec(code, scope)  # noqa: S102 - our own README
    (spec,) = scope["gateway_policies"]()
    few = Candidate(replica="few", deployment="m@b", model="m", backend="b", load=Load(waiting=1))
    many = Candidate(replica="many", deployment="m@b", model="m", backend="b", load=Load(waiting=2))

    assert spec.policy(spec.settings()).rank(None, [many, few]) == [few, many]


# --- docs/routing.md


def test_the_example_of_tiers() -> None:
    """Both tables of docs/routing.md: what is declared, and what follows."""
    text = (ROOT / "docs" / "routing.md").read_text()
    declared = re.findall(r"^\| `(\S+)@(\S+)` \| (\d+) \| (?:`(\S+)`)? ?\|$", text, re.MULTILINE)
    expected = re.findall(r"^\| (.+) \| (`\S+@\S+`.*) \|$", text, re.MULTILINE)
    specs = [
        ModelSpec(name=name, backend=backend, priority=int(priority), aliases=(alias,) if alias else ())
        for name, backend, priority, alias in declared
    ]
    backends = load_registry(PluginsTable(allow=("echo",))).backends
    table = assemble(
        backends=dict.fromkeys(("torch", "llamacpp"), backends["echo"]),
        models=[Declared(spec=spec, plugin="p", distribution="d", version="1") for spec in specs],
        settings=settings("[aliases]\n" + "\n".join(name.strip("`") for name, _ in expected if "=" in name)),
    )

    assert (len(declared), len(expected)) == (4, 3)
    for name, tiers in expected:
        resolved = table.resolve(re.findall(r"[\w-]+", name)[0] if "=" in name else name.strip("`"))
        told = ", then ".join(" ".join(f"`{one.id}`" for one in tier) for tier in resolved.tiers)
        assert told == tiers


def declared_by_backends() -> dict[str, BackendSpec]:
    """What the plugins of this repository declare; their declarations import no runtime."""
    found = {}
    for folder in sorted((ROOT / "plugins").glob("*_backend")):
        sys.path.insert(0, str(folder))
        try:
            plugin = importlib.import_module(f"{folder.name}.plugin")
        finally:
            sys.path.remove(str(folder))
        found |= {spec.name: spec for spec in plugin.gateway_backends()}
    return found


def test_the_table_of_capabilities_is_true() -> None:
    """docs/backends.md has a row for each capability and a column for each backend, and says what the code says."""
    text, _, _ = (ROOT / "docs" / "backends.md").read_text().partition("\n## ")
    table = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    head = table[0]
    rows = {row[0].strip("`"): row[2:] for row in table[2:] if row[0].startswith("`")}

    declared = declared_by_backends()

    assert head[2:] == sorted(declared)
    assert sorted(rows) == sorted(get_args(Capability))
    for number, backend in enumerate(head[2:]):
        assert {name for name, cells in rows.items() if cells[number] == "yes"} == declared[backend].capabilities
        assert {cells[number] for cells in rows.values()} <= {"yes", "no"}


def test_every_setting_of_a_backend_is_documented() -> None:
    """Its page has a row for each key of its table, and no other."""
    for name, spec in declared_by_backends().items():
        text = (ROOT / "docs" / "backends" / f"{name}.md").read_text()
        _, _, section = text.partition(f"`[backends.{name}]`")
        keys = re.findall(r"^\| `(\w+)` \|", section.partition("\n**")[0], re.MULTILINE)
        assert sorted(keys) == sorted(spec.settings.model_fields)
