"""The Blackwell backend without a GPU: what it refuses, what it plans, and what ptxas makes of its kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from nvfp4 import jit
from nvfp4.backends.sm100 import ARCHS, BACKEND, build, model, planner, scratch
from nvfp4.backends.sm100.constants import TENSOR_COLUMNS, Cluster, Schedule
from nvfp4.backends.sm100.decode import DecodePlan
from nvfp4.backends.sm100.gemv import GemvPlan
from nvfp4.backends.sm100.group import MAX_LIST_GROUPS, MAX_PATCHED_GROUPS, MAX_STACKED_GROUPS
from nvfp4.backends.sm100.plans import ProductPlan, scale_unit
from nvfp4.check import inputs
from nvfp4.check.run import fuzz
from nvfp4.contest.tasks import TASKS
from nvfp4.device import known
from nvfp4.executors import parameters
from nvfp4.executors.launch import Launch
from nvfp4.problem import Format, Op, Problem

SM_100A = known("sm_100a")
OFFICIAL = [task.problem(case, scale_layout="tiled") for task in TASKS for case in task.benchmarks]
GEMM = Problem(Op.GEMM, 64, 64, 64)


def reason(problem: Problem, arch: str = "sm_100a") -> str:
    (text,) = BACKEND.refuse(known(arch), problem)
    return text


def test_refusals_name_the_reason() -> None:
    assert "a CPU" in reason(GEMM, "cpu")
    assert "not sm_90a" in reason(GEMM, "sm_90a")
    assert "not sm_120a" in reason(GEMM, "sm_120a")
    assert "A must be NVFP4, not fp16" in reason(replace(GEMM, op=Op.DUAL_GEMM, a=Format("fp16", "")))
    assert "B must be NVFP4, not fp16" in reason(replace(GEMM, b=Format("fp16", "")))
    assert "A must be NVFP4, not bf16" in reason(replace(GEMM, op=Op.GEMV, n=1, a=Format("bf16", "")))
    assert "multiple of 32 (rows of codes in a tensor map are multiples of 16 bytes), not 48" in reason(
        replace(GEMM, k=48)
    )
    assert "not 0" in reason(replace(GEMM, k=0))
    assert "multiple of 16 (a block scale), not 0" in reason(replace(GEMM, op=Op.GEMV, n=1, k=0))
    assert "1..16 vectors, not 17" in reason(replace(GEMM, op=Op.GEMV, n=17))
    assert "batch" in reason(replace(GEMM, op=Op.GEMV, n=1, l=70000))
    assert "2^31" in reason(replace(GEMM, m=2**20, n=2**20, l=8))
    assert "stacked groups" in reason(replace(GEMM, op=Op.GROUP_GEMM, stacked=MAX_STACKED_GROUPS + 1))
    groups = ((8, 8, 64), (8, 8, 80), (0, 8, 16))
    assert "not 80" in reason(replace(GEMM, op=Op.GROUP_GEMM, k=80, groups=groups))


@pytest.mark.parametrize("arch", ARCHS)
def test_takes_every_other_problem(arch: str) -> None:
    """What fuzzing makes is refused for its K or its 16-bit activations, or runs."""
    taken = 0
    for op in Op:
        for seed in range(60):
            problem = fuzz(op, seed).problem
            reasons = BACKEND.refuse(known(arch), problem)
            if reasons:
                known_ones = ("must be NVFP4", "K must be a positive multiple", "has no kernel for group_dual_gemm")
                known_ones += ("follow no index of rows",) if problem.tokens else ()
                assert all(any(word in reason for word in known_ones) for reason in reasons), (problem, reasons)
                continue
            taken += 1
            plan = BACKEND.plan(known(arch), problem)
            assert arch in plan.describe()
            if isinstance(plan, ProductPlan | DecodePlan):
                assert plan.wrong(known(arch).shared_bytes) == ()
            assert isinstance(plan, DecodePlan) == (op is Op.GEMM and problem.a.kind != "nvfp4")
    assert taken > 40


def test_plans_that_cannot_run_say_why() -> None:
    limit = SM_100A.shared_bytes
    good = ProductPlan("sm_100a")
    assert good.wrong(limit) == ()
    for plan, word in (
        (replace(good, tile_n=96), "tile_n"),
        (replace(good, tile_n=256), "columns"),
        (replace(good, stages=7), "shared memory"),
        (replace(good, stages=1, sets=1), "2 stages"),
        (replace(good, sets=5), "sets"),
        (replace(good, buffers=3), "accumulators"),
        (replace(good, finish=1), "finish"),
        (replace(good, products=2, swapped=True, buffers=1), "swapped"),
        (replace(good, splits=0), "parts"),
        (replace(good, share_scales=True), "cluster"),
        (replace(good, staged=True, swapped=True), "rows of C"),
        (replace(good, stages=6, staged=True), "shared memory"),
        (replace(good, cluster=Cluster.HALVES), "whole tiles"),
        (replace(good, patched=True, staged=True), "not for C"),
        (replace(good, patched=True, early=True), "not for C"),
    ):
        assert any(word in text for text in plan.wrong(limit)), (plan, plan.wrong(limit))


def test_decoding_plans_that_cannot_run_say_why() -> None:
    good = DecodePlan("sm_100a")
    assert good.wrong(SM_100A.shared_bytes) == ()
    for plan, word in (
        (replace(good, tile_n=16), "tile_n"),
        (replace(good, stages=3), "decoding warps"),
        (replace(good, stages=12), "shared memory"),
        (replace(good, buffers=3), "accumulators"),
        (replace(good, splits=0), "parts"),
    ):
        assert any(word in text for text in plan.wrong(SM_100A.shared_bytes)), (plan, plan.wrong(SM_100A.shared_bytes))


def test_every_candidate_is_possible_and_the_best_is_taken() -> None:
    for problem in OFFICIAL:
        if problem.op is Op.GEMV:
            continue
        found = list(planner.candidates(SM_100A, problem))
        assert found
        assert all(plan.wrong(SM_100A.shared_bytes) == () for plan in found)
        assert {plan.cluster for plan in found} == set(Cluster)
        best = model.product(planner.plan(SM_100A, problem), problem).microseconds
        assert best == min(model.product(plan, problem).microseconds for plan in found)


def test_predictions_are_not_faster_than_the_official_speed_of_light() -> None:
    for task in TASKS:
        for case in task.benchmarks:
            problem = task.problem(case, scale_layout="tiled")
            plan = BACKEND.plan(SM_100A, problem)
            found = model.vector(plan, problem) if isinstance(plan, GemvPlan) else model.product(plan, problem)
            assert case.light_us is not None
            assert found.microseconds > case.light_us


def test_the_model_prefers_what_it_should() -> None:
    """Directions that do not depend on constants: each technique helps where it is meant to."""
    big = Problem(Op.GEMM, 8192, 8192, 8192, 1, Format("nvfp4", "tiled"), Format("nvfp4", "tiled"))
    plan = ProductPlan("sm_100a", tile_n=192, stages=4)
    assert model.product(plan, big).microseconds < model.product(replace(plan, buffers=1), big).microseconds
    assert model.product(plan, big).microseconds < model.product(replace(plan, tile_n=64), big).microseconds
    small = replace(big, m=128, n=1024)
    assert model.product(replace(plan, splits=4), small).products < model.product(plan, small).products, (
        "few tiles want their K shared"
    )
    few = replace(big, m=16)
    swapped = replace(plan, tile_n=64, swapped=True)
    assert model.product(swapped, few).products <= model.product(replace(swapped, swapped=False), few).products
    late = replace(plan, programmatic=False)
    assert model.product(late, big).microseconds - model.product(plan, big).microseconds == pytest.approx(
        model.B200.launch_us
    )


def kernels(arch: str) -> list[Launch]:
    """The launches of the contest's shapes, and of plans that turn each technique the other way."""
    capability = known(arch)
    found: list[Launch] = []

    def add(plan: ProductPlan | GemvPlan | DecodePlan, problem: Problem) -> None:
        # The same kernel on operands that take no memory.
        small = replace(problem, m=min(problem.m, 8), n=problem.n if problem.op is Op.GEMV else min(problem.n, 8), l=1)
        if problem.groups:
            small = replace(problem, groups=tuple((1, 1, k) for _, _, k in problem.groups))
        operands = inputs.make(small)
        found.extend(build(plan, small, operands, scratch(plan, small, operands)))

    for problem in OFFICIAL:
        plan = BACKEND.plan(capability, problem)
        add(plan, problem)
    base = {problem.op: problem for problem in OFFICIAL}
    linear = Format("nvfp4", "linear")
    for cluster in Cluster:
        width = 256 if cluster is Cluster.HALVES else 192
        plan = ProductPlan(
            arch, tile_n=width, stages=3, cluster=cluster, schedule=Schedule.TAKEOVER, interleave=True, staged=True
        )
        plan = replace(plan, share_scales=cluster is not Cluster.NONE)
        add(plan, replace(base[Op.GEMM], a=linear, b=linear, out_dtype="fp32"))
        add(
            plan,
            replace(base[Op.GEMM], a=replace(linear, scale_layout="tiled"), b=replace(linear, scale_layout="tiled")),
        )
        dual = replace(plan, products=2, buffers=1, sets=2, finish=2, stages=2 if width == 256 else 3)
        dual = replace(dual, tile_n=256 if width == 256 else 128)
        add(dual, replace(base[Op.DUAL_GEMM], a=linear, k=288))
        add(
            replace(plan, swapped=True, staged=False),
            Problem(Op.GROUP_GEMM, 64, 64, 96, 1, linear, linear, "bf16", stacked=8),
        )
    add(ProductPlan(arch, patched=True), replace(base[Op.GROUP_GEMM], groups=((1, 1, 512),) * MAX_PATCHED_GROUPS))
    add(ProductPlan(arch, tile_n=256, buffers=1, stages=4, splits=4, early=True), base[Op.GEMM])
    add(GemvPlan(arch, 4, 8, 8, 2, early=True), base[Op.GEMV])
    add(GemvPlan(arch, 1, 1, 4, 1), replace(base[Op.GEMV], n=16))
    for kind, layout in (("fp16", "tiled"), ("bf16", "linear")):
        for m in (1, 64, 128, 2048):
            wide = replace(base[Op.GEMM], m=m, a=Format(kind, ""), b=Format("nvfp4", layout))
            add(BACKEND.plan(capability, wide), wide)
    for kind in ("nvfp4", "fp16", "bf16"):
        for n in (1, 2, 4, 16):
            vectors = replace(
                base[Op.GEMV], n=n, b=Format(kind, "tiled" if kind == "nvfp4" else ""), k=(7168, 7184)[n == 2]
            )
            add(cast(GemvPlan, BACKEND.plan(capability, vectors)), vectors)
    return found


