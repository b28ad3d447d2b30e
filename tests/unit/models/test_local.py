"""Paths, and what importing this package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.api import SpecError
from core.models import PullError, locate, pull


def test_a_path_is_found_where_it_is(weights, tmp_path):
    """Files and folders; nothing is copied."""
    file = tmp_path / "m.gguf"
    assert locate(str(file), weights) is None
    file.write_bytes(b"w")
    assert locate(str(file), weights) == file
    assert pull(str(file), weights) == file
    assert locate(f"path:{tmp_path}", weights) == tmp_path


def test_the_home_folder_is_expanded(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"w")
    assert locate("~/m.gguf", weights) == tmp_path / "m.gguf"


def test_a_path_with_nothing_there_cannot_be_pulled(weights, tmp_path):
    with pytest.raises(PullError, match=r"there is nothing at .*; put the weights there or correct the source"):
        pull(str(tmp_path / "absent"), weights)


def test_a_path_that_cannot_even_be_looked_at_is_absent(weights):
    """The supervisor asks every few seconds; the disk's objections are not its business."""
    assert locate("/" + "a" * 300, weights) is None


def test_no_source_is_no_path(weights):
    assert locate(None, weights) is None


def test_a_wrong_source_is_told_not_taken_for_absent(weights):
    with pytest.raises(SpecError):
        locate("mistral-7b", weights)


def test_importing_it_brings_no_http_client():
    """HTTP workers import it to look for weights; they never fetch any."""
    program = "import core.models, sys; print([m for m in ('httpx', 'huggingface_hub', 'tqdm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
