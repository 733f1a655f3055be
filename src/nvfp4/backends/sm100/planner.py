"""Choosing a plan: candidates that can run, ranked by the model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace

from nvfp4.backends.sm100 import decode, model
from nvfp4.backends.sm100.constants import CHUNK, Cluster, ceil_div
from nvfp4.backends.sm100.decode import DecodePlan
from nvfp4.backends.sm100.plans import TILE_NS, ProductPlan, fitting
from nvfp4.device import Capability
from nvfp4.problem import Op, Problem

_SPLITS = (1, 2, 4)
# Chunks: more than any plan has stages, so that scales are in L2 when their copy is issued.
_PREFETCH = 8


def candidates(capability: Capability, problem: Problem) -> Iterator[ProductPlan]:
    """Every plan that is worth a thought."""
    products = 2 if problem.op is Op.DUAL_GEMM else 1
    chunks = ceil_div(problem.k, CHUNK)
    # Groups are many tiles already, and may have any K.
    splits = [s for s in _SPLITS if s == 1 or (problem.op is not Op.GROUP_GEMM and s <= chunks // 2)]
    for tile_n in TILE_NS:
        for cluster, swapped, staged in itertools.product(Cluster, (False, True), (False, True)):
            for split in splits:
                plan = ProductPlan(
                    capability.arch,
                    products,
                    tile_n,
                    cluster=cluster,
                    swapped=swapped,
                    staged=staged,
                    share_scales=cluster is not Cluster.NONE,
                    splits=split,
                    prefetch=_PREFETCH,
                    sms=capability.sms,
                )
                plan = fitting(plan, capability.shared_bytes)
                if products == 2 and split == 1:
                    plan = replace(plan, finish=min(2, plan.sets))
                if not plan.wrong(capability.shared_bytes):
                    yield plan


@functools.lru_cache(maxsize=1024)
def decoding_plan(capability: Capability, problem: Problem) -> DecodePlan:
    """The plan with the shortest predicted time for 16-bit activations; of equals, the first."""
    found = decode.candidates(capability, problem)
    return min(found, key=lambda candidate: model.decoded(candidate, problem).microseconds)


@functools.lru_cache(maxsize=1024)
def plan(capability: Capability, problem: Problem) -> ProductPlan:
    """The plan with the shortest predicted time; of equals, the first."""
    best = min(candidates(capability, problem), key=lambda candidate: model.product(candidate, problem).microseconds)
    return replace(best, waves=model.product(best, problem).waves)
