"""GEMM and dual GEMM on WGMMA of 16-bit activations as they lie: ``sm90_decode_gemm.cu``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts, parts
from nvfp4.backends.sm80.constants import OUT, SCALES, ceil_div
from nvfp4.backends.sm90.launching import activation_map, code_map, reciprocal, shared_tiles
from nvfp4.backends.sm90.plan import (
    ALIGNMENT_BYTES,
    APART,
    CHUNK,
    CODES_BYTES,
    SCALES_BYTES,
    STAGING_BYTES,
    THREADS,
    UNIT,
    chunks_along_k,
    grids,
    handing_over,
    tokens_of,
)
from nvfp4.device import Capability
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, TensorMap, TensorMapArray
from nvfp4.executors.scratch import Scratch
from nvfp4.problem import Op, Problem

ROWS = 128
"""Weight rows of a block's tile, of all matrices together."""

_WIDE_SCALES_BYTES = 2 * SCALES_BYTES
"""Scales of a stage of weights, turned to 16 bits."""

_NARROW = 128
_STAGES = {64: (7, 4), _NARROW: (7, 3), 160: (7, 2), 256: (5, 2)}
"""Stages of activations, and of codes, by the most tokens of a tile."""


@dataclass(frozen=True)
class DecodePlan:
    """How a product runs.

    Attributes:
        arch: Compilation target.
        tokens: Rows of A in a tile: columns of one WGMMA, a multiple of 8 * share up to 256.
        share: Blocks of a cluster, which share their activations and have weight rows of their own.
        whole: Clusters take whole tiles in turn; else they share tiles evenly (stream-K).
        tiles: Stages of activations (64 elements along K each).
        chunks: Stages of codes (256 elements along K each).
        grid: Thread blocks: with stream-K at most as many as fit at once, as they wait for one another.
        rounds: Whole tiles that each cluster takes before the rest is shared.
        sharers: The clusters that share the rest; 0 for all of them.
        halved: Two clusters share each tile, each half of its K, and each finishes the rows of a warpgroup.
    """

    arch: str
    tokens: int
    share: int
    whole: bool
    tiles: int
    chunks: int
    grid: int
    rounds: int = 0
    sharers: int = 0
    halved: bool = False

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory (`SHARED_BYTES` in csrc/pipeline/sm90_decode_stages.cuh, and the alignment)."""
        weights = self.chunks * (CODES_BYTES + SCALES_BYTES + _WIDE_SCALES_BYTES)
        activations = self.tiles * self.tokens * 2 * UNIT
        barriers = 24 * self.chunks + 16 * self.tiles + (24 if self.halved else 0)
        return activations + weights + STAGING_BYTES + barriers + ALIGNMENT_BYTES

    def describe(self) -> str:
        """One line for people."""
        tile = f"{ROWS} weight rows x {self.tokens} tokens"
        stages = f"{self.chunks} stages of weights, {self.tiles} of activations as they lie"
        cluster = f"clusters of {self.share}, " if self.share > 1 else ""
        first = f"{self.rounds} rounds of tiles, then " if self.rounds else ""
        dealt = "tiles in turn" if self.whole else "halves of tiles" if self.halved else "stream-K"
        grid = f"{first}{dealt} over {self.grid} blocks"
        return f"WGMMA m64n{self.tokens}k16, {tile}, {stages}, {cluster}{grid} [{self.arch}]"


def needs(plan: DecodePlan) -> Scratch:
    """Memory beside the operands: sums and counters of shared tiles."""
    return Scratch(shared_tiles(plan.grid, plan.tokens // 2))


def launches(
    plan: DecodePlan, problem: Problem, operands: Operands, scratch: Sequence[torch.Tensor], early: bool = False
) -> tuple[Launch, ...]:
    """One launch; none for an empty result. Arguments as for `gemm.launches`."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    sums, counters = scratch
    chunks = chunks_along_k(problem)
    left, sharers = _shared(plan, problem)
    share, extra = divmod(left * chunks, sharers)
    activations, weights = parts(operands.a[0]), [parts(matrix) for matrix in operands.b]
    matrices = problem.op.matrices
    linear = problem.b.scale_layout == "linear"
    constants = {
        "MATRICES": matrices,
        "TOKENS": plan.tokens,
        "SHARE": plan.share,
        "WHOLE": int(plan.whole),
        "HALVED": int(plan.halved),
        "TILES": plan.tiles,
        "CHUNKS": plan.chunks,
        "BF16": int(problem.a.kind == "bf16"),
        "B_LAYOUT": SCALES[problem.b.scale_layout],
        "OUT": OUT[problem.out_dtype],
        "EARLY_WEIGHTS": int(early),
    }
    values = tuple((f"PLAN_{key}", value) for key, value in constants.items())
    launch = Launch(
        kernel=Kernel("sm90_decode_gemm.cu", "nvfp4_sm90_decode_gemm", values, plan.arch),
        grid=(plan.grid, 1, 1),
        block=(THREADS, 1, 1),
        cluster=(plan.share, 1, 1),
        shared_bytes=plan.shared_bytes,
        args=(
            activation_map(activations.data, plan.tokens // plan.share),
            TensorMapArray(tuple(code_map(x, ROWS // matrices) for x in weights), matrices),
            # The kernel reads tiled scales by address.
            TensorMapArray(tuple(_scale_map(x, problem) if linear else code_map(x) for x in weights), matrices),
            PointerArray(tuple(x.scales for x in weights), matrices),
            PointerArray(tuple(x.tensor_scale for x in weights), matrices),
            Scalar("i32", weights[0].tensor_stride),
            *(Pointer(tensor) for tensor in (operands.out[0], sums, counters)),
            *(Scalar("i32", size) for size in (problem.m, problem.n, problem.k)),
            Scalar("i32", _tiles(problem, plan.tokens, plan.share)),
            *(Scalar("i32", size) for size in (plan.rounds, share, extra)),
            Scalar("u32", reciprocal(chunks)),
        ),
        programmatic=True,
    )
    return (launch,)


def _scale_map(weights: Parts, problem: Problem) -> TensorMap:
    """Linear scales [N, K/16] or [L, N, K/16] in boxes of a chunk x the rows of a tile."""
    assert weights.scales is not None, "NVFP4 weights have scales"
    blocks = problem.k // 16
    shape, strides = (blocks, problem.n, problem.l), (blocks, blocks * problem.n)
    box = (CHUNK * UNIT // 16, ROWS // problem.op.matrices, 1)
    return TensorMap(weights.scales, "u8", shape, strides, box, l2_promotion=256)


def _tiles(problem: Problem, tokens: int, share: int) -> int:
    """What clusters of `share` blocks take at a time: a tile of each."""
    return ceil_div(problem.m, tokens) * ceil_div(problem.n * problem.op.matrices, ROWS * share) * problem.l


def _shared(plan: DecodePlan, problem: Problem) -> tuple[int, int]:
    """Tiles that are left when all clusters have taken theirs, and how many clusters share them."""
    clusters = plan.grid // plan.share
    tiles = _tiles(problem, plan.tokens, plan.share)
    assert plan.rounds * clusters <= tiles, "as many tiles as there are"
    return tiles - plan.rounds * clusters, plan.sharers or clusters


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


_AGAIN = 1.2  # microseconds for storing each whole tile but the last
_HALVED = 0.6  # of what handing over takes otherwise


def estimate(plan: DecodePlan, problem: Problem) -> float:
    """Microseconds on an H200; fitted to products of 64 to 2048 tokens (docs/optimisation-log.md)."""
    chunks, size = chunks_along_k(problem), plan.tokens / 256
    left, clusters = _shared(plan, problem)
    if plan.whole:
        busiest, shared = ceil_div(left, clusters) * chunks, 0
    else:
        busiest = plan.rounds * chunks + ceil_div(left * chunks, clusters)
        shared = handing_over(left, chunks, clusters)
    loop = busiest * CHUNK * (0.19 + 0.00155 * plan.tokens)
    if shared == 2 and 2 * (busiest - plan.rounds * chunks) > chunks:
        loop *= APART
    hand_over = shared * (0.6 + 2.6 * size + (0.3 + 0.9 * size) * min(4.0, max(1.0, clusters / left)))
    hand_over *= _HALVED if plan.halved else 1.0
    silu = 1.0 if problem.op.dual else 0.0
    return 5.5 + loop + hand_over + _AGAIN * (ceil_div(busiest, chunks) - 1) + silu


def plans(capability: Capability, problem: Problem) -> list[DecodePlan]:
    """What may be fast for a problem that the kernel serves."""
    found = []
    arch, sms, chunks = capability.arch, capability.sms, chunks_along_k(problem)
    for tokens in _widths(problem):
        stages = next(stages for most, stages in _STAGES.items() if tokens <= most)
        if tokens == 256 and problem.out_dtype == "fp32":
            stages = (4, 2)  # with one more ptxas spills
        wide = tokens > _NARROW
        share = 2 if wide and problem.n * problem.op.matrices > ROWS else 1
        tiles, most = _tiles(problem, tokens, share), sms // share
        plan = DecodePlan(arch, tokens, share, True, *stages, min(tiles, most) * share)
        found.append(plan)
        if (wide and share == 1) or not _may_cut(problem, tokens, tiles):
            continue
        # Clusters that wait for one another have to fit at once: those of two do, in the two multiprocessors of a TPC.
        found += [
            replace(plan, whole=False, grid=clusters * share, halved=_may_halve(plan, tiles, chunks, clusters))
            for clusters in grids(tiles, chunks, most)
        ]
        rounds, left = divmod(tiles, most)
        if wide and rounds and left:
            found += [
                replace(
                    plan,
                    whole=False,
                    rounds=rounds,
                    sharers=sharers,
                    halved=_may_halve(plan, left, chunks, sharers),
                )
                for sharers in grids(left, chunks, most)
            ]
    return found


def _widths(problem: Problem) -> set[int]:
    """Tokens of a tile: equal ones, as few as there can be, and one or two more, which may fill the device better."""
    # Storing fp32 takes registers that 128 columns do not leave free.
    widths = {tokens_of(problem.m, 112 if problem.out_dtype == "fp32" else _NARROW)}
    if problem.m > _NARROW:
        least = ceil_div(problem.m, 256)
        wide = {ceil_div(ceil_div(problem.m, tiles), 16) * 16 for tiles in range(least, least + 3)}
        widths |= {tokens for tokens in wide if tokens > _NARROW}
    return widths


def _may_cut(problem: Problem, tokens: int, tiles: int) -> bool:
    """Whether blocks may share so many tiles."""
    exact = tiles * chunks_along_k(problem) ** 2 < 1 << 32  # the kernel divides by a reciprocal
    return exact and tokens not in (224, 240)  # ptxas spills


def _may_halve(plan: DecodePlan, tiles: int, chunks: int, clusters: int) -> bool:
    """Whether two of so many clusters share each of so many tiles, and can finish the rows of a warpgroup each."""
    return plan.tokens > _NARROW and plan.tokens % 16 == 0 and clusters == 2 * tiles and chunks % 2 == 0


def plan(capability: Capability, problem: Problem) -> tuple[float, DecodePlan]:
    """The plan that should be fastest for a problem that the kernel serves, and its microseconds."""
    return min(((estimate(each, problem), each) for each in plans(capability, problem)), key=lambda pair: pair[0])
