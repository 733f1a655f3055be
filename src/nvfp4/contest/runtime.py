"""What a bundle does at run time: compiles its kernels with NVRTC, and launches them through the CUDA driver.

This file is copied into every bundle, with the tables between the two markers replaced; it imports nothing of nvfp4.
Kernels are launched in the legacy default queue, which is the one that the contest works in. A call looks up the
parameters that were laid out for its addresses and sizes, and calls the driver; parameters say where memory lies, and
nothing of what is in it.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import torch

# [tables
TASK = ""
ARCH = ""
GROUPED = False
FIELDS: tuple[int, ...] = ()
RESULT = 0
COLLECT: dict[int, Callable[[Any], tuple[tuple[int, ...], list[torch.Tensor]]]] = {}
SOURCES: dict[str, str] = {}
KERNELS: dict[str, tuple[str, str, dict[str, int | str]]] = {}
PROGRAMS: dict[Any, Any] = {}
# tables]

EXECUTOR: Callable[[list[Any], list[torch.Tensor]], None] | None = None
"""Runs (steps, tensors) instead of the GPU: how nvfp4's evaluator puts the same kernels into its emulator."""

# Steps of a program: ("launch", kernel, grid, block, cluster, shared bytes, programmatic, arguments).
# Arguments: ("p", place), ("ps", capacity, places), ("s", type, values, capacity), ("maps", capacity, maps).
# A place is None, or (number of the tensor, byte offset); numbers beyond the call's tensors are scratch memory.
# A map: (place, type, shape, strides, box, element strides, swizzle, promotion, NaN fill).
Place = Any

_CODES = {"i32": ctypes.c_int32, "u32": ctypes.c_uint32, "i64": ctypes.c_int64, "u64": ctypes.c_uint64}
_CODES["f32"] = ctypes.c_float  # type: ignore[assignment]
_MAP_TYPES = {"u8": 0, "u16": 1, "u32": 2, "i32": 3, "u64": 4, "i64": 5, "f16": 6, "f32": 7, "f64": 8, "bf16": 9}
_MAP_TYPES |= {"u4x16_align8": 13, "u4x16_align16": 14}
_LEVELS = {0: 0, 32: 1, 64: 2, 128: 3}
_PROMOTIONS = {0: 0, 64: 1, 128: 2, 256: 3}


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint32 * 16))


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("queue", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint32),
    )


@functools.lru_cache(maxsize=None)  # noqa: UP033 (as old as Python 3.8)
def _driver() -> Any:
    library = ctypes.CDLL("libcuda.so.1")
    word, number = ctypes.c_void_p, ctypes.c_int
    library.cuModuleGetFunction.argtypes = (word, word, ctypes.c_char_p)
    library.cuModuleLoadData.argtypes = (word, ctypes.c_char_p)
    library.cuFuncSetAttribute.argtypes = (word, number, number)
    library.cuTensorMapEncodeTiled.argtypes = (word, number, ctypes.c_uint, *(word,) * 5, *(number,) * 4)
    return library


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{what}: error {status}: {(text.value or b'').decode()}")


@functools.lru_cache(maxsize=None)  # noqa: UP033
def _compiler() -> Any:
    """NVRTC: the one that torch brings, or the system's."""
    roots = [os.path.join(path, "nvidia") for path in sys.path if path]
    found = [name for root in roots for name in glob.glob(f"{root}/*/lib/libnvrtc.so.*") if "builtins" not in name]
    system = sorted(glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.*"), reverse=True)
    for name in (*found, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", *system):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("NVRTC was found neither beside torch nor in the system")


def compile_kernel(name: str, target: str = "cubin") -> bytes:
    """The code of a kernel, ``"cubin"`` or ``"ptx"``; errors carry the compiler's log."""
    source, _, constants = KERNELS[name]
    nvrtc = _compiler()
    headers = [(path, text) for path, text in SOURCES.items() if path != source]
    program = ctypes.c_void_p()
    texts = (ctypes.c_char_p * len(headers))(*(text.encode() for _, text in headers))
    names = (ctypes.c_char_p * len(headers))(*(path.encode() for path, _ in headers))
    main = SOURCES[source].encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), main, source.encode(), len(headers), texts, names)
    number = ARCH.replace("sm_", "")
    flags = [f"--gpu-architecture={'compute_' if target == 'ptx' else 'sm_'}{number}", "-std=c++17"]
    flags += ["--device-as-default-execution-space", *(f"-D{key}={value}" for key, value in constants.items())]
    options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), options)
    if failed:
        raise RuntimeError(f"{name} does not compile:\n" + _output(nvrtc, program, "ProgramLog").rstrip(b"\0").decode())
    code = _output(nvrtc, program, "PTX" if target == "ptx" else "CUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code


def _output(nvrtc: Any, program: ctypes.c_void_p, kind: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
    return buffer.raw


@functools.lru_cache(maxsize=None)  # noqa: UP033
def _function(name: str) -> int:
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), compile_kernel(name)), f"loading {name}")
    entry = KERNELS[name][1].encode()
    _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, entry), f"finding {name}")
    assert function.value is not None
    return function.value