# What ptxas makes for the others is of the same sources, and takes as long again.
@pytest.mark.parametrize("arch", [ARCHS[0], *(pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHS[1:])])
def test_ptxas_spills_nothing_and_resources_fit(arch: str) -> None:
    limit = known(arch).shared_bytes
    seen = set()
    for launch in kernels(arch):
        if launch.kernel in seen:
            continue
        seen.add(launch.kernel)
        resources = jit.compile(launch.kernel).resources
        assert resources is not None
        assert resources.local_bytes == 0, f"{launch.kernel}: {resources}"
        threads = launch.block[0]
        assert resources.registers * threads <= 65536, f"{launch.kernel}: {resources}"
        assert launch.shared_bytes + resources.shared_bytes <= limit, f"{launch.kernel}: {resources}"
        assert len(parameters.build(launch.args).data) <= 32764
    assert len(seen) >= 20


def test_describe_names_the_resources() -> None:
    problem = OFFICIAL[3]
    text = BACKEND.plan(SM_100A, problem).describe()
    for word in ("tiles", "stages", "columns of tensor memory", "waves" if "waves" in text else "wave", "148 SMs"):
        assert word in text
    assert "2 x 128 sums" in ProductPlan("sm_100a").describe()


def test_scale_unit_divides_every_group() -> None:
    assert scale_unit(GEMM) == 4
    assert scale_unit(replace(GEMM, k=7168)) == 16
    assert scale_unit(replace(GEMM, k=96)) == 2
    assert scale_unit(replace(GEMM, groups=((1, 1, 256), (1, 1, 96)))) == 2


