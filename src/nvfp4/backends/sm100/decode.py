"""Plans and launches of ``sm100_decode_gemm.cu``: 16-bit activations times NVFP4 weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm100.constants import (
    LANES,
    OUT,
    SCALES,
    SHARED_LEAST,
    SHARED_SLACK,
    TENSOR_COLUMNS,
    VECTORS,
    ceil_div,
)
from nvfp4.backends.sm100.gemm import scale_map
from nvfp4.backends.sm100.plans import scale_unit
from nvfp4.device import Capability
from nvfp4.executors.launch import Kernel, Launch, Pointer, Scalar, TensorMap
from nvfp4.problem import Problem

TILE_NS = (32, 64, 128, 256)
DEPTH = 64
"""Elements along K of a pipeline stage."""

DECODERS = 4
"""Warps that decode, and the fewest stages."""

THREADS = 32 * (6 + DECODERS)
_STATIC_BYTES = 512
_SPLITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class DecodePlan:
    """How a product of 16-bit activations with NVFP4 weights runs.

    Attributes:
        arch: Compilation target.
        tile_n: Rows of A of a tile: 32, 64, 128 or 256. A tile has 128 rows of B.
        stages: Chunks of 64 elements along K in shared memory.
        buffers: Accumulators in tensor memory: with 2 the epilogue of a tile overlaps the products of the next.
        splits: Parts of K that are computed by different blocks and added in a fixed order.
        band: Tiles of A that follow one another for each tile of B.
        early: The weights are not written by the kernel before in the queue, and are fetched before it has ended.
        programmatic: Launched before the previous kernel has ended (programmatic dependent launch).
        sms: Multiprocessors of the device: the grid is persistent.
    """

    arch: str
    tile_n: int = 64
    stages: int = 6
    buffers: int = 2
    splits: int = 1
    band: int = 16
    early: bool = False
    programmatic: bool = True
    sms: int = 148

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage: decoded weights, activations, codes, scales."""
        return LANES * 2 * DEPTH + self.tile_n * 2 * DEPTH + LANES * DEPTH // 2 + 1024

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return max(self.stages * self.stage_bytes + SHARED_SLACK, SHARED_LEAST)

    def wrong(self, shared_limit: int) -> tuple[str, ...]:
        """Why no kernel can have this plan; empty when one can."""
        reasons = []
        if self.tile_n not in TILE_NS:
            reasons.append(f"tile_n is {self.tile_n}, not one of {TILE_NS}")
        if self.stages < DECODERS:
            reasons.append(f"fewer stages than the {DECODERS} decoding warps")
        if self.buffers not in (1, 2) or self.buffers * self.tile_n > TENSOR_COLUMNS:
            reasons.append(f"{self.buffers} accumulators of {self.tile_n} columns")
        if self.splits < 1:
            reasons.append(f"K in {self.splits} parts")
        if self.shared_bytes + _STATIC_BYTES > shared_limit:
            reasons.append(f"{self.shared_bytes} bytes of shared memory")
        return tuple(reasons)

    def tiles(self, problem: Problem) -> int:
        """Tiles of C."""
        return ceil_div(problem.n, LANES) * ceil_div(problem.m, self.tile_n) * problem.l

    def kernel(self, problem: Problem) -> Kernel:
        """``sm100_decode_gemm.cu`` with the constants of this plan."""
        constants = {
            "TILE_N": self.tile_n,
            "STAGES": self.stages,
            "BUFFERS": self.buffers,
            "SPLITS": self.splits,
            "BAND": self.band,
            "EARLY": int(self.early),
            "KIND": VECTORS[problem.a.kind],
            "B_LAYOUT": SCALES[problem.b.scale_layout],
            "SCALE_UNIT": scale_unit(problem),
            "OUT": OUT[problem.out_dtype],
        }
        return Kernel(
            "sm100_decode_gemm.cu",
            "nvfp4_sm100_decode_gemm",
            tuple((f"PLAN_{key}", value) for key, value in constants.items()),
            self.arch,
        )

    def describe(self) -> str:
        """One line for people."""
        words = [
            f"weights decoded to 16 bits, tcgen05.mma f16, {LANES}x{self.tile_n} tiles",
            f"{self.stages} stages of {self.stage_bytes / 1024:g} KB",
            f"K in {self.splits} parts" if self.splits > 1 else "",
        ]
        return ", ".join(filter(None, words)) + f" [{self.arch}]"


def candidates(capability: Capability, problem: Problem) -> Iterator[DecodePlan]:
    """Every plan that is worth a thought."""
    chunks = ceil_div(problem.k, DEPTH)
    for tile_n in TILE_NS:
        for splits in _SPLITS:
            if splits > 1 and splits > chunks // 4:
                continue
            plan = DecodePlan(capability.arch, tile_n, splits=splits, sms=capability.sms)
            room = capability.shared_bytes - SHARED_SLACK - _STATIC_BYTES
            plan = replace(plan, stages=min(8, room // plan.stage_bytes))
            if not plan.wrong(capability.shared_bytes):
                yield plan


def code_map(codes: torch.Tensor, rows: int, k: int, batch: int) -> TensorMap:
    """Codes [batch, rows, K/2] in boxes of a chunk by 128 rows."""
    return TensorMap(
        codes,
        "u8",
        shape=(k // 2, rows, batch),
        strides=(k // 2, rows * k // 2),
        box=(DEPTH // 2, LANES, 1),
        l2_promotion=256,
    )


def activation_map(plan: DecodePlan, values: torch.Tensor, rows: int, k: int, batch: int) -> TensorMap:
    """16-bit values [batch, rows, K] in boxes of a chunk by a tile's rows, swizzled as the tensor core reads them."""
    return TensorMap(
        values,
        "u16",
        shape=(k, rows, batch),
        strides=(2 * k, 2 * rows * k),
        box=(DEPTH, plan.tile_n, 1),
        swizzle=128,
        l2_promotion=256,
    )


def scratch_sizes(plan: DecodePlan, problem: Problem) -> tuple[int, int]:
    """Floats of partial sums, and counters; zero where K is not shared."""
    if plan.splits == 1:
        return 0, 0
    tiles = plan.tiles(problem)
    return tiles * plan.splits * plan.tile_n * LANES, tiles


def launch(
    plan: DecodePlan, problem: Problem, operands: Operands, scratch: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[Launch, ...]:
    """One launch; none for an empty result."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    a, b = parts(operands.a[0]), parts(operands.b[0])
    codes = code_map(b.data, problem.n, problem.k, problem.l)
    scales = codes
    if problem.b.scale_layout == "tiled":
        assert b.scales is not None
        scales = scale_map(b.scales, problem.n, problem.k, problem.l, (1, 1))
    sums, counters = scratch if scratch is not None else (None, None)
    return (
        Launch(
            kernel=plan.kernel(problem),
            grid=(min(plan.tiles(problem) * plan.splits, plan.sms), 1, 1),
            block=(THREADS, 1, 1),
            shared_bytes=plan.shared_bytes,
            programmatic=plan.programmatic,
            args=(
                activation_map(plan, a.data, problem.m, problem.k, problem.l),
                codes,
                scales,
                Pointer(b.scales),
                Pointer(b.tensor_scale),
                Scalar("i32", b.tensor_stride),
                Pointer(operands.out[0]),
                Pointer(sums),
                Pointer(counters),
                Scalar("i32", problem.m),
                Scalar("i32", problem.n),
                Scalar("i32", problem.k),
                Scalar("i32", problem.l),
            ),
        ),
    )
