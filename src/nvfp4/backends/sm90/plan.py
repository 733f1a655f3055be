"""Plans of the Hopper GEMM family: what a tuner may vary, and the choice that is made without one."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from itertools import accumulate, chain, pairwise
from statistics import NormalDist
from typing import NamedTuple

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

COUPLE = 2
"""Blocks of a cluster that multiply a tile together."""

WIDTH_STEP = 16
"""From one width of tiles to the next, where groups of a list have tiles of their own widths."""

MOST_WIDTHS = 5
"""Widths of one kernel, each of which is a loop of its own."""

MAX_GRID = 144
"""Multiprocessors of the largest Hopper chip: blocks that are told their tiles (`MAX_GRID` in sm90_group_gemm.cu)."""

_TILE_BITS, _CHUNK_BITS = 11, 6  # of an entry of the order (`ListedTiles` in csrc/pipeline/listed_tiles.cuh)
MAX_ORDER = 1 << _TILE_BITS
"""Tiles of one launch, and parts of some, that blocks are told: their numbers are parameters."""

MAX_NOTED = 48
"""Tiles of a list, and parts of some, of one block, which keeps notes of them in shared memory (`TileNote` there)."""

_NOTES_BYTES = 32 * (MAX_NOTED + 1) + 16

WHOLE_TILE = (1 << _CHUNK_BITS) - 1
"""In place of a number of stages of weights: to the end of K. With more than there are numbers for, no tile is cut."""

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
        blocks: Blocks of 128 weight rows in a tile, 1 or 2; in dual operations half of them are of either matrix.
        chunks: Stages of weights (256 elements along K each), 2 to 4.
        tiles: Stages of activations (64 elements along K each), 4 or 8.
        grid: Thread blocks: at most `resident` for each multiprocessor, as they wait for one another.
        makes: Each block makes its tiles of activations for itself: decodes NVFP4, or brings 16-bit values into order.
            Else all of them make all, before they multiply.
        raw: Stages of NVFP4 activations as they lie (256 elements along K each): `RAW`, if each block decodes its own;
            as many as it begins with, 1 or 2.
        resident: Blocks that share a multiprocessor: 1 or, of stacks, with few tokens, 2.
        begins: Each block makes the tiles of its first stages of weights (`begun`) for itself, beside what all of them
            make.
        narrowest: Of a list of groups, whose tiles have the width that suits each: the narrowest, in steps of
            `WIDTH_STEP` from `tokens`, which is the widest. 0: all have `tokens` rows of A.
        coupled: The two blocks of a cluster multiply the same tile, each every other stage of weights, and hand each
            other sums through shared memory. A couple's share lies within one tile.
        own: Of each tile, the stages of weights that its block, or each of its couple, multiplies; what is left of K
            those blocks do that have no tile, the helpers. 0: there are none.
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
    begins: bool = False
    narrowest: int = 0
    coupled: bool = False
    own: int = 0

    @property
    def team(self) -> int:
        """Blocks that multiply a tile together: a couple, or one."""
        return COUPLE if self.coupled else 1

    @property
    def begun(self) -> int:
        """Stages of weights whose tiles of activations a block makes for itself beside what all of them make."""
        return 1 + (self.coupled and self.tiles == 2 * CHUNK) if self.begins else 0

    def rows(self, problem: Problem) -> int:
        """Rows of each matrix in a tile."""
        return _BLOCK_ROWS * self.blocks // problem.op.matrices

    def part_rows(self, problem: Problem) -> int:
        """Rows of a matrix that are copied at a time (`PART_ROWS` in csrc/pipeline/sm90_stages.cuh)."""
        return min(_BLOCK_ROWS, self.rows(problem))

    def width(self, rows: int) -> int:
        """Rows of A in the tiles of a group of `rows`: as few tiles as there can be, equal ones."""
        if not self.narrowest:
            return self.tokens
        even = ceil_div(max(rows, 1), ceil_div(max(rows, 1), self.tokens))
        return max(self.narrowest, self.tokens - (self.tokens - even) // WIDTH_STEP * WIDTH_STEP)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory (`Shape::SHARED_BYTES` in csrc/pipeline/sm90_stages.cuh, and the alignment)."""
        weights = self.chunks * self.blocks * (CODES_BYTES + SCALES_BYTES)
        # What a block begins with lies where results are staged at the end.
        tiles = self.tiles + (self.raw if self.makes else 0)
        activations = tiles * self.tokens * _ROW_BYTES + self.raw * self.tokens * _ROW_SCALES_BYTES
        barriers = 16 * self.chunks + 24 * self.tiles + 16 * max(self.raw, self.begun)
        staging = STAGING_BYTES if self.tokens <= MAX_TOKENS else STAGING_BYTES // 2
        if self.resident == 2:
            staging = 2 * self.tokens * 128
        if self.coupled:
            barriers += 24 * ceil_div(self.blocks * self.tokens, 64)
        barriers += 16 if self.own or self.narrowest else 0
        notes = _NOTES_BYTES if self.narrowest else 0
        return activations + weights + staging + barriers + notes + ALIGNMENT_BYTES

    def describe(self) -> str:
        """One line for people."""
        tokens = f"{self.narrowest} to {self.tokens}" if self.narrowest else str(self.tokens)
        tile = f"{_BLOCK_ROWS}x{self.blocks} weight rows x {tokens} tokens"
        stages = f"{self.chunks} stages of weights, {self.tiles} of activations"
        made = "its own tiles" if self.makes else "tiles by all blocks" + (" but the first" if self.begins else "")
        grid = f"{self.grid} blocks" + (", two a multiprocessor" if self.resident == 2 else "")
        dealt = "whole tiles dealt out to" if self.narrowest else "stream-K over"
        if self.coupled:
            dealt, grid = "equal parts of tiles for", f"{self.grid // COUPLE} couples of blocks"
        if self.own:
            owners = "couples" if self.coupled else "blocks"
            dealt, grid = f"{owners} that own a tile, {self.own} stages a block, and helpers:", f"{self.grid} blocks"
        return f"WGMMA m64n{self.tokens}k16, {tile}, {stages}, {made}, {dealt} {grid} [{self.arch}]"


