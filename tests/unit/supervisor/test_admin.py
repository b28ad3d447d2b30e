"""Commands: done whole or refused whole, one at a time, and whatever goes wrong is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
from dataclasses import replace

import pytest
from echo_backend.plugin import gateway_backends

from core.api import ModelSpec, PolicySpec
from core.registry import load_registry
from core.routing.table import Declared
from core.settings import PluginsTable, Settings
from core.supervisor.admin import Administration
from core.supervisor.events import Events
from core.supervisor.replica import Replica
from core.supervisor.replica_events import LoadOrdered
from core.supervisor.store import OverrideStore
from core.wire.control import Change, Operate, Overrides, Reload


def declared(spec):
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


class Broken:
    def __init__(self, _settings) -> None:
        raise RuntimeError("no such device")


BUILTIN = load_registry(PluginsTable(allow=()))
REGISTRY = replace(
    BUILTIN,
    policies={**BUILTIN.policies, "broken": declared(PolicySpec(name="broken", policy=Broken))},
    backends={"echo": declared(gateway_backends()[0])},
    models=(declared(ModelSpec(name="a", backend="echo")),),
)


AS_IT_IS = {"enabled": True, "priority": 10, "weight": 1.0, "replicas": 1, "pinned": False} | {
    "max_waiting": 128,
    "max_waiting_prompt_tokens": 262_144,
}


class House:
    """Carries out what it is told, and remembers it."""

    def __init__(self, folder, *, settings=None, database=None, configured=None) -> None:
        self.database = database or folder / "overrides.sqlite3"
        self.store = OverrideStore(self.database)
        self.events = Events(100)
        self.read = settings
        self.handed_over: list[Settings] = []
        self.admin = Administration(
            REGISTRY,
            self.store,
            self.events,
            read_settings=None if settings is None else lambda: self.read,
            configuration_replaced=self.hand_over,
        )
        self.generation = self.admin.first_generation(configured or Settings())
        self.stopping = False
        self.orders: list[tuple[str, object]] = []
        self.may_take_over = asyncio.Event()
        self.may_take_over.set()
        self.cannot: list[str] = []

    def hand_over(self, settings) -> None:
        self.handed_over.append(settings)

    async def take_over(self, generation) -> list[str]:
        await self.may_take_over.wait()
        self.generation = generation
        return self.cannot

    def replicas(self, deployment):
        return [Replica(name=f"{deployment}#0", state="stopped")]

    def order(self, deployment, order) -> None:
        self.orders.append((deployment, order))

    async def __call__(self, command):
        return await self.admin.execute(command, self)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def priority(number) -> Change:
    return Change(deployments={"a@echo": {"priority": number}})


async def test_a_change_is_kept_told_and_in_effect(house):
    before = house.events.newest
    reply = await house(priority(7))
    assert (reply.status, json.loads(reply.body)) == (200, {"deployments": {"a@echo": {"priority": 7}}})
    assert house.generation.number == 2
    assert house.generation.table.deployments["a@echo"].spec.priority == 7
    assert OverrideStore(house.database).load() == house.generation.overrides
    assert [(one.kind, one.data) for one in house.events.after(before)] == [("overrides", json.loads(reply.body))]


async def test_the_log_tells_what_a_change_changes_and_not_all_that_was_changed_before(house, caplog):
    caplog.set_level(logging.INFO)
    await house(Change(deployments={"a@echo": {"priority": 7, "weight": 2.0}}, backends={"echo": False}))
    caplog.clear()
    await house(Change(deployments={"a@echo": {"weight": None}}, aliases={"x": ("a",)}))
    told = 'changed at run time: {"deployments":{"a@echo":{"priority":7}},"aliases":{"x":["a"]}}'
    assert caplog.messages == [f"generation 3: {told}"]
    caplog.clear()
    await house(Change(reset=("a@echo", "@echo")))
    assert caplog.messages == [
        'generation 4: changed at run time: {"deployments":{"a@echo":null},"backends":{"echo":null}}'
    ]


async def test_a_change_that_changes_nothing_makes_no_generation(house):
    await house(priority(7))
    generation, newest = house.generation, house.events.newest
    reply = await house(priority(7))
    assert (reply.status, json.loads(reply.body)) == (200, {"deployments": {"a@echo": {"priority": 7}}})
    assert (house.generation is generation, house.events.newest) == (True, newest)


async def test_a_change_that_cannot_be_kept_is_not_made(tmp_path):
    house = House(tmp_path, database=tmp_path / "no" / "folder" / "x.sqlite3")
    before = house.generation
    reply = await house(priority(7))
    assert (reply.status, reply.code) == (409, "not_kept")
    assert reply.message.startswith("Nothing was changed: ")
    assert (house.generation is before, house.events.after(0)) == (True, [])


@pytest.mark.parametrize(
    "commands",
    [
        [Change(deployments={"a@echo": {"enabled": value}}) for value in (False, True)],
        [Change(deployments={"a@echo": {key: value}}) for key, value in (("weight", 2.0), ("weight", 1))],
        [Change(deployments={"a@echo": {"replicas": 2, "max_waiting": 7}}), Change(deployments={"a@echo": AS_IT_IS})],
        [Change(backends={"echo": value}) for value in (False, True)],
        [Change(aliases={"file": value}) for value in ((), ("a@echo",))],
        [Change(aliases={"route": value}) for value in (("a@echo",), ("a",))],
    ],
)
async def test_what_is_set_to_what_is_configured_is_no_override(tmp_path, commands):
    """So that none is left to hide a later configuration."""
    configured = Settings(aliases={"file": "a@echo"}, routes={"route": {"models": "a"}})
    house = House(tmp_path, settings=configured)
    assert (await house(Reload())).status == 200
    first, last = commands
    await house(first)
    assert house.generation.overrides != Overrides()
    await house(last)
    assert house.generation.overrides == OverrideStore(house.database).load() == Overrides()


async def test_what_is_declared_counts_as_configured_and_what_is_configured_counts_more(tmp_path):
    house = House(tmp_path, settings=Settings(deployments={"a@echo": {"priority": 7}}))
    await house(Reload())
    await house(priority(1))
    assert house.generation.table.deployments["a@echo"].spec.priority == 1
    await house(priority(7))
    assert house.generation.overrides == Overrides()


async def test_a_reload_tells_which_overrides_hide_what_it_changes_and_what_check_warns_of(tmp_path):
    house = House(tmp_path, settings=Settings())
    await house(
        Change(
            deployments={"a@echo": {"priority": 7, "weight": 2.0}}, backends={"echo": False}, aliases={"x": ("a@echo",)}
        )
    )
    house.read = Settings(
        deployments={"a@echo": {"priority": 3}, "new@echo": {"source": "/nowhere/at/all"}},
        backends={"echo": {"enabled": False}},
        aliases={"x": "a"},
    )
    told = json.loads((await house(Reload())).body)
    remedy = "at run time, which still holds; take that back with: python -m core reset"
    assert told["overridden"] == [
        f'deployments."a@echo".priority: it was set to 7 {remedy} a@echo',
        f"backends.echo.enabled: it was set to false {remedy} @echo",
        f'aliases.x: it was set to ["a@echo"] {remedy} x',
    ]
    assert any("no deployment is enabled" in warning for warning in told["warnings"])
    await house(Change(reset=("*",)))
    house.read = Settings(deployments={"new@echo": {"source": "/nowhere/at/all"}})
    told = json.loads((await house(Reload())).body)
    assert told["overridden"] == []
    assert [warning.partition(":")[0] for warning in told["warnings"]] == ["new@echo"]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (Change(deployments={"a@echo": {"enabled": False}}), "python -m core enable a@echo."),
        (Change(backends={"echo": False}), "python -m core enable --backend echo."),
        (
            Change(deployments={"a@echo": {"enabled": False}}, backends={"echo": False}),
            "python -m core enable --backend echo && python -m core enable a@echo.",
        ),
    ],
)
async def test_who_loads_what_is_disabled_is_told_how_to_enable_it(house, change, remedy):
    await house(change)
    reply = await house(Operate(deployment="a@echo", action="load"))
    assert (reply.status, reply.code) == (409, "disabled")
    assert reply.message.endswith(f"Enable it first: {remedy}")


def locked(database) -> sqlite3.Connection:
    """Somebody else's connection, which lets nobody read until it is closed."""
    OverrideStore(database).save(Overrides(aliases={"x": ("a",)}))
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other


