"""What launches of the Hopper GEMM family share: constants, tensor maps, scratch memory, decoding of activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts
from nvfp4.backends.sm80.constants import OUT, SCALES, ceil_div
from nvfp4.backends.sm90.plan import CHUNK, UNIT, GemmPlan
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, ScalarArray, TensorMap
from nvfp4.executors.scratch import Piece, Scratch
from nvfp4.problem import Problem
from nvfp4.tensor import NVFP4Tensor

_ORDER_MEMORY, _ORDER_LANE = 0, 1
_DTYPE = {torch.float16: "f16", torch.bfloat16: "bf16"}
_DECODE_THREADS = 256
_DECODED_ELEMENTS = 8  # that a thread of sm90_decode.cu writes
_WARPGROUPS = 2  # that multiply


def needs(plan: GemmPlan, problem: Problem, operands: Operands) -> Scratch:
    """Memory beside the operands: sums and counters of shared tiles, and decoded activations if they are NVFP4."""
    registers = plan.blocks * plan.tokens // 2
    slots = 2 * plan.grid  # the tile that an earlier block began, and the one that a later block goes on with
    pieces = [
        Piece((slots * _WARPGROUPS * 128 * registers,), torch.float32),
        Piece((plan.grid * _WARPGROUPS,), torch.int32, zeroed=True),
    ]
    if problem.a.kind == "nvfp4":
        pieces += [Piece(tuple(x.shape), torch.float16) for x in operands.a]
    return Scratch(tuple(pieces))


def scratch(plan: GemmPlan, problem: Problem, operands: Operands) -> tuple[torch.Tensor, ...]:
    """The memory of `needs` for one call."""
    return needs(plan, problem, operands).allocate(operands.out[0].device)


def gemm_kernel(plan: GemmPlan, problem: Problem, name: str, entry: str, constants: dict[str, int]) -> Kernel:
    """``sm90_<name>.cu`` with its constants: those of the family, and `constants`."""
    decodes = problem.a.kind == "nvfp4"
    family = {
        "TOKENS": plan.tokens,
        "CHUNKS": plan.chunks,
        "TILES": plan.tiles,
        "ORDER": _ORDER_LANE if decodes else _ORDER_MEMORY,
        "BF16": int(problem.a.kind == "bf16"),
        "B_LAYOUT": SCALES[problem.b.scale_layout],
        "OUT": OUT[problem.out_dtype],
        # The kernel before is then our decoder, which starts only after all that came before it.
        "EARLY_WEIGHTS": int(decodes),
    }
    return _kernel(name, entry, plan.arch, {**family, **constants})


def _kernel(name: str, entry: str, arch: str, constants: dict[str, int]) -> Kernel:
    values = tuple((f"PLAN_{key}", value) for key, value in constants.items())
    return Kernel(f"sm90_{name}.cu", entry, values, arch)


def decode_launch(plan: GemmPlan, x: NVFP4Tensor, out: torch.Tensor) -> Launch:
    """Decodes NVFP4 activations [M, K] or [L, M, K] to fp16, in the order that the GEMM kernels want."""
    constants = {"A_LAYOUT": SCALES[x.scale_layout], "CAPACITY": 1}
    return Launch(
        kernel=_kernel("decode", "nvfp4_sm90_decode", plan.arch, constants),
        grid=(ceil_div(out.numel(), _DECODED_ELEMENTS * _DECODE_THREADS), 1, 1),
        block=(_DECODE_THREADS, 1, 1),
        args=(
            *(Pointer(tensor) for tensor in (x.codes, x.scales, out)),
            *(Scalar("i32", size) for size in (x.rows, x.k, x.L)),
        ),
        programmatic=True,
    )


def decode_list_launch(
    plan: GemmPlan, xs: Sequence[NVFP4Tensor], outs: Sequence[torch.Tensor], capacity: int
) -> Launch:
    """The same for up to `capacity` matrices [M_g, K_g] with scales in one layout."""
    constants = {"A_LAYOUT": SCALES[xs[0].scale_layout], "CAPACITY": capacity}
    largest = max(out.numel() for out in outs)
    return Launch(
        kernel=_kernel("decode", "nvfp4_sm90_decode_list", plan.arch, constants),
        grid=(ceil_div(largest, _DECODED_ELEMENTS * _DECODE_THREADS), len(xs), 1),
        block=(_DECODE_THREADS, 1, 1),
        args=(
            PointerArray(tuple(x.codes for x in xs), capacity),
            PointerArray(tuple(x.scales for x in xs), capacity),
            PointerArray(tuple(outs), capacity),
            ScalarArray("i32", tuple(x.rows for x in xs), capacity),
            ScalarArray("i32", tuple(x.k for x in xs), capacity),
        ),
        programmatic=True,
    )


def activation_map(x: torch.Tensor, tokens: int) -> TensorMap:
    """16-bit [M, K] or [L, M, K] in boxes of a unit x `tokens`."""
    *lead, rows, k = x.shape
    shape, strides = (k, rows, lead[0] if lead else 1), (2 * k, 2 * k * rows)
    return TensorMap(x, _DTYPE[x.dtype], shape, strides, (UNIT, tokens, 1), swizzle=128, l2_promotion=256)


def weight_map(x: Parts) -> TensorMap:
    """Codes [N, K/2] or [L, N, K/2] in boxes of a chunk x 128 rows."""
    *lead, rows, row_bytes = x.data.shape
    shape, strides = (row_bytes, rows, lead[0] if lead else 1), (row_bytes, row_bytes * rows)
    return TensorMap(x.data, "u8", shape, strides, (CHUNK * UNIT // 2, 128, 1), swizzle=128, l2_promotion=256)
