"""The conformance kit catches what it is there to catch: an echo engine, sabotaged in one way at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from echo_backend.engine import EchoEngine
from echo_backend.plugin import EchoSettings, gateway_backends, gateway_models

from core.api import (
    Embedding,
    EngineContext,
    EngineEvent,
    EngineInfo,
    EngineRequest,
    Finished,
    Load,
    RequestError,
    Score,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from core.engine.contract import ContractError
from core.testing import EngineConformance
from core.testing.suites.base import LoadedEngine

BROKEN = (
    AssertionError,
    ContractError,
    TimeoutError,
    RequestError,
    StopAsyncIteration,
    ValueError,
    pytest.fail.Exception,
)


class EchoConformance(EngineConformance):
    __test__ = False
    backend = gateway_backends()[0]
    model = gateway_models()[0]


class Sabotaged(EchoEngine):
    """Changes each event, or drops it (None)."""

    def change(self, event: EngineEvent, request: EngineRequest) -> EngineEvent | None:
        return event

    async def stream(self, request: EngineRequest) -> AsyncGenerator[EngineEvent, None]:
        async for event in super().stream(self.misread(request)):
            if (changed := self.change(event, request)) is not None:
                yield changed

    def misread(self, request: EngineRequest) -> EngineRequest:
        return request


class ForgetsUsage(Sabotaged):
    def change(self, event, request):
        return None if isinstance(event, Usage) else event


class ForgetsAChoice(Sabotaged):
    def change(self, event, request):
        return None if getattr(event, "choice", 0) == 2 else event


class TalksOn(Sabotaged):
    async def stream(self, request):
        async for event in super().stream(request):
            yield event
            if isinstance(event, Finished):
                yield TextDelta(choice=event.choice, text="and another thing")


class CountsPromptsPerChoice(Sabotaged):
    def change(self, event, request):
        n = getattr(request, "n", 1)
        return (
            msgspec.structs.replace(event, prompt_tokens=event.prompt_tokens * n) if isinstance(event, Usage) else event
        )


class Miscounts(Sabotaged):
    def change(self, event, request):
        return msgspec.structs.replace(event, completion_tokens=99) if isinstance(event, Usage) else event


class AlwaysStops(Sabotaged):
    def change(self, event, request):
        return msgspec.structs.replace(event, reason="stop") if isinstance(event, Finished) else event


class IgnoresStop(Sabotaged):
    def misread(self, request):
        return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, stop=()))


class LosesHeldBackText(Sabotaged):
    async def stream(self, request):
        held = None
        async for event in super().stream(request):
            if not (isinstance(event, TextDelta) and request.sampling.stop):
                yield event
            else:
                if held is not None:
                    yield held
                held = event


class IsRandom(Sabotaged):
    seen = 0

    def change(self, event, request):
        IsRandom.seen += 1
        return msgspec.structs.replace(event, text=f"{IsRandom.seen} ") if isinstance(event, TextDelta) else event


class SplitsUtf8(Sabotaged):
    def change(self, event, request):
        if not isinstance(event, TextDelta):
            return event
        return msgspec.structs.replace(event, text=event.text.encode()[:-2].decode(errors="replace"))


class SwallowsTheEcho(Sabotaged):
    def change(self, event, request):
        return None if isinstance(event, TextDelta) and event.tokens == 0 else event


class TruncatesPrompts(Sabotaged):
    def _room(self, prompt_tokens: int, param: str) -> int:
        return 100


class StandsStill(Sabotaged):
    def load_now(self) -> Load:
        return Load(running=self._running, steps=1)


class BlocksTheLoop(Sabotaged):
    """Each step is short, but nobody else gets a turn between them."""

    def change(self, event, request):
        time.sleep(0.01)
        return event


class MixesUp(Sabotaged):
    """Everybody gets the words of who came last."""

    last = ""

    def change(self, event, request):
        if not isinstance(event, TextDelta):
            return event
        before, MixesUp.last = MixesUp.last, event.text
        return msgspec.structs.replace(event, text=before or event.text)


class WorksOnAfterCancel(Sabotaged):
    async def stream(self, request):
        self._running += 1
        try:
            async for event in super().stream(request):
                yield event
        except BaseException:
            asyncio.get_running_loop().call_later(3, self._end)
            raise
        else:
            self._running -= 1

    def _end(self) -> None:
        self._running -= 1


class HasNoSlots(Sabotaged):
    async def load(self) -> EngineInfo:
        return EngineInfo(slots=0)


class CallsNoTool(Sabotaged):
    def change(self, event, request):
        return None if isinstance(event, ToolCallDelta) else event


class CallsTheFirstTool(Sabotaged):
    def misread(self, request):
        return msgspec.structs.replace(
            request, tools=request.tools[:1], tool_choice=type(request.tool_choice)(mode="required")
        )


class WritesWrongArguments(Sabotaged):
    def change(self, event, request):
        return msgspec.structs.replace(event, arguments='{"days":') if getattr(event, "arguments", "") else event


class GivesLongVectors(Sabotaged):
    def change(self, event, request):
        return (
            msgspec.structs.replace(event, vector=event.vector[4:])
            if isinstance(event, Embedding) and event.index
            else event
        )


class LetsABatchChangeVectors(Sabotaged):
    def change(self, event, request):
        if not isinstance(event, Embedding) or len(request.inputs) == 1:
            return event
        return msgspec.structs.replace(event, vector=event.vector[::-1])


class ScoresByPlace(Sabotaged):
    def change(self, event, request):
        return msgspec.structs.replace(event, score=1.0 / (1 + event.index)) if isinstance(event, Score) else event


class ScoresRelatively(Sabotaged):
    """As a softmax over the batch would."""

    def change(self, event, request):
        if not isinstance(event, Score):
            return event
        return msgspec.structs.replace(event, score=event.score / len(request.documents))


class ScoresOnlyTheBest(Sabotaged):
    def misread(self, request):
        if (top_n := getattr(request, "top_n", None)) is None:
            return request
        return msgspec.structs.replace(request, documents=request.documents[:top_n])


class ScoresAllAlike(Sabotaged):
    def change(self, event, request):
        return msgspec.structs.replace(event, score=0.5) if isinstance(event, Score) else event


class ScoresNothing(Sabotaged):
    def change(self, event, request):
        return msgspec.structs.replace(event, score=float("nan")) if isinstance(event, Score) else event


class CountsTheQueryOnce(Sabotaged):
    def change(self, event, request):
        if not isinstance(event, Usage):
            return event
        again = len(request.query.split()) * (len(request.documents) - 1)
        return msgspec.structs.replace(event, prompt_tokens=event.prompt_tokens - again)


CASES: list[tuple[type[Sabotaged], str]] = [
    (ForgetsUsage, "test_stream_ends_with_finished_and_usage"),
    (TalksOn, "test_stream_ends_with_finished_and_usage"),
    (ForgetsAChoice, "test_every_choice_finishes"),
    (CountsPromptsPerChoice, "test_every_choice_finishes"),
    (Miscounts, "test_max_tokens_is_exact"),
    (Miscounts, "test_several_prompts"),
    (Miscounts, "test_usage_adds_up"),
    (AlwaysStops, "test_max_tokens_is_exact"),
    (IgnoresStop, "test_stop_strings_never_leak"),
    (LosesHeldBackText, "test_text_held_back_for_a_stop_string_is_not_lost"),
    (IsRandom, "test_greedy_is_deterministic"),
    (IsRandom, "test_same_seed_same_text"),
    (SplitsUtf8, "test_utf8_is_never_split"),
    (SwallowsTheEcho, "test_echo_begins_with_the_prompt"),
    (TruncatesPrompts, "test_too_long_a_prompt_is_the_requests_fault"),
    (StandsStill, "test_steps_move_while_it_works"),
    (BlocksTheLoop, "test_the_loop_stays_free"),
    (MixesUp, "test_full_slots_do_not_mix"),
    (WorksOnAfterCancel, "test_cancel_while_decoding"),
    (WorksOnAfterCancel, "test_cancel_during_prefill"),
    (WorksOnAfterCancel, "test_cancel_at_once"),
    (WorksOnAfterCancel, "test_cancel_of_many"),
    (HasNoSlots, "test_info_is_sane"),
    (CallsNoTool, "test_required_tool"),
    (CallsNoTool, "test_one_call_when_parallel_calls_are_off"),
    (CallsTheFirstTool, "test_named_tool"),
    (WritesWrongArguments, "test_required_tool"),
    (GivesLongVectors, "test_vectors_are_unit_and_distinct"),
    (LetsABatchChangeVectors, "test_a_batch_changes_no_vector"),
    (ScoresByPlace, "test_neighbours_change_no_score"),
    (ScoresRelatively, "test_neighbours_change_no_score"),
    (ScoresOnlyTheBest, "test_every_document_has_a_finite_score"),
    (ScoresAllAlike, "test_every_document_has_a_finite_score"),
    (ScoresNothing, "test_every_document_has_a_finite_score"),
    (CountsTheQueryOnce, "test_usage_counts_every_pair"),
]


async def run(engine_class: type[EchoEngine], test: str, tmp_path: Path) -> None:
    prefill_s = 0.15 if "cancel" in test else 0.0
    settings = EchoSettings(tokens=400, tokens_per_s=2000.0, prefill_s=prefill_s, slots=4)
    model = replace(EchoConformance.model, context_tokens=2048)
    engine = engine_class(EngineContext(model=model, weights=None, settings=settings, scratch=tmp_path))
    suite = EchoConformance()
    await getattr(suite, test)(LoadedEngine(engine, await engine.load(), model))


@pytest.mark.parametrize(("engine_class", "test"), CASES, ids=lambda case: getattr(case, "__name__", case))
async def test_sabotage_is_caught(engine_class: type[Sabotaged], test: str, tmp_path: Path) -> None:
    """The test fails for the sabotaged engine, and passes for the true one."""
    await run(EchoEngine, test, tmp_path)
    with pytest.raises(BROKEN):
        await run(engine_class, test, tmp_path)


@pytest.mark.parametrize("heavy", ["echo_backend.engine", "torch"])
async def test_a_heavy_declaration_is_caught(heavy: str, tmp_path: Path, monkeypatch) -> None:
    """Whether it imports its own engine or a runtime."""
    if heavy == "torch":
        (tmp_path / "torch.py").write_text("")
    else:
        heavy = "greedy_backend.engine"
    package = tmp_path / "greedy_backend"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "engine.py").write_text("")
    (package / "plugin.py").write_text(f"import {heavy}\n")
    info = tmp_path / "greedy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: greedy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gateway.plugins]\ngreedy = greedy_backend.plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    class Greedy(EchoConformance):
        backend = replace(EchoConformance.backend, engine="greedy_backend.engine:Engine")

    with pytest.raises(AssertionError):
        await Greedy().test_import_pulls_in_no_runtime()


async def test_silent_settings_are_caught() -> None:
    """Every key must say what it is."""

    class Silent(EchoSettings):
        depth: int = 3

    class SilentConformance(EchoConformance):
        backend = replace(EchoConformance.backend, settings=Silent)

    with pytest.raises(AssertionError, match="depth"):
        await SilentConformance().test_settings_can_be_shown()
