"""The emulated executor: the same Launches in `nvfp4.emulator`, on tensors that lie on the CPU.

A kernel is compiled to PTX for its own architecture, once in a process. `run` looks for everything that the emulator
can find; `emulate` lets the caller choose, and returns the reports.
"""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from nvfp4 import emulator, jit
from nvfp4.errors import InputError, LaunchError
from nvfp4.executors import parameters
from nvfp4.executors.launch import (
    Argument,
    Kernel,
    Launch,
    Pointer,
    PointerArray,
    Scalar,
    ScalarArray,
    TensorMap,
    TensorMapArray,
)

name = "emulated"

# Modules are parsed and compiled on first use, which takes longer than a small launch; each holds its compiled code.
_KEPT_MODULES = 256

_lock = threading.RLock()
_last = threading.local()


@functools.lru_cache(maxsize=_KEPT_MODULES)
def _module(kernel: Kernel) -> emulator.Module:
    # Another kernel of the same source may use what cannot be run; compiling this one complains about its own opcodes.
    return emulator.Module(jit.compile(kernel, "ptx").code, allow_unsupported=True)


def last_reports() -> tuple[emulator.Report, ...]:
    """The reports of this thread's last `run` or `emulate`, one for each launch that began."""
    return tuple(getattr(_last, "reports", ()))


@contextmanager
def _mapped(module: emulator.Module, launch: Launch) -> Iterator[dict[int, int]]:
    """Device addresses of the launch's tensors by `id`, valid within the block: a module outlives operands."""
    space = module.space
    addresses: dict[int, int] = {}
    buffers = []
    try:
        for i, tensor in enumerate(parameters.tensors(launch.args)):
            if tensor is None or id(tensor) in addresses:
                continue
            if tensor.device.type != "cpu":
                raise InputError(
                    "launch", "tensors", "tensors on the CPU", tensor.device, "Copy the operands with .cpu()."
                )
            # A tensor inside another one's memory has to have the other's address.
            around = space.find_host(tensor.data_ptr(), tensor.numel() * tensor.element_size())
            if around is None:
                around = space.map(tensor, f"tensor {i} {tuple(tensor.shape)}")
                buffers.append(around)
            addresses[id(tensor)] = around.va + tensor.data_ptr() - around.host
        yield addresses
    finally:
        for buffer in buffers:
            space.unmap(buffer)


def _address(tensor: torch.Tensor | None, addresses: dict[int, int]) -> int:
    return 0 if tensor is None else addresses[id(tensor)]


def _encoded(map: TensorMap, addresses: dict[int, int]) -> emulator.TensorMap:
    return emulator.TensorMap(
        address=_address(map.tensor, addresses) + map.offset,
        dtype=map.dtype,
        shape=map.shape,
        strides=map.strides,
        box=map.box,
        element_strides=map.element_strides,
        swizzle=map.swizzle,
        nan_fill=map.nan_fill,
    )


def _argument(argument: Argument, module: emulator.Module, addresses: dict[int, int]) -> Any:
    """`argument` as the emulator takes it: a number, or the bytes of an array."""
    if isinstance(argument, Scalar):
        # As bytes, so that the parameter's size is checked, and not only its value.
        return parameters.pack_scalars(argument.ctype, (argument.value,), 1)
    if isinstance(argument, Pointer):
        return _address(argument.tensor, addresses)
    if isinstance(argument, PointerArray):
        values = [_address(tensor, addresses) for tensor in argument.tensors]
        return struct.pack(f"<{len(values)}Q", *values).ljust(8 * argument.capacity, b"\0")
    if isinstance(argument, ScalarArray):
        return parameters.pack_scalars(argument.ctype, argument.values, argument.capacity)
    if isinstance(argument, TensorMap):
        return _encoded(argument, addresses)
    assert isinstance(argument, TensorMapArray)
    maps = b"".join(module.encode(_encoded(map, addresses)) for map in argument.maps)
    return maps.ljust(parameters.TENSOR_MAP_BYTES * argument.capacity, b"\0")


def run_in(
    module: emulator.Module, launch: Launch, *, checks: emulator.Checks | None = None, seed: int = 0
) -> emulator.Report:
    """Run `launch` with the code of `module`, whatever its kernel's source says.

    Raises:
        LaunchError: The emulator refuses it, or finds something wrong.
    """
    with _lock:
        try:
            return _run_in(module, launch, emulator.Checks.all() if checks is None else checks, seed)
        except emulator.EmulatorError as error:
            raise LaunchError(f"{launch}: {error}") from error


def _run_one(launch: Launch, checks: emulator.Checks, seed: int) -> emulator.Report:
    return _run_in(_module(launch.kernel), launch, checks, seed)


def _run_in(module: emulator.Module, launch: Launch, checks: emulator.Checks, seed: int) -> emulator.Report:
    parameters.build(launch.args)  # the same complaints as on a GPU
    with _mapped(module, launch) as addresses:
        return module.launch(
            launch.kernel.entry,
            launch.grid,
            launch.block,
            [_argument(argument, module, addresses) for argument in launch.args],
            cluster=None if launch.cluster == (1, 1, 1) else launch.cluster,
            shared_bytes=launch.shared_bytes,
            checks=checks,
            seed=seed,
        )


def emulate(
    launches: Sequence[Launch], *, checks: emulator.Checks | None = None, seed: int = 0
) -> tuple[emulator.Report, ...]:
    """Run `launches` in order on tensors that lie on the CPU.

    Args:
        launches: What to run.
        checks: What to look for; everything when None.
        seed: Picks the interleaving of warps and the completion times of asynchronous work.

    Returns:
        A report for each launch.

    Raises:
        LaunchError: The emulator refuses a launch, or finds something wrong with a kernel; the message is its
            finding, and the report is the last of `last_reports`.
        CompileError, MissingDependencyError: See `nvfp4.jit.compile`.
    """
    reports: list[emulator.Report] = []
    _last.reports = reports
    policy = emulator.Checks.all() if checks is None else checks
    with _lock:
        for launch in launches:
            try:
                reports.append(_run_one(launch, policy, seed))
            except emulator.EmulatorError as error:
                report = getattr(error, "report", None)
                if report is not None:
                    reports.append(report)
                raise LaunchError(f"{launch}: {error}") from error
    return tuple(reports)


def run(launches: Sequence[Launch]) -> None:
    """Run `launches` in order on tensors that lie on the CPU, with every check. Errors as of `emulate`."""
    emulate(launches)
