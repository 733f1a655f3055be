"""The Hopper GEMM family without a GPU: what it refuses, what it plans, and what the compiler makes of its kernels."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from tests.backends import sass

from nvfp4 import jit
from nvfp4.backends.base import Operands
from nvfp4.backends.gathering import gathered
from nvfp4.backends.operands import aligned, parts
from nvfp4.backends.sm90 import BACKEND, decode_gemm
from nvfp4.backends.sm90.plan import (
    MAX_LISTED,
    MAX_STACKED,
    MAX_TOKENS,
    RAW,
    WHOLE_TILE,
    GemmPlan,
    TilePart,
    likely_sizes,
    staged_plan,
    table_bytes,
    tile_list,
    tokens_of,
)
from nvfp4.check import inputs
from nvfp4.check.run import fuzz, poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.contest.tasks import TASKS
from nvfp4.device import known
from nvfp4.executors import parameters
from nvfp4.executors.launch import TensorMapArray
from nvfp4.problem import Format, Op, Problem

sm90_plan = importlib.import_module("nvfp4.backends.sm90.plan")  # of which the package has a function by that name
HOPPER = known("sm_90a")
OPS = (Op.GEMM, Op.DUAL_GEMM, Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM)
# Products that sm90_decode_gemm.cu serves have tests of their own.
FUZZED = [
    problem
    for op in OPS
    for seed in range(40)
    if not BACKEND.refuse(HOPPER, problem := fuzz(op, seed).problem) and not decode_gemm.serves(problem)
]
CONTEST = [task.problem(case, scale_layout="tiled") for task in TASKS if task.op in OPS for case in task.benchmarks]
TILED, LINEAR = Format("nvfp4", "tiled"), Format("nvfp4", "linear")
COMPILED = [
    Problem(Op.GEMM, 128, 7168, 16384, a=TILED, b=TILED),
    Problem(Op.GEMM, 128, 4096, 7168, a=TILED, b=TILED),
    Problem(Op.GEMM, 128, 8192, 7168 + 64, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16"),
    Problem(Op.GEMM, 16, 8192, 7168, a=Format("fp16", ""), b=LINEAR, out_dtype="fp32"),
    Problem(Op.GEMM, 128, 7168, 2048, a=LINEAR, b=LINEAR),
    Problem(Op.GEMM, 2048, 8192, 7168, a=LINEAR, b=LINEAR, out_dtype="fp32"),
    Problem(Op.GEMM, 96, 8192, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16"),
    Problem(Op.GEMM, 512, 7168, 16384, a=LINEAR, b=LINEAR),
    Problem(Op.GEMM, 96, 27648, 5120, a=Format("bf16", ""), b=LINEAR, out_dtype="fp32"),
    Problem(Op.GEMM, 32, 8192, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16"),
    Problem(Op.GEMM, 112, 8192, 7168, a=Format("bf16", ""), b=TILED, out_dtype="fp32"),
    Problem(Op.GEMM, 64, 4096, 14336, a=LINEAR, b=LINEAR, out_dtype="fp32"),
    Problem(Op.GEMM, 16, 4096, 14336, a=LINEAR, b=TILED),
    Problem(Op.DUAL_GEMM, 64, 4096, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="fp32"),
    Problem(Op.DUAL_GEMM, 512, 4096, 7168, a=TILED, b=TILED),
    Problem(Op.DUAL_GEMM, 512, 3072, 7168, a=TILED, b=TILED),
    Problem(Op.GEMM, 512, 5120, 5120, a=TILED, b=TILED, out_dtype="bf16"),
    Problem(Op.DUAL_GEMM, 16, 4096, 7168, a=Format("bf16", ""), b=LINEAR),
    Problem(Op.DUAL_GEMM, 256, 4096, 7168, a=LINEAR, b=LINEAR),
    Problem(Op.DUAL_GEMM, 100, 4096, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="fp32"),
    Problem(Op.DUAL_GEMM, 256, 3072, 4096, a=LINEAR, b=LINEAR, out_dtype="fp32"),
    Problem(Op.GEMM, 112, 6144, 4096, a=Format("bf16", ""), b=LINEAR, out_dtype="fp32"),
    Problem(Op.GROUP_DUAL_GEMM, 512, 1536, 4096, a=LINEAR, b=LINEAR, groups=((192, 1536, 4096), (320, 1536, 4096))),
    Problem(
        Op.GROUP_DUAL_GEMM,
        424,
        2048,
        512,
        a=LINEAR,
        b=LINEAR,
        groups=((80, 2048, 512), (216, 2048, 512), (128, 2048, 512)),
    ),
    Problem(Op.GROUP_GEMM, 300, 256, 256, a=TILED, b=TILED, groups=((100, 256, 256), (200, 128, 64))),
    *(
        Problem(
            Op.GROUP_GEMM,
            8 * sum(rows),
            4096,
            512,
            a=a,
            b=LINEAR,
            out_dtype=out,
            groups=tuple((r, 4096, 512) for r in 8 * rows),
        )
        for i, rows in enumerate(((20, 60), (70, 180), (64, 128)))
        for j, (a, out) in enumerate(
            ((LINEAR, "fp32"), (TILED, "fp16"), (Format("bf16", ""), "bf16"), (Format("fp16", ""), "fp32"))
        )
        if (i + j) % 4 < 2 or (i, j) == (1, 0)
    ),
    Problem(Op.GROUP_GEMM, 1024, 512, 256, a=Format("bf16", ""), b=LINEAR, stacked=16),
    Problem(Op.GROUP_GEMM, 1024, 7168, 2048, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16", stacked=64),
    Problem(Op.GROUP_DUAL_GEMM, 300, 256, 256, a=TILED, b=TILED, groups=((100, 256, 256), (200, 128, 64))),
    Problem(Op.GROUP_DUAL_GEMM, 128, 2048, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16", stacked=256),
    Problem(Op.GROUP_DUAL_GEMM, 4096, 512, 256, a=Format("fp16", ""), b=LINEAR, out_dtype="fp32", stacked=16),
    Problem(Op.GROUP_GEMM, 2048, 4096, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16", stacked=64, tokens=256),
    Problem(Op.GROUP_GEMM, 1024, 7168, 2048, a=TILED, b=LINEAR, out_dtype="bf16", stacked=64, tokens=256),
    Problem(Op.GROUP_GEMM, 1024, 4096, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16", stacked=64, tokens=256),
    Problem(Op.GROUP_GEMM, 8192, 4096, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16", stacked=64, tokens=1024),
    Problem(Op.GROUP_DUAL_GEMM, 8192, 2048, 7168, a=TILED, b=LINEAR, out_dtype="bf16", stacked=64, tokens=1024),
    Problem(Op.GROUP_DUAL_GEMM, 512, 2048, 7168, a=Format("fp16", ""), b=LINEAR, stacked=256, tokens=64),
]


def assert_right(problem: Problem, plan: GemmPlan, made: Operands) -> None:
    """Run a product with that plan in the emulator, and judge it."""
    operands, outputs = poison_outputs(made)
    BACKEND.run(staged_plan(problem, plan), problem, operands)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, verdict.summary


def test_contest_shapes_are_taken():
    assert len(CONTEST) == 11
    for problem in CONTEST:
        assert BACKEND.refuse(HOPPER, problem) == ()
        assert "WGMMA" in BACKEND.plan(HOPPER, problem).describe()


def test_refusals_name_the_reason():
    gemm = Problem(Op.GEMM, 64, 64, 64)

    def reason(problem: Problem, arch: str = "sm_90a") -> str:
        (text,) = BACKEND.refuse(known(arch), problem)
        return text

    assert "a CPU" in reason(gemm, "cpu")
    assert "not sm_100a" in reason(gemm, "sm_100a")
    assert "B must be NVFP4" in reason(replace(gemm, b=Format("fp16", "")))
    assert "multiple of 64, not 80" in reason(replace(gemm, k=80))
    listed = Problem(Op.GROUP_GEMM, 2, 64, 128, groups=((1, 64, 128), (1, 64, 48)))
    assert "multiple of 64, not 48" in reason(listed)
    assert f"at most {MAX_STACKED}" in reason(Problem(Op.GROUP_GEMM, 9, 64, 64, stacked=MAX_STACKED + 1))
    assert "parts of tiles" in reason(replace(gemm, m=2**20, n=2**22))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 17, 100, 128, 129, 200, 250, 4096])
def test_tokens_cover_the_rows_in_as_few_tiles_as_there_can_be(rows):
    tokens = tokens_of(rows)
    assert tokens % 8 == 0
    assert tokens <= MAX_TOKENS
    assert -(-rows // tokens) == -(-rows // MAX_TOKENS)


@pytest.mark.parametrize(("rows", "groups"), [(64, 256), (1024, 256), (4096, 64), (8192, 64), (1, 1), (0, 5)])
def test_likely_sizes_of_a_stack_spread_around_their_mean(rows, groups):
    sizes = likely_sizes(rows, groups)
    assert len(sizes) == groups
    assert min(sizes) >= 0
    assert sum(sizes) == pytest.approx(max(rows, 1), rel=0.3, abs=0.05 * groups)
    assert groups == 1 or max(sizes) > rows / groups + (rows / groups) ** 0.5


@pytest.mark.parametrize(("mean", "tokens"), [(0.25, 8), (4, 8), (16, 24), (32, 48), (128, 128), (256, 128)])
def test_a_stack_has_tiles_that_hold_most_of_its_groups(mean, tokens):
    """A tile of the mean would decode the weights of every other group twice."""
    problem = Problem(Op.GROUP_DUAL_GEMM, int(mean * 256), 2048, 7168, a=Format("bf16", ""), b=LINEAR, stacked=256)
    assert tokens <= BACKEND.plan(HOPPER, problem).tokens <= tokens + 16


@pytest.mark.parametrize(
    ("problem", "tokens", "blocks", "grid", "how", "coupled"),
    [
        (Problem(Op.GEMM, 128, 7168, 2048, a=TILED, b=TILED), 128, 1, 112, "begins", True),
        (Problem(Op.GEMM, 128, 7168, 16384, a=TILED, b=TILED), 128, 1, 132, "begins", True),
        (Problem(Op.DUAL_GEMM, 256, 3072, 4096, a=LINEAR, b=LINEAR), 128, 1, 132, "begins", False),
        (
            Problem(Op.GEMM, 96, 8192, 7168, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16"),
            96,
            1,
            128,
            "begins",
            True,
        ),
        (Problem(Op.GEMM, 64, 4096, 14336, a=Format("bf16", ""), b=LINEAR), 64, 1, 128, "begins", True),
        (Problem(Op.GEMM, 2048, 8192, 7168, a=LINEAR, b=LINEAR), 128, 2, 128, "together", False),
        (Problem(Op.DUAL_GEMM, 512, 3072, 7168, a=TILED, b=TILED), 128, 2, 132, "together", False),
        (Problem(Op.DUAL_GEMM, 256, 3072, 4096, a=TILED, b=TILED), 88, 2, 132, "together", False),
    ],
    ids=str,
)
def test_plans_are_those_that_were_fastest(problem, tokens, blocks, grid, how, coupled):
    """Measured beside others on an H200: blocks that would share a tile through L2 are couples wherever they can be."""
    plan = BACKEND.plan(HOPPER, problem)
    assert (plan.tokens, plan.blocks, plan.grid, plan.coupled) == (tokens, blocks, grid, coupled)
    assert how == ("makes" if plan.makes else "begins" if plan.begins else "together")
    raw = {"makes": RAW, "begins": 1 + coupled, "together": 0}[how] if problem.a.kind == "nvfp4" else 0
    assert plan.raw == raw


def test_two_blocks_share_a_multiprocessor_where_a_stack_has_many_narrow_tiles():
    problem = Problem(Op.GROUP_GEMM, 1024, 7168, 2048, a=Format("bf16", ""), b=LINEAR, out_dtype="bf16", stacked=64)
    assert BACKEND.plan(HOPPER, problem).resident == 2
    assert BACKEND.plan(HOPPER, replace(problem, out_dtype="fp32")).resident == 1  # 24 columns
    assert BACKEND.plan(HOPPER, replace(problem, m=256, out_dtype="fp32")).resident == 2  # 8 columns
    assert BACKEND.plan(HOPPER, replace(problem, m=2048)).resident == 1  # 48 columns
    assert BACKEND.plan(HOPPER, replace(problem, n=128)).resident == 1  # few tiles


@pytest.mark.parametrize(
    ("op", "kind", "out", "tokens", "grid"),
    [
        (Op.GROUP_GEMM, "bf16", "bf16", 24, 6),
        (Op.GROUP_DUAL_GEMM, "fp16", "fp32", 8, 5),
        (Op.GROUP_DUAL_GEMM, "nvfp4", "fp16", 16, 7),
    ],
)
def test_two_blocks_a_multiprocessor_are_right_in_the_emulator(op, kind, out, tokens, grid):
    a = LINEAR if kind == "nvfp4" else Format(kind, "")
    problem = Problem(op, 70, 264, 576, a=a, b=LINEAR, out_dtype=out, stacked=5)
    shape = {"tokens": tokens, "blocks": 2, "chunks": 2, "tiles": 4, "resident": 2, "grid": grid}
    assert_right(problem, replace(BACKEND.plan(HOPPER, problem), **shape), inputs.make(problem, "gaussian", 3))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("op", "kind", "out", "tokens", "blocks", "tiles", "grid", "sizes"),
    [
        (Op.GROUP_GEMM, "bf16", "bf16", 144, 2, 8, 3, (143, 0, 145, 2)),
        (Op.GROUP_DUAL_GEMM, "nvfp4", "fp16", 144, 2, 8, 2, (0, 150, 7)),
        (Op.GROUP_GEMM, "bf16", "fp16", 48, 2, 8, 3, (9, 0, 0, 48, 49, 96, 1, 0)),
        (Op.GROUP_GEMM, "nvfp4", "fp32", 16, 1, 4, 2, (33, 16, 1, 0, 15)),
        (Op.GROUP_DUAL_GEMM, "fp16", "bf16", 32, 2, 4, 5, (0, 0, 31, 33, 64)),
    ],
)
def test_tiles_of_a_stack_are_right_in_the_emulator(op, kind, out, tokens, blocks, tiles, grid, sizes):
    """Wide ones and narrow ones; groups begin within the range of a block, and end in a tile of few rows."""
    a = LINEAR if kind == "nvfp4" else Format(kind, "")
    problem = Problem(op, sum(sizes), 264, 576, a=a, b=LINEAR, out_dtype=out, stacked=len(sizes))
    shape = {"tokens": tokens, "blocks": blocks, "chunks": 2, "tiles": tiles, "resident": 1, "grid": grid}
    made = replace(inputs.make(problem, "gaussian", 4), offsets=torch.tensor(sizes).cumsum(0).int())
    assert_right(problem, replace(BACKEND.plan(HOPPER, problem), **shape), made)


def test_lists_of_many_sizes_have_tiles_of_their_own_widths(monkeypatch):
    """Tiles, each of them once, whole or in two parts; no block has much more to do than another."""
    sizes = tuple((m, 4096, 7168) for m in (80, 176, 128, 72, 64, 248, 96, 160))
    problem = Problem(Op.GROUP_GEMM, 1024, 4096, 7168, a=LINEAR, b=LINEAR, groups=sizes)
    plan = BACKEND.plan(HOPPER, problem)
    assert [plan.width(m) for m, _, _ in sizes] == [80, 96, 128, 80, 64, 128, 96, 80]
    listed = tile_list(plan, problem, sizes)
    tiles = sum(-(-m // plan.width(m)) * 4096 // 128 for m, _, _ in sizes)
    starts, ends, whole = {}, {}, []
    blocks = [listed.order[start:end] for start, end in zip(listed.starts, listed.starts[1:], strict=False)]
    for block, taken in enumerate(blocks):
        helping = [part for part in taken if part.begin]
        assert list(taken[: len(helping)]) == helping  # before anything that this block waits for
        ends |= {part.tile: (part.begin, part.place) for part in helping}
        whole += [part.tile for part in taken if (part.begin, part.end) == (0, WHOLE_TILE)]
        owned = [part for part in taken if part.end != WHOLE_TILE]
        starts |= {part.tile: (part.end, part.place) for part in owned}
        assert [part.place for part in owned] in ([], [block])
    assert starts == ends
    assert 20 < len(starts) < plan.grid
    assert sorted([*whole, *starts]) == list(range(tiles))
    assert len(blocks) == plan.grid == HOPPER.sms
    # Less than with whole tiles, and at most what the average block takes, and a tile.
    alone = tile_list(replace(plan, grid=1), problem, sizes).time
    assert alone / plan.grid <= listed.time <= alone / plan.grid + tile_list(plan, problem, ((128, 128, 7168),)).time
    monkeypatch.setattr(sm90_plan, "_WORTH", 0.0)
    tile_list.cache_clear()
    assert listed.time < 0.95 * tile_list(plan, problem, sizes).time
    tile_list.cache_clear()


def test_cuts_leave_no_block_with_more_than_the_goal():
    loads, chunk = [10.0, 30.0, 12.0, 26.0, 14.0], 1.0
    time, cuts = sm90_plan._cuts(loads, [chunk] * 5, 40)
    assert time < 27
    for owner, helper, left in cuts:
        loads[owner] += sm90_plan._ADDING - left * chunk
        loads[helper] += sm90_plan._HELPING + left * chunk
    assert max(loads) <= time + 1e-9
    assert {owner for owner, _, _ in cuts}.isdisjoint(helper for _, helper, _ in cuts)
    assert sm90_plan._cuts([10.0, 11.0], [chunk] * 2, 40) == (11.0, [])  # not worth it
    assert sm90_plan._cuts([10.0, 30.0], [chunk] * 2, WHOLE_TILE) == (
        30.0,
        [],
    )  # more chunks than there are numbers for
    assert sm90_plan._cuts([10.0, 30.0], [30.0] * 2, 1) == (30.0, [])  # nothing to cut


def test_parts_of_tiles_are_written_as_the_kernel_reads_them():
    word = TilePart(tile=1027, begin=5, end=62, place=143).word
    assert word < 1 << 31
    assert (word & 2047, word >> 11 & 63, word >> 17 & 63, word >> 23) == (1027, 5, 62, 143)


@pytest.mark.parametrize("sizes", [(128, 384), (50, 40, 64, 60), (2048,)])
def test_lists_that_gain_nothing_have_tiles_of_one_width(sizes):
    groups = tuple((m, 4096, 1536) for m in sizes)
    plan = BACKEND.plan(HOPPER, Problem(Op.GROUP_GEMM, sum(sizes), 4096, 1536, a=LINEAR, b=LINEAR, groups=groups))
    assert plan.narrowest == 0
    assert {plan.width(m) for m in sizes} == {plan.tokens}


@pytest.mark.parametrize(
    ("kind", "out", "tokens", "narrowest", "tiles", "grid", "begins", "sizes"),
    [
        (
            "nvfp4",
            "fp16",
            128,
            64,
            8,
            7,
            True,
            ((70, 264, 576), (0, 64, 64), (128, 136, 576), (150, 136, 320), (1, 8, 576)),
        ),
        ("bf16", "fp32", 112, 48, 8, 5, True, ((96, 136, 576), (90, 264, 576), (40, 72, 192), (200, 72, 576))),
        (
            "fp16",
            "bf16",
            64,
            16,
            8,
            9,
            True,
            ((9, 136, 832), (33, 264, 832), (17, 136, 832), (64, 130, 832), (1, 72, 64)),
        ),
        ("nvfp4", "bf16", 96, 32, 4, 3, False, ((100, 136, 576), (48, 264, 576), (33, 64, 128))),
    ],
)
def test_tiles_as_wide_as_their_groups_are_right_in_the_emulator(
    kind, out, tokens, narrowest, tiles, grid, begins, sizes
):
    """All widths of a kernel; ranges of work as the host cuts them, within tiles and at their ends."""
    a = LINEAR if kind == "nvfp4" else Format(kind, "")
    m, n, k = sum(size[0] for size in sizes), max(size[1] for size in sizes), max(size[2] for size in sizes)
    problem = Problem(Op.GROUP_GEMM, m, n, k, a=a, b=LINEAR, out_dtype=out, groups=sizes)
    plan = GemmPlan(HOPPER.arch, tokens, 1, 3, tiles, grid, begins=begins, narrowest=narrowest)
    assert len({plan.width(size[0]) for size in sizes}) > 1
    assert_right(problem, plan, inputs.make(problem, "gaussian", 9))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize(
    ("problem", "tokens", "tiles", "grid"),
    [
        (Problem(Op.GEMM, 60, 136, 704, b=LINEAR, out_dtype="bf16", l=2), 64, 8, 3),
        (Problem(Op.GEMM, 75, 264, 576, b=LINEAR, out_dtype="fp32"), 40, 4, 5),
        (Problem(Op.GEMM, 20, 136, 1088, b=TILED), 32, 8, 2),
        (Problem(Op.DUAL_GEMM, 100, 136, 320, b=LINEAR), 56, 8, 3),
        (Problem(Op.GROUP_GEMM, 79, 136, 640, b=LINEAR, groups=((49, 136, 640), (0, 64, 64), (30, 72, 192))), 48, 8, 2),
    ],
    ids=str,
)
def test_blocks_that_decode_their_own_tiles_are_right_in_the_emulator(problem, tokens, tiles, grid, layout):
    """Tiles of one warp and of two; K ends within a chunk, rows within a tile."""
    problem = replace(problem, a=Format("nvfp4", layout))
    shape = {
        "tokens": tokens,
        "blocks": 2,
        "chunks": 3,
        "tiles": tiles,
        "grid": grid,
        "makes": True,
        "begins": False,
        "coupled": False,
    }
    assert_right(problem, replace(BACKEND.plan(HOPPER, problem), **shape), inputs.make(problem, "gaussian", 6))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("op", "n", "k", "blocks", "grid", "out"),
    [
        (Op.GEMM, 256, 2048, 2, 4, "fp16"),
        (Op.GEMM, 264, 1792, 1, 16, "fp32"),
        (Op.GEMM, 130, 2304, 1, 18, "bf16"),
        (Op.DUAL_GEMM, 130, 1536, 2, 9, "fp16"),
        (Op.DUAL_GEMM, 130, 1536, 1, 15, "bf16"),
    ],
)
def test_tiles_of_many_blocks_are_right_in_the_emulator(op, n, k, blocks, grid, out):
    """So many that each keeps but a few groups of tokens; ranges end within tiles and at their ends."""
    problem = Problem(op, 121, n, k, a=LINEAR, b=LINEAR, out_dtype=out)
    shape = {
        "tokens": 128,
        "blocks": blocks,
        "chunks": 2,
        "tiles": 4,
        "grid": grid,
        "makes": False,
        "begins": False,
        "coupled": False,
    }
    assert_right(problem, replace(BACKEND.plan(HOPPER, problem), **shape), inputs.make(problem, "gaussian", 7))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("op", "kind", "out", "tokens", "tiles", "grid", "begins", "makes", "narrowest", "sizes"),
    [
        (Op.DUAL_GEMM, "nvfp4", "fp16", 128, 8, 7, True, False, 0, ((150, 200, 832),)),
        (Op.DUAL_GEMM, "bf16", "fp32", 40, 8, 5, True, False, 0, ((75, 136, 576),)),
        (Op.DUAL_GEMM, "fp16", "bf16", 64, 4, 3, False, False, 0, ((70, 72, 320),)),
        (Op.DUAL_GEMM, "bf16", "bf16", 32, 8, 4, False, True, 0, ((33, 264, 576),)),
        (Op.GROUP_DUAL_GEMM, "nvfp4", "bf16", 112, 8, 9, True, False, 0, ((112, 136, 576), (0, 64, 64), (7, 72, 320))),
        (Op.GROUP_DUAL_GEMM, "nvfp4", "fp16", 128, 8, 7, True, False, 64, ((70, 136, 576), (128, 72, 576), (1, 8, 64))),
        (Op.GROUP_DUAL_GEMM, "fp16", "fp32", 96, 8, 5, True, False, 32, ((100, 136, 576), (40, 264, 320))),
    ],
)
def test_halves_of_a_block_of_two_matrices_are_right_in_the_emulator(
    op, kind, out, tokens, tiles, grid, begins, makes, narrowest, sizes
):
    """Rows end within a half, and within a warp's eight; ranges end within tiles."""
    a = LINEAR if kind == "nvfp4" else Format(kind, "")
    m, n, k = sum(size[0] for size in sizes), max(size[1] for size in sizes), max(size[2] for size in sizes)
    groups = sizes if op is Op.GROUP_DUAL_GEMM else ()
    problem = Problem(op, m, n, k, a=a, b=LINEAR, out_dtype=out, groups=groups)
    plan = GemmPlan(HOPPER.arch, tokens, 1, 3, tiles, grid, makes, begins=begins, narrowest=narrowest)
    assert_right(problem, plan, inputs.make(problem, "gaussian", 12))


