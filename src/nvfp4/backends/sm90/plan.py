"""Plans of the Hopper GEMM family: what a tuner may vary, and the choice that is made without one."""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.backends.sm80.constants import ceil_div
from nvfp4.device import Capability
from nvfp4.problem import Op, Problem

UNIT = 64
"""Elements along K of a tile of activations (`UNIT` in csrc/decode/wgmma_operand.cuh)."""

CHUNK = 4
"""Units along K of a stage of weights."""

_BLOCK_ROWS = 128
_CODES_BYTES = _BLOCK_ROWS * CHUNK * UNIT // 2
_SCALES_BYTES = _BLOCK_ROWS * CHUNK * UNIT // 16
_ROW_BYTES = UNIT * 2  # of a tile of activations
_STAGING_BYTES = 2 * 64 * 128  # csrc/epilogue/tile_store.cuh
_WORK_BYTES = 16
_ALIGNMENT_BYTES = 1024  # a tile's swizzle repeats every 1024 bytes

MAX_TOKENS = 128
"""Most columns of one instruction that the accumulators leave room for."""

THREADS = 384


@dataclass(frozen=True)
class GemmPlan:
    """How a product runs.

    Attributes:
        arch: Compilation target.
        tokens: Rows of A in a tile: columns of one WGMMA, a multiple of 8 up to 128.
        blocks: Blocks of 128 weight rows in a tile, 1 or 2; dual_gemm has 2, one of each matrix.
        chunks: Stages of weights (256 elements along K each), 2 or 4.
        tiles: Stages of activations (64 elements along K each), 4 or 8.
        band: Tiles of tokens that share a pass over the weights.
        grid: Thread blocks: at most one for each multiprocessor, as they wait for one another.
    """

    arch: str
    tokens: int
    blocks: int
    chunks: int
    tiles: int
    band: int
    grid: int

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory (`Shape::SHARED_BYTES` in csrc/pipeline/sm90_roles.cuh, and the alignment)."""
        weights = self.chunks * self.blocks * (_CODES_BYTES + _SCALES_BYTES)
        activations = self.tiles * self.tokens * _ROW_BYTES
        barriers = 16 * (self.chunks + self.tiles)
        return activations + weights + _STAGING_BYTES + barriers + _WORK_BYTES + _ALIGNMENT_BYTES

    def describe(self) -> str:
        """One line for people."""
        tile = f"{_BLOCK_ROWS}x{self.blocks} weight rows x {self.tokens} tokens"
        stages = f"{self.chunks} stages of weights, {self.tiles} of activations"
        return f"WGMMA m64n{self.tokens}k16, {tile}, {stages}, stream-K over {self.grid} blocks [{self.arch}]"


def tokens_of(rows: int) -> int:
    """Columns of the instruction for `rows` tokens: the tiles equal, and as few as there can be."""
    if rows <= 8:
        return 8
    each = ceil_div(rows, ceil_div(rows, MAX_TOKENS))
    return ceil_div(each, 16) * 16


def _cost(sizes: list[int], tokens: int) -> int:
    """Relative time of groups of these sizes: a tile of n tokens takes about as long as 16 + n."""
    return sum(ceil_div(m, tokens) for m in sizes) * (tokens + 16)


# Measured on an H200 (docs/optimisation-log.md), in us: a unit of a tile of 128 tokens and 1 or 2 weight blocks; and
# handing over the sums of 2 blocks x 128 tokens, by the number of shared tiles of a block.
_UNIT_TIME = {1: 0.45, 2: 0.75}
_HANDING_OVER = {0: 0.0, 1: 8.0, 2: 13.0}
_LEAST_TOKENS = 48  # whose instructions take as long as the decoding beside them


def _shared_tiles(tiles: int, chunks: int, grid: int) -> int:
    """Shared tiles of the busiest block when tiles x chunks are cut into `grid` equal ranges: 0, 1 or 2."""
    share, extra = divmod(tiles * chunks, grid)
    if extra:
        return 2 if share else 1
    return 0 if share % chunks == 0 else 1 if chunks % share == 0 else 2


def _time(tiles: int, chunks: int, grid: int, blocks: int, tokens: int) -> float:
    """Modelled time of a launch in us, less what all launches have in common."""
    units = ceil_div(tiles * chunks, grid) * CHUNK
    over = _HANDING_OVER[_shared_tiles(tiles, chunks, grid)] * blocks / 2 * tokens
    return (units * _UNIT_TIME[blocks] * max(tokens, _LEAST_TOKENS) + over) / MAX_TOKENS


def _grids(tiles: int, chunks: int, sms: int) -> list[int]:
    """All multiprocessors, and the largest grids that need not cut tiles, or cut each in equal parts."""
    grids = [min(sms, tiles * chunks)]
    grids += [tiles * parts for parts in range(1, sms // tiles + 1) if chunks % parts == 0]
    grids += [tiles // each for each in range(1, tiles + 1) if tiles % each == 0 and tiles // each <= sms][:1]
    return grids


def plan(capability: Capability, problem: Problem) -> GemmPlan:
    """The plan for `problem` there: of all tiles and grids the one that the model finds fastest."""
    sizes = [m for m, n, _ in problem.groups if m and n] or [problem.m]
    if problem.stacked:
        sizes = [max(1, ceil_div(problem.m, problem.stacked))] * problem.stacked
    tokens = min(map(tokens_of, sizes), key=lambda width: _cost(sizes, width))
    tiles_m = max(1, sum(ceil_div(m, tokens) for m in sizes) * problem.l)
    chunks = max(1, ceil_div(problem.k, CHUNK * UNIT))
    dual = problem.op is Op.DUAL_GEMM
    best: tuple[float, int, int] | None = None
    for blocks in (2,) if dual else (2, 1):
        tiles = tiles_m * max(1, ceil_div(problem.n, _BLOCK_ROWS if dual else blocks * _BLOCK_ROWS))
        grids = [capability.sms] if problem.stacked else _grids(tiles, chunks, capability.sms)
        for grid in grids:
            candidate = (_time(tiles, chunks, grid, blocks, tokens), blocks, grid)
            best = candidate if best is None or candidate[0] < best[0] else best
    assert best is not None
    _, blocks, grid = best
    stages = 2 if blocks == 2 and tokens > 64 else 4
    return GemmPlan(capability.arch, tokens, blocks, stages, 8, 16, grid)
