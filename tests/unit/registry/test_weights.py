"""Where the weights are that an engine loads: fetched, prepared, or what is missing and how to get it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from core.api import BackendSettings, BackendSpec, ModelSpec, PreparationError, SpecError
from core.registry import DeploymentWeights, FoundWeights
from core.routing.deployments import Deployment
from core.settings import WeightsTable

Write = Callable[[str], None]
Weights = Callable[..., DeploymentWeights]

UPPER = """
    class Preparation:
        made = 0

        def __init__(self, context):
            Preparation.made += 1
            self.context = context

        def find(self, weights):
            target = self.context.cache_dir / f"{weights.name}{self.context.settings.suffix}"
            return target if target.is_file() else None

        def make(self, weights, report):
            report("raising the voice", None)
            report("shouting", 0.5)
            target = self.context.cache_dir / f"{weights.name}{self.context.settings.suffix}"
            target.parent.mkdir(parents=True)
            target.write_text(f"{self.context.model.name}: {weights.read_text().upper()}")
            return target
"""


class LoudSettings(BackendSettings):
    suffix: str = ".loud"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the module ``upper``, which the backend's preparation is in."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str) -> None:
        sys.modules.pop("upper", None)
        (site / "upper.py").write_text(dedent(code))

    write(UPPER)
    yield write
    sys.modules.pop("upper", None)


@pytest.fixture
def weights_of(tmp_path: Path) -> Weights:
    def weights_of(
        source: str | None, preparation: str | None = "upper:Preparation", **settings: str
    ) -> DeploymentWeights:
        deployment = Deployment(
            spec=ModelSpec(name="m", backend="b", source=source),
            backend=BackendSpec(name="b", engine="x:Y", settings=LoudSettings, preparation=preparation),
            settings=LoudSettings(**settings),
            python=None,
            replicas=1,
            idle_unload_s=None,
            declared_by="test",
        )
        return DeploymentWeights(deployment, WeightsTable(cache_dir=tmp_path / "cache"))

    return weights_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights that need not be fetched."""
    file = tmp_path / "weights.bin"
    file.write_text("hello")
    return file


@pytest.mark.parametrize("preparation", ["upper", "upper:", "./upper:Class", ""])
def test_an_import_path_that_is_none_is_refused_by_its_field(preparation: str) -> None:
    with pytest.raises(SpecError, match=r"BackendSpec: preparation .* must look like"):
        BackendSpec(name="b", engine="x:Y", preparation=preparation)


def test_a_model_without_a_source_needs_nothing(write: Write, weights_of: Weights) -> None:
    """Its backend's preparation is not even imported."""
    weights = weights_of(None)
    assert weights.find() == FoundWeights()
    assert weights.get() is None
    assert "upper" not in sys.modules


def test_weights_to_be_fetched_come_with_the_command(write: Write, weights_of: Weights) -> None:
    found = weights_of("hf:o/m").find()
    assert found == FoundWeights(
        missing="weights are not on disk; fetch them with: python -m core pull m@b",
        command="python -m core pull m@b",
    )
    assert "upper" not in sys.modules


def test_a_file_of_the_operators_is_not_to_be_fetched(weights_of: Weights) -> None:
    found = weights_of("/models/x.gguf").find()
    reason = "there is nothing at /models/x.gguf; put the weights there or correct the source"
    assert found == FoundWeights(missing=f"weights are not on disk; {reason}")


def test_without_a_preparation_the_engine_loads_what_was_fetched(weights_of: Weights, file: Path) -> None:
    weights = weights_of(str(file), None)
    assert weights.find() == FoundWeights(fetched=file, path=file)
    assert weights.get() == file


def test_weights_are_prepared_once(write: Write, weights_of: Weights, file: Path, tmp_path: Path) -> None:
    """Below the cache folder, by one object, with the deployment's settings; its progress is told."""
    weights = weights_of(str(file), suffix=".big")
    missing = "weights are fetched, but not yet prepared for b; prepare them with: python -m core pull m@b"
    told: list[tuple[str, float | None]] = []
    target = tmp_path / "cache" / "prepared" / "b" / "weights.bin.big"

    assert weights.find() == FoundWeights(fetched=file, missing=missing, command="python -m core pull m@b")
    assert weights.get(preparing=lambda stage, share: told.append((stage, share))) == target
    assert target.read_text() == "m: HELLO"
    assert told == [("raising the voice", None), ("shouting", 0.5)]

    target.write_text("as it was")
    assert weights.get() == target
    assert weights.find() == FoundWeights(fetched=file, path=target)
    assert target.read_text() == "as it was"
    assert sys.modules["upper"].Preparation.made == 1


def test_weights_that_need_no_preparing_are_loaded_as_they_are(write: Write, weights_of: Weights, file: Path) -> None:
    write("""
        class Preparation:
            def __init__(self, context): pass
            def find(self, weights): return weights
    """)
    assert weights_of(str(file)).find() == FoundWeights(fetched=file, path=file)
    assert weights_of(str(file)).get() == file


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import not_there_at_all", "upper:Preparation cannot be imported: No module named 'not_there_at_all'"),
        ("", "upper:Preparation cannot be imported: module 'upper' has no attribute 'Preparation'"),
        ("def broken(:", "upper:Preparation failed in an unforeseen way: SyntaxError"),
        ("raise SystemExit(3)", r"upper:Preparation failed in an unforeseen way: SystemExit\(3\)"),
        ("def Preparation(context): raise KeyError('x')", r"failed in an unforeseen way: KeyError\('x'\)"),
        ("def find(self, weights): return 1 / 0", "failed in an unforeseen way: ZeroDivisionError"),
        ("def find(self, weights): raise SystemExit", r"failed in an unforeseen way: SystemExit\(\)"),
        ("def find(self, weights): raise PreparationError('Not an X.')", r"\ANot an X\.\Z"),
        ("def find(self, weights): raise PermissionError(13, 'no', '/a')", "/a cannot be written: correct its perm"),
    ],
)
def test_whatever_a_preparation_raises_is_a_sentence(
    write: Write, weights_of: Weights, file: Path, code: str, words: str
) -> None:
    """SystemExit too, which would end the supervisor."""
    if code.startswith("def find"):
        code = f"from core.api import *\nclass Preparation:\n    def __init__(self, context): pass\n    {code}"
    write(code)
    weights = weights_of(str(file))
    with pytest.raises(PreparationError, match=words):
        weights.find()
    with pytest.raises(PreparationError, match=words):
        weights.get()


def test_a_full_disk_is_told_with_what_to_do(write: Write, weights_of: Weights, file: Path, tmp_path: Path) -> None:
    write("""
        class Preparation:
            def __init__(self, context): pass
            def find(self, weights): return None
            def make(self, weights, report): raise OSError(28, "No space left on device")
    """)
    with pytest.raises(PreparationError, match=f"The disk of {tmp_path}/cache/prepared/b is full: make room"):
        weights_of(str(file)).get()


def test_a_preparation_that_could_not_be_imported_is_tried_again(write: Write, weights_of: Weights, file: Path) -> None:
    """What it lacked may have been installed meanwhile."""
    write("import not_there_at_all")
    weights = weights_of(str(file))
    with pytest.raises(PreparationError):
        weights.find()
    write(UPPER)
    assert "not yet prepared" in weights.find().missing
