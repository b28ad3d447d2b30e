"""Formats of weights: packed ones compute the same, and the fastest is told from times alone."""

from __future__ import annotations

import pytest
import torch
from torch_backend import measure as measured_module
from torch_backend.measure import Format, Measured, linear_shapes, measure
from torch_backend.packing import PackedLinear, can_pack, pack_linears
from torch_backend.testing import make_model

FLOAT = Format("float32", packed=False)
HALF = Format("bfloat16", packed=False)
PACKED = Format("bfloat16", packed=True)


def test_fastest_over_all_row_counts() -> None:
    """One that is best at 16 rows loses if it is much worse at one."""
    assert Measured({FLOAT: {1: 10.0, 16: 40.0}, HALF: {1: 30.0, 16: 20.0}}).fastest == FLOAT
    assert Measured({FLOAT: {1: 10.0, 16: 40.0}, HALF: {1: 15.0, 16: 20.0}}).fastest == HALF
    assert str(Measured({PACKED: {1: 10.0, 16: 40.0}})) == "bfloat16 packed: 10.0 ms at 1, 40.0 ms at 16"


def test_every_layer_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of one layer of a shape count as often as the shape does, and the packed format is asked for."""
    monkeypatch.setattr(measured_module, "_once", lambda layers, _given: 0.001 * len(layers))
    found = measure({(64, 32): 3, (16, 32): 2}, ("float32", "bfloat16"), (1, 16), pack=False)
    assert set(found.step_ms) == {FLOAT, HALF}
    assert found.step_ms[FLOAT] == pytest.approx({1: 5.0, 16: 5.0})
    assert all(kept.packed for kept in set(measure({(64, 32): 1}, ("float32",), (1,), pack=True).step_ms) - {FLOAT})


def test_shapes_of_a_model() -> None:
    """Linear layers only, on any device."""
    with torch.device("meta"):
        shapes = linear_shapes(make_model("llama-3"))
    assert shapes == {(32, 32): 4, (16, 32): 4, (64, 32): 4, (32, 64): 2, (96, 32): 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layer(dtype: torch.dtype, bias: bool) -> None:
    """What torch's own layer computes, for any number of rows."""
    if not can_pack(dtype):
        pytest.skip("this CPU has no such kernel")
    torch.manual_seed(1)
    linear = torch.nn.Linear(96, 64, bias=bias).to(dtype).requires_grad_(requires_grad=False)
    packed = PackedLinear(linear)
    for rows in (1, 5, 64):
        given = torch.randn(2, rows, 96).to(dtype)
        with torch.inference_mode():
            assert torch.allclose(packed(given), linear(given), atol=1e-5 if dtype == torch.float32 else 0.02)


def test_rows_do_not_see_each_other() -> None:
    """A packed bfloat16 product of up to 32 rows gives each row the very bits that it gets alone."""
    if not can_pack(torch.bfloat16):
        pytest.skip("this CPU has no such kernel")
    torch.manual_seed(1)
    packed = PackedLinear(torch.nn.Linear(576, 192, bias=False, dtype=torch.bfloat16))
    given = torch.randn(16, 1, 576).bfloat16()
    with torch.inference_mode():
        together = packed(given)
        assert all(torch.equal(packed(given[row : row + 1])[0], together[row]) for row in range(16))


def test_all_linear_layers_are_packed() -> None:
    """None is left, and what is not one stays."""
    model = make_model("qwen2")
    assert pack_linears(model) == 15
    assert not linear_shapes(model)
    assert isinstance(model.get_input_embeddings(), torch.nn.Embedding)
