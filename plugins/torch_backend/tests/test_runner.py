"""The runner against `model.generate`, on tiny random models in float32: equal tokens, however they are computed."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch_backend import attention
from torch_backend.architecture import check_decoder, probe
from torch_backend.packing import can_pack, pack_linears
from torch_backend.runner import TorchRunner
from torch_backend.testing import ARCHITECTURES, SLIDING, VOCABULARY, WINDOW, make_model

NEW = 16
SLOTS = 4
PROMPTS = [
    [(number * 37 + slot * 11 + 5) % (VOCABULARY - 3) + 3 for number in range(7 + 9 * slot)] for slot in range(4)
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def expected(name: str) -> list[list[int]]:
    """What the model itself answers to each prompt, alone and greedily."""
    model = make_model(name)
    answers = []
    for prompt in PROMPTS:
        given = torch.tensor([prompt])
        told = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
        answers.append(told[0, len(prompt) :].tolist())
    return answers


def make_runner(name: str, *, kernel: attention.Kernel = attention.sdpa, packed: bool = False) -> TorchRunner:
    model = make_model(name)
    check_decoder(model.config, model)
    probed = probe(model)
    if packed:
        assert pack_linears(model)
    runner = TorchRunner(model, probed.shapes, slots=SLOTS, context_tokens=128, kernel=kernel)
    probed.check(runner, torch.float32)
    return runner


def run(runner: TorchRunner, slot: int, prompt: Sequence[int], chunk: int, start: int = 0) -> list[int]:
    """One answer, alone."""
    logits = np.zeros(0)
    for begin in range(start, len(prompt), chunk):
        logits = runner.prefill(slot, prompt[begin : begin + chunk], begin)
    answer = [int(logits.argmax())]
    while len(answer) < NEW:
        answer.append(int(runner.decode([slot], answer[-1:], [len(prompt) + len(answer) - 1])[0].argmax()))
    return answer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_alone_and_in_chunks(name: str) -> None:
    """Each prompt in a slot of its own, in chunks of any size; a slot is used again."""
    runner = make_runner(name)
    for chunk in (64, 5, 1):
        assert [run(runner, slot, prompt, chunk) for slot, prompt in enumerate(PROMPTS)] == expected(name)
    assert len({token for answer in expected(name) for token in answer}) > NEW, "the model says always the same"


@pytest.mark.parametrize("kernel", [attention.sdpa, attention.eager])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_staggered(name: str, kernel: attention.Kernel) -> None:
    """Rows join and leave between any two steps, in any slots and any order."""
    runner = make_runner(name, kernel=kernel)
    rng = random.Random(5)  # noqa: S311
    for _ in range(3):
        slots = rng.sample(range(SLOTS), len(PROMPTS))
        joins = [rng.randrange(NEW) for _ in PROMPTS]
        answers: list[list[int]] = [[] for _ in PROMPTS]
        for step in range(3 * NEW):
            for number, prompt in enumerate(PROMPTS):
                if joins[number] == step:
                    answers[number].append(int(runner.prefill(slots[number], prompt, 0).argmax()))
            going = [number for number, answer in enumerate(answers) if 0 < len(answer) < NEW]
            rng.shuffle(going)
            if going:
                logits = runner.decode(
                    [slots[number] for number in going],
                    [answers[number][-1] for number in going],
                    [len(PROMPTS[number]) + len(answers[number]) - 1 for number in going],
                )
                for number, row in zip(going, logits, strict=True):
                    answers[number].append(int(row.argmax()))
        assert answers == expected(name)


@pytest.mark.parametrize("name", ["llama-3", "gemma3", "deepseek"])
def test_copied_prefix(name: str) -> None:
    """A slot goes on from the beginning of another's prompt, wherever rows were moved meanwhile."""
    runner = make_runner(name)
    prompt, other = PROMPTS[2], PROMPTS[1]
    runner.prefill(3, prompt, 0)
    runner.prefill(1, other, 0)
    runner.decode([3], [5], [len(prompt)])  # brings slot 3 to the front
    shared = 11
    runner.copy_slot(3, 0, shared)
    assert run(runner, 0, prompt, 64, start=shared) == expected(name)[2]
    assert run(runner, 3, prompt, 64, start=len(prompt) - 1) == expected(name)[2]
    assert run(runner, 1, other, 64, start=len(other) - 1) == expected(name)[1]


