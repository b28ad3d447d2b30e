"""The page about the library is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "decoding.md"


def test_the_example_runs(tmp_path: Path) -> None:
    """As it stands on the page: an engine over the reference runner, which ends as every stream does."""
    (code,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        if "main()" in block
    ]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Usage(prompt_tokens=2, completion_tokens=5")
