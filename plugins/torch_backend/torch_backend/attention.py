"""Attention over the slot cache, as a function of transformers' own attention interface.

Models hand everything that differs between them (scale, window, soft cap, sinks) to this one function, so the
masks are made once a step and window, and no key or value is repeated for its query heads.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from core.api import EngineLoadError
from torch_backend.cache import SlotCache, Step
from torch_backend.settings import AttentionRequest

__all__ = ["Kernel", "choose", "eager", "flash", "register", "sdpa"]

Kernel = Callable[..., torch.Tensor]
_names = (f"ai_gateway_slots_{number}" for number in itertools.count())


def register(cache: SlotCache, kernel: Kernel) -> str:
    """Make ``kernel`` over ``cache`` known to transformers; return the name for ``set_attn_implementation``."""

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _attention_mask: torch.Tensor | None,
        *_args: object,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        del module
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if softcap is not None or s_aux is not None:
            found = eager(
                query, key, value, cache.step, scale=scale, window=sliding_window, softcap=softcap, sinks=s_aux
            )
        else:
            found = kernel(query, key, value, cache.step, scale=scale, window=sliding_window)
        return found, None

    name = next(_names)
    AttentionInterface.register(name, attend)
    return name


def sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: Step, *, scale: float, window: int | None
) -> torch.Tensor:
    """Attend with torch's fused kernels; return ``[rows, new, heads, size]``."""
    rows, heads, new, _ = query.shape
    shared_by = heads // key.shape[1]
    if new == 1:
        # The query heads that share a key head become its queries: no copy, on any device.
        grouped = query.view(rows, key.shape[1], shared_by, -1)
        found = scaled_dot_product_attention(grouped, key, value, attn_mask=step.mask(window, query.dtype), scale=scale)
        return found.reshape(rows, 1, heads, -1)
    causal = step.causal and (window is None or window >= new)
    mask = None if causal else step.mask(window, query.dtype)
    if mask is not None and shared_by > 1 and query.is_cuda:
        # CUDA's fused kernels take a mask or shared key heads, not both.
        key, value = key.repeat_interleave(shared_by, 1), value.repeat_interleave(shared_by, 1)
        shared_by = 1
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=shared_by > 1
    )
    return found.transpose(1, 2)


def eager(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    step: Step,
    *,
    scale: float,
    window: int | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend in plain steps, in float32; knows soft caps (Gemma 2) and sinks (gpt-oss)."""
    rows, heads, new, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, new, size)
    scores = (grouped @ key[:, :, None].transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    mask = step.mask(window, torch.float32)
    if mask is not None:
        scores = scores + mask[:, :, None]
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        sink = sinks.float().view(1, key.shape[1], -1, 1, 1).expand(rows, -1, -1, new, 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    found = weights.to(value.dtype) @ value[:, :, None]
    return found.reshape(rows, heads, new, -1).transpose(1, 2)


def flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: Step, *, scale: float, window: int | None
) -> torch.Tensor:
    """Attend with the package ``flash_attn``, which takes rows of different lengths as they are: no mask at all."""
    import flash_attn  # noqa: PLC0415 - optional, and for CUDA only

    # A window counts the keys before the query here, and the query itself there.
    reach = (-1, -1) if window is None else (window - 1, 0)
    found: torch.Tensor = flash_attn.flash_attn_with_kvcache(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        cache_seqlens=(step.positions[:, -1] + 1).clamp(max=step.end).int(),
        softmax_scale=scale,
        causal=True,
        window_size=reach,
    )
    return found


def choose(requested: AttentionRequest, device: str, *, has_flash: bool | None = None) -> Kernel:
    """Return the function to attend with.

    Raises:
        EngineLoadError: FlashAttention was asked for and cannot be used; trying again cannot help.
    """
    if has_flash is None:
        has_flash = importlib.util.find_spec("flash_attn") is not None
    can_flash = has_flash and device.startswith("cuda")
    if requested == "flash_attention_2" and not can_flash:
        msg = "attention = 'flash_attention_2' needs a CUDA device and the package flash-attn: set 'auto' or 'sdpa'."
        raise EngineLoadError(msg, permanent=True)
    if requested == "eager":
        return eager
    return flash if can_flash and requested != "sdpa" else sdpa
