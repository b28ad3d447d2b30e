"""Requests -> the rows to generate: prompts as tokens, grammars compiled, readers of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.api import ChatRequest, CompletionRequest, Continued, EngineError, EngineEvent, RequestError, Sampling
from decoding import scheduler
from decoding.answer import Answer
from decoding.errors import context_exceeded
from decoding.generation import Row
from decoding.grammar import Reasoning, answer_grammar, tool_grammar
from decoding.masks import Matcher
from decoding.reasoning import ReasoningSplitter
from decoding.remainder import refuse
from decoding.sampling import Chooser, Chosen, check_bias
from decoding.template import ChatTemplate
from decoding.tokens import Vocabulary
from decoding.tools import PLAIN, CallParser, form_of, tool_prompt
from decoding.writer import AnswerWriter

__all__ = ["Draw", "Prompts", "tokens_of"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One choice to generate.

    Attributes:
        row: its row; not to be generated if its answer is finished.
        echo: the text that its answer begins with.
        prompt_tokens: of its prompt; the row's may hold more, if its answer began elsewhere.
        begun: events of the tokens that came elsewhere.
    """

    row: Row
    echo: str
    prompt_tokens: int
    begun: tuple[EngineEvent, ...] = ()


class Prompts:
    """Makes the rows of requests to one model. Its methods take milliseconds to a second: call them in a thread.

    Args:
        vocabulary: of the model.
        template: its chat template.
        context_tokens: most tokens of prompt and answer together.
        known_tokens: ids below it can be computed; a tokenizer may have more than its model. None: all.
    """

    def __init__(
        self, vocabulary: Vocabulary, template: ChatTemplate, *, context_tokens: int, known_tokens: int | None = None
    ) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._context_tokens = context_tokens
        self._known_tokens = vocabulary.size if known_tokens is None else min(known_tokens, vocabulary.size)
        self._form = PLAIN
        if template.knows_tools:
            self._form = form_of(template.source, vocabulary.special_tokens)

    def chat(self, request: ChatRequest) -> list[Draw]:
        """Return a draw for each choice.

        Raises:
            RequestError: the request is at fault.
        """
        self._check(request.sampling)
        shown = request.tools if request.tool_choice.mode != "none" else ()
        bound = request.response_format.kind != "text" or request.tool_choice.mode in ("required", "named")
        plain = tool_prompt(shown, request.tool_choice) if shown and not self._form.native else None
        text = self._template.render(
            request.messages,
            shown if self._form.native else (),
            instructions=plain,
            thinking=False if bound else None,
        )
        prompt = self._fitting(self._vocabulary.encode(text, framed=False), "messages")
        reasoning = self._reasoning(text)
        matcher = self._matcher(request, reasoning)
        marks = frozenset(self._form.tokens.values() if shown else ())
        if reasoning is not None:
            marks |= frozenset(reasoning.tokens.values())
        names = frozenset(tool.name for tool in shown)

        def draws() -> Iterator[Draw]:
            for choice in range(request.n):
                parser = CallParser(self._form, names=names, bound=True) if shown else None
                splitter = None
                if reasoning is not None:
                    splitter = ReasoningSplitter(reasoning.open, reasoning.close, inside=reasoning.opened)
                writer = AnswerWriter(choice, request.sampling.stop, parser)
                answer = Answer(self._vocabulary, writer, splitter=splitter, shown=marks, begins=True)
                row = self._row(prompt, request.sampling, choice, answer, matcher and matcher.copy())
                yield self._draw(row, request.continued)

        return list(draws())

    def completion(self, request: CompletionRequest) -> list[Draw]:
        """Return a draw for each choice of each prompt, in the order of their indices.

        Raises:
            RequestError: the request is at fault.
        """
        sampling = request.sampling
        self._check(sampling)
        if request.echo and sampling.logprobs is not None:
            msg = "'logprobs' of an echoed prompt are not available."
            raise RequestError(msg, param="logprobs")
        draws = []
        for number, given in enumerate(request.prompts):
            prompt = self._fitting(tokens_of(given, self._vocabulary, param="prompt"), "prompt")
            echo = ""
            if request.echo:
                echo = given if isinstance(given, str) else self._vocabulary.decode(given)
            for choice in range(request.n):
                writer = AnswerWriter(number * request.n + choice, sampling.stop)
                answer = Answer(self._vocabulary, writer)
                draws.append(self._draw(self._row(prompt, sampling, choice, answer, None), request.continued, echo))
        return draws

    def _row(
        self, prompt: tuple[int, ...], sampling: Sampling, choice: int, answer: Answer, matcher: Matcher | None
    ) -> Row:
        return Row(
            sequence=scheduler.Sequence(prompt),
            chooser=Chooser(sampling, prompt, choice=choice, vocab_size=self._known_tokens),
            answer=answer,
            matcher=matcher,
            max_tokens=self._context_tokens if sampling.max_tokens is None else sampling.max_tokens,
        )

    def _draw(self, row: Row, continued: Continued | None, echo: str = "") -> Draw:
        """Return the draw of a row, whose answer may have begun elsewhere.

        What can be repeated, because the draws are or there is none, is repeated step by step: a runtime rounds a step
        otherwise than a prompt, so only then is the rest what it would have been. Else the tokens join the prompt.
        """
        prompt_tokens = len(row.sequence.prompt)
        if continued is None:
            return Draw(row, echo, prompt_tokens)
        if not all(0 <= token < self._known_tokens for token in continued.token_ids):
            refuse("its tokens are not this model's")
        if row.chooser.repeatable:
            row.chooser.replayed.extend(continued.token_ids)
            return Draw(row, echo, prompt_tokens)
        begun: list[EngineEvent] = []
        for token in continued.token_ids:
            if row.answer.finished:
                refuse("it was complete already")
            row.chooser.remember(token)
            try:
                begun += row.take(Chosen(token), self._context_tokens)
            except EngineError:
                refuse("its tokens are not of the form that was asked for")
        row.sequence = scheduler.Sequence(tuple(row.sequence.tokens))
        return Draw(row, echo, prompt_tokens, tuple(begun))

    def _matcher(self, request: ChatRequest, reasoning: Reasoning | None) -> Matcher | None:
        param = "response_format"
        if request.tools and request.tool_choice.mode != "none":
            param = "tools"
            grammar: str | None = tool_grammar(
                request.tools,
                request.tool_choice,
                request.response_format,
                parallel=request.parallel_tool_calls,
                tool_form=self._form,
                reasoning=reasoning,
            )
        else:
            grammar = answer_grammar(request.response_format, reasoning=reasoning)
        return None if grammar is None else Matcher(self._vocabulary.llguidance, grammar, param=param)

    def _reasoning(self, prompt: str) -> Reasoning | None:
        marks = self._template.reasoning
        if marks is None:
            return None
        special = self._vocabulary.special_tokens
        return Reasoning(
            open=marks[0],
            close=marks[1],
            opened=self._template.opens_reasoning(prompt),
            tokens={mark: special[mark] for mark in marks if mark in special},
        )

    def _check(self, sampling: Sampling) -> None:
        check_bias(sampling.logit_bias, self._known_tokens)

    def _fitting(self, tokens: Sequence[int], param: str) -> tuple[int, ...]:
        check_ids(tokens, self._known_tokens, param=param)
        if len(tokens) >= self._context_tokens:
            raise context_exceeded(len(tokens), self._context_tokens, param=param)
        return tuple(tokens)


def tokens_of(given: str | tuple[int, ...], vocabulary: Vocabulary, *, param: str) -> tuple[int, ...]:
    """Return the tokens of a raw prompt.

    Raises:
        RequestError: it is empty, or has token ids that the model does not have.
    """
    tokens = tuple(vocabulary.encode(given, framed=True)) if isinstance(given, str) else given
    check_ids(tokens, vocabulary.size, param=param)
    if not tokens:
        msg = f"'{param}' holds an empty text."
        raise RequestError(msg, param=param)
    return tokens


def check_ids(tokens: Sequence[int], known_tokens: int, *, param: str) -> None:
    """Raise `RequestError` when there is a token id that the model does not have."""
    wrong = next((token for token in tokens if not 0 <= token < known_tokens), None)
    if wrong is not None:
        msg = f"'{param}' has the token id {wrong}, but this model's ids go from 0 to {known_tokens - 1}."
        raise RequestError(msg, param=param)
