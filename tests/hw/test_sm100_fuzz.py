"""Plans x shapes of the Blackwell products, in the emulator with every check on."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nvfp4.backends.sm100.constants import Cluster, Schedule

from . import sm100_plans
from .sm100_plans import SHARED, family

# Compiling takes longer than running: 20 kernels, six problems each.
FAMILIES, SIZES = 20, 6


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(FAMILIES))
def test_plans_and_shapes(seed: int) -> None:
    chosen = family(seed)
    assert chosen.plan.wrong(SHARED) == ()
    rng = random.Random(seed)
    for i in range(SIZES):
        problem, data = chosen.sized(rng)
        verdict = sm100_plans.run(chosen.plan, problem, data, i)
        assert verdict.ok, (chosen.plan, str(problem), data, i, str(verdict))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FAMILIES, FAMILIES + 200))
def test_many_plans(seed: int) -> None:
    chosen = family(seed)
    rng = random.Random(seed)
    for i in range(3):
        problem, data = chosen.sized(rng)
        verdict = sm100_plans.run(chosen.plan, problem, data, i)
        assert verdict.ok, (chosen.plan, str(problem), data, i, str(verdict))


@pytest.mark.parametrize("seed", range(8))
def test_decoding_plans_and_shapes(seed: int) -> None:
    rng = random.Random(f"decode:{seed}")
    plan, base = sm100_plans.decoding(rng)
    for i in range(6):
        problem = replace(base, m=rng.choice((1, 7, 32, 100, 257)), n=rng.choice((1, 64, 127, 128, 300)))
        data = rng.choice(sm100_plans.SIGNED_DATA)
        verdict = sm100_plans.run(plan, problem, data, i)
        assert verdict.ok, (plan, str(problem), data, i, str(verdict))


def test_families_cover_every_technique() -> None:
    """Each field of the plan takes each of its values among the kernels above."""
    plans = [family(seed).plan for seed in range(FAMILIES)]
    for name in ("tile_n", "stages", "buffers", "sets", "cluster", "schedule", "swapped", "signed", "interleave"):
        assert len({getattr(plan, name) for plan in plans}) >= 2, name
    for name in ("collect", "hints", "early", "programmatic", "share_scales", "staged", "patched"):
        assert {getattr(plan, name) for plan in plans} == {False, True}, name
    assert {plan.products for plan in plans} == {1, 2}
    assert {plan.tile_n for plan in plans} == {64, 128, 192, 256}
    assert {plan.cluster for plan in plans} == set(Cluster)
    assert {plan.schedule for plan in plans} == set(Schedule)
    assert any(plan.splits > 1 for plan in plans)
    assert any(plan.finish for plan in plans)
    problems = [family(seed).problem for seed in range(FAMILIES)]
    assert any(p.stacked for p in problems)
    assert any(p.groups for p in problems)
