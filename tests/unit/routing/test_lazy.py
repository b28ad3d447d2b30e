"""A value is made once, when it is asked for."""

from __future__ import annotations

import pytest

from core.api import BackendSpec, ModelSpec
from core.routing import routes
from core.routing.lazy import Lazy
from core.routing.table import Declared, assemble
from core.settings import Settings


def declared(spec):
    return Declared(spec=spec, plugin="test", distribution="test", version="1")


def test_values_are_made_once_and_only_those_that_are_asked_for() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    lazy = Lazy({"b", "a", "c"}, make)
    assert (list(lazy), len(lazy), "a" in lazy, "x" in lazy) == (["a", "b", "c"], 3, True, False)
    assert made == []
    assert (lazy["b"], lazy["b"], lazy.get("x")) == ("B", "B", None)
    assert made == ["b"]
    assert lazy == {"a": "A", "b": "B", "c": "C"}
    with pytest.raises(KeyError, match="x"):
        lazy["x"]


def test_a_table_makes_no_route_before_a_request_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change builds a table, and few of its routes are used before the next change."""
    route, made = routes.Route, []

    def counted(**fields):
        made.append(fields["name"])
        return route(**fields)

    monkeypatch.setattr(routes, "Route", counted)
    table = assemble(
        backends={"a": declared(BackendSpec(name="a", engine="a:Engine"))},
        models=[declared(ModelSpec(name="m", backend="a")), declared(ModelSpec(name="n", backend="a", aliases=("x",)))],
        settings=Settings(aliases={"y": "m"}),
    )
    assert made == []
    assert [one.id for one in table.resolve("y").tiers[0]] == ["m@a"]
    assert made == ["y"]