@functools.lru_cache(maxsize=None)  # noqa: UP033
def _map(description: Any, address: int) -> bytes:
    """The 128 bytes of a tensor map over memory at `address`."""
    _, kind, shape, strides, box, steps, swizzle, promotion, nan_fill = description
    rank = len(shape)
    buffer = ctypes.create_string_buffer(192)
    start = -ctypes.addressof(buffer) % 64
    status = _driver().cuTensorMapEncodeTiled(
        ctypes.addressof(buffer) + start, _MAP_TYPES[kind], rank, address,
        (ctypes.c_uint64 * rank)(*shape), (ctypes.c_uint64 * max(rank - 1, 1))(*strides),
        (ctypes.c_uint32 * rank)(*box), (ctypes.c_uint32 * rank)(*(steps or (1,) * rank)),
        0, _LEVELS[swizzle], _PROMOTIONS[promotion], int(nan_fill),
    )  # fmt: skip
    _check(status, "encoding a tensor map")
    return buffer.raw[start : start + 128]


def _words(places: Sequence[Place], addresses: Sequence[int], capacity: int) -> bytes:
    found = [0 if place is None else addresses[place[0]] + place[1] for place in places]
    return bytes((ctypes.c_uint64 * capacity)(*found))


def _value(argument: Any, addresses: Sequence[int]) -> bytes:
    """The bytes of a kernel's parameter."""
    kind, *rest = argument
    if kind == "p":
        return _words(rest, addresses, 1)
    if kind == "ps":
        return _words(rest[1], addresses, rest[0])
    if kind == "s":
        return bytes((_CODES[rest[0]] * rest[2])(*rest[1]))
    maps = [_map(description, addresses[description[0][0]] + description[0][1]) for description in rest[1]]
    return b"".join(maps).ljust(128 * rest[0], b"\0")


