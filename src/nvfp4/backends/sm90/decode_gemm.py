"""GEMM and dual GEMM of 16-bit activations on WGMMA, weights decoded into shared memory: ``sm90_decode_gemm.cu``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts, parts
from nvfp4.backends.sm80.constants import OUT, SCALES, ceil_div
from nvfp4.backends.sm90.launching import DTYPE, WARPGROUPS, code_map
from nvfp4.backends.sm90.plan import ALIGNMENT_BYTES, APART, CHUNK, UNIT, grids, handing_over, tokens_of
from nvfp4.device import Capability
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, TensorMap, TensorMapArray
from nvfp4.executors.scratch import Piece, Scratch
from nvfp4.problem import Op, Problem

ROWS = 128
"""Weight rows of a block's tile, of all matrices together."""

_DECODED_BYTES = ROWS * UNIT * 2
_RAW_BYTES = ROWS * CHUNK * UNIT * 9 // 16  # codes and scales
_NARROW = 128  # tokens (`NARROW` in csrc/pipeline/sm90_feed.cuh)
_THREADS = ((64, 672), (_NARROW, 544), (256, 384))  # up to so many tokens (`FEED_GROUPS` there)


@dataclass(frozen=True)
class DecodePlan:
    """How a product runs.

    Attributes:
        arch: Compilation target.
        tokens: Rows of A in a tile: columns of one WGMMA, a multiple of 8 * share up to 256.
        share: Blocks of a cluster, which share their activations and have weight rows of their own.
        whole: Clusters take whole tiles in turn; else all of them the same share of all tiles (stream-K).
        weights, tiles: Stages of decoded weights and of activations, 64 elements along K each.
        chunks: Stages of codes, 256 elements along K each.
        band: Tiles of tokens that share a pass over the weights.
        grid: Thread blocks: with stream-K at most as many as fit at once, as they wait for one another.
    """

    arch: str
    tokens: int
    share: int
    whole: bool
    weights: int
    tiles: int
    chunks: int
    band: int
    grid: int

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory (`FeedShape::SHARED_BYTES` in csrc/pipeline/sm90_feed.cuh, and the alignment)."""
        rings = self.tiles * self.tokens * 2 * UNIT + self.weights * _DECODED_BYTES + self.chunks * _RAW_BYTES
        barriers = 16 * (self.chunks + self.weights + self.tiles)
        staging = 2 * 128 * (64 if self.tokens <= _NARROW else 32)
        return rings + staging + barriers + ALIGNMENT_BYTES

    @property
    def threads(self) -> int:
        """Of a block: two warpgroups multiply, one to three feed, and one warp loads if it has a place."""
        return next(threads for most, threads in _THREADS if self.tokens <= most)

    def describe(self) -> str:
        """One line for people."""
        tile = f"{ROWS} weight rows x {self.tokens} tokens"
        stages = f"{self.chunks} stages of codes, {self.weights} decoded, {self.tiles} of activations"
        cluster = f"clusters of {self.share}, " if self.share > 1 else ""
        grid = f"{'tiles in turn' if self.whole else 'stream-K'} over {self.grid} blocks"
        how = f"WGMMA m64n{self.tokens}k16, weights decoded to shared memory"
        return f"{how}, {tile}, {stages}, {cluster}{grid} [{self.arch}]"


def needs(plan: DecodePlan) -> Scratch:
    """Memory beside the operands: sums and counters of shared tiles."""
    slots = 2 * plan.grid  # the tile that an earlier block began, and the one that a later block goes on with
    return Scratch(
        (
            Piece((slots * WARPGROUPS * 128 * plan.tokens // 2,), torch.float32),
            Piece((plan.grid * WARPGROUPS,), torch.int32, zeroed=True),
        )
    )


def launches(
    plan: DecodePlan, problem: Problem, operands: Operands, scratch: Sequence[torch.Tensor], early: bool = False
) -> tuple[Launch, ...]:
    """One launch; none for an empty result. Arguments as for `gemm.launches`."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    sums, counters = scratch
    chunks = _chunks(problem)
    share, extra = divmod(_items(plan, problem) * chunks, plan.grid // plan.share)
    activations, weights = parts(operands.a[0]), [parts(matrix) for matrix in operands.b]
    matrices = problem.op.matrices
    linear = problem.b.scale_layout == "linear"
    constants = {
        "MATRICES": matrices,
        "TOKENS": plan.tokens,
        "SHARE": plan.share,
        "WHOLE": int(plan.whole),
        "WEIGHTS": plan.weights,
        "TILES": plan.tiles,
        "CHUNKS": plan.chunks,
        "BF16": int(problem.a.kind == "bf16"),
        "B_LAYOUT": SCALES[problem.b.scale_layout],
        "OUT": OUT[problem.out_dtype],
        "BAND": plan.band,
        "EARLY_WEIGHTS": int(early),
    }
    values = tuple((f"PLAN_{key}", value) for key, value in constants.items())
    launch = Launch(
        kernel=Kernel("sm90_decode_gemm.cu", "nvfp4_sm90_decode_gemm", values, plan.arch),
        grid=(plan.grid, 1, 1),
        block=(plan.threads, 1, 1),
        cluster=(plan.share, 1, 1),
        shared_bytes=plan.shared_bytes,
        args=(
            _activation_map(plan, activations),
            TensorMapArray(tuple(code_map(x, ROWS // matrices) for x in weights), matrices),
            # The kernel reads tiled scales by address.
            TensorMapArray(tuple(_scale_map(x, problem) if linear else code_map(x) for x in weights), matrices),
            PointerArray(tuple(x.scales for x in weights), matrices),
            PointerArray(tuple(x.tensor_scale for x in weights), matrices),
            Scalar("i32", weights[0].tensor_stride),
            *(Pointer(tensor) for tensor in (operands.out[0], sums, counters)),
            *(Scalar("i32", size) for size in (problem.m, problem.n, problem.k, problem.l, share, extra)),
            Scalar("u32", ceil_div(1 << 32, chunks) & 0xFFFFFFFF),  # not used where that is 2^32
        ),
        programmatic=True,
    )
    return (launch,)


def _activation_map(plan: DecodePlan, activations: Parts) -> TensorMap:
    """Activations [M, K] or [L, M, K] in boxes of a unit x the tokens that a block brings."""
    x = activations.data
    *lead, rows, k = x.shape
    shape, strides = (k, rows, lead[0] if lead else 1), (2 * k, 2 * k * rows)
    box = (UNIT, plan.tokens // plan.share, 1)
    return TensorMap(x, DTYPE[x.dtype], shape, strides, box, swizzle=128, l2_promotion=256)


def _scale_map(weights: Parts, problem: Problem) -> TensorMap:
    """Linear scales [N, K/16] or [L, N, K/16] in boxes of a chunk x the rows of a tile."""
    assert weights.scales is not None, "NVFP4 weights have scales"
    blocks = problem.k // 16
    shape, strides = (blocks, problem.n, problem.l), (blocks, blocks * problem.n)
    box = (CHUNK * UNIT // 16, ROWS // problem.op.matrices, 1)
    return TensorMap(weights.scales, "u8", shape, strides, box, l2_promotion=256)


def _items(plan: DecodePlan, problem: Problem) -> int:
    """Tiles of a cluster."""
    return ceil_div(problem.m, plan.tokens) * ceil_div(problem.n * problem.op.matrices, ROWS * plan.share) * problem.l


def _chunks(problem: Problem) -> int:
    return ceil_div(problem.k, CHUNK * UNIT)


_LEAST = 24  # tokens below which the kernel that makes its tiles of activations is faster


def serves(problem: Problem) -> bool:
    """Whether the kernel computes `problem`, and is worth a thought."""
    if (
        problem.op not in (Op.GEMM, Op.DUAL_GEMM)
        or problem.a.kind == "nvfp4"
        or problem.m < _LEAST
        or 0 in (problem.n, problem.l)
    ):
        return False
    if problem.b.scale_layout == "tiled":
        return problem.k > 0 and problem.op is Op.GEMM  # tiles have 128 rows, the blocks of two matrices 64
    return problem.k > 0 and problem.k % (CHUNK * UNIT) == 0  # rows of a box


def estimate(plan: DecodePlan, problem: Problem) -> float:
    """Microseconds on an H200; fitted to products of 32 to 8192 tokens (docs/optimisation-log.md)."""
    wide = plan.tokens > _NARROW
    unit = 0.35 + 0.0012 * plan.tokens if wide else 0.24 + 0.0015 * plan.tokens
    clusters = plan.grid // plan.share
    if plan.whole:
        units, shared = ceil_div(_items(plan, problem), clusters) * ceil_div(problem.k, UNIT), 0
    else:
        units = ceil_div(_items(plan, problem) * _chunks(problem), clusters) * CHUNK
        shared = handing_over(_items(plan, problem), _chunks(problem), clusters)
    if wide and shared and units > 2 * ceil_div(problem.k, UNIT):
        unit *= APART
    hand_over = shared * (10.0 if wide else 2.5 * plan.tokens / 128)
    silu = 1.5 if problem.op.dual else 0.0
    return (5.5 if wide else 9.0) + units * unit + hand_over + silu


def plans(capability: Capability, problem: Problem) -> list[DecodePlan]:
    """What may be fast for a problem that the kernel serves."""
    found = []
    # Storing fp32 takes registers that 128 columns do not leave free.
    widths = {tokens_of(problem.m, 112 if problem.out_dtype == "fp32" else _NARROW)}
    if problem.m > _NARROW:
        widths.add(min(256, ceil_div(ceil_div(problem.m, ceil_div(problem.m, 256)), 16) * 16))
    spills = problem.op.dual and problem.out_dtype == "fp32"
    for tokens in widths:
        weights, tiles = (6, 8) if tokens <= 64 else (4, 6) if tokens <= _NARROW else (3, 4)
        for whole in (True, False):
            # Blocks that wait for one another have to fit at once, which clusters may not.
            share = 2 if whole and tokens > _NARROW and problem.n * problem.op.matrices > ROWS else 1
            plan = DecodePlan(capability.arch, tokens, share, whole, weights, tiles, 2, 8, 0)
            if tokens <= 32:
                plan = replace(plan, chunks=4)
            items, sms = _items(plan, problem), capability.sms
            if whole:
                found.append(replace(plan, grid=min(items, sms // share) * share))
            elif items * _chunks(problem) ** 2 < 1 << 32 and tokens <= (256 if tokens == 256 and not spills else 192):
                # The kernel divides by a reciprocal; and of other widths ptxas spills.
                found += [replace(plan, grid=grid) for grid in grids(items, _chunks(problem), sms)]
    return found


def plan(capability: Capability, problem: Problem) -> tuple[float, DecodePlan]:
    """The plan that should be fastest for a problem that the kernel serves, and its microseconds."""
    return min(((estimate(each, problem), each) for each in plans(capability, problem)), key=lambda pair: pair[0])
