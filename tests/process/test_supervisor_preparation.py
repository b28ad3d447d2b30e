"""The supervisor where weights must be prepared: it waits for that, and survives whoever says what is prepared."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

MODULE = """
from core.api import PreparationError

class Preparation:
    def __init__(self, context): pass

    def find(self, weights):
        made = weights.with_suffix(".made")
        if made.exists():
            return made
        {otherwise}
"""


@pytest.fixture
def weights(folder):
    """What was fetched, or will be; prepared it is the file beside it, ``.made``."""
    return folder / "weights.bin"


@pytest.fixture
def prepare(folder, monkeypatch):
    """Write the module ``prepares``, with what its preparation does when it finds nothing; return its class's path."""
    monkeypatch.syspath_prepend(folder)

    def prepare(otherwise="return None"):
        (folder / "prepares.py").write_text(MODULE.format(otherwise=otherwise))
        return "prepares:Preparation"

    yield prepare
    sys.modules.pop("prepares", None)


async def test_weights_that_get_prepared_are_noticed(house, echo, weights, prepare, until):
    """Until then the replicas are absent and say what to do; then their engines load what was prepared."""
    changes = []
    observer = SimpleNamespace(replica_changed=changes.append)
    here = await house(echo(source=str(weights), preparation=prepare(), replicas=2), observers=[observer])
    assert "there is nothing at " in here.replica().reason
    weights.write_bytes(b"w")
    await until(lambda: "there is nothing at " not in here.replica(index=1).reason)
    missing = (
        "weights are fetched, but not yet prepared for echo_echo; prepare them with: python -m core pull echo@echo_echo"
    )
    assert [(one.state, one.reason) for one in (here.replica(), here.replica(index=1))] == [("absent", missing)] * 2
    assert changes == [], "a start was tried"
    made = weights.with_suffix(".made")
    made.write_bytes(b"m")
    await until(lambda: {here.replica().state, here.replica(index=1).state} == {"ready"})
    assert here.launcher.weights == {"echo@echo_echo#0": str(made), "echo@echo_echo#1": str(made)}


@pytest.mark.parametrize("otherwise", ["raise PreparationError('No such family.')", "raise SystemExit('No such fam')"])
async def test_a_preparation_that_fails_is_the_reason_of_its_own_replica(house, echo, weights, prepare, otherwise):
    """The supervisor goes on, and so does the replica once the cause is gone."""
    weights.write_bytes(b"w")
    broken = echo("a", source=str(weights), preparation=prepare(otherwise))
    here = await house(broken, echo("b"), failed_retry_s=0.2, crash_loop_failures=1)
    failed = await here.until("failed", "a")
    assert "No such fam" in failed.reason
    assert here.launcher.launches["a@echo#0"] == 0
    await here.until("ready", "b")
    weights.with_suffix(".made").write_bytes(b"m")
    await here.until("ready", "a")


async def test_a_preparation_that_is_not_there_is_a_reason(house, echo, weights):
    weights.write_bytes(b"w")
    here = await house(echo(source=str(weights), preparation="not_there_at_all:Preparation"), crash_loop_failures=1)
    failed = await here.until("failed")
    assert failed.reason == (
        "cannot be launched: not_there_at_all:Preparation cannot be imported: No module named 'not_there_at_all'"
    )