def capacity(groups: int) -> int:
    """Groups that a kernel has room for: a power of two, so that few variants are compiled."""
    return 1 << (groups - 1).bit_length()


def table_bytes(problem: Problem) -> int:
    """Shared memory of the table of groups, if there are groups (`Table` in csrc/kernels/sm90_group_gemm.cu)."""
    if problem.stacked:
        return 12 * capacity(problem.stacked) + 16
    return 48 * capacity(min(len(problem.groups), MAX_LISTED)) + 32 if problem.groups else 0


def tokens_of(rows: int, most: int = MAX_TOKENS) -> int:
    """Columns of the instruction for `rows` tokens, at most `most`: the tiles equal, and as few as there can be."""
    return _even(rows, ceil_div(rows, most)) if rows > 8 else 8


def _even(rows: int, tiles: int) -> int:
    """Columns of an instruction, `tiles` of which hold `rows`; one alone in steps of 16: few kernels are compiled."""
    step = 16 if tiles == 1 else 8
    return ceil_div(ceil_div(rows, tiles), step) * step


def _unit_cycles(tokens: int, bf16: bool) -> float:
    """Cycles of a unit of two blocks of weights, with the operand made already.

    The matrix unit takes 8 a column; the register file serves it and what the schedulers issue, 1.32 for each of 332
    instructions (396 where weights are decoded to bf16). Measured: docs/optimisation-log.md.
    """
    return max(8.0 * tokens, 4.5 * tokens + 1.32 * (396 if bf16 else 332))


def handing_over(tiles: int, chunks: int, grid: int) -> int:
    """Shared tiles of the busiest block when tiles x chunks are cut into `grid` equal ranges: 0, 1 or 2."""
    share, extra = divmod(tiles * chunks, grid)
    if extra:
        return 2 if share else 1
    return 0 if share % chunks == 0 else 1 if chunks % share == 0 else 2


APART = 1.09
"""How much longer tiles take that blocks begin at different places of K."""