@pytest.mark.parametrize(
    ("op", "form", "tokens"),
    [
        (Op.GROUP_GEMM, Format("bf16", ""), 37),
        (Op.GROUP_GEMM, LINEAR, 150),
        (Op.GROUP_DUAL_GEMM, Format("fp16", ""), 150),
        (Op.GROUP_DUAL_GEMM, TILED, 37),
    ],
    ids=str,
)
def test_rows_by_index_are_those_of_a_gathered_operand(op, form, tokens):
    """Bit for bit, in the emulator, which reports a read outside of the operand: the index names some rows there."""
    problem = Problem(op, 70, 136, 320, a=form, b=LINEAR, out_dtype="fp32", stacked=4, tokens=tokens)
    made = inputs.make(problem, "gaussian", 5)
    rows = made.rows.clone()
    rows[[0, 9, 30, 69]] = torch.tensor([-1, tokens, 2**31 - 1, -(2**31)], dtype=torch.int32)
    offsets = torch.tensor([3, 3, 40, 70], dtype=torch.int32)
    made = replace(made, rows=rows, offsets=offsets)
    indexed, _ = poison_outputs(made)
    BACKEND.run(BACKEND.plan(HOPPER, problem), problem, indexed)
    plain = replace(problem, tokens=0)
    first, _ = poison_outputs(gathered(made))
    BACKEND.run(BACKEND.plan(HOPPER, plain), plain, first)
    assert torch.isfinite(first.out[0]).all()
    assert torch.equal(indexed.out[0], first.out[0])
    assert first.out[0].unique().numel() > 1000


