"""What launches of the Hopper GEMM family share: constants, tensor maps, scratch memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts
from nvfp4.backends.sm80.constants import OUT, SCALES, ceil_div
from nvfp4.backends.sm90.plan import CHUNK, UNIT, GemmPlan, couples_of, tiles_of
from nvfp4.executors.launch import Kernel, TensorMap, TensorMapArray
from nvfp4.executors.scratch import Piece, Scratch
from nvfp4.problem import Problem

_ACTIVATIONS = {"nvfp4": 0, "fp16": 1, "bf16": 2}  # csrc/pipeline/sm90_stages.cuh
_DTYPE = {torch.float16: "f16", torch.bfloat16: "bf16"}
_WARPGROUPS = 2  # that multiply


def shared_tiles(grid: int, registers: int, more_counters: int = 0) -> tuple[Piece, Piece]:
    """Sums and counters of tiles that blocks share (`Workspace` in csrc/pipeline/stream_k.cuh).

    Args:
        grid: Thread blocks.
        registers: Sums of a thread that multiplies.
        more_counters: For another purpose, behind them.
    """
    slots = 2 * grid  # the tile that an earlier block began, and the one that a later block goes on with
    return (
        Piece((slots * _WARPGROUPS * 128 * registers,), torch.float32),
        Piece((grid * _WARPGROUPS + more_counters,), torch.int32, zeroed=True),
    )


def needs(plan: GemmPlan, problem: Problem, operands: Operands) -> Scratch:
    """Memory beside the operands: sums and counters of shared tiles, and what all blocks make of activations."""
    pieces: list[Piece]
    if plan.own:
        # Of each tile sums, and a counter of its own behind that for activations (csrc/pipeline/sm90_helpers.cuh).
        tiles = tiles_of(plan, problem)
        sums = Piece((tiles * plan.blocks * plan.tokens * 128,), torch.float32)
        pieces = [sums, Piece((plan.grid * _WARPGROUPS + 1 + tiles,), torch.int32, zeroed=True)]
    elif plan.coupled:
        # Fours that a block leaves for its tile's other couples (`CoupleShare`, csrc/pipeline/sm90_couples.cuh).
        groups, couples = plan.tokens // 16, couples_of(plan, problem)
        left_out = groups // couples if groups % couples == 0 else 0
        fours = plan.grid * plan.blocks * _WARPGROUPS * 128 * 2 * (groups - left_out)
        pieces = [
            Piece((4 * fours,), torch.float32, zeroed=True),
            Piece((plan.grid * _WARPGROUPS + 1,), torch.int32, zeroed=True),
        ]
    else:
        pieces = [*shared_tiles(plan.grid, plan.blocks * plan.tokens // 2, more_counters=1)]
    if not plan.makes:
        kind = torch.bfloat16 if problem.a.kind == "bf16" else torch.float16
        shapes = [(problem.m, problem.k)] if problem.tokens else [tuple(x.shape) for x in operands.a]
        pieces += [Piece(shape, kind) for shape in shapes]
    return Scratch(tuple(pieces))


def reciprocal(chunks: int) -> int:
    """What a kernel multiplies with to divide by `chunks` (`DealtStreamK` in csrc/pipeline/stream_k.cuh)."""
    return ceil_div(1 << 32, chunks) & 0xFFFFFFFF  # not used where that is 2^32


def gemm_kernel(plan: GemmPlan, problem: Problem, name: str, entry: str, constants: dict[str, int]) -> Kernel:
    """``sm90_<name>.cu`` with its constants: those of the family, and `constants`."""
    family = {
        "TOKENS": plan.tokens,
        "CHUNKS": plan.chunks,
        "TILES": plan.tiles,
        "ACTIVATIONS": _ACTIVATIONS[problem.a.kind],
        "MAKES": int(plan.makes),
        "BEGINS": int(plan.begins),
        "A_LAYOUT": SCALES[problem.a.scale_layout or "linear"],
        "B_LAYOUT": SCALES[problem.b.scale_layout],
        "OUT": OUT[problem.out_dtype],
    }
    values = tuple((f"PLAN_{key}", value) for key, value in {**family, **constants}.items())
    return Kernel(f"sm90_{name}.cu", entry, values, plan.arch)


def activation_maps(
    plan: GemmPlan, activations: Sequence[Parts], made: Sequence[torch.Tensor | None], room: int = 1
) -> TensorMapArray:
    """`ActivationMaps` in csrc/pipeline/sm90_stages.cuh, for each of `room` groups.

    What the copy engine brings of activations: what all blocks have made of them, or else they themselves; or both,
    where each block begins with some of its own.
    """
    maps: list[TensorMap] = []
    for x, operand in zip(activations, made, strict=True):
        width = plan.width(x.data.shape[-2])
        if operand is not None:
            maps.append(activation_map(operand, width))
        if operand is None or plan.begins:
            lies = x.data.dtype in _DTYPE
            maps.append(activation_map(x.data, width) if lies else code_map(x, width))
    return TensorMapArray(tuple(maps), room * (2 if plan.begins else 1))


def activation_map(x: torch.Tensor, tokens: int) -> TensorMap:
    """16-bit activations [M, K] or [L, M, K] in boxes of a unit x `tokens` rows."""
    *lead, rows, k = x.shape
    shape, strides = (k, rows, lead[0] if lead else 1), (2 * k, 2 * k * rows)
    return TensorMap(x, _DTYPE[x.dtype], shape, strides, (UNIT, tokens, 1), swizzle=128, l2_promotion=256)


def code_map(x: Parts, box_rows: int = 128) -> TensorMap:
    """Codes [N, K/2] or [L, N, K/2] in boxes of a chunk x `box_rows` rows."""
    *lead, rows, columns = x.data.shape
    row_bytes = columns * x.data.element_size()
    shape, strides = (row_bytes, rows, lead[0] if lead else 1), (row_bytes, row_bytes * rows)
    return TensorMap(x.data, "u8", shape, strides, (CHUNK * UNIT // 2, box_rows, 1), swizzle=128, l2_promotion=256)