@pytest.mark.parametrize("name", ["qwen2", "mixtral", "gpt2"])
def test_packed_weights(name: str) -> None:
    """Weights in oneDNN's layout give the same answers."""
    runner = make_runner(name, packed=True)
    assert [run(runner, slot, prompt, 64) for slot, prompt in enumerate(PROMPTS)] == expected(name)


@pytest.mark.parametrize("name", SLIDING)
def test_windows_matter(name: str) -> None:
    """The prompts reach beyond the window: with a wider one the answers are others."""
    runner = make_runner(name)
    wide = make_model(name, sliding_window=8 * WINDOW)
    other = TorchRunner(wide, probe(wide).shapes, slots=1, context_tokens=128)
    assert run(runner, 0, PROMPTS[3], 64) != run(other, 0, PROMPTS[3], 64)


def test_results_are_the_callers() -> None:
    """Logits are float32, one row a slot in the order asked for, and a later call leaves them alone."""
    runner = make_runner("qwen3")
    for slot, prompt in enumerate(PROMPTS):
        runner.prefill(slot, prompt, 0)
    positions = [len(prompt) for prompt in PROMPTS]
    together = runner.decode([2, 0, 3], [7, 8, 9], [positions[2], positions[0], positions[3]])
    kept = together.copy()
    for row, (slot, token) in enumerate([(2, 7), (0, 8), (3, 9)]):
        alone = runner.decode([slot], [token], [positions[slot]])
        assert np.allclose(alone[0], together[row], atol=1e-4)
    assert together.dtype == np.float32
    assert together.shape == (3, runner.vocab_size)
    assert np.array_equal(together, kept)


def test_what_is_no_number_is_cleared_away() -> None:
    """A slot that held some is as good as new, though masked positions are read with the others."""
    runner = make_runner("llama-3")
    expected_logits = runner.prefill(1, PROMPTS[0], 0).copy()
    for layer in runner._cache.layers:
        layer.keys[runner._rows[0]] = torch.nan
        layer.values[runner._rows[0]] = torch.nan

    runner.clear_slot(0)

    assert np.allclose(runner.prefill(0, PROMPTS[0], 0), expected_logits, atol=1e-4)
    runner.decode([0, 1], [7, 7], [len(PROMPTS[0])] * 2)
    assert np.isfinite(runner.decode([0], [8], [len(PROMPTS[0]) + 1])).all()


@pytest.mark.parametrize("name", ["llama-3", "mistral-sliding"])
def test_embeddings(name: str) -> None:
    """The mean of the last hidden states; it depends neither on neighbours nor on the slots, and leaves them alone."""
    plain = make_model(name)
    wanted = np.stack(
        [plain.base_model(torch.tensor([given])).last_hidden_state[0].mean(0).numpy() for given in PROMPTS]
    )
    runner = make_runner(name)
    logits = runner.prefill(0, PROMPTS[0], 0)
    together = runner.embed(PROMPTS)
    assert np.allclose(together, wanted, atol=1e-4)
    assert np.allclose(np.concatenate([runner.embed([given]) for given in PROMPTS]), together, atol=1e-5)
    assert np.allclose(runner.prefill(0, PROMPTS[0][-1:], len(PROMPTS[0]) - 1), logits, atol=1e-4)


def test_the_same_bits_in_any_company() -> None:
    """In bfloat16 a step's logits of a row are the same to the last bit alone and among longer and shorter rows."""
    if not can_pack(torch.bfloat16):
        pytest.skip("this CPU rounds by the height of the product")
    sizes = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    model = make_model("llama-3", **sizes, initializer_range=0.05).bfloat16()
    probed = probe(model)
    pack_linears(model)
    runner = TorchRunner(model, probed.shapes, slots=8, context_tokens=120)
    lengths = [3, 17, 31, 32, 33, 64, 90, 119]
    for slot, length in enumerate(lengths):
        runner.prefill(slot, [(number * 37 + slot * 11) % VOCABULARY for number in range(length)], 0)
    together = runner.decode(range(8), [5] * 8, lengths)
    for slot, length in enumerate(lengths):
        assert np.array_equal(runner.decode([slot], [5], [length])[0], together[slot])