@pytest.mark.parametrize("command", [Change(reset=("*",)), Change(backends={"echo": None})])
async def test_nothing_is_taken_back_of_what_cannot_be_read(tmp_path, monkeypatch, command):
    monkeypatch.setattr("core.supervisor.store._LOCKED_S", 0.01)
    other = locked(tmp_path / "overrides.sqlite3")
    house = House(tmp_path)
    reply = await house(command)
    assert (reply.status, reply.code) == (409, "not_kept")
    assert "cannot be read" in reply.message
    other.close()
    assert OverrideStore(house.database).load().aliases == {"x": ("a",)}


@pytest.mark.parametrize("command", [Reload(), priority(7)])
async def test_what_could_not_be_read_at_the_start_is_read_with_the_next_command(tmp_path, monkeypatch, command):
    monkeypatch.setattr("core.supervisor.store._LOCKED_S", 0.01)
    other = locked(tmp_path / "overrides.sqlite3")
    house = House(tmp_path, settings=Settings())
    assert "x" not in house.generation.table.aliases
    other.close()
    assert (await house(command)).status == 200
    assert house.generation.table.aliases["x"].targets
    assert OverrideStore(house.database).load() == house.generation.overrides


async def test_a_gateway_whose_file_is_anothers_takes_no_changes_until_that_is_gone(tmp_path):
    """And then it goes on from what the other has left."""
    first, second = House(tmp_path), House(tmp_path)
    assert (await first(priority(7))).status == 200
    for command in (Change(deployments={"a@echo": {"weight": 2.0}}), Change(reset=("*",))):
        reply = await second(command)
        assert (reply.status, reply.code) == (409, "not_kept")
        assert "another gateway keeps its changes" in reply.message
    first.admin.close()
    reply = await second(Change(deployments={"a@echo": {"weight": 2.0}}))
    assert json.loads(reply.body) == {"deployments": {"a@echo": {"priority": 7, "weight": 2.0}}}
    assert second.generation.table.deployments["a@echo"].spec.priority == 7


