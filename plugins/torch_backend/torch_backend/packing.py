"""Linear layers whose weights are kept in the layout of oneDNN's kernels.

torch's own linear layer reorders a bfloat16 weight at every call, which costs more than the product itself while
few rows are computed. The operators used here are the ones that ``torch.compile`` emits for frozen weights.
"""

from __future__ import annotations

import torch

__all__ = ["PackedLinear", "can_pack", "pack_linears"]


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's linear layer for weights of that kind on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - torch has no public name for it
    return dtype == torch.float32


class PackedLinear(torch.nn.Module):
    """What a `torch.nn.Linear` computes, from a packed copy of its weight."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())  # noqa: SLF001 - as above
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return ``rows @ weight.T + bias``."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")  # noqa: SLF001


def pack_linears(model: torch.nn.Module) -> int:
    """Replace the linear layers of a model, which gives their weights up one by one; return how many."""
    found = [(name, module) for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    for name, module in found:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, PackedLinear(module))
    return len(found)
