"""The read floor: how long it takes only to read the bytes of a problem, cold. No kernel that needs them is faster.

The kernel (``csrc/kernels/read_floor.cu``) runs through the same executors as every other one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from nvfp4.device import Capability
from nvfp4.errors import InputError
from nvfp4.executors.launch import Kernel, Launch, Pointer, Scalar
from nvfp4.problem import Problem

SOURCE = "read_floor.cu"
VECTOR = 16
"""Bytes that data must be a multiple of."""


@dataclass(frozen=True)
class FloorPlan:
    """How the bytes are read.

    Attributes:
        bulk: Bulk copies into a ring of shared memory (sm_90 and later), or vector loads.
        blocks: Blocks of the grid.
        consumers: Warps of a block that fold what was read.
        stages, stage_bytes: The ring of a block; unused by vector loads.
        programmatic: Whether a launch may start before the previous one has finished.
        evict_first: Bulk copies only: whether what is read leaves L2 before whatever else is there.
    """

    bulk: bool
    blocks: int
    consumers: int = 8
    stages: int = 4
    stage_bytes: int = 16384
    programmatic: bool = True
    evict_first: bool = False

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.stages * self.stage_bytes if self.bulk else 0

    def describe(self) -> str:
        """One line for people."""
        how = f"bulk copies, {self.stages} x {self.stage_bytes // 1024} KB" if self.bulk else "16-byte loads"
        launched = ", dependent launch" if self.programmatic else ""
        first = ", evicted first" if self.evict_first else ""
        return f"{how}, {self.blocks} blocks{launched}{first}"


def plan(capability: Capability) -> FloorPlan:
    """The best plan for a device.

    Measured on an H200 over the contest's GEMV sizes: one block of 4 x 16 KB on each multiprocessor leaves room for the
    blocks of the next launch, which then hide the gap between two launches.

    Raises:
        InputError: The device is no GPU.
    """
    if capability.arch == "cpu":
        raise InputError("floor", "capability", "a GPU", capability.name, "Plan for a known GPU, such as sm_90a.")
    if capability.compute >= (9, 0):
        return FloorPlan(bulk=True, blocks=capability.sms)
    return FloorPlan(bulk=False, blocks=4 * capability.sms, programmatic=False)


_ALONE = (4, 8, 16, 32)
"""Blocks for each multiprocessor, of which one number or another reads a size fastest in a call by itself."""


def plans(capability: Capability, *, alone: bool) -> dict[str, FloorPlan]:
    """The readers to time, by name; the fastest of them is the floor.

    Args:
        capability: The device.
        alone: Whether calls are timed one by one. Then large shared memory costs more than it brings (on an H200, 24.4
            us for 66 MB, and 22.8 with vector loads), and vector loads are timed beside the best plan for a chain; and
            bulk copies that leave alone what the flush of the caches wrote to L2 (21.5 us).
    """
    found = {"read-floor": plan(capability)}
    loads = FloorPlan(bulk=False, blocks=0, programmatic=capability.compute >= (9, 0))
    if alone:
        found |= {f"read-floor-loads-{n}": replace(loads, blocks=n * capability.sms) for n in _ALONE}
        if found["read-floor"].bulk:
            found["read-floor-evict-first"] = replace(found["read-floor"], evict_first=True)
    return found


def read_bytes(problem: Problem) -> int:
    """Bytes of the operands of a problem (without its result), rounded up to whole vectors."""
    out = {"fp16": 2, "bf16": 2, "fp32": 4}[problem.out_dtype]
    sizes = problem.groups or ((problem.m, problem.n, problem.k),)
    written = sum(m * n for m, n, _ in sizes) * problem.l * out
    return -(-(problem.bytes - written) // VECTOR) * VECTOR


def launch(plan: FloorPlan, arch: str, data: torch.Tensor, partials: torch.Tensor) -> Launch:
    """The launch that reads `data` once.

    Args:
        plan: How.
        arch: Target, such as ``"sm_90a"``.
        data: uint8 [n], contiguous, 16-byte aligned, n a multiple of 16.
        partials: int32 [plan.blocks]; receives the exclusive or of the 32-bit words that each block read.

    Raises:
        InputError: The tensors do not fit.
    """
    if data.dtype != torch.uint8 or data.dim() != 1 or not data.is_contiguous() or data.numel() % VECTOR:
        got = f"{data.dtype} {tuple(data.shape)}"
        raise InputError("floor", "data", f"contiguous uint8 [n], n a multiple of {VECTOR}", got, "Pad the buffer.")
    if partials.dtype != torch.int32 or partials.shape != (plan.blocks,):
        got = f"{partials.dtype} {tuple(partials.shape)}"
        raise InputError("floor", "partials", f"int32 [{plan.blocks}]", got, "Allocate one word for each block.")
    constants = (
        ("CONFIG_CONSUMERS", plan.consumers),
        ("CONFIG_STAGES", plan.stages),
        ("CONFIG_STAGE_BYTES", plan.stage_bytes),
        ("CONFIG_EVICT_FIRST", int(plan.evict_first)),
    )
    kernel = Kernel(SOURCE, "read_floor_bulk" if plan.bulk else "read_floor_loads", constants, arch)
    return Launch(
        kernel,
        grid=(plan.blocks, 1, 1),
        block=(32 * plan.consumers + (32 if plan.bulk else 0), 1, 1),
        args=(Pointer(data), Scalar("u64", data.numel()), Pointer(partials)),
        shared_bytes=plan.shared_bytes,
        programmatic=plan.programmatic,
    )


def checksum(data: torch.Tensor) -> int:
    """The exclusive or of the 32-bit words of `data` (uint8 [n]), which the partials of a launch must combine to."""
    words = data.view(torch.int32)
    while words.numel() > 1:
        half = words.numel() // 2
        rest = words[2 * half :]
        words = torch.cat([words[:half] ^ words[half : 2 * half], rest])
    return int(words) & 0xFFFFFFFF


def combine(partials: torch.Tensor) -> int:
    """The exclusive or of the partials of a launch."""
    return checksum(partials.cpu().contiguous().view(torch.uint8))


def calls(
    plan: FloorPlan, buffers: Sequence[torch.Tensor], arch: str
) -> list[Callable[[], tuple[torch.Tensor, torch.Tensor]]]:
    """One call for each of `buffers` (uint8 [n] on a GPU, all of one size), prepared so that a call only launches.

    A call returns its buffer and the partials, which all of them share.
    """
    from nvfp4.executors import driver

    partials = torch.zeros(plan.blocks, dtype=torch.int32, device=buffers[0].device)
    prepared = driver.prepare(launch(plan, arch, buffers[0], partials))

    def one(buffer: torch.Tensor) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        # In the order of the kernel's parameters. The closure keeps the tensors alive.
        tensors = (buffer, partials)
        addresses = tuple(tensor.data_ptr() for tensor in tensors)

        def call() -> tuple[torch.Tensor, torch.Tensor]:
            prepared.run(addresses, driver.current_queue(prepared.index))
            return tensors

        return call

    return [one(buffer) for buffer in buffers]