async def test_changes_are_made_one_after_another(house):
    """The second is checked against what the first has made."""
    house.may_take_over.clear()
    first = asyncio.create_task(house(priority(7)))
    second = asyncio.create_task(house(Change(deployments={"a@echo": {"weight": 2.0}})))
    await asyncio.sleep(0.1)
    assert not first.done()
    house.may_take_over.set()
    await first
    reply = await second
    assert json.loads(reply.body) == {"deployments": {"a@echo": {"priority": 7, "weight": 2.0}}}
    assert house.generation.number == 3


async def test_a_change_that_makes_no_table_is_refused_with_all_mistakes(house):
    reply = await house(Change(aliases={"x": ("nobody",), "y": ("noone",), "z": ("a",)}))
    assert (reply.status, reply.code) == (400, "invalid_value")
    assert len(reply.message.splitlines()) == 2
    assert house.generation.number == 1
    assert not house.database.exists()


async def test_what_was_left_out_is_kept_with_later_changes(tmp_path):
    OverrideStore(tmp_path / "overrides.sqlite3").save(Overrides(aliases={"old": ("gone",)}))
    house = House(tmp_path)
    assert house.generation.overrides == Overrides()
    await house(priority(7))
    assert OverrideStore(house.database).load().aliases == {"old": ("gone",)}
    reply = await house(Change(aliases={"old": None}))
    assert reply.status == 200
    assert OverrideStore(house.database).load().aliases == {}