@pytest.mark.parametrize("problem", [*CONTEST, *FUZZED, *COMPILED], ids=str)
def test_plans_fit_the_device(problem):
    plan = BACKEND.plan(HOPPER, problem)
    assert 1 <= plan.grid <= plan.resident * HOPPER.sms
    # A kilobyte of each block is the system's.
    assert plan.resident * (plan.shared_bytes + table_bytes(problem) + 1024) <= HOPPER.shared_bytes + 1024
    assert plan.blocks == 2 or not problem.op.dual or problem.b.scale_layout == "linear"
    small = replace(problem, k=min(problem.k, 64)) if not problem.groups else problem
    operands = aligned(inputs.make(small)) if problem.m * problem.n < 2**20 else None
    if operands is None:
        assert plan.shared_bytes <= HOPPER.shared_bytes
        return
    for launch in BACKEND.launches(BACKEND.plan(HOPPER, small), small, operands):
        assert launch.shared_bytes <= HOPPER.shared_bytes
        assert len(parameters.build(launch.args).data) <= 32764
        assert launch.programmatic


def test_a_product_is_one_launch_whatever_its_activations_are():
    for form in (LINEAR, Format("bf16", "")):
        problem = Problem(Op.GEMM, 8, 16, 64, a=form, b=LINEAR)
        launches = BACKEND.launches(BACKEND.plan(HOPPER, problem), problem, inputs.make(problem))
        assert [launch.kernel.source for launch in launches] == ["sm90_gemm.cu"]


