"""Plans of the Hopper GEMM family: what a tuner may vary, and the choice that is made without one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from nvfp4.backends.sm80.constants import ceil_div
from nvfp4.device import Capability
from nvfp4.problem import Problem

UNIT = 64
"""Elements along K of a tile of activations (`UNIT` in csrc/decode/wgmma_operand.cuh)."""

CHUNK = 4
"""Units along K of a stage of weights."""

_BLOCK_ROWS = 128
CODES_BYTES = _BLOCK_ROWS * CHUNK * UNIT // 2
"""Codes of a stage of a block of weights."""

SCALES_BYTES = _BLOCK_ROWS * CHUNK * UNIT // 16
"""Their scales."""

_ROW_BYTES = UNIT * 2  # of a tile of activations, and of codes of a stage of NVFP4 ones
_ROW_SCALES_BYTES = CHUNK * UNIT // 16
RAW = 2
"""Stages of NVFP4 activations that each block decodes for itself."""

STAGING_BYTES = 2 * 64 * 128  # csrc/epilogue/tile_store.cuh
ALIGNMENT_BYTES = 1024  # a tile's swizzle repeats every 1024 bytes
SHARED_BYTES = 227 * 1024  # of a block

MAX_TOKENS = 128
"""Most columns of one instruction that the accumulators leave room for."""

MAX_STACK_TOKENS = 144
"""The same for stacks with 16-bit results: half as much is staged at a time, addresses are computed for each tile."""

THREADS = 384

MAX_LISTED = 32
"""Groups of one launch in the list form: their tensor maps are parameters."""

MAX_STACKED = 1024
"""Groups in the stacked form: they have a table in shared memory."""


@dataclass(frozen=True)
class GemmPlan:
    """How a product runs.

    Attributes:
        arch: Compilation target.
        tokens: Rows of A in a tile: columns of one WGMMA, a multiple of 8 up to `MAX_TOKENS`, or
            `MAX_STACK_TOKENS`.
        blocks: Blocks of 128 weight rows in a tile, 1 or 2; dual operations have 2, one of each matrix.
        chunks: Stages of weights (256 elements along K each), 2 to 4.
        tiles: Stages of activations (64 elements along K each), 4 or 8.
        grid: Thread blocks: at most `resident` for each multiprocessor, as they wait for one another.
        makes: Each block makes its tiles of activations for itself: decodes NVFP4, or brings 16-bit values into order.
            Else all of them make all, before they multiply.
        raw: Stages of NVFP4 activations as they lie (256 elements along K each): `RAW`, if each block decodes its own.
        resident: Blocks that share a multiprocessor: 1 or, of stacks, with few tokens, 2.
    """

    arch: str
    tokens: int
    blocks: int
    chunks: int
    tiles: int
    grid: int
    makes: bool = False
    raw: int = 0
    resident: int = 1

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory (`Shape::SHARED_BYTES` in csrc/pipeline/sm90_roles.cuh, and the alignment)."""
        weights = self.chunks * self.blocks * (CODES_BYTES + SCALES_BYTES)
        activations = (self.tiles + self.raw) * self.tokens * _ROW_BYTES + self.raw * self.tokens * _ROW_SCALES_BYTES
        barriers = 16 * self.chunks + 24 * self.tiles + 16 * self.raw
        staging = STAGING_BYTES if self.tokens <= MAX_TOKENS else STAGING_BYTES // 2
        if self.resident == 2:
            staging = 2 * self.tokens * 128
        return activations + weights + staging + barriers + ALIGNMENT_BYTES

    def describe(self) -> str:
        """One line for people."""
        tile = f"{_BLOCK_ROWS}x{self.blocks} weight rows x {self.tokens} tokens"
        stages = f"{self.chunks} stages of weights, {self.tiles} of activations"
        made = "its own tiles" if self.makes else "tiles by all blocks"
        grid = f"{self.grid} blocks" + (", two a multiprocessor" if self.resident == 2 else "")
        return f"WGMMA m64n{self.tokens}k16, {tile}, {stages}, {made}, stream-K over {grid} [{self.arch}]"


def capacity(groups: int) -> int:
    """Groups that a kernel has room for: a power of two, so that few variants are compiled."""
    return 1 << (groups - 1).bit_length()


def table_bytes(problem: Problem) -> int:
    """Shared memory of the table of groups, if there are groups."""
    groups = problem.stacked or min(len(problem.groups), MAX_LISTED)
    return 12 * capacity(groups) + 16 if groups else 0