async def with_what_is_left_out(folder):
    """A house whose alias x is left out, since the deployment that it stands for is not configured any more."""
    house = House(folder, settings=NEW)
    await house(Reload())
    assert (await house(Change(aliases={"x": ("new",)}))).status == 200
    house.read = Settings()
    await house(Reload())
    assert house.generation.overrides == Overrides()
    return house


NEW = Settings(deployments={"new@echo": {"source": "/nowhere/at/all"}})
X = Overrides(aliases={"x": ("new",)})


async def test_what_was_left_out_and_still_makes_no_sense_is_refused_like_anything_new(tmp_path):
    house = await with_what_is_left_out(tmp_path)
    reply, other = await house(Change(aliases={"x": ("new",)})), await house(Change(aliases={"y": ("new",)}))
    assert (reply.status, reply.code) == (400, "invalid_value")
    assert reply.message.partition(";")[0] == other.message.partition(";")[0].replace('"y"', '"x"')
    assert OverrideStore(house.database).load() == X


@pytest.mark.parametrize("command", [Change(aliases={"new": ("a",)}), Reload()])
async def test_what_was_left_out_is_in_effect_again_when_it_makes_sense_again(tmp_path, command, caplog):
    """Whatever brings that about, and not only after a restart."""
    caplog.set_level(logging.INFO)
    house = await with_what_is_left_out(tmp_path)
    house.read = NEW
    caplog.clear()
    reply = await house(command)
    assert house.generation.overrides.aliases == {**X.aliases, **getattr(command, "aliases", {})}
    sentence = "what was changed at run time of alias x makes sense again and is in effect"
    assert sentence in caplog.text
    assert (sentence in json.loads(reply.body).get("warnings", [])) == isinstance(command, Reload)


@pytest.mark.parametrize("targets", [None, ()])
async def test_an_alias_that_is_left_out_is_taken_back_by_its_name_and_only_once(tmp_path, targets):
    house = await with_what_is_left_out(tmp_path)
    command = Change(aliases={"x": targets})
    assert (await house(command)).status == 200
    assert OverrideStore(house.database).load() == Overrides()
    reply = await house(command)
    assert (reply.status, reply.code) == (404, "not_found")
    assert reply.message.startswith("there is no alias 'x'; ")


async def test_what_is_left_out_is_said_once_and_by_each_reload(tmp_path, caplog):
    house = await with_what_is_left_out(tmp_path)
    await house(priority(7))
    assert caplog.text.count("alias x makes no sense any more") == 1
    (warning,) = json.loads((await house(Reload(dry_run=True))).body)["warnings"]
    assert "alias x makes no sense any more" in warning
    assert "python -m core reset x (" in warning


async def test_a_change_that_brings_back_what_contradicts_another_is_refused(tmp_path):
    house = House(tmp_path, settings=NEW, configured=NEW)
    await house(Change(aliases={"b": ("new",)}))
    house.read = Settings()
    await house(Reload())
    await house(Change(aliases={"z": ("a",)}))
    reply = await house(Change(aliases={"new": ("z",), "z": ("b",)}))
    assert (reply.status, reply.code) == (400, "invalid_value")
    assert "b" in reply.message
    assert house.generation.overrides.aliases == {"z": ("a",)}


async def test_a_restart_changes_nothing_of_what_is_in_effect(tmp_path):
    """What is in effect follows from the configuration and from what is kept, not from how it came about."""
    chosen = random.Random(7)  # noqa: S311 - no secret
    names = ["m", "b", "x", "z"]

    def some_settings() -> Settings:
        deployments = {f"{name}@echo": {"source": "/nowhere"} for name in ("m", "n") if chosen.random() < 0.6}
        return Settings(deployments=deployments, aliases={name: "a" for name in ("b", "z") if chosen.random() < 0.5})

    house = House(tmp_path, settings=some_settings())
    left_out = 0
    for _ in range(120):
        if chosen.random() < 0.25:
            house.read = some_settings()
            command = Reload()
        else:
            command = Change(
                aliases={chosen.choice(names): chosen.choice([None, (), ("a",), ("n",), (chosen.choice(names),)])}
            )
        before = house.generation
        if (await house(command)).status != 200:
            assert house.generation is before
        house.admin.close()
        restarted = House(tmp_path, configured=house.generation.configured)
        assert restarted.generation.overrides == house.generation.overrides
        left_out += restarted.generation.overrides != OverrideStore(house.database).load()
        restarted.admin.close()
    assert left_out > 5


