"""The Hopper GEMM family: the same programs on silicon and in the emulator, judged by the same checker."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nvfp4.backends.sm90 import BACKEND
from nvfp4.backends.sm90.decode_gemm import DecodePlan
from nvfp4.backends.sm90.plan import GemmPlan, staged_plan, tile_list, tokens_of
from nvfp4.check import inputs
from nvfp4.check.run import fuzz, of_models, poison_outputs
from nvfp4.check.verdict import Verdict, judge
from nvfp4.device import Capability, capability, known
from nvfp4.problem import Format, Op, Problem

TILED, LINEAR = Format("nvfp4", "tiled"), Format("nvfp4", "linear")
SCALED, SCALED_TILED = Format("nvfp4", "linear", True), Format("nvfp4", "tiled", True)
FP16, BF16 = Format("fp16", ""), Format("bf16", "")

# Ragged rows and tokens, K with and without a ragged chunk, every kind of operand and result; with three
# multiprocessors most tiles are shared between blocks.
SMALL = [
    Problem(Op.GEMM, 5, 130, 320, a=FP16, b=LINEAR),
    Problem(Op.GEMM, 20, 300, 512, l=2, a=TILED, b=TILED, out_dtype="fp32"),
    Problem(Op.GEMM, 33, 70, 64, a=BF16, b=SCALED, out_dtype="bf16"),
    Problem(Op.DUAL_GEMM, 12, 140, 256, a=LINEAR, b=LINEAR),
    Problem(Op.DUAL_GEMM, 7, 128, 192, a=BF16, b=TILED, out_dtype="fp32"),
    Problem(Op.GROUP_GEMM, 52, 130, 320, a=TILED, b=TILED, groups=((5, 130, 128), (17, 40, 320), (30, 128, 64))),
    Problem(Op.GROUP_GEMM, 40, 136, 192, a=FP16, b=SCALED, stacked=4),
    # Both matrices of lists and stacks; groups of K of their own, or without rows; tensor scales of every expert.
    Problem(Op.GROUP_DUAL_GEMM, 52, 130, 320, a=TILED, b=TILED, groups=((5, 130, 128), (17, 40, 320), (30, 128, 64))),
    Problem(
        Op.GROUP_DUAL_GEMM,
        27,
        90,
        128,
        a=BF16,
        b=SCALED,
        out_dtype="bf16",
        groups=((20, 50, 64), (0, 64, 64), (7, 90, 128)),
    ),
    Problem(Op.GROUP_DUAL_GEMM, 40, 136, 192, a=FP16, b=SCALED, out_dtype="fp32", stacked=4),
    Problem(Op.GROUP_DUAL_GEMM, 300, 70, 256, a=SCALED, b=SCALED_TILED, stacked=3),
    Problem(Op.GROUP_DUAL_GEMM, 9, 129, 64, a=BF16, b=LINEAR, stacked=40),
]
FEW = replace(known("sm_90a"), sms=3)

# 16-bit activations as they lie: tiles of every form, with and without neighbours, K with a ragged chunk, an odd
# number of row tiles. With: tokens, neighbours, stages.
DECODED = [
    (Problem(Op.GEMM, 26, 130, 512, a=FP16, b=LINEAR), (32, 1, 7, 4)),
    (Problem(Op.GEMM, 33, 300, 768, l=2, a=BF16, b=SCALED, out_dtype="fp32"), (48, 2, 4, 2)),
    (Problem(Op.GEMM, 100, 260, 576, a=FP16, b=SCALED_TILED), (64, 1, 5, 3)),
    (Problem(Op.GEMM, 120, 200, 320, a=BF16, b=TILED, out_dtype="bf16"), (120, 1, 6, 2)),
    (Problem(Op.GEMM, 300, 260, 512, a=BF16, b=TILED), (256, 2, 5, 2)),
    (Problem(Op.DUAL_GEMM, 300, 130, 768, a=BF16, b=LINEAR, out_dtype="bf16"), (256, 2, 4, 2)),
    (Problem(Op.DUAL_GEMM, 50, 72, 512, a=FP16, b=SCALED), (56, 1, 4, 2)),
    (Problem(Op.DUAL_GEMM, 24, 140, 512, a=FP16, b=LINEAR), (24, 1, 4, 2)),
    (Problem(Op.DUAL_GEMM, 100, 200, 1024, a=BF16, b=LINEAR, out_dtype="fp32"), (112, 2, 7, 2)),
    (Problem(Op.GEMM, 200, 300, 832, l=2, a=FP16, b=TILED, out_dtype="fp32"), (208, 1, 5, 3)),
    # More than a band of tiles of tokens.
    (Problem(Op.GEMM, 68, 130, 256, a=FP16, b=LINEAR), (8, 1, 4, 2)),
]


def run(problem: Problem, distribution: str, seed: int, device: str, what: Capability) -> Verdict:
    operands, outputs = poison_outputs(inputs.make(problem, distribution, seed, device))
    BACKEND.run(BACKEND.plan(what, problem), problem, operands)
    return judge(problem, operands, outputs)


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_emulated(problem):
    """With a distribution each, in turn."""
    i = SMALL.index(problem)
    verdict = run(problem, inputs.NAMES[i % len(inputs.NAMES)], i, "cpu", FEW)
    assert verdict.ok, verdict


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 6])
def test_emulated_however_the_work_is_cut(grid):
    """Two tiles of three chunks: of three blocks the first and the last keep their share of a tile in registers.

    The one between them has a part of both.
    """
    problem = Problem(Op.GEMM, 16, 256, 768, a=FP16, b=TILED, out_dtype="fp32")
    operands, outputs = poison_outputs(inputs.make(problem, inputs.NAMES[0], grid, "cpu"))
    plan = replace(BACKEND.plan(FEW, problem), blocks=1, chunks=2, grid=grid, coupled=False)
    BACKEND.run(plan, problem, operands)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, verdict


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Op.GEMM, 13, 130, 832, l=2, a=SCALED, b=TILED),
        Problem(Op.GEMM, 60, 130, 832, a=BF16, b=LINEAR, out_dtype="bf16"),
        Problem(Op.DUAL_GEMM, 50, 130, 832, a=LINEAR, b=TILED),
        Problem(Op.GROUP_DUAL_GEMM, 21, 64, 832, a=LINEAR, b=LINEAR, groups=((16, 64, 832), (5, 40, 320))),
    ],
    ids=str,
)
def test_tiles_that_a_block_makes_for_itself_are_those_that_all_make_together(problem):
    """Bit for bit, over more chunks than the ring of tiles has room for; all of them, or the first ones."""
    found = []
    # Blocks begin with NVFP4 and with 16-bit tiles, of one block of weights and of halves of two matrices.
    ways = ((False, False), (True, False), (False, True))
    for makes, begins in ways if problem.l == 1 and problem.op is not Op.DUAL_GEMM else ways[:2]:
        operands, outputs = poison_outputs(inputs.make(problem, "all-scales", 5, "cpu"))
        plan = replace(BACKEND.plan(FEW, problem), tokens=tokens_of(problem.m, 64), tiles=8, chunks=2)
        plan = replace(plan, makes=makes, begins=begins, coupled=False)
        BACKEND.run(staged_plan(problem, plan), problem, operands)
        verdict = judge(problem, operands, outputs)
        assert verdict.ok, verdict
        found.append([out.clone() for out in operands.out])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# Couples: one or several to a tile; K that ends within their last chunks, and before the second of these; rows and
# tokens that end within tiles. With: tokens, blocks, couples, and who makes the tiles of activations.
COUPLED = [
    (Problem(Op.GEMM, 128, 264, 1024, a=LINEAR, b=LINEAR), (128, 1, 3, "begins")),
    (Problem(Op.GEMM, 121, 136, 2048, a=TILED, b=TILED, out_dtype="bf16"), (128, 1, 8, "together")),
    (Problem(Op.GEMM, 75, 136, 1088, a=BF16, b=SCALED_TILED, out_dtype="fp32"), (80, 1, 2, "begins")),
    (Problem(Op.GEMM, 150, 130, 320, a=SCALED, b=LINEAR, out_dtype="fp32"), (80, 1, 4, "begins")),
    (Problem(Op.GEMM, 30, 72, 1024, l=2, a=FP16, b=SCALED), (32, 2, 4, "makes")),
    (Problem(Op.GEMM, 9, 300, 576, a=LINEAR, b=TILED, out_dtype="bf16"), (16, 2, 2, "makes")),
    (Problem(Op.DUAL_GEMM, 100, 72, 1536, a=LINEAR, b=LINEAR), (64, 1, 12, "begins")),
    (Problem(Op.DUAL_GEMM, 64, 136, 768, a=BF16, b=TILED), (64, 2, 4, "makes")),
]


def repeated(problem: Problem, plan: GemmPlan | DecodePlan, distribution: str, device: str) -> None:
    """The plan is right, on a GPU again and again."""
    plan = staged_plan(problem, plan) if isinstance(plan, GemmPlan) else plan
    operands, outputs = poison_outputs(inputs.make(problem, distribution, 15, device))
    for _ in range(1 if device == "cpu" else 20):
        for out in operands.out:
            out.fill_(float("nan"))
        BACKEND.run(plan, problem, operands)
        verdict = judge(problem, operands, outputs)
        assert verdict.ok, verdict


def coupled(shape: tuple[int, int, int, str]) -> GemmPlan:
    tokens, blocks, couples, how = shape
    return GemmPlan(FEW.arch, tokens, blocks, 2, 8, 2 * couples, how == "makes", begins=how == "begins", coupled=True)


# Owners of tiles, blocks or couples, and helpers: a tile for each helper, or several; most stages of weights theirs,
# or an owner's; rows, tokens and K that end within tiles and stages. With: tokens, grid, couples, stages of an owner,
# blocks of weights.
HELPED = [
    (Problem(Op.GEMM, 121, 264, 1024, a=LINEAR, b=LINEAR), (128, 4, False, 3, 1)),
    (Problem(Op.GEMM, 100, 264, 1088, a=TILED, b=TILED, out_dtype="bf16"), (112, 8, True, 1, 1)),
    (Problem(Op.GEMM, 75, 136, 576, l=2, a=BF16, b=SCALED_TILED, out_dtype="fp32"), (40, 10, False, 1, 1)),
    (Problem(Op.GEMM, 9, 264, 2048, a=FP16, b=SCALED), (16, 8, True, 3, 1)),
    (Problem(Op.DUAL_GEMM, 100, 72, 1536, a=LINEAR, b=LINEAR, out_dtype="fp32"), (56, 5, False, 4, 1)),
    (Problem(Op.DUAL_GEMM, 64, 136, 1280, a=BF16, b=LINEAR), (64, 8, True, 2, 1)),
    (Problem(Op.GEMM, 121, 264, 1024, a=LINEAR, b=TILED, out_dtype="bf16"), (128, 3, False, 2, 2)),
    # Three tiles of a helper, each of fewer stages of weights than there is room for.
    (Problem(Op.GEMM, 50, 700, 1536, l=2, a=BF16, b=SCALED, out_dtype="fp32"), (56, 8, False, 5, 2)),
    (Problem(Op.DUAL_GEMM, 100, 136, 1536, a=LINEAR, b=TILED), (104, 3, False, 4, 2)),
]


def helped(shape: tuple[int, int, bool, int, int]) -> GemmPlan:
    tokens, grid, couples, own, blocks = shape
    return GemmPlan(FEW.arch, tokens, blocks, 2, 8, grid, begins=blocks == 1, coupled=couples, own=own)


# Lists of groups with tiles that two blocks share: how many, blocks, the widest and the narrowest tile.
CUT = [
    (Op.GROUP_GEMM, LINEAR, "fp16", (30, 50), 264, 3072, (2, 4, 64, 32)),
    (Op.GROUP_GEMM, BF16, "fp32", (40, 60, 20, 64), 128, 3072, (1, 3, 64, 32)),
    (Op.GROUP_DUAL_GEMM, TILED, "bf16", (97, 112, 128, 64, 80), 64, 2304, (1, 2, 128, 64)),
]


def cut(case: tuple) -> tuple[Problem, GemmPlan]:
    op, a, out, rows, n, k, (cuts, grid, tokens, narrowest) = case
    groups = tuple([(m, n, k) for m in rows])
    problem = Problem(op, sum(rows), n, k, a=a, b=LINEAR, out_dtype=out, groups=groups)
    plan = GemmPlan(FEW.arch, tokens, 1, 2, 8, grid, begins=True, narrowest=narrowest)
    listed = tile_list(staged_plan(problem, plan), problem, groups)
    assert sum(part.begin > 0 for part in listed.order) == cuts
    return problem, plan


# Tiles that two clusters share, or two blocks, halves of K of one stage of weights or of several; rows and tokens that
# end within tiles, in the first half of tokens, or where the second begins; and behind whole tiles, with a cluster that
# has no part. With: tokens, neighbours, stages; clusters, whole tiles of each, and how many share the others.
HALVED = [
    (Problem(Op.GEMM, 250, 260, 1024, a=BF16, b=SCALED, out_dtype="bf16"), (256, 2, 5, 2), (4, 0, 0)),
    (Problem(Op.GEMM, 70, 130, 512, l=2, a=FP16, b=TILED, out_dtype="fp32"), (160, 2, 4, 2), (4, 0, 0)),
    (Problem(Op.DUAL_GEMM, 312, 72, 1536, a=BF16, b=LINEAR), (208, 2, 5, 2), (4, 0, 0)),
    (Problem(Op.GEMM, 24, 130, 2880, a=FP16, b=SCALED_TILED), (48, 1, 7, 4), (4, 0, 0)),
    (Problem(Op.GEMM, 130, 900, 512, a=BF16, b=LINEAR), (144, 2, 5, 2), (3, 1, 2)),
]


def halved(shape: tuple[int, int, int, int], dealt: tuple[int, int, int]) -> DecodePlan:
    tokens, share, stages, chunks = shape
    clusters, rounds, sharers = dealt
    return DecodePlan(FEW.arch, tokens, share, False, stages, chunks, clusters * share, rounds, sharers, halved=True)


# Each with a distribution for the emulator, in turn.
SHARING = [
    pytest.param(problem, plan, ("gaussian", "integers", "all-scales")[i % 3], id=f"{kind}-{problem}-{i}")
    for kind, planned in (
        ("couples", [(problem, coupled(shape)) for problem, shape in COUPLED]),
        ("helpers", [(problem, helped(shape)) for problem, shape in HELPED]),
        ("cut", [cut(case) for case in CUT]),
        ("halves", [(problem, halved(shape, dealt)) for problem, shape, dealt in HALVED]),
    )
    for i, (problem, plan) in enumerate(planned)
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("problem", "plan", "distribution"), SHARING)
def test_shared_tiles_in_the_emulator(problem, plan, distribution):
    repeated(problem, plan, distribution, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(("problem", "plan", "distribution"), SHARING)
def test_shared_tiles_on_the_gpu(problem, plan, distribution):
    what = capability("cuda")
    if what.compute != (9, 0):
        pytest.skip("for Hopper")
    repeated(problem, replace(plan, arch=what.arch), "gaussian", "cuda")


@pytest.mark.parametrize(("blocks", "couples", "stages"), [(2, False, 3), (1, False, 4), (1, True, 2)])
def test_helpers_however_much_is_left_to_them(blocks, couples, stages):
    """Of five tiles one to five a helper, of each fewer stages of weights than there is room for, as many, or more."""
    tiles, team = 5, 2 if couples else 1
    for chunks, own, helpers in ((6, 5, 2), (6, 4, 1), (5, 1, 3), (7, 3, 4)):  # stages of a tile, and of its owner
        problem = Problem(Op.GEMM, 16, 128 * blocks * tiles, 256 * chunks * team, a=BF16, b=LINEAR, out_dtype="bf16")
        grid = team * (tiles + helpers)
        plan = GemmPlan(FEW.arch, 16, blocks, stages, 8, grid, begins=blocks == 1, coupled=couples, own=own)
        repeated(problem, plan, inputs.NAMES[chunks % len(inputs.NAMES)], "cpu")


def decoded_plan(shape: tuple[int, ...], whole: bool, grid: int, arch: str) -> DecodePlan:
    tokens, share, tiles, chunks = shape
    return DecodePlan(arch, tokens, share, whole, tiles, chunks, grid * share)


# However the work is cut between clusters. The kernel that only takes whole tiles is one of its own: of every other
# product, among which there are all forms of tiles, operations, activations and results.
DEALT = [(*each, grid, False) for each in DECODED for grid in (1, 2, 3)]
DEALT += [(*each, grid, True) for each in DECODED[1::2] for grid in (1, 2, 3)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("problem", "shape", "grid", "whole"), DEALT, ids=str)
def test_activations_as_they_lie_in_the_emulator(problem, shape, grid, whole):
    """With each distribution in turn."""
    seed = 3 * DECODED.index((problem, shape)) + grid
    operands, outputs = poison_outputs(inputs.make(problem, inputs.NAMES[seed % len(inputs.NAMES)], seed, "cpu"))
    BACKEND.run(decoded_plan(shape, whole, grid, FEW.arch), problem, operands)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, verdict


LATE = [(rounds, sharers) for rounds in (1, 2) for sharers in (0, 1, 3)]


def late(rounds: int, sharers: int, device: str, what: Capability) -> None:
    """Eleven tiles of five chunks for four clusters, which take one or two each; all or fewer share the rest."""
    problem = Problem(Op.GEMM, 200, 256 * 11 - 60, 1280, a=FP16, b=LINEAR, out_dtype="fp32")
    plan = DecodePlan(what.arch, 208, 2, False, 5, 2, 8, rounds, sharers)
    operands, outputs = poison_outputs(inputs.make(problem, inputs.NAMES[sharers], rounds, device))
    BACKEND.run(plan, problem, operands)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, verdict


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("rounds", "sharers"), LATE)
def test_whole_tiles_first_and_the_rest_shared(rounds, sharers):
    late(rounds, sharers, "cpu", FEW)


@pytest.mark.gpu
@pytest.mark.parametrize(("rounds", "sharers"), LATE)
def test_whole_tiles_first_and_the_rest_shared_on_the_gpu(rounds, sharers):
    what = capability("cuda")
    if what.compute != (9, 0):
        pytest.skip("for Hopper")
    late(rounds, sharers, "cuda", what)


@pytest.mark.gpu
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("problem", "shape"), DECODED, ids=str)
def test_activations_as_they_lie_on_the_gpu(problem, shape, whole):
    what = capability("cuda")
    if BACKEND.refuse(what, problem):
        pytest.skip(BACKEND.refuse(what, problem)[0])
    for seed, distribution in enumerate(inputs.NAMES):
        for grid in (1, 2, 3):
            operands, outputs = poison_outputs(inputs.make(problem, distribution, seed, "cuda"))
            BACKEND.run(decoded_plan(shape, whole, grid, what.arch), problem, operands)
            verdict = judge(problem, operands, outputs)
            assert verdict.ok, (distribution, grid, str(verdict))


@pytest.mark.slow
@pytest.mark.parametrize("distribution", inputs.NAMES)
@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_emulated_with_all_data(problem, distribution):
    verdict = run(problem, distribution, 1, "cpu", FEW)
    assert verdict.ok, verdict


@pytest.mark.gpu
@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_on_the_gpu(problem):
    what = capability("cuda")
    if BACKEND.refuse(what, problem):
        pytest.skip(BACKEND.refuse(what, problem)[0])
    for seed, distribution in enumerate(inputs.NAMES):
        verdict = run(problem, distribution, seed, "cuda", what)
        assert verdict.ok, (distribution, str(verdict))


@pytest.mark.gpu
@pytest.mark.parametrize("drawn", [fuzz, of_models])
@pytest.mark.parametrize("op", [Op.GEMM, Op.DUAL_GEMM, Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM])
def test_drawn_on_the_gpu(op, drawn):
    what = capability("cuda")
    ran = 0
    for seed in range(20):
        case = drawn(op, seed)
        if BACKEND.refuse(what, case.problem):
            continue
        verdict = run(case.problem, case.distribution, seed, "cuda", what)
        assert verdict.ok, (str(case), str(verdict))
        ran += 1
    if what.compute == (9, 0):
        assert ran > 0