@pytest.mark.parametrize("op", [Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM])
def test_many_groups_take_several_launches_and_empty_ones_none(op):
    sizes = tuple((i % 3, 8, 64) for i in range(3 * MAX_LISTED))
    problem = Problem(op, sum(m for m, _, _ in sizes), 8, 64, a=Format("fp16", ""), b=LINEAR, groups=sizes)
    operands = inputs.make(problem)
    launches = BACKEND.launches(BACKEND.plan(HOPPER, problem), problem, operands)
    assert len(launches) == 2
    present = [i for i, (m, _, _) in enumerate(sizes) if m]
    maps = [launch.args[1] for launch in launches]
    assert all(isinstance(each, TensorMapArray) for each in maps)
    # The matrices of a group take turns.
    codes = [parts(weights).data for i in present for weights in operands.weights(i)]
    assert [id(x.tensor) for each in maps for x in each.maps] == [id(x) for x in codes]
    assert all(len(parameters.build(launch.args).data) <= 32764 for launch in launches)


def test_an_empty_result_takes_no_launch():
    for empty in (
        Problem(Op.GEMM, 0, 4, 64),
        Problem(Op.DUAL_GEMM, 4, 0, 64),
        Problem(Op.GROUP_DUAL_GEMM, 0, 4, 64, stacked=2),
    ):
        assert BACKEND.launches(BACKEND.plan(HOPPER, empty), empty, inputs.make(empty)) == ()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("problem", COMPILED, ids=str)
