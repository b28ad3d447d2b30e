"""What a part of the library costs those that need nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"jinja2", "numpy", "tokenizers", "torch", "transformers"}


@pytest.mark.parametrize("module", ["messages", "stops", "tools", "vectors"])
def test_what_other_backends_use_is_light(module: str) -> None:
    """A replica of a runtime that does all this itself must not pay for it."""
    code = f"import decoding.{module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert HEAVY.intersection(loaded) == set()


def test_transformers_is_enough_without_torch() -> None:
    """A replica of a runtime that has no use for torch starts without it, and without a word about it."""
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
sys.modules["torch"] = None  # an import of it fails
import decoding.folder, decoding.kind, decoding.recipe, decoding.template, decoding.tokens
from transformers import AutoConfig, AutoTokenizer
print(decoding.kind.kind_of(AutoConfig.for_model("llama")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("decoder\n", "")
