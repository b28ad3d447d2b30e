"""The rows of the KV cache: at their addresses, copied, exchanged and cleared, in our memory and on a device."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_backend.buffers import COPY_GRAPH, ZEROS_GRAPH, Buffers, DeviceBuffers, HostBuffers, Kept

ROWS, CAPACITY = 3, 8
KEPT = (
    Kept(past="past.key", present="present.key", heads=2, size=4),
    Kept(past="past.value", present="present.value", heads=2, size=6),
)
Make = Callable[..., Buffers]


@pytest.fixture(params=["host", "device"])
def make(request: pytest.FixtureRequest) -> Make:
    def make(dtype: type[np.floating], rows: int = ROWS) -> Buffers:
        if request.param == "host":
            return HostBuffers(KEPT, np.dtype(dtype), rows=rows, capacity=CAPACITY)
        return DeviceBuffers(KEPT, np.dtype(dtype), rows=rows, capacity=CAPACITY, device="cpu", device_id=0)

    return make


def row_of(buffers: Buffers, number: int, row: int, dtype: type[np.floating]) -> np.ndarray:
    """A row as who is told its address sees it."""
    kept = KEPT[number]
    numbers = kept.heads * CAPACITY * kept.size
    memory = (ctypes.c_char * (numbers * np.dtype(dtype).itemsize)).from_address(buffers.address(number, row))
    return np.frombuffer(memory, dtype).reshape(kept.heads, CAPACITY, kept.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows(make: Make, dtype: type[np.floating]) -> None:
    """Zeros at first; then each row goes where it is told, in all buffers, and the others stay as they are."""
    buffers = make(dtype)
    rows = [[row_of(buffers, number, row, dtype) for row in range(ROWS)] for number in range(len(KEPT))]
    assert not np.any([row.any() for own in rows for row in own])
    for own in rows:
        for row, memory in enumerate(own):
            memory[:] = np.random.default_rng(row).normal(size=memory.shape)
    before = [[memory.copy() for memory in own] for own in rows]

    buffers.swap(0, 2, CAPACITY)
    for own, (first, second, third) in zip(rows, before, strict=True):
        assert np.array_equal(own, [third, second, first])

    buffers.copy(2, 1, 5)
    for own, (first, second, third) in zip(rows, before, strict=True):
        assert np.array_equal(own[1][:, :5], first[:, :5])
        assert np.array_equal([own[0], own[2]], [third, first])
        # Of what lies beyond nothing is promised; it is of one of the two.
        assert np.array_equal(own[1][:, 5:], (second if isinstance(buffers, HostBuffers) else first)[:, 5:])

    buffers.clear(0)
    for own, (first, _, _) in zip(rows, before, strict=True):
        assert not own[0].any()
        assert np.array_equal(own[2], first)


def test_only_what_is_held_is_exchanged() -> None:
    """In our memory a short row costs as little as it holds."""
    buffers = HostBuffers(KEPT, np.dtype(np.float32), rows=2, capacity=CAPACITY)
    for array in buffers.arrays:
        array[0], array[1] = 1, 2
    buffers.swap(0, 1, 3)
    for array in buffers.arrays:
        assert (array[0, :, :3] == 2).all()
        assert (array[1, :, :3] == 1).all()
        assert (array[0, :, 3:] == 1).all()
        assert (array[1, :, 3:] == 2).all()


def test_what_is_no_number_is_overwritten(make: Make) -> None:
    """A row of nan is of zeros once it was cleared."""
    buffers = make(np.float16, rows=1)
    rows = [row_of(buffers, number, 0, np.float16) for number in range(len(KEPT))]
    for row in rows:
        row[:] = np.nan
    buffers.clear(0)
    assert not any(row.any() for row in rows)


def test_the_graphs() -> None:
    """The bytes are those of the graphs that they are said to be."""
    zero = helper.make_tensor("", TensorProto.UINT8, [1], [0])
    bytes_in, bytes_out = (helper.make_tensor_value_info(name, TensorProto.UINT8, ["n"]) for name in "xy")
    count = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    copy = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", [bytes_in], [bytes_out])
    node = helper.make_node("ConstantOfShape", ["n"], ["y"], value=zero)
    zeros = helper.make_graph([node], "zeros", [count], [bytes_out])
    for graph, content in ((copy, COPY_GRAPH), (zeros, ZEROS_GRAPH)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        assert model.SerializeToString(deterministic=True) == content
