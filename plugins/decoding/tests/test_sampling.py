"""What a row draws: exactly what the plain definition says, and never anything of its neighbours."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from decoding.sampling import Chooser, Chosen, _block_ends, _place, check_bias, choose
from hypothesis import given, settings
from hypothesis import strategies as st

from core.api import EngineError, RequestError, Sampling

LIGHT = settings(deadline=None, max_examples=150)
STEPS = 3


def packed(tokens: set[int], vocab_size: int) -> np.ndarray:
    """The bits of a grammar that allows just these tokens."""
    return np.packbits([token in tokens for token in range(vocab_size)], bitorder="little")


class Plain:
    """The definition, slowly: one token after the other, everything sorted."""

    def __init__(self, sampling: Sampling, prompt: list[int], *, choice: int, vocab_size: int) -> None:
        self.sampling, self.prompt, self.vocab_size = sampling, prompt, vocab_size
        self.generated: list[int] = []
        assert sampling.seed is not None
        self.stream = np.random.Generator(np.random.PCG64(sampling.seed + choice))

    def choose(self, logits: np.ndarray, allowed: set[int] | None) -> int:
        token = self._choose(logits, allowed)
        self.generated.append(token)
        return token

    def _choose(self, logits: np.ndarray, allowed: set[int] | None) -> int:
        asked = self.sampling
        values = [np.float32(value) for value in logits[: self.vocab_size]]
        for token, bias in asked.logit_bias.items():
            values[token] += np.float32(bias)
        for token, count in Counter(self.generated).items():
            values[token] -= np.float32(asked.frequency_penalty) * np.float32(count) + np.float32(
                asked.presence_penalty
            )
        for token in {*self.prompt, *self.generated}:
            factor = np.float32(asked.repetition_penalty)
            values[token] = values[token] / factor if values[token] > 0 else values[token] * factor
        left = [token for token in range(self.vocab_size) if allowed is None or token in allowed]
        best = max(values[token] for token in left)
        if best == -math.inf:
            values, best = [np.float32(0)] * self.vocab_size, np.float32(0)
        left.sort(key=lambda token: (-values[token], token))
        if asked.temperature < 1e-6:
            return left[0]
        if asked.top_k:
            left = left[: asked.top_k]
        # Single precision, as the real one: what is tested is which tokens are left, and which one is drawn.
        weights = np.exp((np.array([values[token] for token in left]) - best) / np.float32(asked.temperature))
        if asked.top_p < 1:
            total = sum(weights.tolist())
            held, size = 0.0, 0
            while size < len(left) and (size == 0 or held < asked.top_p * total):
                held += float(weights[size])
                size += 1
            left, weights = left[:size], weights[:size]
        pairs = [
            (token, weight) for token, weight in zip(left, weights, strict=True) if weight >= np.float32(asked.min_p)
        ]
        wanted = self.stream.random() * sum(float(weight) for _, weight in pairs)
        for token, weight in sorted(pairs):
            wanted -= float(weight)
            if wanted < 0:
                return token
        raise AssertionError


def samplings(vocab_size: int) -> st.SearchStrategy[Sampling]:
    """Any parameters; each is off now and then."""
    return st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 1e-7, 0.05, 0.5, 1.0, 1.7]),
        top_p=st.sampled_from([0.0, 1e-9, 0.3, 0.55, 0.93, 0.9999, 1.0, 1.0]),
        top_k=st.sampled_from([0, 0, 1, 2, 7, 40, 200, 10**6]),
        min_p=st.sampled_from([0.0, 0.0, 0.013, 0.31, 1.0]),
        presence_penalty=st.sampled_from([0.0, 0.5, -1.5]),
        frequency_penalty=st.sampled_from([0.0, 0.25, -0.75]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.25, 0.75]),
        logit_bias=st.dictionaries(st.integers(0, vocab_size - 1), st.sampled_from([-100.0, 2.5, 100.0]), max_size=4),
        seed=st.integers(0, 2**40),
        logprobs=st.sampled_from([None, None, 0, 3, 20]),
    )


@st.composite
def rows(draw: st.DrawFn, vocab_size: int) -> dict[str, Any]:
    """One row for a few steps: logits with many equals or none, a grammar or none."""
    noise = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.1, 1.0, 3.0, 30.0]))
    logits = (noise.standard_normal((STEPS, vocab_size)) * spread).astype(np.float32)
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[noise.random(logits.shape) < 0.5] = -np.inf
        logits[:, draw(st.integers(0, vocab_size - 1))] = 1.0
    share = draw(st.sampled_from([None, None, 0.0, 0.02, 0.5, 0.98]))
    allowed = None
    if share is not None:
        allowed = [
            set(np.flatnonzero(noise.random(vocab_size) < share).tolist()) | {int(noise.integers(vocab_size))}
            for _ in range(STEPS)
        ]
    return {
        "logits": logits,
        "allowed": allowed,
        "sampling": draw(samplings(vocab_size)),
        "prompt": draw(st.lists(st.integers(0, vocab_size - 1), max_size=12)),
        "choice": draw(st.integers(0, 3)),
    }


def run(together: list[dict[str, Any]], vocab_size: int, *, offset: int = 0) -> list[list[Chosen | EngineError]]:
    """Choose for rows together, step by step; ``offset`` moves the logits in memory."""
    choosers = [
        Chooser(row["sampling"], row["prompt"], choice=row["choice"], vocab_size=vocab_size) for row in together
    ]
    steps = []
    for step in range(STEPS):
        memory = np.full(len(together) * vocab_size + offset, np.nan, np.float32)
        logits = memory[offset:].reshape(len(together), vocab_size)
        logits[:] = [row["logits"][step] for row in together]
        masks = [None if row["allowed"] is None else packed(row["allowed"][step], vocab_size) for row in together]
        steps.append(choose(logits, choosers, masks))
    return [list(row) for row in zip(*steps, strict=True)]


@LIGHT
@given(st.data(), st.sampled_from([1, 2, 9, 130, 1027]))
def test_a_row_is_chosen_as_plainly_defined(data: st.DataObject, vocab_size: int) -> None:
    row = data.draw(rows(vocab_size))
    plain = Plain(row["sampling"], row["prompt"], choice=row["choice"], vocab_size=vocab_size)

    expected = [plain.choose(row["logits"][step], row["allowed"] and row["allowed"][step]) for step in range(STEPS)]

    assert [chosen.token for chosen in run([row], vocab_size)[0]] == expected


@pytest.mark.parametrize("asked", [{"top_p": 0.2}, {"top_p": 0.95}, {"top_k": 5}, {"top_k": 700, "top_p": 0.6}, {}])
@pytest.mark.parametrize("spread", [0.0, 0.2, 4.0])
@pytest.mark.parametrize("steps_of", [0.0, 0.5])
def test_a_large_vocabulary_is_chosen_as_plainly_defined(asked: dict, spread: float, steps_of: float) -> None:
    """Peaked and flat distributions, with equals and without: what is not sorted was not needed."""
    vocab_size = 9001
    sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 5, **asked})
    chooser = Chooser(sampling, [], choice=0, vocab_size=vocab_size)
    plain = Plain(sampling, [], choice=0, vocab_size=vocab_size)
    noise = np.random.default_rng(1)
    for _ in range(8):
        logits = (noise.standard_normal(vocab_size) * spread).astype(np.float32)
        if steps_of:
            logits = np.round(logits / np.float32(steps_of)) * np.float32(steps_of)

        (chosen,) = choose([logits], [chooser])

        assert chosen.token == plain.choose(logits, None)


@LIGHT
@given(st.data(), st.sampled_from([3, 130, 2500]), st.integers(0, 3))
def test_a_row_never_depends_on_its_neighbours(data: st.DataObject, vocab_size: int, offset: int) -> None:
    """Bit for bit, log probabilities included, wherever the logits stand in memory."""
    together = data.draw(st.lists(rows(vocab_size), min_size=2, max_size=5))

    assert run(together, vocab_size, offset=offset) == [run([row], vocab_size)[0] for row in together]


def test_a_batch_of_a_real_size_equals_its_rows_alone() -> None:
    """The sizes that matter, at which numpy may sum in another order."""
    vocab_size, noise = 49152, np.random.default_rng(3)
    asked = [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 40, "min_p": 0.05},
        {"temperature": 0.0, "presence_penalty": 0.4, "repetition_penalty": 1.1},
    ]
    together = [
        {
            "logits": (noise.standard_normal((STEPS, vocab_size)) * 3).astype(np.float32),
            "allowed": None if index % 3 else [set(range(index, vocab_size, 2))] * STEPS,
            "sampling": Sampling(**asked[index % 4], seed=index, logprobs=index % 5),
            "prompt": [1, 2, 3],
            "choice": 0,
        }
        for index in range(7)
    ]

    assert run(together, vocab_size, offset=1) == [run([row], vocab_size)[0] for row in together]


@LIGHT
@given(st.data(), st.sampled_from([2, 9, 130]))
def test_what_the_grammar_forbids_is_never_chosen(data: st.DataObject, vocab_size: int) -> None:
    """Not even when the model gives all it allows minus infinity; something allowed always is chosen."""
    row = data.draw(rows(vocab_size))
    row["allowed"] = row["allowed"] or [{data.draw(st.integers(0, vocab_size - 1))}] * STEPS
    if data.draw(st.booleans()):
        for step, tokens in enumerate(row["allowed"]):
            row["logits"][step, list(tokens)] = -np.inf

    for chosen, tokens in zip(run([row], vocab_size)[0], row["allowed"], strict=True):
        assert chosen.token in tokens


@pytest.mark.parametrize("asked", [{"temperature": 0.0}, {"temperature": 2.0}, {"temperature": 2.0, "top_k": 12}])
def test_padding_is_never_chosen_and_in_no_distribution(asked: dict) -> None:
    """The model's logits are longer than the tokenizer's vocabulary, and highest there."""
    logits = np.concatenate([np.zeros(10, np.float32), np.full(6, 50, np.float32)])
    chooser = Chooser(Sampling(**asked, seed=1, logprobs=12), [], choice=0, vocab_size=10)
    for bits in [None, np.full(2, 255, np.uint8)] * 20:
        (chosen,) = choose([logits], [chooser], [bits])

        assert chosen.token < 10
        assert chosen.logprob == pytest.approx(-math.log(10))
        assert {token for token, _ in chosen.top} == set(range(10))


def test_drawn_frequencies_are_the_distribution() -> None:
    draws, temperature = 20_000, 0.8
    logits = np.linspace(-2, 2, 24, dtype=np.float32)
    chooser = Chooser(Sampling(temperature=temperature, seed=11), [], choice=0, vocab_size=24)

    counts = Counter(choose([logits], [chooser])[0].token for _ in range(draws))

    wanted = np.exp(logits / temperature, dtype=np.float64)
    wanted *= draws / wanted.sum()
    distance = sum((counts[token] - wanted[token]) ** 2 / wanted[token] for token in range(24))
    assert distance < 49.7  # chi-square of 23 degrees of freedom is above it once in a thousand times


def test_a_nucleus_is_drawn_from_in_its_proportions() -> None:
    """Probabilities 0.5, 0.3, 0.15, 0.05: three of them hold 0.9."""
    draws = 10_000
    logits = np.log(np.array([0.05, 0.3, 0.5, 0.15], np.float32))
    chooser = Chooser(Sampling(temperature=1.0, top_p=0.9, seed=2), [], choice=0, vocab_size=4)

    counts = Counter(choose([logits], [chooser])[0].token for _ in range(draws))

    assert counts.keys() == {1, 2, 3}
    for token, probability in {1: 0.3, 2: 0.5, 3: 0.15}.items():
        assert counts[token] / draws == pytest.approx(probability / 0.95, abs=0.02)


@pytest.mark.parametrize("number", [0.0, math.nextafter(1.0, 0.0)])
def test_the_ends_of_a_stream_find_a_token(number: float) -> None:
    """What has weight 0 is never met, though sums of blocks round otherwise than sums of their parts."""
    noise = np.random.default_rng(0)
    for _ in range(500):
        weights = np.exp(noise.standard_normal(400) * 5).astype(np.float32)
        weights[:140] = weights[-10:] = 0

        ends = _block_ends(weights)

        assert weights[_place(weights, ends, number * ends[-1], "right")] > 0


@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_top_k_leaves_that_many(size: int) -> None:
    """Of equals the first."""
    chooser = Chooser(Sampling(temperature=1.0, top_k=size, seed=4), [], choice=0, vocab_size=4)
    logits = [np.zeros(4, np.float32)]

    assert {choose(logits, [chooser])[0].token for _ in range(200)} == set(range(min(size, 4)))


def test_seeds_give_streams() -> None:
    """Choice 2 of seed 5 is choice 0 of seed 7; without a seed no two are alike; a negative seed is one too."""
    logits = [np.zeros(1000, np.float32)]

    def drawn(seed: int | None, choice: int) -> list[int]:
        chooser = Chooser(Sampling(temperature=1.0, seed=seed), [], choice=choice, vocab_size=1000)
        return [choose(logits, [chooser])[0].token for _ in range(8)]

    assert drawn(5, 2) == drawn(7, 0) != drawn(5, 0)
    assert drawn(-3, 1) == drawn(-2, 0) != drawn(2, 0)
    assert drawn(None, 0) != drawn(None, 0)


def test_parameters_that_nobody_gave_are_off() -> None:
    """Then the whole vocabulary is drawn from, at temperature 1."""
    logits = np.arange(4, dtype=np.float32)
    bare = Chooser(Sampling(seed=3), [], choice=0, vocab_size=4)
    told = Chooser(Sampling(seed=3, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0), [], choice=0, vocab_size=4)

    drawn = [choose([logits, logits], [bare, told]) for _ in range(300)]

    assert all(one == other for one, other in drawn)
    assert {one.token for one, _ in drawn} == {0, 1, 2, 3}


def test_penalties_count_what_they_say() -> None:
    """Presence and frequency: what was generated. Repetition: the prompt too."""
    logits = np.array([2.0, 1.9, 1.0], np.float32)

    def greedy(prompt: list[int], **asked: float) -> list[int]:
        chooser = Chooser(Sampling(temperature=0.0, **asked), prompt, choice=0, vocab_size=3)
        return [choose([logits], [chooser])[0].token for _ in range(5)]

    assert greedy([0, 0], presence_penalty=0.5) == [0, 1, 0, 0, 0]
    assert greedy([0, 0], frequency_penalty=0.3) == [0, 1, 0, 1, 0]
    assert greedy([0], repetition_penalty=1.5) == [1, 0, 0, 0, 0]
    assert greedy([0, 1, 77], repetition_penalty=2.5) == [2, 0, 0, 0, 0]
    assert greedy([0], repetition_penalty=1.01, presence_penalty=0.5) == [0, 1, 0, 0, 0]


def test_penalties_of_a_long_answer() -> None:
    """Far more distinct tokens than room was made for at first."""
    vocab_size = 700
    sampling = Sampling(temperature=0.0, presence_penalty=2.0)
    chooser = Chooser(sampling, [], choice=0, vocab_size=vocab_size)
    logits = np.linspace(1, 0, vocab_size, dtype=np.float32)

    assert [choose([logits], [chooser])[0].token for _ in range(vocab_size)] == list(range(vocab_size))


@LIGHT
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 3000]), st.integers(0, 20))
def test_logprobs_are_of_the_models_own_distribution(seed: int, vocab_size: int, count: int) -> None:
    """Whatever bias, temperature and grammar made of it."""
    logits = (np.random.default_rng(seed).standard_normal(vocab_size) * 4).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())
    last = vocab_size - 1
    sampling = Sampling(temperature=0.3, seed=seed, logprobs=count, logit_bias={last: 90.0}, presence_penalty=1.0)
    chooser = Chooser(sampling, [], choice=0, vocab_size=vocab_size)

    (chosen,) = choose([logits], [chooser], [packed({0, last}, vocab_size)])

    assert chosen.logprob == pytest.approx(expected[chosen.token], abs=1e-5)
    assert [token for token, _ in chosen.top] == np.argsort(-expected, kind="stable")[:count].tolist()
    assert [logprob for _, logprob in chosen.top] == pytest.approx(np.sort(expected)[::-1][:count].tolist(), abs=1e-5)


def test_logprobs_stay_numbers() -> None:
    """Minus infinity becomes what OpenAI writes; certainty is 0, never more."""
    logits = np.array([500.0, -np.inf, -np.inf], np.float32)
    chooser = Chooser(Sampling(temperature=0.0, logprobs=2), [], choice=0, vocab_size=3)

    assert choose([logits], [chooser]) == [Chosen(0, 0.0, ((0, 0.0), (1, -9999.0)))]
    assert choose([logits], [chooser], [packed({2}, 3)])[0].logprob == -9999.0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_fails_alone(broken: float, temperature: float) -> None:
    fine, bad = np.array([1.0, 9.0, 2.0], np.float32), np.full(3, broken, np.float32)
    sampling = Sampling(temperature=temperature, top_k=1, seed=1)
    choosers = [Chooser(sampling, [], choice=0, vocab_size=3) for _ in range(3)]

    first, error, last = choose([fine, bad, fine], choosers)

    assert isinstance(error, EngineError)
    assert "finite" in str(error)
    assert first == last == Chosen(1)


def test_a_grammar_that_allows_nothing_fails_its_row_alone() -> None:
    choosers = [Chooser(Sampling(temperature=0.0), [], choice=0, vocab_size=3) for _ in range(2)]

    error, fine = choose([np.zeros(3, np.float32)] * 2, choosers, [packed(set(), 3), None])

    assert isinstance(error, EngineError)
    assert "grammar" in str(error)
    assert fine == Chosen(0)


def test_logits_are_left_as_they_are() -> None:
    logits = np.array([[3.0, 1.0, 2.0]], np.float32)
    sampling = Sampling(temperature=1.0, top_p=0.5, logit_bias={0: 5.0}, presence_penalty=1.0, logprobs=1)
    chooser = Chooser(sampling, [], choice=0, vocab_size=3)
    for _ in range(2):
        choose(logits, [chooser], [packed({1, 2}, 3)])

    assert logits.tolist() == [[3.0, 1.0, 2.0]]


@pytest.mark.parametrize("token", [-1, 10])
def test_a_bias_on_no_token_is_refused(token: int) -> None:
    check_bias({0: 1.0, 9: -100.0}, 10)
    with pytest.raises(RequestError, match=r"tokens are 0 to 9") as refused:
        check_bias({3: 1.0, token: 1.0}, 10)
    assert refused.value.param == "logit_bias"
