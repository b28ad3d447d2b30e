"""https: sources against a server that misbehaves: what is kept, what is believed, what is said."""

from __future__ import annotations

import errno
import hashlib
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.models import PullError, fetch_https, locate, pull

CONTENT = os.urandom(400_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """Two retries at once."""
    monkeypatch.setattr(fetch_https, "_RETRY_AFTER_S", (0.0, 0.0))


@pytest.fixture
def source(server, served):
    server.files["/m.gguf"] = served(CONTENT, headers={"ETag": '"v1"'})
    return f"{server.url}/m.gguf#sha256={SHA}"


def part_of(weights) -> Path:
    return weights.cache_dir / "https" / SHA / "m.gguf.part"


def wait_until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.01)


def in_a_process(source, weights):
    program = (
        "import sys; from pathlib import Path; from core.models import pull; from core.settings import WeightsTable; "
        "print(pull(sys.argv[1], WeightsTable(cache_dir=Path(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", program, source, str(weights.cache_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_fetches_reports_and_finds_again_without_the_network(server, source, weights):
    """A whole file, its progress, and no second request."""
    seen = []
    assert locate(source, weights) is None

    path = pull(source, weights, progress=lambda done, total: seen.append((done, total)))

    assert path.read_bytes() == CONTENT
    assert locate(source, weights) == path
    assert pull(source, weights) == path
    assert server.gets("/m.gguf") == [None]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in path.parent.iterdir()] == ["m.gguf"]


def test_goes_on_after_a_cut_connection(server, source, weights):
    """A truncated answer is continued with Range, not taken for the file."""
    server.files["/m.gguf"].cut_after = [HALF]
    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf") == [None, f"bytes={HALF}-"]


def test_gives_up_keeps_the_half_and_resumes_later(server, source, weights):
    """When the server brings nothing more, the error says so, and the next pull goes on."""
    server.files["/m.gguf"].cut_after = [HALF, 0, 0]
    with pytest.raises(PullError, match=f"{HALF} bytes are kept"):
        pull(source, weights)
    assert locate(source, weights) is None
    assert part_of(weights).stat().st_size == HALF

    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf")[-1] == f"bytes={HALF}-"


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, source, served, weights):
    """If-Range: halves of two versions are never joined."""
    server.files["/m.gguf"] = served(os.urandom(400_000), headers={"ETag": '"v0"'}, cut_after=[HALF, 0, 0])
    with pytest.raises(PullError):
        pull(source, weights)
    server.files["/m.gguf"] = served(CONTENT, headers={"ETag": '"v1"'})
    server.requests.clear()

    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf") == [f"bytes={HALF}-"]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_it_starts_again(server, source, weights, headers):
    """A half that cannot be recognised is not continued."""
    server.files["/m.gguf"].headers = headers
    server.files["/m.gguf"].cut_after = [HALF]
    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf") == [None, None]


def test_last_modified_serves_where_there_is_no_etag(server, source, weights):
    server.files["/m.gguf"].headers = {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
    server.files["/m.gguf"].cut_after = [HALF]
    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf") == [None, f"bytes={HALF}-"]


def test_a_server_without_ranges_starts_again(server, source, weights):
    server.files["/m.gguf"].ranges = False
    server.files["/m.gguf"].cut_after = [HALF]
    assert pull(source, weights).read_bytes() == CONTENT


def test_a_half_that_went_bad_on_disk_is_thrown_away(server, source, weights):
    """A resumed file with a wrong sum is fetched once more as a whole."""
    server.files["/m.gguf"].cut_after = [HALF, 0, 0]
    with pytest.raises(PullError):
        pull(source, weights)
    part_of(weights).write_bytes(b"x" * HALF)

    assert pull(source, weights).read_bytes() == CONTENT


def test_a_pull_killed_just_before_its_rename_needs_no_second_download(server, source, weights):
    """The part is whole: the server's 416 says so and the sum proves it."""
    part = part_of(weights)
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    part.with_name("m.gguf.part.etag").write_text('"v1"')

    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf") == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_sum_is_told_and_nothing_is_kept(server, source, served, weights):
    server.files["/m.gguf"] = served(b"another file")
    with pytest.raises(PullError, match=f"the source says {SHA}"):
        pull(source, weights)
    assert locate(source, weights) is None
    assert [file.name for file in part_of(weights).parent.iterdir()] == []


@pytest.mark.parametrize(("status", "remedy"), [(404, "correct the URL"), (403, "wants a login")])
def test_a_refusal_is_told_at_once(server, source, weights, status, remedy):
    server.files["/m.gguf"].status = status
    with pytest.raises(PullError, match=remedy):
        pull(source, weights)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, source, weights, monkeypatch):
    server.files["/m.gguf"].status = 503
    monkeypatch.setattr(fetch_https.time, "sleep", lambda _: setattr(server.files["/m.gguf"], "status", 200))
    assert pull(source, weights).read_bytes() == CONTENT


def test_a_redirect_to_plain_http_elsewhere_is_refused(server, source, served, weights):
    """Checked on every hop, before anything is sent there."""
    server.files["/m.gguf"] = served(status=302, headers={"Location": "http://example.invalid/m.gguf"})
    with pytest.raises(PullError, match="without https: refused"):
        pull(source, weights)


def test_a_full_disk_is_told_before_the_download(source, weights, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("core.models.cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(PullError, match=r"weights\.cache_dir"):
        pull(source, weights)


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EROFS, "permissions")])
def test_a_disk_that_fails_midway_is_told_in_words(source, weights, number, remedy):
    """The operating system's numbers become sentences, and nothing looks whole."""

    def fail(done_bytes, total_bytes):
        if done_bytes:
            raise OSError(number, os.strerror(number))

    with pytest.raises(PullError, match=remedy):
        pull(source, weights, progress=fail)
    assert locate(source, weights) is None


def test_a_cache_that_cannot_be_written_is_told_in_words(source, weights):
    weights.cache_dir.write_text("a file where the folder should be")
    with pytest.raises(PullError, match="cache"):
        pull(source, weights)


def test_two_processes_that_pull_at_once_download_once(server, source, weights):
    """Single-flight: the second waits for the first and finds its file."""
    server.files["/m.gguf"].hold_after = HALF
    processes = [in_a_process(source, weights) for _ in range(2)]
    with selectors.DefaultSelector() as said:
        for process in processes:
            said.register(process.stderr, selectors.EVENT_READ)
        assert said.select(timeout=20), "no process said that it waits"
    server.go_on.set()
    results = [process.communicate(timeout=30) for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert {out.strip() for out, _ in results} == {str(locate(source, weights))}
    assert len(server.gets("/m.gguf")) == 1
    assert sum("Another process is fetching" in err for _, err in results) == 1


def test_a_killed_pull_leaves_nothing_to_believe_and_the_next_resumes(server, source, weights):
    """kill -9 in the middle: no lock, no whole-looking file, and the bytes are not fetched twice."""
    server.files["/m.gguf"].hold_after = HALF
    process = in_a_process(source, weights)
    part = part_of(weights)
    wait_until(lambda: part.exists() and part.stat().st_size > 0, "some bytes are on disk")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    server.go_on.set()
    server.files["/m.gguf"].hold_after = None

    assert locate(source, weights) is None
    kept = part.stat().st_size
    assert pull(source, weights).read_bytes() == CONTENT
    assert server.gets("/m.gguf") == [None, f"bytes={kept}-"]
