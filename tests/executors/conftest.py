"""A driver that only records: what each launch would have read, for tests of the driver executor without a GPU."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest import mock

import pytest
import torch

from nvfp4 import executors
from nvfp4.executors import driver, libcuda, scratch
from nvfp4.executors.launch import (
    Argument,
    Launch,
    Pointer,
    PointerArray,
    Scalar,
    ScalarArray,
    TensorMap,
    TensorMapArray,
)

HANDLE = (1 << 46) + 16
"""``CUfunction`` of every kernel: as long as an address."""

_CTYPES = {
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
    "f32": ctypes.c_float,
}


def read(argument: Argument, address: int) -> object:
    """What the driver would find for `argument` at `address`: all of its capacity, as a kernel sees it."""
    if isinstance(argument, Pointer):
        return ctypes.c_uint64.from_address(address).value
    if isinstance(argument, PointerArray):
        return list((ctypes.c_uint64 * argument.capacity).from_address(address))
    if isinstance(argument, Scalar):
        return _CTYPES[argument.ctype].from_address(address).value
    if isinstance(argument, ScalarArray):
        return list((_CTYPES[argument.ctype] * argument.capacity).from_address(address))
    if isinstance(argument, TensorMap):
        return ctypes.c_uint64.from_address(address).value  # the stand-in's maps begin with the address
    return [ctypes.c_uint64.from_address(address + 128 * i).value for i in range(len(argument.maps))]


def expected(argument: Argument) -> object:
    """What a kernel has to see for `argument`."""

    def address(tensor: torch.Tensor | None) -> int:
        return 0 if tensor is None else tensor.data_ptr()

    if isinstance(argument, Pointer):
        return address(argument.tensor)
    if isinstance(argument, PointerArray):
        return [*map(address, argument.tensors), *[0] * (argument.capacity - len(argument.tensors))]
    if isinstance(argument, Scalar):
        return argument.value
    if isinstance(argument, ScalarArray):
        return [*argument.values, *[0] * (argument.capacity - len(argument.values))]
    if isinstance(argument, TensorMapArray):
        return [each.tensor.data_ptr() + each.offset for each in argument.maps]
    return argument.tensor.data_ptr() + argument.offset


@dataclass
class Recorder:
    """The driver's side.

    Attributes:
        launches: What each launch after another is; they repeat from the start.
        seen: (queue, the value of each parameter) of every launch that was made.
        queue: The current queue.
        capturing: Whether it is being captured.
        capture: The number of that capture.
        status: What launches return.
        before: Called at the beginning of every launch.
    """

    launches: Sequence[Launch] = ()
    seen: list[tuple[int, list[object]]] = field(default_factory=list)
    queue: int = 0
    capturing: bool = False
    capture: int = 1
    status: int = 0
    before: Callable[[], None] = int

    def launch(self, config: int, function: int, offsets: int, extra: None) -> int:
        assert function == HANDLE
        self.before()
        if self.status:
            return self.status
        args = self.launches[len(self.seen) % len(self.launches)].args
        places = (ctypes.c_void_p * len(args)).from_address(offsets)
        found = [read(argument, place or 0) for argument, place in zip(args, places, strict=True)]
        self.seen.append((libcuda.LaunchConfig.from_address(config).stream or 0, found))
        return 0

    def encode(self, target: int, dtype: int, rank: int, address: int, *rest: object) -> int:
        ctypes.c_uint64.from_address(target).value = address
        return 0

    def last(self) -> list[list[object]]:
        """The parameters of as many launches as there are, from the last on."""
        return [found for _, found in self.seen[-len(self.launches) :]]

    def wanted(self) -> list[list[object]]:
        """What these have to be."""
        return [[expected(argument) for argument in launch.args] for launch in self.launches]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """In the place of the driver, with CPU tensors in the place of memory on device 0."""
    made = Recorder()
    zero = types.SimpleNamespace(**{symbol: lambda *_: 0 for symbol in libcuda._SIGNATURES})
    # Through C, as the driver is called: what counts is what arrives there.
    entry = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(made.launch)
    zero.cuLaunchKernelEx = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.cast(entry, ctypes.c_void_p).value)
    zero.cuTensorMapEncodeTiled, zero.kept_alive = made.encode, entry
    monkeypatch.setattr(libcuda, "library", lambda: zero)
    monkeypatch.setattr(driver, "load", lambda kernel, index: driver.Function(HANDLE, 0, 0))
    monkeypatch.setattr(driver, "device_index", lambda launches: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: made.queue, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: made.capturing, raising=False)
    monkeypatch.setattr(executors, "choose", lambda device: types.SimpleNamespace(name="driver", run=None))
    # Memory of "the device" is the CPU's.
    for name in ("empty", "zeros"):
        real = getattr(torch, name)

        def allocate(*args, device=None, real=real, **rest):
            return real(*args, device="cpu", **rest)

        monkeypatch.setattr(torch, name, allocate)
    monkeypatch.setattr(scratch, "_current", lambda device, queue: mock.MagicMock())
    monkeypatch.setattr(scratch, "_spaces", scratch._Spaces())
    monkeypatch.setattr(libcuda, "capture_id", lambda queue: made.capture if made.capturing else None)
    for name in ("Stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    monkeypatch.setattr(scratch, "_graphs", {})
    return made
