"""Hopper's couples of blocks with one line changed: the emulator, or the checker behind it, must say so."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from mutants.changing import STRICT, WRONG, Change, make, marked
from nvfp4.backends.sm90 import gemm
from nvfp4.backends.sm90.launching import needs
from nvfp4.backends.sm90.plan import GemmPlan, staged_plan
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.errors import LaunchError
from nvfp4.executors import emulated
from nvfp4.problem import Format, Op, Problem

KEPT = "counters"  # are not as they were found
COUPLES, ROLES, STAGES = "pipeline/sm90_couples.cuh", "pipeline/sm90_roles.cuh", "pipeline/sm90_stages.cuh"

# Two tiles of five chunks, for two couples; sums that are handed over take both of the places where there is room.
PROBLEM = Problem(Op.GEMM, 100, 130, 1280, a=Format("nvfp4", "linear"), b=Format("nvfp4", "linear"))
PLAN = staged_plan(PROBLEM, GemmPlan("sm_90a", 112, 1, 2, 8, 4, begins=True, coupled=True))
# One tile of eight chunks, which two couples share through device memory.
SHARED_PROBLEM = Problem(Op.GEMM, 60, 128, 2048, a=Format("bf16", ""), b=Format("nvfp4", "linear"), out_dtype="fp32")
SHARED = staged_plan(SHARED_PROBLEM, GemmPlan("sm_90a", 64, 1, 2, 8, 4, begins=True, coupled=True))


@dataclass(frozen=True)
class Mutant(Change):
    """For two couples with a tile each; or, `shared`, with one tile."""

    shared: bool = False


WAIT = "if (i % S::STAGED == 0) wait_barrier_cluster(stages.{}, 0);"
MUTANTS = (
    Mutant("nothing", COUPLES, "rank ^ 1, thread", "rank ^ 1u, thread", "^$"),
    Mutant("nothing, shared", COUPLES, "rank ^ 1, thread", "rank ^ 1u, thread", "^$", True),
    Mutant("no wait for sums", COUPLES, WAIT.format("sums_full(hand, group)"), "", "race|uninit"),
    Mutant("no wait for room", COUPLES, WAIT.format("sums_room(hand)"), "", "race"),
    Mutant("room before all tiles are read", STAGES, "hand == 0 ? 1 : 4 * S::MULTIPLIERS", "1", "race|mbarrier"),
    Mutant("fewer bytes expected", STAGES, "count * 128 * 16);", "count * 128 * 16 - 16);", "race|mbarrier|deadlock"),
    Mutant("more bytes expected", STAGES, "count * 128 * 16);", "count * 128 * 16 + 16);", "deadlock"),
    Mutant("the same half kept", COUPLES, "= rank == 0 ? low : high;", "= low;", WRONG),
    Mutant("the same half handed over", COUPLES, "= rank == 0 ? high : low;", "= high;", WRONG),
    Mutant("the same chunks", COUPLES, "2 * chunk + static_cast<int>(cluster_ctarank())", "2 * chunk", WRONG),
    Mutant(
        "no wait for the other block's barriers",
        ROLES,
        "if constexpr (S::COUPLED) barrier_cluster_wait_acquire();",
        "",
        "race|uninit|mbarrier|barrier",
    ),
    Mutant("counter of shares kept", ROLES, "if constexpr (S::TOGETHER) share.depart();", "", KEPT),
    Mutant(
        "counter of sums kept",
        COUPLES,
        "if (shared) depart_from_sums(of_rank, sharers, static_cast<int>(group));",
        "",
        KEPT,
        True,
    ),
    Mutant("the other rank's sums", COUPLES, "static_cast<i64>(rank) * couples", "0 * couples", "race|wrong", True),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    make(mutant, monkeypatch)
    problem, plan = (SHARED_PROBLEM, SHARED) if mutant.shared else (PROBLEM, PLAN)
    made, outputs = poison_outputs(inputs.make(problem, "uniform", 0))
    extra = needs(plan, problem, made).allocate("cpu")
    launches = marked(gemm.launches(plan, problem, made, extra), MUTANTS.index(mutant))
    try:
        emulated.emulate(launches, seed=0, checks=STRICT)
        found = "" if judge(problem, made, outputs).ok else WRONG
        found = found or (KEPT if extra[1].any() else "")
    except LaunchError as error:
        found = str(error)
    assert re.search(mutant.finding, found, re.IGNORECASE), f"{mutant.name}: {found[:2000] or 'nothing was found'}"