OWN_TOKENS = 64
"""Most tokens of a tile that two warps of a block make for itself as fast as the others multiply them."""

_CLOCK = 1750  # cycles of a microsecond
_ONE_BLOCK = 0.58  # of what a unit of two blocks of weights takes
_WIDE, _NARROW = 1.1, 1.2  # of it two blocks, with more than OWN_TOKENS, and with fewer that all blocks make
_START = 3.5  # microseconds of a launch beside its loop
_STORING = 4.5  # for each tile of 256 x 128 results
_COUPLED = 1.3  # for what two blocks of a cluster hand each other
_COUPLES = 1.3  # for what couples of a tile hand over, and as much again for 256 x 128 sums
_HELPED = 1.5  # for adding what a helper has left
_HELPED_TWICE = 0.3  # and of a second block of weights, which comes behind the last product
_LEAVING = 0.6  # until a helper is at its next tile
_LEFT = 2.0  # and for 256 x 128 sums that it leaves; a quarter of it for half of them
_TOGETHER = 1.0  # until all blocks have made all activations, more than a block takes for those that it begins with


def _hand_over(tiles: int, chunks: int, grid: int, size: float) -> float:
    """Microseconds for leaving, awaiting and adding the sums of tiles, `size` times 256 x 128, that blocks share."""
    shared = handing_over(tiles, chunks, grid)
    if not shared:
        return 0.0
    one = 2.0 + 2.0 * size + 0.3 * min(4, grid / tiles)
    return one if shared == 1 else one * (1.0 + 3.2 * min(size, 0.5))


def _unit_time(blocks: int, tokens: int, kind: str, makes: bool) -> float:
    """Microseconds of a unit on an H200.

    A warp that multiplies has its own least time for it, and two warps that make tiles take cycles for each token.
    """
    cycles, least = _unit_cycles(tokens, kind == "bf16"), 650
    if blocks == 1:  # reads the activations twice as often for its work
        cycles, least = _ONE_BLOCK * cycles, 400
    elif tokens > OWN_TOKENS:
        cycles *= _WIDE
    elif not makes:
        cycles *= _NARROW
    if makes:
        cycles += 1.32 * tokens * (1.6 if kind == "nvfp4" else 1.0)
        least = max(least, tokens * (10 if kind == "nvfp4" else 8))
    return max(cycles, least) / _CLOCK


def _time(plan: GemmPlan, problem: Problem, tiles: int, chunks: int) -> float:
    """Microseconds of a launch on an H200; fitted to products of 16 to 2048 tokens."""
    size = plan.blocks * plan.tokens / 256
    if plan.own:
        chunk = CHUNK * _unit_time(plan.blocks, plan.tokens, problem.a.kind, plan.makes)
        each = ceil_div(tiles, plan.grid - plan.team * tiles)
        helping = each * ((chunks - plan.team * plan.own) * chunk + _LEAVING + _LEFT * size**2)
        storing = _STORING * size / plan.team + (_COUPLED if plan.coupled else 0.0)
        storing += _HELPED_TWICE if plan.blocks == 2 else 0.0
        start = _START + (0.0 if plan.begins else _TOGETHER)
        return start + max(plan.own * chunk, helping) + _HELPED + storing
    if plan.coupled:
        parts = couples_of(plan, problem)
        chunks = ceil_div(chunks, COUPLE)
        loop = chunks // parts * CHUNK * _unit_time(plan.blocks, plan.tokens, problem.a.kind, plan.makes)
        handing = _COUPLED + (0.0 if parts == 1 else _COUPLES * (1.0 + size))
        return _START + loop + handing + _STORING * size / 2
    busiest = ceil_div(tiles * chunks, plan.grid)
    # Blocks that begin at different places of K do not find one another's operands in L2.
    apart = APART if handing_over(tiles, chunks, plan.grid) == 2 else 1.0
    loop = busiest * CHUNK * _unit_time(plan.blocks, plan.tokens, problem.a.kind, plan.makes) * apart
    start = _START + (0.0 if plan.makes or plan.begins else _TOGETHER)
    storing = _STORING * size * ceil_div(busiest, chunks)
    return start + loop + _hand_over(tiles, chunks, plan.grid, size) + storing