def tokens_of(rows: int, most: int = MAX_TOKENS) -> int:
    """Columns of the instruction for `rows` tokens, at most `most`: the tiles equal, and as few as there can be."""
    return _even(rows, ceil_div(rows, most)) if rows > 8 else 8


def _even(rows: int, tiles: int) -> int:
    """Columns of an instruction, `tiles` of which hold `rows`; one alone in steps of 16: few kernels are compiled."""
    step = 16 if tiles == 1 else 8
    return ceil_div(ceil_div(rows, tiles), step) * step


def _unit_time(blocks: int, tokens: int, bf16: bool, makes: bool) -> float:
    """Microseconds of a unit on an H200 at 1.75 GHz.

    The matrix unit takes 8 cycles a column; the register file serves it and what the schedulers issue, 1.32 cycles for
    each of 332 instructions (396 where weights are decoded to bf16). One block reads the activations twice as often for
    its work as two, and takes 1.2 times as long. A block that makes its own tiles takes as long for it as for about as
    many instructions as there are tokens. Measured: docs/optimisation-log.md.
    """
    share = 1.0 if blocks == 2 else 0.6
    issued = share * (396 if bf16 else 332) + (tokens if makes else 0)
    return max(share * 8.0 * tokens, share * 4.5 * tokens + 1.32 * issued) / 1750


def handing_over(tiles: int, chunks: int, grid: int) -> int:
    """Shared tiles of the busiest block when tiles x chunks are cut into `grid` equal ranges: 0, 1 or 2."""
    share, extra = divmod(tiles * chunks, grid)
    if extra:
        return 2 if share else 1
    return 0 if share % chunks == 0 else 1 if chunks % share == 0 else 2


_HAND_OVER = (0.0, 5.0, 14.0)  # microseconds, for none, one or two shared tiles of 256 x 128 sums

APART = 1.09
"""How much longer tiles take that blocks begin at different places of K."""

_TOGETHER = 3.0  # microseconds until all blocks have made all activations, more than a block takes for its first tiles

DECODER_TOKENS = 64
"""Most tokens of a tile of NVFP4 activations that a block can decode for itself as fast as it multiplies them."""


_ARRANGER_TOKENS = 64
"""Most tokens of a tile of 16-bit activations that a block brings into order for itself whatever its work: beside a
long loop it had better be done once, 52.9 instead of 59.4 us for 128x28672x4096. Not measured for several tiles."""


def _time(tiles: int, chunks: int, grid: int, blocks: int, tokens: int, bf16: bool, makes: bool) -> float:
    """Microseconds of a launch on an H200, less what does not depend on the plan; fitted to all benchmark shapes."""
    busiest, shared = ceil_div(tiles * chunks, grid), handing_over(tiles, chunks, grid)
    together = 0 if makes else _TOGETHER
    # Blocks that begin their tiles at different places of K do not find one another's operands in L2.
    apart = APART if shared and busiest > 2 * chunks else 1.0
    loop = busiest * CHUNK * _unit_time(blocks, tokens, bf16, makes) * apart
    return loop + _HAND_OVER[shared] * blocks * tokens / 256 + together


