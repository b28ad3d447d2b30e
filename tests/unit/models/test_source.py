"""Sources: what is read, and what each refusal tells the reader to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.api import SpecError
from core.models import HubSource, PathSource, UrlSource, WheelSource, parse_source

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("/w/m.gguf", PathSource(Path("/w/m.gguf"))),
        ("./m.gguf", PathSource(Path("m.gguf"))),
        ("../m.gguf", PathSource(Path("../m.gguf"))),
        ("~/m.gguf", PathSource(Path("~/m.gguf"))),
        ("path:m.gguf", PathSource(Path("m.gguf"))),
        ("hf:org/repo", HubSource("org/repo")),
        ("hf:org/repo@v1.0", HubSource("org/repo", revision="v1.0")),
        ("hf:org/repo/a/b.gguf", HubSource("org/repo", "a/b.gguf")),
        ("hf:org/repo/b.gguf@refs/pr/1", HubSource("org/repo", "b.gguf", "refs/pr/1")),
        (f"hf:org/repo/b.gguf@v1#sha256={SHA.upper()}", HubSource("org/repo", "b.gguf", "v1", SHA)),
        ("pypi:My_Dist==1.0+cpu#pkg/m.gguf", WheelSource("my-dist", "1.0+cpu", "pkg/m.gguf")),
        ("pypi:dist==1#pkg/model/", WheelSource("dist", "1", "pkg/model/")),
        (f"https://h/a/m%20x.gguf?v=1#sha256={SHA}", UrlSource("https://h/a/m%20x.gguf?v=1", SHA)),
        (f"http://127.0.0.1:81/m#sha256={SHA}", UrlSource("http://127.0.0.1:81/m", SHA)),
        (f"http://[::1]/m#sha256={SHA}", UrlSource("http://[::1]/m", SHA)),
        (f"http://localhost/m#sha256={SHA}", UrlSource("http://localhost/m", SHA)),
    ],
)
def test_reads_every_kind_of_source(text, source):
    """Each form of docs/weights.md is read as written there."""
    assert parse_source(text) == source


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("mistral-7b", "hf:, pypi:, https:// or path:"),
        ("", "hf:, pypi:, https:// or path:"),
        ("ftp://h/m", "hf:, pypi:, https:// or path:"),
        ("path:", "after path:"),
        ("path:~nobody/m", "the whole path"),
        ("hf:gpt2", "hf:organisation/repository"),
        ("hf:../etc", "hf:organisation/repository"),
        ("hf:org/repo@", "branch, a tag or a commit"),
        ("hf:org/repo/../../x", "without . or .."),
        ("hf:org/repo/", "without . or .."),
        (f"hf:org/repo#sha256={SHA}", "one file"),
        ("hf:org/repo/f#md5=1", "64 hex digits"),
        ("pypi:dist>=1#f", "exact version"),
        ("pypi:dist==1", "exact version"),
        ("pypi:--index-url=x==1#f", "exact version"),
        ("pypi:dist==1#../f", "without . or .."),
        ("pypi:dist==1#/", "without . or .."),
        ("pypi:dist==1#a//", "without . or .."),
        ("pypi:dist==1#/etc/passwd", "without . or .."),
        ("https://h/m", "#sha256="),
        ("https://h/m#sha256=12", "64 hex digits"),
        (f"http://h/m#sha256={SHA}", "https://"),
        (f"http://127.0.0.1.evil.com/m#sha256={SHA}", "https://"),
        (f"https://h/#sha256={SHA}", "end in a file name"),
        (f"https://h/a%2F..#sha256={SHA}", "end in a file name"),
    ],
)
def test_a_wrong_source_names_its_remedy(text, remedy):
    """Nothing unsafe or unclear is accepted, and the message says what to write instead."""
    with pytest.raises(SpecError) as caught:
        parse_source(text)
    assert remedy in str(caught.value)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    """Messages go to logs."""
    with pytest.raises(SpecError) as caught:
        parse_source(f"https://me:secret@h/m#sha256={SHA}")
    assert "secret" not in str(caught.value)