async def test_nothing_is_done_while_the_gateway_stops(house):
    house.stopping = True
    for command in (priority(7), Operate(deployment="a@echo", action="load"), Reload()):
        reply = await house(command)
        assert (reply.status, reply.code) == (409, "shutting_down")
    assert house.orders == []


async def test_an_operation_is_ordered(house):
    reply = await house(Operate(deployment="a@echo", action="load"))
    assert (reply.status, house.orders) == (200, [("a@echo", LoadOrdered())])


async def test_a_gateway_that_was_given_its_settings_has_none_to_read(house):
    reply = await house(Reload())
    assert (reply.status, reply.code) == (409, "no_configuration")
    assert "create_app(settings=...)" in reply.message


async def test_what_was_read_is_handed_over_before_it_is_in_effect(tmp_path):
    """So a process that is started in between begins with what will be in effect."""
    house = House(tmp_path, settings=Settings(limits={"timeout_s": 5}))
    house.may_take_over.clear()
    reloading = asyncio.create_task(house(Reload()))
    async with asyncio.timeout(5):
        while not house.handed_over:
            await asyncio.sleep(0.01)
    assert house.generation.number == 1
    house.may_take_over.set()
    reply = await reloading
    assert json.loads(reply.body)["generation"] == 2
    assert house.handed_over == [house.generation.configured]


async def test_settings_that_cannot_be_handed_over_are_in_effect_all_the_same(tmp_path, monkeypatch, caplog):
    house = House(tmp_path, settings=Settings(limits={"timeout_s": 5}))

    def full(_settings):
        raise OSError("no space left on device")

    monkeypatch.setattr(house.admin, "_configuration_replaced", full)
    assert (await house(Reload())).status == 200
    assert house.generation.settings.limits.timeout_s == 5
    assert "no space left" in caplog.text


async def test_a_policy_that_cannot_be_made_is_refused_before_any_worker_hears_of_it(tmp_path):
    house = House(tmp_path, settings=Settings(routing={"policy": "broken"}))
    reply = await house(Reload())
    assert (reply.status, "no such device" in reply.message) == (400, True)


async def test_a_policy_is_tried_also_where_nothing_has_the_name_of_its_route_now(tmp_path):
    """A change may bring the name back, and then every worker must be able to go over."""
    house = House(tmp_path, settings=Settings(aliases={"x": "a"}))
    await house(Reload())
    await house(Change(aliases={"x": ()}))
    house.read = Settings(aliases={"x": "a"}, routes={"x": {"policy": "broken"}})
    reply = await house(Reload())
    assert (reply.status, "no such device" in reply.message) == (400, True)


@pytest.mark.parametrize("command", [Change(backends={"echo": False}), Reload()])
async def test_what_a_worker_cannot_take_over_is_not_said_to_be_in_effect(tmp_path, command, caplog):
    house = House(tmp_path, settings=Settings(limits={"timeout_s": 5}))
    house.cannot = ["HTTP worker 7 stays at generation 1: boom"]
    reply = await house(command)
    assert (reply.status, reply.code) == (500, "not_in_effect")
    for words in ("is kept", "HTTP worker 7 stays at generation 1: boom", "restart the gateway"):
        assert words in reply.message
        assert words in caplog.text
    house.cannot = []
    assert (await house(Change(deployments={"a@echo": {"weight": 2.0}}))).status == 200


async def test_an_accident_is_answered_and_the_next_command_is_done(house, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "save", lambda _: 1 / 0)
        reply = await house(priority(7))
    assert (reply.status, reply.code) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text
    assert (await house(priority(8))).status == 200