def test_kernels_keep_to_registers_and_the_matrix_unit_is_not_serialized(problem, tmp_path):
    """ptxas reports spills, and says so when it has to wait for each wgmma (C7510 to C7514)."""
    small = problem if problem.groups else replace(problem, m=min(problem.m, 8), n=16, k=64)
    plan = BACKEND.plan(HOPPER, problem)
    for launch in BACKEND.launches(plan, small, inputs.make(small)):
        artifact = jit.compile(launch.kernel)
        assert artifact.resources is not None
        assert artifact.resources.local_bytes == 0, f"{launch.kernel}: {artifact.resources}"
        assert artifact.resources.registers * launch.block[0] * plan.resident <= 65536
        assert "serialized" not in artifact.log
        tool = sass.disassembler()
        if tool is None:
            pytest.skip("no cuobjdump: neither on the path nor in a Triton package")
        (tmp_path / "kernel.cubin").write_bytes(artifact.code)
        text = sass.listing(tmp_path / "kernel.cubin", tool)
        kind = "BF16" if problem.a.kind == "bf16" else "F32"
        assert text.count(f"HGMMA.64x{plan.tokens}x16") >= 16 * plan.blocks
        assert kind in text
        assert "LDL" not in text
        assert "STL" not in text
        code = sass.instructions(text)
        assert len(code) > 1000
        assert not [f"{launch.kernel}: {zero} / {reader}" for zero, reader in sass.early_readers(code)]
