"""What is yet to be computed for the admitted requests: an estimate, for those who choose among replicas."""

from __future__ import annotations

from core.api.requests import ChatRequest, CompletionRequest, EngineRequest
from core.engine.admission import count_endings

__all__ = ["Answering", "Outstanding"]

_FIRST_GUESS_TOKENS = 256
_SMOOTHING = 0.1
# What is left of an answer that is longer than expected, unless its limit is nearer.
_OVERDUE_TOKENS = 32
_UNLIMITED = 1 << 62


class Answering:
    """One admitted request.

    Attributes:
        prompt_tokens: estimate.
        expected_tokens: estimate of what is generated, of all choices.
        most_tokens: what is generated at most.
        begun: whether its first event came, so that its prompt is computed.
        tokens: generated so far.
    """

    __slots__ = ("_sums", "begun", "expected_tokens", "most_tokens", "prompt_tokens", "tokens")

    def __init__(self, sums: Outstanding, *, prompt_tokens: int, expected_tokens: int, most_tokens: int) -> None:
        self._sums = sums
        self.prompt_tokens = prompt_tokens
        self.expected_tokens = expected_tokens
        self.most_tokens = most_tokens
        self.begun = False
        self.tokens = 0

    def begin(self) -> None:
        """The first event came."""
        self.begun = True
        self._sums.begin(self)

    @property
    def left_tokens(self) -> int:
        """What is yet to be generated."""
        return max(self.expected_tokens - self.tokens, min(_OVERDUE_TOKENS, self.most_tokens - self.tokens), 0)


class Outstanding:
    """Sums over the admitted requests; those that have not begun are never gone through one by one."""

    def __init__(self, context_tokens: int = 0) -> None:
        """``context_tokens`` is of prompt and answer together; 0 when unknown."""
        self.prompt_tokens = 0
        self._context_tokens = context_tokens
        self._unbegun_output_tokens = 0
        self._begun: set[Answering] = set()
        self._mean_tokens = float(_FIRST_GUESS_TOKENS)

    @property
    def output_tokens(self) -> int:
        """Tokens yet to be generated."""
        return self._unbegun_output_tokens + sum([one.left_tokens for one in self._begun])

    def enter(self, request: EngineRequest, prompt_tokens: int) -> Answering:
        """Count a request that was admitted; it must leave, once.

        An answer is expected to be as long as recent ones were, or ``max_tokens``, or what the context leaves,
        whichever is least.
        """
        expected = most = 0
        if isinstance(request, ChatRequest | CompletionRequest):
            room = max(self._context_tokens - prompt_tokens, 1) if self._context_tokens else _UNLIMITED
            limit = min(request.sampling.max_tokens or room, room)
            said = len(request.continued.token_ids) if request.continued else 0
            endings = count_endings(request)
            most = max(limit * endings - said, 0)
            expected = min(max(round(self._mean_tokens) * endings - said, _OVERDUE_TOKENS), most)
        self.prompt_tokens += prompt_tokens
        self._unbegun_output_tokens += expected
        return Answering(self, prompt_tokens=prompt_tokens, expected_tokens=expected, most_tokens=most)

    def begin(self, answering: Answering) -> None:
        """See `Answering.begin`."""
        self.prompt_tokens -= answering.prompt_tokens
        self._unbegun_output_tokens -= answering.expected_tokens
        self._begun.add(answering)

    def leave(self, answering: Answering) -> None:
        """It is over, or gave up waiting."""
        if answering.begun:
            self._begun.remove(answering)
        else:
            self.prompt_tokens -= answering.prompt_tokens
            self._unbegun_output_tokens -= answering.expected_tokens

    def learn(self, request: EngineRequest, answering: Answering) -> None:
        """Take the length of a whole answer into account."""
        if isinstance(request, ChatRequest | CompletionRequest) and request.continued is None:
            self._mean_tokens += _SMOOTHING * (answering.tokens / count_endings(request) - self._mean_tokens)