def grids(tiles: int, chunks: int, sms: int) -> list[int]:
    """All multiprocessors, and the largest grids that need not cut tiles, or cut each in equal parts."""
    grids = [min(sms, tiles * chunks)]
    grids += [tiles * parts for parts in range(1, sms // tiles + 1) if chunks % parts == 0]
    grids += [tiles // each for each in range(1, tiles + 1) if tiles % each == 0 and tiles // each <= sms][:1]
    return grids


def estimate(plan: GemmPlan, problem: Problem) -> float:
    """Microseconds of a GEMM on an H200; the model and what it lacks, fitted to products of 32 to 8192 tokens."""
    chunks = max(1, ceil_div(problem.k, CHUNK * UNIT))
    rows = _BLOCK_ROWS if problem.op.dual else plan.blocks * _BLOCK_ROWS
    tiles = ceil_div(problem.m, plan.tokens) * ceil_div(problem.n, rows) * problem.l
    bf16, arranged = problem.a.kind == "bf16", plan.makes and problem.a.kind != "nvfp4"
    time = _time(tiles, chunks, plan.grid, plan.blocks, plan.tokens, bf16, plan.makes)
    return _BEGIN_AND_END[arranged] + 1.12 * time


_BEGIN_AND_END = {False: 10.0, True: 8.3}  # microseconds of a launch; where 16-bit tiles come as they lie, fewer


_STACK_WIDTHS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128)  # few, because rows change from call to call

RESIDENT_TOKENS = {"fp16": 24, "bf16": 24, "fp32": 16}
"""Most tokens of a tile for which two blocks have registers beside each other, by kind of results."""

_UNEVEN = 0.1
"""How much the probabilities of experts deviate, of their mean."""


def likely_sizes(rows: int, groups: int) -> list[int]:
    """Rows of each stacked group, which the host does not know: as if they went to groups at random.

    The weights of a group are decoded once for each tile of its rows, so that a tile is wasted on every group that
    is a little larger than one: what counts is how groups spread around their mean, not the mean.
    """
    mean = max(rows, 1) / groups
    spread = NormalDist(mean, math.sqrt(mean + (_UNEVEN * mean) ** 2))
    return [max(0, round(spread.inv_cdf((i + 0.5) / groups))) for i in range(groups)]


def _ways(problem: Problem, tokens: int, blocks: int) -> tuple[bool, ...]:
    """Whether blocks may, or must, make tiles of activations for themselves: values of `GemmPlan.makes`."""
    if problem.stacked:  # the same tokens are multiplied with so many weights that they had better be made once
        return (False,)
    if problem.a.kind != "nvfp4":
        return (True, False) if tokens > _ARRANGER_TOKENS and problem.m <= MAX_TOKENS else (True,)
    return (False, True) if tokens <= DECODER_TOKENS and blocks == 2 else (False,)


def plan(capability: Capability, problem: Problem) -> GemmPlan:
    """The plan for `problem` there: of all tiles and grids the one that the model finds fastest."""
    sizes = [m for m, n, _ in problem.groups if m and n] or [problem.m]
    if problem.stacked:
        sizes = likely_sizes(problem.m, problem.stacked)
    bf16, nvfp4, dual = problem.a.kind == "bf16", problem.a.kind == "nvfp4", problem.op.dual
    # Storing fp32 takes registers that 128 columns leave free only in the simplest kernels.
    most = 112 if problem.out_dtype == "fp32" and (dual or not nvfp4) else MAX_TOKENS
    widths = {tokens_of(size, most) for size in sizes}
    if problem.stacked:
        widths = {width for width in _STACK_WIDTHS if width <= most}
        # Only with all stages of activations, for which a table of very many groups leaves no room.
        widest = GemmPlan(capability.arch, MAX_STACK_TOKENS, 2, 2, 8, capability.sms)
        if problem.out_dtype != "fp32" and widest.shared_bytes + table_bytes(problem) <= SHARED_BYTES:
            widths.add(MAX_STACK_TOKENS)
    elif len(set(sizes)) == 1:  # narrower tiles may fill the multiprocessors better
        widths |= {_even(sizes[0], ceil_div(sizes[0], most) + more) for more in (1, 2) if sizes[0] > 64}
    chunks = max(1, ceil_div(problem.k, CHUNK * UNIT))
    best: tuple[float, int, int, int, bool, int] | None = None
    for tokens in sorted(widths, reverse=True):
        tiles_m = max(1, sum(ceil_div(m, tokens) for m in sizes) * problem.l)
        for blocks in (2,) if dual else (2, 1):
            tiles = tiles_m * max(1, ceil_div(problem.n, _BLOCK_ROWS if dual else blocks * _BLOCK_ROWS))
            for grid in [capability.sms] if problem.stacked else grids(tiles, chunks, capability.sms):
                for makes in _ways(problem, tokens, blocks):
                    time = _time(tiles, chunks, grid, blocks, tokens, bf16, makes)
                    if best is None or time < best[0]:
                        best = (time, tokens, blocks, grid, makes, tiles)
    assert best is not None
    _, tokens, blocks, grid, makes, tiles = best
    if problem.stacked and tokens <= RESIDENT_TOKENS[problem.out_dtype] and blocks == 2 and tiles >= 2 * capability.sms:
        return GemmPlan(capability.arch, tokens, blocks, 2, 4, 2 * capability.sms, resident=2)
    room = SHARED_BYTES - table_bytes(problem)
    # Where activations come as they lie, more weights ahead only keep them waiting.
    stages = [(chunks, tiles) for tiles in (8, 4) for chunks in ((3, 2) if makes else (4, 3, 2))]
    raw = RAW if makes and nvfp4 else 0
    plans = [GemmPlan(capability.arch, tokens, blocks, *stage, grid, makes, raw) for stage in stages]
    return next(found for found in plans if found.shared_bytes <= room)
