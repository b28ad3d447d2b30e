"""A runtime that raises, breaks or hangs, behind a whole gateway: its own requests end, and the replica comes back."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.testing import Gateway, eventually, start_gateway

PLUGIN = """
from core.api import BackendSpec, ModelSpec, hookimpl

@hookimpl
def gateway_backends():
    return (BackendSpec(name="faulty", engine="faulty_engine:FaultyEngine", capabilities=frozenset({"logit_bias"})),)

@hookimpl
def gateway_models():
    return (ModelSpec(name="toy", backend="faulty", context_tokens=512),)
"""
ENGINE = """
import time
from core.api import EngineInfo
from decoding.engine import DecodingEngine
from decoding.reference import ReferenceRunner
from decoding.scheduler import Limits
from decoding.template import ChatTemplate
from decoding.testing import byte_level
from decoding.tokens import Vocabulary

class FaultyRunner(ReferenceRunner):
    broken = False

    def prefill(self, slot, tokens, start):
        text = bytes(token_bytes for token in tokens for token_bytes in VOCABULARY.bytes_of(token))
        if b"HANG" in text:
            time.sleep(1000)
        self.broken |= b"BREAK" in text
        if self.broken or b"RAISE" in text:
            raise RuntimeError("the device is gone" if self.broken else "no memory left")
        time.sleep(0.01)
        return super().prefill(slot, tokens, start)

    def decode(self, slots, tokens, positions):
        if self.broken:
            raise RuntimeError("the device is gone")
        time.sleep(0.01)
        return super().decode(slots, tokens, positions)

TOKENIZER = byte_level()
VOCABULARY = Vocabulary(TOKENIZER, eos=[TOKENIZER.eos_token_id])

class FaultyEngine:
    def __init__(self, context):
        pass

    async def load(self):
        runner = FaultyRunner(slots=4, context_tokens=512, vocab_size=VOCABULARY.size)
        limits = Limits(prefill_tokens=64, prefill_tokens_alone=64)
        self.engine = DecodingEngine(
            vocabulary=VOCABULARY, template=ChatTemplate(TOKENIZER), limits=limits, runner=runner
        )
        self.stream, self.load_now = self.engine.stream, self.engine.load_now
        return EngineInfo(context_tokens=512, slots=4)

    async def close(self):
        await self.engine.close()
"""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that finds the faulty backend as it finds any plugin."""
    folder: Path = tmp_path_factory.mktemp("faulty")
    (folder / "faulty_plugin.py").write_text(PLUGIN)
    (folder / "faulty_engine.py").write_text(ENGINE)
    information = folder / "faulty-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gateway.plugins]\nfaulty = faulty_plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with start_gateway('[plugins]\nallow = ["faulty"]\n') as running:
            eventually(lambda: running.health()["status"] == "healthy", within_s=60)
            yield running


def complete(gateway: Gateway, prompt: str, tokens: int = 20) -> httpx.Response:
    # The toy's own end of text must not end its answers early.
    body: dict[str, Any] = {"model": "toy", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        return client.post("/v1/completions", json=body | {"logit_bias": {"264": -100}})


def replica(gateway: Gateway) -> dict[str, Any]:
    (found,) = gateway.health()["deployments"]["toy@faulty"]["replicas"]
    return dict(found)


def test_an_exception_ends_its_own_request_only(gateway: Gateway) -> None:
    """Neighbours that run beside it do not notice, and nothing is restarted."""
    pid = replica(gateway)["pid"]
    expected = complete(gateway, "neighbour", 100).json()["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        neighbours = [pool.submit(complete, gateway, "neighbour", 100) for _ in range(2)]
        time.sleep(0.3)
        failed = complete(gateway, "please RAISE now")

    assert failed.status_code == 502
    assert "no memory left" in failed.json()["error"]["message"]
    assert [one.result().json()["choices"][0]["text"] for one in neighbours] == [expected, expected]
    assert replica(gateway)["pid"] == pid


@pytest.mark.parametrize(
    ("word", "within_s", "reason"), [("BREAK", 20, "the device is gone"), ("HANG", 60, "no step in")]
)
def test_what_cannot_go_on_is_started_again(gateway: Gateway, word: str, within_s: float, reason: str) -> None:
    """Every running request ends with an error, health tells why, and then all is well by itself."""
    before = replica(gateway)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        neighbour = pool.submit(complete, gateway, "neighbour", 400)
        time.sleep(0.3)
        culprit = pool.submit(complete, gateway, f"please {word} now")
        told = eventually(lambda: (found := replica(gateway))["state"] != "ready" and found["reason"], within_s=40)

    assert reason in told
    for answer in (neighbour.result(), culprit.result()):
        assert answer.status_code in {502, 503}
        assert answer.json()["error"]["message"]
    eventually(lambda: gateway.health()["status"] == "healthy", within_s=within_s)
    assert replica(gateway)["pid"] != before["pid"]
    assert complete(gateway, "neighbour").status_code == 200
