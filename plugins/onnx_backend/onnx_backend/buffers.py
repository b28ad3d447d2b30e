"""The KV cache of all slots: for each layer's keys and values one buffer of full length, that a graph reads and writes.

The buffers are bound by address, as past and as present at once, so that nothing grows and nothing is copied in a step.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from onnx_backend.graph import DecoderGraph

__all__ = ["Buffers", "DeviceBuffers", "HostBuffers", "Kept", "allocate", "kept_by"]

# What a device is asked to do without any other library for it, a graph of one node each: `y = Identity(x)` on bytes,
# and `y = ConstantOfShape(n)`, which is n bytes of zeros. Made with onnx.helper.make_model (opset 13, ir_version 8) and
# serialised; tests/test_buffers.py makes them again and compares.
COPY_GRAPH = (
    b'\x08\x08:<\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x04copy'
    b"Z\x10\n\x01x\x12\x0b\n\t\x08\x02\x12\x05\n\x03\x12\x01nb\x10\n\x01y\x12\x0b\n\t\x08\x02\x12\x05\n\x03\x12\x01n"
    b"B\x04\n\x00\x10\r"
)
ZEROS_GRAPH = (
    b'\x08\x08:Z\n.\n\x01n\x12\x01y"\x0fConstantOfShape*\x15\n\x05val'
    b"ue*\t\x08\x01\x10\x02*\x01\x00B\x00\xa0\x01\x04\x12\x05zerosZ\x0f\n\x01n\x12\n\n\x08\x08\x07\x12\x04"
    b"\n\x02\x08\x01b\x10\n\x01y\x12\x0b\n\t\x08\x02\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\r"
)
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A layer's keys, or its values: their tensors' names, and what is kept of each position."""

    past: str
    present: str
    heads: int
    size: int


def kept_by(graph: DecoderGraph) -> tuple[Kept, ...]:
    """Return what a graph keeps, a buffer each: the first layer's keys, its values, the second layer's keys ..."""
    return tuple(
        kept
        for layer in graph.layers
        for kept in (
            Kept(past=layer.past_key, present=layer.present_key, heads=layer.heads, size=layer.key_size),
            Kept(past=layer.past_value, present=layer.present_value, heads=layer.heads, size=layer.value_size),
        )
    )


class Buffers(Protocol):
    """Buffers ``[rows, heads, capacity, size]``, one for each `Kept`."""

    def address(self, buffer: int, row: int) -> int:
        """Return where a row of a buffer begins; the rows after it follow."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make at least the first ``length`` positions of one row those of another, in all buffers."""
        ...

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange at least the first ``length`` positions of two rows, in all buffers."""
        ...

    def clear(self, row: int) -> None:
        """Overwrite a row with zeros, in all buffers."""
        ...


def allocate(graph: DecoderGraph, *, rows: int, capacity: int) -> Buffers:
    """Return buffers of zeros on the graph's device."""
    if graph.device == "cpu":
        return HostBuffers(kept_by(graph), graph.cache_format, rows=rows, capacity=capacity)
    return DeviceBuffers(
        kept_by(graph), graph.cache_format, rows=rows, capacity=capacity, device=graph.device, device_id=graph.device_id
    )


class HostBuffers:
    """Buffers in the process' own memory, which costs nothing where no token ever was.

    It is mapped by ourselves, because numpy asks for huge pages: then a slot's first token would touch, and zero, up to
    2 MiB for every head of every layer.
    """

    def __init__(self, kept: Iterable[Kept], dtype: np.dtype[np.floating], *, rows: int, capacity: int) -> None:
        self.arrays = tuple(_mapped((rows, one.heads, capacity, one.size), dtype) for one in kept)

    def address(self, buffer: int, row: int) -> int:
        """See `Buffers.address`."""
        array = self.arrays[buffer]
        address: int = array.ctypes.data
        return address + row * array.strides[0]

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Buffers.copy`."""
        for array in self.arrays:
            array[target, :, :length] = array[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """See `Buffers.swap`."""
        for array in self.arrays:
            held = array[one, :, :length].copy()
            array[one, :, :length] = array[other, :, :length]
            array[other, :, :length] = held

    def clear(self, row: int) -> None:
        """See `Buffers.clear`."""
        for array in self.arrays:
            array[row] = 0


class DeviceBuffers:
    """Buffers on a device; ONNX Runtime itself copies whole rows of them there.

    Of the largest buffer there are two rows more: the place where one waits while two are exchanged, and one of zeros.
    """

    def __init__(
        self,
        kept: Iterable[Kept],
        dtype: np.dtype[np.floating],
        *,
        rows: int,
        capacity: int,
        device: str,
        device_id: int,
    ) -> None:
        self._device = device, device_id
        # ONNX Runtime's own OrtValues come from an arena that doubles; this one takes what is asked for.
        where = {"device_id": str(device_id), "arena_extend_strategy": "kSameAsRequested"} if device == "cuda" else {}
        provider = _PROVIDERS[device], where
        self._maker = ort.InferenceSession(ZEROS_GRAPH, providers=[provider])
        self._session = ort.InferenceSession(COPY_GRAPH, providers=[provider])
        self._binding = self._session.io_binding()
        self._row_bytes = [dtype.itemsize * one.heads * capacity * one.size for one in kept]
        self._buffers = [self._make(rows * row_bytes) for row_bytes in self._row_bytes]
        self._addresses: list[int] = [buffer.data_ptr() for buffer in self._buffers]
        self._spare = self._make(max(self._row_bytes))
        self._zeros = self._make(max(self._row_bytes))

    def address(self, buffer: int, row: int) -> int:
        """See `Buffers.address`."""
        return self._addresses[buffer] + row * self._row_bytes[buffer]

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Buffers.copy`; the whole row is copied."""
        del length
        for buffer in range(len(self._buffers)):
            self._move(buffer, self.address(buffer, source), self.address(buffer, target))

    def swap(self, one: int, other: int, length: int) -> None:
        """See `Buffers.swap`; the whole rows are exchanged."""
        del length
        spare = self._spare.data_ptr()
        for buffer in range(len(self._buffers)):
            first, second = self.address(buffer, one), self.address(buffer, other)
            self._move(buffer, first, spare)
            self._move(buffer, second, first)
            self._move(buffer, spare, second)

    def clear(self, row: int) -> None:
        """See `Buffers.clear`."""
        for buffer in range(len(self._buffers)):
            self._move(buffer, self._zeros.data_ptr(), self.address(buffer, row))

    def _make(self, count: int) -> ort.OrtValue:
        """Return so many bytes of zeros."""
        binding = self._maker.io_binding()
        binding.bind_cpu_input("n", np.array([count], np.int64))
        binding.bind_output("y", *self._device)
        self._maker.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _move(self, buffer: int, source: int, target: int) -> None:
        """Copy a row's bytes; the run has ended on the device when it returns."""
        shape = [self._row_bytes[buffer]]
        self._binding.bind_input("x", *self._device, np.uint8, shape, source)
        self._binding.bind_output("y", *self._device, np.uint8, shape, target)
        self._session.run_with_iobinding(self._binding)


def _mapped(shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    # Zeros, as the system gives them when they are touched; the array keeps the mapping alive.
    numbers = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(mmap.mmap(-1, numbers * dtype.itemsize), dtype).reshape(shape)
