"""Text: what a stream holds, where it ends, what it counts."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from core.api.errors import RequestError
from core.api.protocols import Engine
from core.api.requests import CompletionRequest, Sampling
from core.testing.asking import new_id
from core.testing.suites.base import LONG, STORY, LoadedEngine, Suite

__all__ = ["TextSuite"]

_MANY_SCRIPTS = "Repeat this exactly, again and again: 🦜🦜 naïve 日本語テキスト Привет 🇫🇷 👩🏽‍🚀 🤖🧪🪐"
_TIMER_S = 0.05
_LATE_S = 0.5
_WATCHED_S = 2.0


class TextSuite(Suite):
    """Chat and completions."""

    async def test_info_is_sane(self, loaded: LoadedEngine) -> None:
        """What the engine says of itself can be shown to an operator and used for admission."""
        info = loaded.info
        assert isinstance(loaded.engine, Engine), "the engine lacks a method of core.api.Engine"
        assert info.slots >= 1, f"EngineInfo.slots must be at least 1: {info}"
        assert info.context_tokens >= 1, f"EngineInfo.context_tokens must be at least 1: {info}"
        assert info.memory_bytes >= 0, f"EngineInfo.memory_bytes must not be negative: {info}"
        assert info.device, f"EngineInfo.device must be named: {info}"
        assert info.device_requested, f"EngineInfo.device_requested must be named: {info}"

    async def test_the_loop_stays_free(self, loaded: LoadedEngine) -> None:
        """Beside a stream a timer is on time: cancels, load reports and other requests need the same loop."""
        loop = asyncio.get_running_loop()
        over = False

        async def latest_s() -> float:
            late_s = 0.0
            while not over:
                due = loop.time() + _TIMER_S
                await asyncio.sleep(_TIMER_S)
                late_s = max(late_s, loop.time() - due)
            return late_s

        prompt = LONG * max(1, loaded.info.context_tokens // 160)
        request = loaded.filled(self.text_request(prompt + STORY, max_tokens=200))
        timer = asyncio.create_task(latest_s())
        await asyncio.sleep(0)  # so that the timer runs
        enough = loop.time() + _WATCHED_S
        try:
            async with contextlib.aclosing(loaded.engine.stream(request)) as events:
                async for _ in events:
                    if loop.time() > enough:
                        break
        finally:
            over = True
            late_s = await timer
        assert late_s < _LATE_S, (
            f"the engine blocked the event loop: a timer of {_TIMER_S} s was {late_s:.2f} s late while a stream ran. "
            "A step that blocks belongs into a thread (asyncio.to_thread)"
        )

    async def test_stream_ends_with_finished_and_usage(self, loaded: LoadedEngine) -> None:
        """One Finished for the choice, nothing of it afterwards, Usage last, and text in between."""
        answer = await loaded.ask(self.text_request("Say hello to the world, please."))
        assert answer.text.strip(), "the answer has no text"
        assert set(answer.reasons) == {0}, f"exactly choice 0 must finish: {answer.reasons}"
        assert answer.usage.prompt_tokens > 0, f"Usage must count the prompt: {answer.usage}"
        assert answer.usage.completion_tokens > 0, f"Usage must count the answer: {answer.usage}"

    async def test_every_choice_finishes(self, loaded: LoadedEngine) -> None:
        """N choices give n texts and n endings; the prompt is counted once."""
        self.need("n")
        alone = await loaded.ask(self.text_request(STORY, max_tokens=4))
        answer = await loaded.ask(self.text_request(STORY, n=3, max_tokens=4))
        assert set(answer.reasons) == {0, 1, 2}, f"n=3 must finish choices 0, 1 and 2: {answer.reasons}"
        assert all(answer.texts[choice].strip() for choice in range(3)), f"every choice needs text: {answer.texts}"
        assert answer.usage.prompt_tokens == alone.usage.prompt_tokens, (
            "the prompt must be counted once, not once per choice"
        )

    async def test_several_prompts(self, loaded: LoadedEngine) -> None:
        """Every prompt of a completion gets its own choice, and usage is their sum."""
        self.need_task("completion")
        prompts = ("Once upon a time there was", "The capital of France is the city of")
        sampling = Sampling(temperature=0.0, max_tokens=4)
        alone = [
            await loaded.ask(CompletionRequest(id=new_id(), prompts=(prompt,), sampling=sampling)) for prompt in prompts
        ]
        answer = await loaded.ask(CompletionRequest(id=new_id(), prompts=prompts, sampling=sampling))
        assert set(answer.reasons) == {0, 1}, f"two prompts must finish choices 0 and 1: {answer.reasons}"
        assert answer.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone), (
            "prompt_tokens must be the sum over the prompts"
        )
        assert answer.usage.completion_tokens == sum(answer.tokens.values()) == 8, (
            "two prompts with max_tokens=4 must give 8 completion_tokens, in Usage and over the deltas' `tokens`"
        )

    async def test_max_tokens_is_exact(self, loaded: LoadedEngine) -> None:
        """A text cut by max_tokens has exactly so many tokens and says length."""
        for limit in (1, 7):
            answer = await loaded.ask(self.text_request(STORY, max_tokens=limit))
            assert answer.reasons == {0: "length"}, f"cut by max_tokens={limit}, it must say length: {answer.reasons}"
            assert answer.usage.completion_tokens == answer.tokens[0] == limit, (
                f"max_tokens={limit} must give so many tokens, in Usage and summed over the deltas' `tokens`"
            )

    async def test_stop_strings_never_leak(self, loaded: LoadedEngine) -> None:
        """The text ends right before the stop string, although it spans tokens and arrives in pieces."""
        self.need("stop")
        whole = (await loaded.ask(self.text_request(STORY, max_tokens=24))).text
        stop = whole[len(whole) // 2 :][:6]
        answer = await loaded.ask(self.text_request(STORY, max_tokens=24, stop=("never said", stop)))
        assert answer.text == whole[: whole.index(stop)], f"the text must end right before the stop string {stop!r}"
        assert answer.reasons == {0: "stop"}, f"a stop string ends with the reason stop: {answer.reasons}"

    async def test_text_held_back_for_a_stop_string_is_not_lost(self, loaded: LoadedEngine) -> None:
        """What only began like a stop string is delivered when the text ends."""
        self.need("stop")
        whole = (await loaded.ask(self.text_request(STORY, max_tokens=12))).text
        answer = await loaded.ask(self.text_request(STORY, max_tokens=12, stop=(whole[-4:] + "\x00never",)))
        assert answer.text == whole, "text held back because it began like a stop string was lost"

    async def test_greedy_is_deterministic(self, loaded: LoadedEngine) -> None:
        """At temperature 0 the same request gives the same text."""
        texts = {(await loaded.ask(self.text_request(STORY))).text for _ in range(2)}
        assert len(texts) == 1, f"temperature 0 gave two texts for one request: {texts}"

    async def test_same_seed_same_text(self, loaded: LoadedEngine) -> None:
        """A seed makes sampling repeatable."""
        self.need("seed")
        texts = {(await loaded.ask(self.text_request(STORY, temperature=1.0, seed=7))).text for _ in range(2)}
        assert len(texts) == 1, f"one seed gave two texts: {texts}"

    async def test_utf8_is_never_split(self, loaded: LoadedEngine) -> None:
        """No delta holds a replacement character, wherever max_tokens cuts."""
        for limit in (1, 2, 3, 5, 8, 40):
            answer = await loaded.ask(self.text_request(_MANY_SCRIPTS, max_tokens=limit))
            split = [piece for piece in answer.pieces if "\ufffd" in piece]
            assert not split, f"a character was split between deltas, or cut by max_tokens={limit}: {split}"

    async def test_usage_adds_up(self, loaded: LoadedEngine) -> None:
        """Deltas and usage agree; only an end-of-text token per choice may be counted without a delta."""
        answer = await loaded.ask(self.text_request("Say yes.", max_tokens=30))
        usage = answer.usage
        assert 0 <= usage.completion_tokens - answer.tokens[0] <= 1, (
            "completion_tokens must be the sum of the deltas' `tokens`, or one more for the end of text"
        )
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens, f"cached_tokens are part of prompt_tokens: {usage}"
        assert 0 <= usage.reasoning_tokens <= usage.completion_tokens, (
            f"reasoning_tokens are part of completion_tokens: {usage}"
        )

    async def test_echo_begins_with_the_prompt(self, loaded: LoadedEngine) -> None:
        """A completion with echo repeats its prompt, which costs no completion tokens."""
        self.need("echo")
        self.need_task("completion")
        plain = CompletionRequest(
            id=new_id(), prompts=("Once upon a time",), sampling=Sampling(temperature=0.0, max_tokens=4)
        )
        echoed = await loaded.ask(msgspec.structs.replace(plain, echo=True))
        assert echoed.text.startswith("Once upon a time"), f"echo must begin with the prompt: {echoed.text!r}"
        answer = (await loaded.ask(plain)).text
        assert echoed.text.removeprefix("Once upon a time").strip() == answer.strip(), (
            "after the prompt, echo must go on as without it"
        )
        assert echoed.usage.completion_tokens == 4, "an echoed prompt costs no completion_tokens"

    async def test_token_prompts(self, loaded: LoadedEngine) -> None:
        """A prompt of token ids is taken as it is."""
        self.need("token_prompts")
        self.need_task("completion")
        request = CompletionRequest(id=new_id(), prompts=((5, 6, 7),), sampling=Sampling(temperature=0.0, max_tokens=4))
        assert (await loaded.ask(request)).usage.prompt_tokens == 3, "three token ids are a prompt of three tokens"

    async def test_too_long_a_prompt_is_the_requests_fault(self, loaded: LoadedEngine) -> None:
        """A prompt over the context is refused before the first event, with OpenAI's code."""
        with pytest.raises(RequestError) as refused:
            await loaded.ask(self.text_request(LONG * (loaded.info.context_tokens // 16 + 1)))
        assert refused.value.code == "context_length_exceeded", "a prompt over the context is refused with this code"

    async def test_steps_move_while_it_works(self, loaded: LoadedEngine) -> None:
        """The counter that tells the supervisor that the engine is not hung."""
        events = loaded.engine.stream(loaded.filled(self.text_request(STORY, max_tokens=64)))
        seen = {loaded.engine.load_now().steps}
        async for _ in events:
            load = loaded.engine.load_now()
            seen.add(load.steps)
            assert 0.0 <= load.kv_used <= 1.0, f"kv_used is a share from 0 to 1: {load}"
        assert len(seen) > 2, f"Load.steps must move while something runs, or the replica is taken for hung: {seen}"

    async def test_full_slots_do_not_mix(self, loaded: LoadedEngine) -> None:
        """As many streams as there are slots: each ends where it should and has its own usage and text."""
        limits = range(8, 8 + min(loaded.info.slots, 8))
        requests = [
            self.text_request(
                f"My number is {limit * 1111}. {'Please! ' * limit}Say my number, then count upwards from it.",
                max_tokens=limit,
            )
            for limit in limits
        ]
        alone = [await loaded.ask(request) for request in requests]
        together = await asyncio.gather(*(loaded.ask(request) for request in requests))
        same = 0
        for one, other in zip(alone, together, strict=True):
            assert other.reasons == one.reasons, "a stream ended otherwise because others ran"
            assert other.usage.completion_tokens == one.usage.completion_tokens, (
                "completion_tokens changed because other streams ran"
            )
            assert other.usage.prompt_tokens == one.usage.prompt_tokens, "prompt_tokens changed because others ran"
            same += other.text == one.text
        # Arithmetic that depends on the batch may change a word here and there, but not most answers.
        assert same == len(alone) if self.batch_invariant else same > len(alone) / 2, (
            f"only {same} of {len(alone)} texts were the same alone and together: streams mix"
        )