def test_many_groups_take_several_launches_and_empty_ones_none() -> None:
    sizes = tuple((i % 3, 8, 64) for i in range(3 * MAX_LIST_GROUPS))
    problem = Problem(Op.GROUP_GEMM, sum(s[0] for s in sizes), 8, 64, groups=sizes)
    launches = BACKEND.launches(BACKEND.plan(SM_100A, problem), problem, inputs.make(problem))
    assert len(launches) == 2
    patched = ProductPlan("sm_100a", patched=True)
    operands = inputs.make(problem)
    (launch,) = build(patched, problem, operands, scratch(patched, problem, operands))
    assert len(parameters.build(launch.args).data) < len(parameters.build(launches[0].args).data)
    for op in (Op.GEMV, Op.GEMM, Op.DUAL_GEMM):
        empty = Problem(op, 0, 4, 64)
        assert BACKEND.launches(BACKEND.plan(SM_100A, empty), empty, inputs.make(empty)) == ()


def test_tensor_memory_of_the_shape_is_that_of_the_plan() -> None:
    """The plan's count must be the kernel's (`static_assert` there): the largest that fits, and one more."""
    fits = [p for p in planner.candidates(SM_100A, OFFICIAL[3]) if p.tensor_columns <= TENSOR_COLUMNS]
    assert max(plan.tensor_columns for plan in fits) >= 448