class _Launch:
    """A launch with everything that does not depend on addresses."""

    def __init__(self, step: Any) -> None:
        _, self.kernel, grid, block, cluster, shared_bytes, programmatic, self.arguments = step
        attributes = []
        if tuple(cluster) != (1, 1, 1):
            attributes.append(_Attribute(4, 0, (*cluster, *(0,) * 13)))
        if programmatic:
            attributes.append(_Attribute(6, 0, (1, *(0,) * 15)))
        self.attributes = (_Attribute * max(len(attributes), 1))(*attributes)
        self.config = _Config(grid, block, shared_bytes, None, self.attributes, len(attributes))
        self.function = _function(self.kernel)
        if shared_bytes > 48 * 1024:
            _check(_driver().cuFuncSetAttribute(self.function, 8, shared_bytes), f"shared memory of {self.kernel}")
        if cluster[0] * cluster[1] * cluster[2] > 8:
            _check(_driver().cuFuncSetAttribute(self.function, 14, 1), f"clusters of {self.kernel}")

    def bind(self, addresses: Sequence[int]) -> tuple[Any, ...]:
        """The driver's arguments for a launch with these addresses."""
        values = [_value(argument, addresses) for argument in self.arguments]
        starts, end = [], 0
        for value in values:
            starts.append(end)
            end += -(-len(value) // 64) * 64
        memory = ctypes.create_string_buffer(64 + end + 8 * len(values))
        start = -ctypes.addressof(memory) % 64
        base = ctypes.addressof(memory) + start
        pointers = (ctypes.c_uint64 * len(values))(*(base + at for at in starts))
        for at, value in zip((*starts, end), (*values, bytes(pointers))):  # noqa: B905
            ctypes.memmove(base + at, value, len(value))
        # References are what ctypes converts fastest, and they keep what they refer to.
        function = ctypes.byref(ctypes.c_char.from_address(self.function))
        return ctypes.byref(self.config), function, ctypes.byref(memory, start + end), None


def _several(*launches: tuple[Any, ...]) -> int:
    """Launch one after another; the first status that is not 0."""
    return next(filter(None, (_driver().cuLaunchKernelEx(*launch) for launch in launches)), 0)


def _tensors(data: Any) -> list[torch.Tensor]:
    """The tensors of a call in the order of their numbers."""
    return list(chain.from_iterable(chain(data[0], data[2]))) if GROUPED else list(_FIELDS(data))


def _sizes(data: Any) -> Any:
    """What `PROGRAMS` is looked up with."""
    return tuple(map(tuple, data[3])) if GROUPED else (tuple(data[0].shape), tuple(data[1].shape))


def _program(data: Any) -> Any:
    sizes = _sizes(data)
    if sizes not in PROGRAMS:
        raise ValueError(f"this bundle has no kernel for the sizes {sizes}; it was made for the sizes of {TASK} alone")
    return PROGRAMS[sizes]


_FIELDS: Callable[[Any], tuple[torch.Tensor, ...]] = itemgetter(*(FIELDS or (0, 1)))
_address = torch.Tensor.data_ptr


def _collect(data: Any) -> tuple[tuple[int, ...], list[torch.Tensor]]:
    """The addresses of a grouped call's tensors in the order of their numbers, and the results."""
    return tuple(map(_address, _tensors(data))), [c for _, _, c in data[0]]


_MOST_READY = 4096
_Ready = tuple[tuple[int, ...], Any, Callable[..., int], tuple[Any, ...]]
# What was laid out: addresses, sizes, what launches, and its arguments. The last one by its first address, because
# hashing forty addresses takes longer than comparing them; and all of them.
_NOTHING: _Ready = ((), (), int, ())
_last: dict[int, _Ready] = {}
_ready: dict[tuple[int, ...], _Ready] = {}
_launches: dict[Any, tuple[list[_Launch], list[torch.Tensor]]] = {}


def _prepare(data: Any, addresses: tuple[int, ...]) -> _Ready:
    """Lay out the launches for these addresses and sizes; scratch memory is the same for all calls of a size."""
    sizes = _sizes(data)
    if sizes not in _launches:
        _, needed, *steps = _program(data)
        device = _tensors(data)[0].device
        scratch = [torch.zeros(size, dtype=torch.uint8, device=device) for size in needed]
        torch.cuda.synchronize()
        _launches[sizes] = [_Launch(step) for step in steps], scratch
    launches, scratch = _launches[sizes]
    if len(_ready) >= _MOST_READY:
        _last.clear()
        _ready.clear()
        _map.cache_clear()
    everything = (*addresses, *(x.data_ptr() for x in scratch))
    bound = tuple(launch.bind(everything) for launch in launches)
    call = (_driver().cuLaunchKernelEx, bound[0]) if len(bound) == 1 else (_several, bound)
    found = addresses, (data[3][:] if GROUPED else (data[0].shape, data[1].shape)), *call
    _last[addresses[0]] = _ready[addresses] = found
    return found


def _emulate(data: Any) -> int:
    assert EXECUTOR is not None
    _, sizes, *steps = _program(data)
    EXECUTOR(steps, [*_tensors(data), *(torch.zeros(size, dtype=torch.uint8) for size in sizes)])
    return 0


def custom_kernel(data: Any) -> Any:
    """The contest's entry point."""
    result: Any
    if GROUPED:
        sizes = data[3]
        addresses, result = COLLECT.get(len(sizes), _collect)(data)
    else:
        sizes = (data[0].shape, data[1].shape)
        addresses, result = tuple(map(_address, _FIELDS(data))), data[RESULT]
    known = _last.get(addresses[0], _NOTHING)
    if known[0] != addresses:
        known = _ready.get(addresses, _NOTHING)
    if known[1] != sizes:
        known = _prepare(data, addresses) if EXECUTOR is None else (addresses, sizes, _emulate, (data,))
    status = known[2](*known[3])
    if status:
        _check(status, "launch")
    return result
