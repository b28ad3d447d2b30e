"""hf: sources against a local server that speaks as much of the hub's protocol as its client asks for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest

from core.models import PullError, locate, pull

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = os.urandom(50_000)
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "onnx/model.onnx": b"graph",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"print('code')",
    "consolidated.safetensors": WEIGHTS,
}
TAKEN = {"config.json", "model.safetensors", "onnx/model.onnx"}


class Hub:
    """Publishes one repository on the file server."""

    def __init__(self, server, served):
        self.server, self.served = server, served
        self.publish(FILES)

    def publish(self, files, commit=COMMIT, sha256=None):
        siblings = []
        for name, content in files.items():
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'}
            sibling = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(("safetensors", "gguf")):
                digest = sha256 or hashlib.sha256(content).hexdigest()
                headers |= {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
            self.server.files[f"/org/repo/resolve/{commit}/{name}"] = self.served(content, headers=headers)
        info = json.dumps({"id": "org/repo", "sha": commit, "siblings": siblings}).encode()
        for revision in ("main", commit):
            self.server.files[f"/api/models/org/repo/revision/{revision}"] = self.served(
                info, headers={"Content-Type": "application/json"}
            )

    def path(self, name):
        return f"/org/repo/resolve/{COMMIT}/{name}"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    """The tester's own login must not leak into a test."""
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@pytest.fixture
def hub(server, served):
    return Hub(server, served)


def test_a_repository_brings_data_and_no_code(hub, server, weights):
    """Safe formats only, once each, at one commit; then no network at all."""
    seen = []
    assert locate("hf:org/repo", weights) is None

    path = pull("hf:org/repo", weights, progress=lambda done, total: seen.append((done, total)))

    assert {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} == TAKEN
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    total = sum(len(FILES[name]) for name in TAKEN)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    asked = len(server.requests)
    assert locate("hf:org/repo", weights) == pull("hf:org/repo", weights) == path
    assert len(server.requests) == asked


def test_one_file_of_a_repository(hub, weights):
    """A named file is taken alone, even if its kind is not taken unasked."""
    path = pull("hf:org/repo/onnx/model.onnx", weights)
    assert (path.name, path.read_bytes()) == ("model.onnx", b"graph")
    assert locate("hf:org/repo/onnx/model.onnx", weights) == path
    assert locate("hf:org/repo", weights) is None
    assert pull(f"hf:org/repo/pytorch_model.bin@{COMMIT}", weights).read_bytes() == b"a pickle"


def test_a_half_fetched_repository_is_not_believed_and_is_completed(hub, server, weights):
    """A file that fails leaves the folder unfinished; the next pull fetches only what is missing."""
    server.files[hub.path("onnx/model.onnx")].status = 403
    with pytest.raises(PullError, match="answered 403"):
        pull("hf:org/repo", weights)
    assert locate("hf:org/repo", weights) is None
    server.files[hub.path("onnx/model.onnx")].status = 200

    path = pull("hf:org/repo", weights)

    assert (path / "onnx/model.onnx").read_bytes() == b"graph"
    assert len(server.gets(hub.path("model.safetensors"))) == 1


def test_a_file_removed_from_the_cache_is_noticed(hub, weights):
    """The receipt alone is not believed."""
    path = pull("hf:org/repo", weights)
    (path / "config.json").unlink()
    assert locate("hf:org/repo", weights) is None


def test_the_cache_folder_may_be_moved(hub, weights, tmp_path):
    """Receipts hold relative paths: copy the folder to a machine without network and serve."""
    pull("hf:org/repo", weights)
    shutil.move(weights.cache_dir, tmp_path / "elsewhere")
    moved = weights.model_copy(update={"cache_dir": tmp_path / "elsewhere"})
    path = locate("hf:org/repo", moved)
    assert path is not None
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


def test_damage_on_the_way_is_noticed_and_not_kept(hub, weights):
    """The hub's own sha256 is checked; the next pull does not find the bad file in the cache."""
    hub.publish(FILES, sha256="ab" * 32)
    with pytest.raises(PullError, match="damaged"):
        pull("hf:org/repo/model.safetensors", weights)
    hub.publish(FILES)
    assert pull("hf:org/repo/model.safetensors", weights).read_bytes() == WEIGHTS


def test_a_pinned_sum_is_checked(hub, weights):
    """The operator's sha256 decides, whatever the hub says."""
    right = hashlib.sha256(WEIGHTS).hexdigest()
    wrong = f"hf:org/repo/model.safetensors#sha256={'0' * 64}"
    assert pull(f"hf:org/repo/model.safetensors#sha256={right}", weights)
    with pytest.raises(PullError, match="out of date"):
        pull(wrong, weights)
    assert locate(wrong, weights) is None


def test_a_missing_file_names_those_like_it(hub, weights):
    with pytest.raises(PullError, match=r"near are model\.safetensors"):
        pull("hf:org/repo/modl.safetensors", weights)


def test_a_repository_of_pickles_alone_is_refused(hub, weights):
    hub.publish({"pytorch_model.bin": b"a pickle"})
    with pytest.raises(PullError, match="safe to read"):
        pull("hf:org/repo", weights)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (404, "RepoNotFound", "set HF_TOKEN"),
        (403, "GatedRepo", "accept its terms at"),
        (404, "RevisionNotFound", "what follows the @"),
        (500, "", "answered 500"),
    ],
)
def test_the_hubs_refusals_become_remedies(hub, weights, status, code, remedy):
    """Each of the hub's errors says what to do."""
    hub.server.files["/api/models/org/repo/revision/main"] = hub.served(status=status, headers={"X-Error-Code": code})
    with pytest.raises(PullError, match=remedy):
        pull("hf:org/repo", weights)


def test_a_hub_that_cannot_be_reached(weights):
    """Not the client's exception of the year, but ours, with the setting to look at."""
    nowhere = weights.model_copy(update={"hf_endpoint": "http://127.0.0.1:1"})
    with pytest.raises(PullError, match=r"weights\.hf_endpoint"):
        pull("hf:org/repo", nowhere)
