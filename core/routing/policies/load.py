"""How much a candidate has to do, from what is known of it.

Two counts are known. ``load`` is the replica's own, of all HTTP workers together, and as old as its last answer to
this worker or the last snapshot. ``in_flight*`` is exact, but of this worker alone. Their sum would count this
worker's requests twice and drive it away from the replicas it uses itself, however idle those are. Their maximum
counts nobody twice and never falls below what this worker knows for sure: with one worker it is exact, with several
it is low by at most what this worker has sent since the replica's last word. Every answer begins with that word
(``Accepted`` carries the load), so the error lasts one round trip; and a wrong guess costs another one, because the
replica has the last say on admission.
"""

from __future__ import annotations

from core.api.protocols import Candidate

__all__ = ["capacity", "outstanding", "work"]


def capacity(candidate: Candidate) -> float:
    """Slots times weight: what work is divided by to compare candidates."""
    return (candidate.slots or 1) * candidate.weight


def outstanding(candidate: Candidate) -> int:
    """Requests that it has and has not finished."""
    return max(candidate.load.running + candidate.load.waiting, candidate.in_flight)


def work(candidate: Candidate, output_token_cost: float) -> float:
    """Tokens that it has yet to compute; a generated one counts for ``output_token_cost`` prompt tokens.

    A request that is not over has one token to come at least: it keeps a slot, whatever was expected of it.
    """
    load = candidate.load
    prompt = max(load.outstanding_prompt_tokens, candidate.in_flight_prompt_tokens)
    output = max(load.outstanding_output_tokens, candidate.in_flight_output_tokens, outstanding(candidate))
    return prompt + output_token_cost * output
