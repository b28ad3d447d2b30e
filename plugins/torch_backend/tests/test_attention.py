"""The functions that attend: against plain formulas, and what is handed to FlashAttention."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch_backend import attention
from torch_backend.cache import LayerShape, SlotCache

from core.api import EngineLoadError

HEADS, KEY_HEADS, SIZE = 4, 2, 8
LENGTHS = [5, 9, 2]


def make_cache() -> SlotCache:
    cache = SlotCache([LayerShape(KEY_HEADS, SIZE, SIZE)], 3, 16, torch.float32, torch.device("cpu"))
    torch.manual_seed(3)
    for kept in (cache.layers[0].keys, cache.layers[0].values):
        kept.copy_(torch.randn(kept.shape))
    return cache


def plainly(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, window: int | None) -> Any:
    """One query of one row: ``[heads, size]`` over the keys it may see."""
    first = 0 if window is None else max(0, position - window + 1)
    keys, values = (kept[first : position + 1].repeat_interleave(HEADS // KEY_HEADS, 1) for kept in (keys, values))
    weights = torch.einsum("hd,khd->hk", query, keys).mul(SIZE**-0.5).softmax(-1)
    return torch.einsum("hk,khd->hd", weights, values)


def flash_stand_in() -> Any:
    """`flash_attn` for the CPU, from its documentation: rows of ``cache_seqlens`` keys, the queries are the last."""

    def with_kvcache(
        q: Any, k: Any, v: Any, *, cache_seqlens: Any, softmax_scale: float, causal: bool, window_size: tuple[int, int]
    ) -> torch.Tensor:
        assert causal
        assert softmax_scale == SIZE**-0.5
        window = None if window_size == (-1, -1) else window_size[0] + 1
        assert window_size[1] == (0 if window else -1)
        rows = []
        for row, length in enumerate(cache_seqlens.tolist()):
            first = length - q.shape[1]
            rows.append(
                torch.stack([plainly(one, k[row], v[row], first + at, window) for at, one in enumerate(q[row])])
            )
        return torch.stack(rows)

    return types.SimpleNamespace(flash_attn_with_kvcache=with_kvcache)


@pytest.mark.parametrize("kernel", [attention.sdpa, attention.eager, attention.flash])
@pytest.mark.parametrize("window", [None, 3, 100])
def test_decode(kernel: attention.Kernel, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row sees its own tokens, up to its own length, within the window."""
    monkeypatch.setitem(sys.modules, "flash_attn", flash_stand_in())
    cache = make_cache()
    cache.begin_decode([length - 1 for length in LENGTHS])
    query = torch.randn(3, HEADS, 1, SIZE)
    new = [torch.randn(3, KEY_HEADS, 1, SIZE) for _ in range(2)]
    keys, values = cache.update(*new, 0)

    found = kernel(query, keys, values, cache.step, scale=SIZE**-0.5, window=window)

    layer = cache.layers[0]
    for row, length in enumerate(LENGTHS):
        assert torch.equal(layer.keys[row, length - 1], new[0][row, :, 0])
        wanted = plainly(query[row, :, 0], layer.keys[row], layer.values[row], length - 1, window)
        assert torch.allclose(found[row, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("kernel", [attention.sdpa, attention.eager, attention.flash])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_chunk(kernel: attention.Kernel, window: int | None, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk sees what is before it in its row, and itself causally."""
    monkeypatch.setitem(sys.modules, "flash_attn", flash_stand_in())
    cache = make_cache()
    cache.begin_chunk(1, start, 5)
    query = torch.randn(1, HEADS, 5, SIZE)
    keys, values = cache.update(torch.randn(1, KEY_HEADS, 5, SIZE), torch.randn(1, KEY_HEADS, 5, SIZE), 0)

    found = kernel(query, keys, values, cache.step, scale=SIZE**-0.5, window=window)

    layer = cache.layers[0]
    for number in range(5):
        wanted = plainly(query[0, :, number], layer.keys[1], layer.values[1], start + number, window)
        assert torch.allclose(found[0, number], wanted, atol=1e-5)


def test_choice() -> None:
    """FlashAttention where it can run; asked for elsewhere it is an error."""
    assert attention.choose("auto", "cuda:0", has_flash=True) is attention.flash
    assert attention.choose("auto", "cuda:0", has_flash=False) is attention.sdpa
    assert attention.choose("auto", "cpu", has_flash=True) is attention.sdpa
    assert attention.choose("sdpa", "cuda:0", has_flash=True) is attention.sdpa
    assert attention.choose("eager", "cuda:0", has_flash=True) is attention.eager
    for device, has_flash in (("cpu", True), ("cuda:0", False)):
        with pytest.raises(EngineLoadError, match="flash-attn"):
            attention.choose("flash_attention_2", device, has_flash=has_flash)
