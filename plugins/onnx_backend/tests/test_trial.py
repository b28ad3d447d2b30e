"""The CPU or an accelerator, by trying both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_backend.trial import Compute, Feed, Trial, try_out

from core.api import EngineLoadError

SHORT = {"x": np.array([1.0, 2.0])}
LONG = {"x": np.array([1.0, 2.0, 3.0, 4.0])}


class Machine:
    """Two devices and a clock that only they move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def device(self, name: str, *times_s: float, result: Callable[[Any], Any] = lambda x: x) -> Callable[[], Compute]:
        """Takes the first time for short feeds, the second for long ones; its first run of each takes a minute."""
        seen: set[int] = set()

        def compute(feed: Feed) -> Any:
            size = len(feed["x"])
            self.order.append(name)
            self.now += times_s[size // 4] if size in seen else 60.0
            seen.add(size)
            return result(feed["x"])

        return lambda: compute

    def try_out(self, accelerator: Callable[[], Compute], cpu: Callable[[], Compute]) -> Trial:
        return try_out("coreml", accelerator, cpu, [SHORT, LONG], clock=lambda: self.now)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_faster(machine: Machine) -> None:
    """Chosen, with its figures; runs that warm up do not count."""
    trial = machine.try_out(machine.device("coreml", 0.001, 0.002), machine.device("cpu", 0.002, 0.008))
    assert trial == Trial(accelerated=True, figures="coreml 1.0, 2.0 ms; cpu 2.0, 8.0 ms")
    assert machine.order[4:8] == ["coreml", "cpu", "coreml", "cpu"]  # in turns: what else the machine does hits both


@pytest.mark.parametrize(("short_s", "expected"), [(0.008, False), (0.003, True)])
def test_long_texts_are_not_all(machine: Machine, short_s: float, expected: bool) -> None:
    """Three times faster on long texts does not make up for four times slower on short ones."""
    trial = machine.try_out(machine.device("coreml", short_s, 0.1), machine.device("cpu", 0.002, 0.3))
    assert trial.accelerated is expected


@pytest.mark.parametrize(
    "result",
    [
        lambda x: -x,
        lambda x: x * np.nan,
        lambda x: x * np.nan if len(x) == 4 else x,
        lambda x: x[:1],
        np.zeros_like,
        lambda x: x[::-1] if len(x) == 4 else x,
    ],
)
def test_wrong(machine: Machine, result: Callable[[Any], Any]) -> None:
    """However fast: what computes something else is not chosen."""
    trial = machine.try_out(machine.device("coreml", 0.001, 0.001, result=result), machine.device("cpu", 1.0, 1.0))
    assert not trial.accelerated
    assert trial.figures.startswith("coreml's outputs are not the CPU's: cosine ")


def test_rounded_is_right(machine: Machine) -> None:
    """Half precision is what makes an accelerator fast."""
    half = machine.device("coreml", 0.001, 0.001, result=lambda x: (x * 0.3).astype(np.float16))
    assert machine.try_out(half, machine.device("cpu", 1.0, 1.0, result=lambda x: x * 0.3)).accelerated


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_it_cannot_be_loaded_there(machine: Machine) -> None:
    """Then the CPU it is, and the reason is told."""
    trial = machine.try_out(raising(EngineLoadError("It has no static shapes.")), machine.device("cpu", 1.0, 1.0))
    assert trial == Trial(accelerated=False, figures="It has no static shapes")


def test_it_fails_there(machine: Machine) -> None:
    """As above."""
    broken = machine.device("coreml", 1.0, 1.0, result=raising(RuntimeError("CoreML\nsaid no")))
    trial = machine.try_out(broken, machine.device("cpu", 1.0, 1.0))
    assert trial == Trial(accelerated=False, figures="coreml failed in a trial run: CoreML said no")


def test_nor_on_the_cpu(machine: Machine) -> None:
    """Nothing is left to choose."""
    with pytest.raises(EngineLoadError, match="damaged"):
        machine.try_out(machine.device("coreml", 1.0, 1.0), raising(EngineLoadError("It is damaged.")))
