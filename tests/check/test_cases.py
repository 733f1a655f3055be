"""Which cases seeds stand for."""

from __future__ import annotations

from nvfp4.backends import get
from nvfp4.backends.sm90.decode_gemm import DecodePlan
from nvfp4.backends.sm90.plan import GemmPlan, chunks_along_k, tiles_of
from nvfp4.check.run import of_models
from nvfp4.device import known
from nvfp4.problem import Op, Problem

H200 = known("sm_90a")


def features(problem: Problem) -> set[str]:
    """What of Hopper's ways to share work the plan of a problem has."""
    backend = get("sm90")
    if backend.refuse(H200, problem):
        return set()
    plan = backend.plan(H200, problem)
    if isinstance(plan, DecodePlan):
        return {"halves of tiles" if plan.halved else "as they lie"}
    if not isinstance(plan, GemmPlan):
        return {type(plan).__name__}
    tiles, team = tiles_of(plan, problem), plan.team
    found = set()
    if plan.own:
        left = chunks_along_k(problem) - team * plan.own
        several = tiles > plan.grid - team * tiles
        found.add(f"helpers of {'couples' if plan.coupled else f'{plan.blocks} blocks'}")
        if several and plan.blocks == 2 and left < plan.chunks:
            found.add("helpers with less of each of their tiles than there is room for")
    elif plan.coupled:
        found.add("couples that share a tile" if plan.grid > team * tiles else "couples")
    elif not problem.groups and not problem.stacked and tiles % plan.grid:
        found.add(f"ranges of {plan.blocks} blocks")
    return found


def test_the_cases_of_models_have_every_way_to_share_work():
    found = set()
    for seed in range(100):
        for op in (Op.GEMM, Op.DUAL_GEMM):
            found |= features(of_models(op, seed).problem)
    assert found >= {
        "as they lie",
        "halves of tiles",
        "helpers of couples",
        "helpers of 1 blocks",
        "helpers of 2 blocks",
        "helpers with less of each of their tiles than there is room for",
        "couples",
        "couples that share a tile",
        "ranges of 1 blocks",
        "ranges of 2 blocks",
    }


def test_a_seed_is_the_same_case_on_every_machine():
    for op in Op:
        assert of_models(op, 7) == of_models(op, 7)
        assert len({str(of_models(op, seed)) for seed in range(20)}) == 20
