"""Asks a routing policy, and does without it when it fails: the request does not notice."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.api.protocols import Candidate, Policy, RouteRequest, ScoringPolicy
from core.gateway.alarm import AlarmError, Clock
from core.gateway.metrics import count_policy_failure
from core.routing.policies import LeastLoaded, LeastLoadedSettings
from core.routing.table import Route

__all__ = ["Explanation", "RankedCandidate", "Ranker"]

_log = logging.getLogger("gateway.ranking")
_QUIET_S = 60.0
_LONGEST = 200

Reason = Literal["raised", "stranger", "no_sequence", "timeout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedCandidate:
    """What a policy made of one candidate.

    Attributes:
        rank: 1 is the best; None: the policy left it out.
        score: by what the policy ranks, lower is better; None where it does not say.
    """

    replica: str
    rank: int | None
    score: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a policy would do with a request.

    Attributes:
        policy: its name.
        problem: why another answer would be used than the policy's, or why it could not be asked; else empty.
        candidates: best first, then those that were left out.
    """

    policy: str
    problem: str
    candidates: tuple[RankedCandidate, ...]


class Ranker:
    """Ranks candidates by the policy of their route; `LeastLoaded` stands in for one that fails. Never raises."""

    def __init__(self, policies: Mapping[str, Policy], *, timeout_s: float) -> None:
        """``policies`` are by `Route.policy_key`."""
        self._policies = policies
        self._timeout_s = timeout_s
        self._clock = Clock(timeout_s)
        self._instead = LeastLoaded(LeastLoadedSettings())
        self._failures: dict[tuple[str, Reason], _Failures] = {}

    def rank(self, route: Route, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return a subset of ``candidates``, best first; empty only if the policy said so, or there are none."""
        try:
            return self._asked(self._policies[route.policy_key], request, candidates)
        except BaseException as error:  # noqa: BLE001 - somebody else's code; it may raise SystemExit too
            self._complain(route, error)
            return self._instead.rank(request, candidates)

    def explain(self, route: Route, request: RouteRequest, candidates: Sequence[Candidate]) -> Explanation:
        """Say what `rank` would return and by which scores; the policy's state stays as it is."""
        problem = ""
        scores: Sequence[float | None] = [None] * len(candidates)
        ranked: Sequence[Candidate] = ()
        try:
            policy = copy.deepcopy(self._policies[route.policy_key])
        except BaseException as error:  # noqa: BLE001 - somebody else's object
            problem = f"it cannot be asked without changing it: {_told(error)}"
        else:
            try:
                scores = self._scores(policy, request, candidates)
                ranked = self._asked(policy, request, candidates)
            except BaseException as error:  # noqa: BLE001 - as in `rank`
                problem = f"{_what(error, self._timeout_s)[1]}; least_loaded ranks instead"
                ranked, scores = self._without(request, candidates)
        ranks = {candidate.replica: number for number, candidate in enumerate(ranked, 1)}
        told = [
            RankedCandidate(replica=one.replica, rank=ranks.get(one.replica), score=score)
            for one, score in zip(candidates, scores, strict=True)
        ]
        told.sort(key=lambda one: (one.rank is None, one.rank or 0, one.replica))
        return Explanation(policy=route.policy, problem=problem, candidates=tuple(told))

    def _without(
        self, request: RouteRequest, candidates: Sequence[Candidate]
    ) -> tuple[Sequence[Candidate], Sequence[float | None]]:
        instead = copy.deepcopy(self._instead)
        return instead.rank(request, candidates), instead.scores(request, candidates)

    def _asked(self, policy: Policy, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return what the policy says, checked.

        Raises:
            BaseException: it failed; `_what` names how.
        """
        began_s = time.perf_counter()
        # A list of its own: it may take it apart, and whoever stands in needs them all.
        best_first = self._clock.call(lambda: _checked(policy.rank(request, list(candidates)), candidates))
        if time.perf_counter() - began_s > self._timeout_s:
            raise AlarmError
        return best_first

    def _scores(self, policy: Policy, request: RouteRequest, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        if not isinstance(policy, ScoringPolicy):
            return [None] * len(candidates)
        scores = self._clock.call(lambda: [float(score) for score in policy.scores(request, list(candidates))])
        if len(scores) != len(candidates):
            msg = f"scores() gave {len(scores)} numbers for {len(candidates)} candidates"
            raise ValueError(msg)
        return scores

    def _complain(self, route: Route, error: BaseException) -> None:
        """Count a failure, and log it unless one of its kind was logged a moment ago."""
        reason, told = _what(error, self._timeout_s)
        count_policy_failure(route.policy, reason)
        failures = self._failures.setdefault((route.policy, reason), _Failures())
        failures.unsaid += 1
        now_s = time.monotonic()
        if now_s < failures.quiet_until_s:
            return
        place = f'[routes."{route.policy_key}"]' if route.policy_key else "[routing]"
        _log.error(
            "the routing policy %s failed %s a request for '%s': %s. least_loaded ranked instead. Repair or update the "
            "plugin that brings it, or choose another policy in %s (python -m core plugins lists both)",
            route.policy,
            "with" if failures.unsaid == 1 else f"{failures.unsaid} times since it was last told, now with",
            route.name,
            told,
            place,
            exc_info=error if reason == "raised" else None,
        )
        failures.unsaid, failures.quiet_until_s = 0, now_s + _QUIET_S


@dataclass(slots=True)
class _Failures:
    """Failures of one kind that were not logged, and until when they are not."""

    unsaid: int = 0
    quiet_until_s: float = 0.0


class _AnswerError(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def _checked(ranked: object, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that a policy was given in the order of its answer; one that comes twice counts once."""
    if not isinstance(ranked, Sequence):
        reason: Reason = "no_sequence"
        msg = f"it returned {type(ranked).__name__}, no sequence of candidates"
        raise _AnswerError(reason, msg)
    given = {candidate.replica: candidate for candidate in candidates}
    best_first: dict[str, Candidate] = {}
    for one in ranked:
        candidate = given.get(one.replica) if isinstance(one, Candidate) else None
        if candidate is None:
            reason, msg = "stranger", f"it returned a candidate that it was not given: {_short(one)}"
            raise _AnswerError(reason, msg)
        best_first.setdefault(candidate.replica, candidate)
    return list(best_first.values())


def _what(error: BaseException, timeout_s: float) -> tuple[Reason, str]:
    """How a policy failed, for metrics and for people."""
    if isinstance(error, AlarmError):
        return "timeout", f"it took longer than {timeout_s:g} s (routing.policy_timeout_s)"
    if isinstance(error, _AnswerError):
        return error.reason, str(error)
    return "raised", f"it raised {_told(error)}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {_short(error, str)}"


def _short(value: object, words: Callable[[object], str] = repr) -> str:
    try:
        text = words(value)
    except Exception:  # noqa: BLE001 - somebody else's __repr__
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
