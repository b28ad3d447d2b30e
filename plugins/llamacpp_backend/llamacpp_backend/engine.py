"""The engine: llama.cpp's server in this process, asked over its unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import psutil
from decoding.errors import context_exceeded
from decoding.grammar import answer_grammar, tool_grammar
from decoding.remainder import beyond, check_alone
from decoding.vectors import pack

from core.api import (
    ChatRequest,
    CompletionRequest,
    Continued,
    Embedding,
    EmbeddingsRequest,
    EngineContext,
    EngineError,
    EngineEvent,
    EngineInfo,
    EngineRequest,
    Finished,
    Load,
    RequestError,
    Usage,
)
from llamacpp_backend.body import chat_body, sampling_body
from llamacpp_backend.choice import Choice
from llamacpp_backend.chunks import Chunk, decode_chat, decode_completion
from llamacpp_backend.client import LlamaClient
from llamacpp_backend.continuation import is_repeatable, told
from llamacpp_backend.device import choose_device
from llamacpp_backend.merge import merge
from llamacpp_backend.served import ServedModel
from llamacpp_backend.server import ServerPlan, free_gpu_bytes, offered_devices, runtime_details, start_server
from llamacpp_backend.settings import LlamaCppSettings

__all__ = ["LlamaCppEngine"]

_log = logging.getLogger(__name__)

_PULSE_S = 1.0
_DECODES = re.compile(rb"^llamacpp:n_decode_total (\d+)", re.MULTILINE)

Events = AsyncGenerator[EngineEvent, None]


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """One choice to be generated: which endpoint is asked what, and who reads the answer."""

    target: str
    body: dict[str, Any]
    decode: Callable[[bytes, int | None], Chunk]
    top_logprobs: int | None
    param: str
    choice: Choice = field(repr=False)


class LlamaCppEngine:
    """See `core.api.Engine`."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._server: Any = None
        self._client = LlamaClient("")
        self._model = ServedModel(self._client)
        self._slots = asyncio.Semaphore(1)
        # llama.cpp computes embeddings that meet in one batch differently from one alone.
        self._embedding = asyncio.Lock()
        self._n_batch = 0
        self._kv_tokens = 1
        self._running = 0
        self._choices: set[Choice] = set()
        self._chunks = 0
        self._decodes = 0
        self._pulse: asyncio.Task[None] | None = None

    # --- life

    async def load(self) -> EngineInfo:
        """Load the model in a thread and ask the server what it has become."""
        settings = cast("LlamaCppSettings", self._context.settings)
        offered = await asyncio.to_thread(offered_devices)
        device = choose_device(settings.device, offered, settings.n_gpu_layers)
        plan = ServerPlan.make(self._context, settings, device)
        free_before = free_gpu_bytes()
        self._server = await asyncio.to_thread(start_server, plan)
        self._client = LlamaClient(plan.socket)
        self._slots = asyncio.Semaphore(plan.slots)
        self._n_batch, self._kv_tokens = plan.n_batch, plan.slots * plan.context_tokens
        self._model = await ServedModel.ask(self._client)
        meta = self._model.meta
        # llama.cpp does not tell what it has allocated: what other processes took meanwhile is in it too.
        gpu_bytes = max(0, free_before - free_gpu_bytes())
        self._pulse = asyncio.create_task(self._feel_pulse())
        return EngineInfo(
            device_requested=settings.device,
            device=device.device,
            device_reason=device.reason,
            context_tokens=plan.context_tokens,
            slots=plan.slots,
            memory_bytes=psutil.Process().memory_info().rss + gpu_bytes,
            details={
                **runtime_details(),
                "threads": plan.threads,
                "n_batch": plan.n_batch,
                "n_gpu_layers": device.n_gpu_layers,
                "weights_bytes": meta.size,
                "parameters": meta.n_params,
                "quantization": meta.ftype,
                "trained_context_tokens": meta.n_ctx_train,
                "template_knows_tools": self._model.caps.supports_tools,
            },
            device_memory_bytes=gpu_bytes,
        )

    def load_now(self) -> Load:
        """Requests in work, tokens they hold, and chunks and decode steps seen."""
        held = sum(choice.counts.prompt + choice.counts.generated for choice in self._choices)
        return Load(running=self._running, kv_used=min(1.0, held / self._kv_tokens), steps=self._chunks + self._decodes)

    async def close(self) -> None:
        """Stop the server; dropping it waits for its threads."""
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)
        server, self._server = [self._server], None
        await asyncio.to_thread(server.clear)

    async def _feel_pulse(self) -> None:
        """Count llama.cpp's decode steps while no chunk comes: in a long prompt, or while it holds text back."""
        seen = -1
        while True:
            await asyncio.sleep(_PULSE_S)
            if self._running and self._chunks == seen:
                with contextlib.suppress(EngineError, RequestError):
                    if found := _DECODES.search(await self._client.call("/metrics")):
                        self._decodes = int(found[1])
            seen = self._chunks

    # --- requests

    async def stream(self, request: EngineRequest) -> Events:
        """Serve one request; see `core.api.Engine.stream`."""
        self._running += 1
        try:
            match request:
                case ChatRequest() | CompletionRequest() if request.continued is not None:
                    source = self._continue(request, request.continued)
                case ChatRequest():
                    source = self._chat(request)
                case CompletionRequest():
                    source = self._complete(request)
                case EmbeddingsRequest():
                    source = self._embed(request)
                case _:  # the configuration may give a model any task
                    msg = "The llama.cpp backend cannot rerank."
                    raise RequestError(msg, param="model", code="unsupported_task")
            async with contextlib.aclosing(source):
                async for event in source:
                    yield event
        finally:
            self._running -= 1

    async def _chat(self, request: ChatRequest) -> Events:
        sampling = request.sampling
        self._model.check_bias(sampling.logit_bias)
        mode = request.tool_choice.mode
        shown = bool(request.tools) and mode != "none"
        # A template that knows tools, free to use them: llama.cpp's own parser reads what comes.
        native = shown and mode == "auto" and self._model.caps.supports_tools and request.response_format.kind == "text"
        if native:
            grammar = None
        elif shown:
            grammar = await asyncio.to_thread(
                tool_grammar,
                request.tools,
                request.tool_choice,
                request.response_format,
                parallel=request.parallel_tool_calls,
            )
        else:
            grammar = await asyncio.to_thread(answer_grammar, request.response_format)
        shared = chat_body(request, self._model.caps, grammar)
        draws = [
            _Draw(
                target="/v1/chat/completions",
                body=shared | sampling_body(sampling, index, self._context.model.context_tokens),
                decode=decode_chat,
                top_logprobs=sampling.logprobs,
                param="messages",
                choice=Choice(
                    index,
                    sampling.stop,
                    parses_calls=shown and not native,
                    bound_to_json=request.response_format.kind != "text",
                ),
            )
            for index in range(request.n)
        ]
        async for event in self._generate(draws, request.n):
            yield event

    async def _complete(self, request: CompletionRequest) -> Events:
        sampling = request.sampling
        self._model.check_bias(sampling.logit_bias)
        if request.echo and sampling.logprobs is not None:
            msg = "'logprobs' of an echoed prompt are not available."
            raise RequestError(msg, param="logprobs")
        draws = []
        for number, given in enumerate(request.prompts):
            prompt = self._model.prompt(given, param="prompt")
            if len(request.prompts) > 1:
                # One prompt that is too long must be refused before the others have begun.
                tokens = len(await self._model.tokens_of(given, param="prompt"))
                if tokens >= self._context.model.context_tokens:
                    raise context_exceeded(tokens, self._context.model.context_tokens, param="prompt")
            echo = await self._model.text_of(given) if request.echo else ""
            for index in range(request.n):
                body = sampling_body(sampling, index, self._context.model.context_tokens) | {"prompt": prompt}
                if sampling.logprobs is not None:
                    body["n_probs"] = max(1, sampling.logprobs)
                draws.append(
                    _Draw(
                        target="/completion",
                        body=body,
                        decode=decode_completion,
                        top_logprobs=sampling.logprobs,
                        param="prompt",
                        choice=Choice(number * request.n + index, sampling.stop, echo=echo),
                    )
                )
        async for event in self._generate(draws, request.n):
            yield event

    async def _continue(self, request: ChatRequest | CompletionRequest, continued: Continued) -> Events:
        check_alone(request)
        if is_repeatable(request.sampling):
            again = self._chat(request) if isinstance(request, ChatRequest) else self._complete(request)
            try:
                async with contextlib.aclosing(beyond(request, continued, again)) as events:
                    async for event in events:
                        yield event
            except RequestError as error:  # before the first event
                if error.code != "cannot_continue":
                    raise
                _log.info("request %s did not come out the same again; what was told goes on", request.id)
            else:
                return
        async with contextlib.aclosing(self._go_on(request, continued)) as events:
            async for event in events:
                yield event

    async def _go_on(self, request: ChatRequest | CompletionRequest, continued: Continued) -> Events:
        begun = await told(request, continued, self._model)
        left = begun.left(request.sampling.max_tokens, self._context.model.context_tokens)
        if left <= 0:
            yield Finished(reason="length")
            yield begun.usage(Usage())
            return
        body = sampling_body(request.sampling, 0, self._context.model.context_tokens)
        draw = _Draw(
            target="/completion",
            body=body | {"prompt": begun.prompt + begun.answer, "n_predict": left},
            decode=decode_completion,
            top_logprobs=None,
            param="prompt",
            choice=Choice(0, request.sampling.stop),
        )
        async with contextlib.aclosing(self._generate([draw], 1)) as events:
            async for event in events:
                yield begun.usage(event) if isinstance(event, Usage) else event

    async def _generate(self, draws: list[_Draw], n: int) -> Events:
        streams = [self._draw(draw) for draw in draws]
        async with contextlib.aclosing(streams[0] if len(streams) == 1 else merge(streams)) as events:
            async for event in events:
                yield event
        counts = [draw.choice.counts for draw in draws]
        yield Usage(
            prompt_tokens=sum(count.prompt for count in counts[::n]),
            completion_tokens=sum(count.generated for count in counts),
            cached_tokens=sum(count.cached for count in counts[::n]),
        )

    async def _draw(self, draw: _Draw) -> Events:
        choice = draw.choice
        async with self._slots:
            self._choices.add(choice)
            try:
                async with contextlib.aclosing(self._client.events(draw.target, draw.body)) as batches:
                    async for texts in batches:
                        self._chunks += len(texts)
                        for text in texts:
                            for event in choice.read(draw.decode(text, draw.top_logprobs)):
                                yield event
                            if choice.finished:
                                return
            except RequestError as error:
                error.param = error.param or draw.param
                raise
            finally:
                self._choices.discard(choice)
        msg = "llama.cpp ended a stream without saying why"
        raise EngineError(msg)

    async def _embed(self, request: EmbeddingsRequest) -> Events:
        model, limit = self._model, min(self._n_batch, self._context.model.context_tokens)
        inputs = [await model.tokens_of(given, param="input") for given in request.inputs]
        for tokens in inputs:
            # llama.cpp pools over one batch, so the whole input must fit into one.
            if len(tokens) > limit:
                raise context_exceeded(len(tokens), limit, param="input")
        if (request.dimensions or 0) > model.meta.n_embd:
            msg = f"'dimensions' must be at most {model.meta.n_embd}, the length of this model's vectors."
            raise RequestError(msg, param="dimensions")
        async with self._embedding, self._slots:
            for index, tokens in enumerate(inputs):
                vector = await model.vector(tokens)
                self._chunks += 1
                yield Embedding(index=index, vector=pack(vector, request.dimensions))
        yield Usage(prompt_tokens=sum(map(len, inputs)))
