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
