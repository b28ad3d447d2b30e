"""What share of the ONNX backend's time is inside ONNX Runtime.

    python bench/onnx_step.py                       16 streams of the demo model on one thread, int8
    python bench/onnx_step.py --streams 4 --quantization none

Runs the engine in this process, without a gateway, and measures CPU time: of ONNX Runtime's calls, and of the whole
process. What is left is Python: scheduling, sampling, grammars, text. Needs the ONNX backend and its prepared weights.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
from onnx_backend.engine import OnnxEngine
from onnx_backend.plugin import gateway_backends, gateway_models
from onnx_backend.settings import OnnxSettings

from core.api import (
    ChatRequest,
    Content,
    EngineContext,
    EngineEvent,
    EngineRequest,
    Message,
    ResponseFormat,
    Sampling,
    Usage,
)
from core.testing import weights_of

SCHEMA = '{"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 30}'
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": {"temperature": 0.0}},
    "temperature 0.7, top_p 0.9": {"sampling": {"temperature": 0.7, "top_p": 0.9}},
    "the same, with 5 logprobs": {"sampling": {"temperature": 0.7, "top_p": 0.9, "logprobs": 5}},
    "greedy, with a JSON schema": {
        "sampling": {"temperature": 0.0},
        "response_format": ResponseFormat(kind="json_schema", name="list", schema=SCHEMA),
    },
}


class Clock:
    """CPU seconds spent in a session's runs; they block the thread that calls them."""

    def __init__(self) -> None:
        self.inside_s = 0.0
        self._run = onnxruntime.InferenceSession.run_with_iobinding

    def run(self, session: Any, *given: Any) -> None:
        """Stand in for `onnxruntime.InferenceSession.run_with_iobinding`."""
        began_s = time.thread_time()
        self._run(session, *given)
        self.inside_s += time.thread_time() - began_s


def request(number: int, tokens: int, way: dict[str, Any]) -> EngineRequest:
    """Return one request; with an end token biased away it has exactly so many tokens, unless a grammar ends it."""
    text = f"{time.time_ns()}: write a long essay about the number {number}."
    sampling = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": number, "max_tokens": tokens, **way["sampling"]}
    return ChatRequest(
        id=f"r{number}",
        messages=(Message(role="user", content=(Content(text=text),)),),
        sampling=Sampling(**sampling),
        response_format=way.get("response_format", ResponseFormat()),
    )


async def tokens_of(engine: OnnxEngine, asked: EngineRequest) -> int:
    """Run one stream to its end; return the tokens generated."""
    events: list[EngineEvent] = [event async for event in engine.stream(asked)]
    last = events[-1]
    assert isinstance(last, Usage)
    return last.completion_tokens


async def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--quantization", default="auto", choices=["auto", "none", "int8", "int4"])
    options = parser.parse_args()
    (backend,), model = gateway_backends(), gateway_models()[0]
    settings = OnnxSettings(threads=1, slots=options.streams, quantization=options.quantization)
    weights = weights_of(model, backend, {"quantization": options.quantization})
    context = EngineContext(model=model, weights=weights, settings=settings, scratch=Path(tempfile.mkdtemp()))
    engine, clock = OnnxEngine(context), Clock()
    info = await engine.load()

    def run(session: Any, *given: Any) -> None:  # a bound method would not be given the session
        clock.run(session, *given)

    onnxruntime.InferenceSession.run_with_iobinding = run
    print(f"{options.streams} streams, {info.details['graph']}, {info.details['runner']}", flush=True)
    for name, way in (("warm-up", WAYS["greedy"]), *WAYS.items()):
        clock.inside_s, began_s, cpu_s = 0.0, time.perf_counter(), time.process_time()
        asked = [request(number, options.tokens, way) for number in range(options.streams)]
        made = sum(await asyncio.gather(*(tokens_of(engine, one) for one in asked)))
        took_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        if name != "warm-up":
            share = f"{clock.inside_s / used_s:6.1%} of the CPU time inside ONNX Runtime"
            print(f"{name:28} {share}   {made / used_s:6.1f} tokens per CPU second, {made / took_s:6.1f} per second")
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