def _stack_time(plan: GemmPlan, problem: Problem, tiles: int, chunks: int) -> float:
    """The same of likely groups of a stack, less what all plans take; fitted to mixtures of experts."""
    busiest, shared = ceil_div(tiles * chunks, plan.grid), handing_over(tiles, chunks, plan.grid)
    apart = APART if shared and busiest > 2 * chunks else 1.0
    unit = _unit_cycles(plan.tokens, problem.a.kind == "bf16") * (1.0 if plan.blocks == 2 else 0.6) / _CLOCK
    return busiest * CHUNK * unit * apart + (0.0, 5.0, 14.0)[shared] * plan.blocks * plan.tokens / 256


def grids(tiles: int, chunks: int, sms: int) -> list[int]:
    """All multiprocessors, and the largest grids that need not cut tiles, or cut each in equal parts."""
    grids = [min(sms, tiles * chunks)]
    grids += [tiles * parts for parts in range(1, sms // tiles + 1) if chunks % parts == 0]
    grids += [tiles // each for each in range(1, tiles + 1) if tiles % each == 0 and tiles // each <= sms][:1]
    return grids


def couple_grids(tiles: int, chunks: int, sms: int) -> list[int]:
    """Grids of couples, one or more for each tile, which have equal parts of it."""
    most = sms // (COUPLE * tiles) if chunks > 1 else 0
    return [COUPLE * tiles * parts for parts in range(1, most + 1) if ceil_div(chunks, COUPLE) % parts == 0]


def helped_plans(plan: GemmPlan, problem: Problem, sms: int) -> Iterator[GemmPlan]:
    """The plan with owners of tiles, blocks or couples, and helpers on all other multiprocessors.

    Of how much an owner leaves to its helper, what the model finds best.
    """
    if plan.blocks == 2 and plan.tokens > _helped_tokens(problem):
        return
    tiles, chunks = tiles_of(plan, problem), chunks_along_k(problem)
    for team in (1, COUPLE):
        helpers = min(sms - team * tiles, tiles) // team * team
        if helpers < 1 or chunks <= team or (team == COUPLE and (plan.tokens % 16 or plan.blocks == 2)):
            continue
        grid, most = team * tiles + helpers, (chunks - 1) // team
        each = ceil_div(tiles, helpers)
        even = chunks * each // (team * each + 1)  # with which both have equally much
        near = {min(max(1, even + more), most) for more in range(6)}
        owned = (replace(plan, grid=grid, coupled=team == COUPLE, own=own) for own in near)
        yield min(owned, key=lambda found: _time(found, problem, tiles, chunks))


def _helped_tokens(problem: Problem) -> int:
    """Most tokens of tiles with two blocks of weights for whose helpers and owners ptxas has registers."""
    if problem.out_dtype == "fp32":
        return 96
    return 112 if problem.a.kind == "bf16" and problem.b.scale_layout == "tiled" else MAX_TOKENS


def chunks_along_k(problem: Problem) -> int:
    """Stages of weights along K."""
    return max(1, ceil_div(problem.k, CHUNK * UNIT))


def tiles_of(plan: GemmPlan, problem: Problem) -> int:
    """Tiles of the whole product, all of one width."""
    tokens = sum(ceil_div(m, plan.tokens) for m in _sizes(problem)) * problem.l
    return max(1, tokens) * max(1, ceil_div(problem.n, plan.rows(problem)))


def couples_of(plan: GemmPlan, problem: Problem) -> int:
    """Couples of blocks that share each tile, of a plan of couples."""
    return plan.grid // (COUPLE * tiles_of(plan, problem))


def estimate(plan: GemmPlan, problem: Problem) -> float:
    """Microseconds on an H200; of a stack those by which plans differ."""
    if plan.narrowest:
        return _START + _list_time(plan, problem)
    return (_stack_time if problem.stacked else _time)(plan, problem, tiles_of(plan, problem), chunks_along_k(problem))


class TilePart(NamedTuple):
    """What a block does of a tile of a list of groups.

    Attributes:
        tile: Its number as the kernel counts them: by group, within it by weights.
        begin: The first stage of weights of this part. The end of a tile belongs to a helper, who leaves its sums.
        end: Where its stages end, if not with K; the rest is the helper's.
        place: Of a tile in two parts, the block that owns it.
    """

    tile: int
    begin: int = 0
    end: int = WHOLE_TILE
    place: int = 0

    @property
    def word(self) -> int:
        """An entry of the order as the kernel reads it (`ListedTiles` in csrc/pipeline/listed_tiles.cuh)."""
        end = self.end | self.place << _CHUNK_BITS
        return self.tile | (self.begin | end << _CHUNK_BITS) << _TILE_BITS


@dataclass(frozen=True)
class TileList:
    """Which tiles of a list of groups each block takes, and in which order.

    Attributes:
        starts: Block b takes those from ``order[starts[b]]`` up to ``order[starts[b + 1]]``.
        order: Tiles, or parts of them. A block first takes the ends of other blocks' tiles.
        time: Microseconds of the block that takes longest.
    """

    starts: tuple[int, ...]
    order: tuple[TilePart, ...]
    time: float

    @property
    def most(self) -> int:
        """Tiles, and parts of some, of the block that has most."""
        return max(end - start for start, end in pairwise(self.starts))


def _listed(width: int, kind: str) -> tuple[float, float]:
    """Microseconds of a unit of one block of weights in a tile of a list, and from such a tile to the next."""
    if kind == "nvfp4":  # fitted to every block of six lists
        return max(4.4 * width, 280.0 + 2.0 * width) / _CLOCK, (3000.0 + 6.0 * width) / _CLOCK
    return _unit_time(1, width, kind, makes=False), _STORING * width / 256


@functools.lru_cache(maxsize=64)
def tile_list(plan: GemmPlan, problem: Problem, groups: tuple[tuple[int, int, int], ...]) -> TileList:
    """Deal out tiles of different widths: those that take longest first, each to the block that has least to do.

    Tiles of the same weights are neighbours among those that are alike, so that they run at the same time, and all but
    the first find the weights in L2. Remembered, because launches with and without early weights are built alike.
    """
    chunks = max(1, ceil_div(max(k for _, _, k in groups), CHUNK * UNIT))
    alike: list[tuple[float, float, range]] = []  # all of its time, its loop's, and the tiles
    first = 0
    for m, n, _ in groups:
        width = plan.width(m)
        unit, storing = _listed(width, problem.a.kind)
        loop = chunks * CHUNK * unit
        count = ceil_div(m, width) * ceil_div(n, plan.rows(problem))
        alike.append((loop + storing, loop, range(first, first + count)))
        first += count
    least = [(0.0, block) for block in range(plan.grid)]
    taken: list[list[int]] = [[] for _ in least]
    chunk_times = [0.0] * plan.grid  # of each block's first tile
    for time, loop, tiles in sorted(alike, key=lambda group: -group[0]):
        for tile in tiles:
            busy, block = least[0]
            if not taken[block]:
                chunk_times[block] = loop / chunks
            taken[block].append(tile)
            heapreplace(least, (busy + time, block))
    loads = [busy for busy, _ in sorted(least, key=lambda each: each[1])]
    time, cuts = _cuts(loads, chunk_times, chunks)
    parts = [[TilePart(tile) for tile in tiles] for tiles in taken]
    for owner, helper, left in cuts:
        whole = parts[owner].pop(0)
        # Last, when the helper has long been done.
        parts[owner].append(whole._replace(end=chunks - left, place=owner))
        parts[helper].insert(0, TilePart(whole.tile, chunks - left, WHOLE_TILE, owner))
    starts = (0, *accumulate(len(each) for each in parts))
    return TileList(starts, tuple(chain.from_iterable(parts)), time)


_ADDING = 2.0  # microseconds for what a helper has left of a tile of a list
_HELPING = 1.5  # and for its leaving it
_WORTH = 0.98  # of the time without, for which tiles are cut


def _cuts(
    loads: Sequence[float], chunk_times: Sequence[float], chunks: int
) -> tuple[float, list[tuple[int, int, int]]]:
    """Which blocks leave the end of their first tile to which others.

    Args:
        loads: Microseconds of each block, with whole tiles.
        chunk_times: Those of a stage of weights of each block's first tile.
        chunks: Stages of a tile.

    Returns:
        Microseconds of the block that then takes longest; and owner, helper and the stages left of each cut.
    """
    best: tuple[float, list[tuple[int, int, int]]] = max(loads), []
    shortest, longest = sum(loads) / len(loads), best[0]
    for _ in range(8 if chunks < WHOLE_TILE else 0):
        goal = (shortest + longest) / 2
        cuts = _cuts_for(goal, loads, chunk_times, chunks)
        if cuts is None:
            shortest = goal
        else:
            best, longest = (goal, cuts), goal
    return best if best[0] <= _WORTH * max(loads) else (max(loads), [])


def _cuts_for(
    goal: float, loads: Sequence[float], chunk_times: Sequence[float], chunks: int
) -> list[tuple[int, int, int]] | None:
    """Cuts with which no block takes longer than `goal`; None, if none are found."""
    room = sorted((goal - load, block) for block, load in enumerate(loads) if load <= goal)
    cuts = []
    for owner in sorted((block for block, load in enumerate(loads) if load > goal), key=lambda block: -loads[block]):
        left = math.ceil((loads[owner] + _ADDING - goal) / chunk_times[owner])
        needed = left * chunk_times[owner] + _HELPING
        found = bisect_left(room, (needed, 0))
        if left >= chunks or found == len(room):
            return None
        free, helper = room.pop(found)
        insort(room, (free - needed, helper))
        cuts.append((owner, helper, left))
    return cuts


def _varied(capability: Capability, problem: Problem, most: int) -> Iterator[GemmPlan]:
    """Plans that give the groups of a list tiles of their own widths, if these differ; stages are not chosen yet."""
    # With two blocks of weights there are no registers for the code of more than three widths.
    if not problem.groups or 1 not in _blocks(problem):
        return
    for widest in (64, 96, 128):  # others have spilled
        narrowest = max(WIDTH_STEP, widest - (MOST_WIDTHS - 1) * WIDTH_STEP)
        plan = GemmPlan(
            capability.arch, widest, 1, 2, 4, min(capability.sms, MAX_GRID), begins=True, narrowest=narrowest
        )
        sizes = [(m, n) for m, n, _ in problem.groups if m and n]
        tiles = sum(ceil_div(m, plan.width(m)) * ceil_div(n, plan.rows(problem)) for m, n in sizes)
        if widest <= most and tiles + MAX_GRID <= MAX_ORDER and len({plan.width(m) for m, _ in sizes}) > 1:
            yield plan


def _list_time(plan: GemmPlan, problem: Problem) -> float:
    """Microseconds of a list of groups beside what every launch takes."""
    present = tuple([size for size in problem.groups if size[0] and size[1]])
    lists = [tile_list(plan, problem, present[i : i + MAX_LISTED]) for i in range(0, len(present), MAX_LISTED)]
    return sum(each.time if each.most <= MAX_NOTED else math.inf for each in lists)


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


@functools.lru_cache(maxsize=64)
def _sizes(problem: Problem) -> tuple[int, ...]:
    """Rows of A of each group; the likely ones, if nobody knows."""
    if problem.stacked:
        return tuple(likely_sizes(problem.m, problem.stacked))
    return tuple([m for m, n, _ in problem.groups if m and n]) or (problem.m,)


def _widths(capability: Capability, problem: Problem, most: int) -> set[int]:
    """Rows of A that tiles may have, where all have the same."""
    sizes = _sizes(problem)
    if problem.stacked:
        widths = {width for width in _STACK_WIDTHS if width <= most}
        # Only with all stages of activations, for which a table of very many groups leaves no room.
        widest = GemmPlan(capability.arch, MAX_STACK_TOKENS, 2, 2, 8, capability.sms)
        if problem.out_dtype != "fp32" and widest.shared_bytes + table_bytes(problem) <= SHARED_BYTES:
            widths.add(MAX_STACK_TOKENS)
        return widths
    widths = {tokens_of(size, most) for size in sizes}
    if len(set(sizes)) == 1 and sizes[0] > 64:  # narrower tiles may fill the multiprocessors better
        widths |= {_even(sizes[0], ceil_div(sizes[0], most) + more) for more in (1, 2)}
    return widths


def _blocks(problem: Problem) -> tuple[int, ...]:
    """Blocks of 128 weight rows that a tile may have."""
    # One of two matrices needs scales in rows, as a tile of them is of 128 rows of one.
    # Stacks do without it: their plans are fitted to two.
    both = problem.op.dual and (problem.b.scale_layout != "linear" or problem.stacked)
    return (2,) if both else (2, 1)


def _ways(problem: Problem, plan: GemmPlan) -> Iterator[GemmPlan]:
    """The same plan with all ways of making tiles of activations."""
    # For two blocks of weights it makes no difference, and of a stack nobody knows the groups before.
    yield replace(plan, begins=plan.blocks == 1 and not problem.stacked)
    # The tokens of a stack are multiplied with so many weights that they had better be made once.
    only = problem.stacked > 0 or plan.tokens > OWN_TOKENS or (problem.a.kind == "nvfp4" and plan.blocks == 1)
    if not only:
        yield replace(plan, makes=True)


def _uniform(capability: Capability, problem: Problem, most: int) -> Iterator[GemmPlan]:
    """Plans with tiles of one width; stages are not chosen yet."""
    chunks = chunks_along_k(problem)
    for tokens in sorted(_widths(capability, problem, most), reverse=True):
        for blocks in _blocks(problem):
            plan = GemmPlan(capability.arch, tokens, blocks, 2, 4, capability.sms)
            if problem.stacked:
                yield from _ways(problem, plan)
                continue
            for grid in grids(tiles_of(plan, problem), chunks, capability.sms):
                yield from _ways(problem, replace(plan, grid=grid))
            if problem.groups:
                continue
            yield from helped_plans(replace(plan, begins=blocks == 1), problem, capability.sms)
            if tokens % 16 or blocks * tokens > MAX_TOKENS:
                continue
            for grid in couple_grids(tiles_of(plan, problem), chunks, capability.sms):
                yield from _ways(problem, replace(plan, grid=grid, coupled=True))


def staged_plan(problem: Problem, plan: GemmPlan) -> GemmPlan:
    """The plan with as many stages of NVFP4 activations as it needs."""
    return replace(plan, raw=0 if problem.a.kind != "nvfp4" else RAW if plan.makes else plan.begun)


def plan(capability: Capability, problem: Problem) -> GemmPlan:
    """The plan for `problem` there: of all tiles and grids the one that the model finds fastest."""
    # Storing fp32 takes registers that 128 columns leave free only in the simplest kernels.
    most = 112 if problem.out_dtype == "fp32" and (problem.op.dual or problem.a.kind != "nvfp4") else MAX_TOKENS
    plans = chain(_uniform(capability, problem, most), _varied(capability, problem, most))
    best = min(plans, key=lambda found: estimate(found, problem))
    narrow = problem.stacked and best.tokens <= RESIDENT_TOKENS[problem.out_dtype] and best.blocks == 2
    if narrow and tiles_of(best, problem) >= 2 * capability.sms:
        return replace(best, grid=2 * capability.sms, resident=2)
    room = SHARED_BYTES - table_bytes(problem)
    # Where activations come as they lie, more weights ahead only keep them waiting.
    # What a helper has left takes the place of tiles.
    stages = [
        (chunks, tiles) for tiles in ((8,) if best.own else (8, 4)) for chunks in ((3, 2) if best.makes else (4, 3, 2))
    ]
    staged = (staged_plan(problem, replace(best, chunks=chunks, tiles=tiles)) for chunks, tiles in stages)
    return next(found for found in staged if found.shared_bytes <= room)
