"""Plans and problems for the tests of the Blackwell backend: every technique on and off, at small sizes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from nvfp4.backends.sm100 import build, scratch
from nvfp4.backends.sm100.constants import Cluster, Schedule
from nvfp4.backends.sm100.decode import DecodePlan
from nvfp4.backends.sm100.gemv import GemvPlan
from nvfp4.backends.sm100.plans import TILE_NS, ProductPlan
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import Verdict, judge
from nvfp4.device import known
from nvfp4.emulator import Checks
from nvfp4.executors import emulated
from nvfp4.executors.launch import Launch
from nvfp4.problem import Format, Op, Problem

SHARED = known("sm_100a").shared_bytes
OPS = (Op.GEMM, Op.DUAL_GEMM, Op.GROUP_GEMM)


def run(
    plan: ProductPlan | GemvPlan | DecodePlan,
    problem: Problem,
    distribution: str,
    seed: int,
    checks: Checks | None = None,
) -> Verdict:
    """The problem in the emulator under one plan, every check on, judged."""
    operands, outputs = poison_outputs(inputs.make(problem, distribution, seed))
    launches = build(plan, problem, operands, scratch(plan, problem, operands))
    emulated.emulate(launches, seed=seed, checks=checks)
    return judge(problem, operands, outputs)


def launches_of(plan: ProductPlan | GemvPlan | DecodePlan, problem: Problem) -> tuple[Launch, ...]:
    """The launches of a plan on small operands of the same kernel."""
    operands = inputs.make(problem)
    return build(plan, problem, operands, scratch(plan, problem, operands))


def plan_of(rng: random.Random, op: Op, k_chunks: int) -> ProductPlan:
    """A random plan that can run `op` with K of `k_chunks` chunks: few stages, so that they wrap around."""
    while True:
        products = 2 if op is Op.DUAL_GEMM else 1
        splits = rng.choice((1, 1, 2, 3)) if op is not Op.GROUP_GEMM else 1
        sets = rng.randint(1, 3)
        plan = ProductPlan(
            "sm_100a",
            products,
            tile_n=rng.choice(TILE_NS),
            stages=rng.randint(2, 4),
            buffers=rng.randint(1, 2),
            sets=sets,
            cluster=rng.choice(list(Cluster)),
            splits=min(splits, max(1, k_chunks)),
            swapped=products == 1 and rng.random() < 0.4,
            interleave=rng.random() < 0.5,
            collect=rng.random() < 0.5,
            hints=rng.random() < 0.5,
            prefetch=rng.choice((0, 1, 8)),
            share_scales=rng.random() < 0.5,
            staged=rng.random() < 0.5,
            early=rng.random() < 0.5,
            programmatic=rng.random() < 0.5,
            band=rng.choice((1, 2, 16)),
            schedule=rng.choice(list(Schedule)),
            sms=rng.choice((2, 4, 148)),
        )
        if products == 2 and plan.splits == 1:
            plan = replace(plan, finish=rng.randint(0, sets))
        if plan.cluster is Cluster.NONE:
            plan = replace(plan, share_scales=False)
        if op is Op.GROUP_GEMM and rng.random() < 0.4:
            plan = replace(plan, patched=True, staged=False, early=False)
        if plan.swapped:
            plan = replace(plan, staged=False)
        if not plan.wrong(SHARED):
            return plan


def form_of(rng: random.Random, scaled: bool) -> Format:
    """A random NVFP4 format."""
    return Format("nvfp4", rng.choice(("linear", "tiled", "tiled")), scaled)


def _size(rng: random.Random, largest: int) -> int:
    """Ragged, a multiple of a tile, or just beside one."""
    return min(largest, rng.choice((1, 8, 64, 128, 192, 256)) + rng.choice((0, 0, 1, 7)))


def decoding(rng: random.Random) -> tuple[DecodePlan, Problem]:
    """A random plan for 16-bit activations, and a kind of problem of any M and N for it."""
    while True:
        plan = DecodePlan(
            "sm_100a",
            tile_n=rng.choice((32, 64, 128, 256)),
            stages=rng.randint(4, 7),
            buffers=rng.randint(1, 2),
            splits=rng.choice((1, 1, 2, 3)),
            band=rng.choice((1, 16)),
            early=rng.random() < 0.5,
            programmatic=rng.random() < 0.5,
            sms=rng.choice((1, 3, 148)),
        )
        if not plan.wrong(SHARED):
            break
    a = Format(rng.choice(("fp16", "bf16")), "")
    b = form_of(rng, rng.random() < 0.5)
    k = 32 * rng.randint(6, 40)
    return plan, Problem(Op.GEMM, 1, 1, k, rng.choice((1, 2)), a, b, rng.choice(("fp16", "bf16", "fp32")))


SIGNED_DATA = ("uniform", "all-scales", "one-hot", "smallest", "integers", "gaussian")
UNSIGNED_DATA = ("uniform", "one-hot", "largest", "integers")

# K by the bytes that a load of linear scales may have; the kernels are the same for each row.
_KS = {2: (32, 96, 160, 288, 544, 736), 4: (64, 192, 320, 576), 8: (128, 384, 640), 16: (256, 512, 768, 1024, 1280)}


@dataclass(frozen=True)
class Family:
    """One kernel, for problems of any size of a kind.

    Attributes:
        plan: How.
        problem: The kind: operation, formats, type of the result, number of groups.
        unit: Key of `_KS`.
    """

    plan: ProductPlan
    problem: Problem
    unit: int

    def sized(self, rng: random.Random) -> tuple[Problem, str]:
        """A problem of this kind, and a distribution for it."""
        ks = [k for k in _KS[self.unit] if -(-k // 256) >= self.plan.splits]
        data = rng.choice(SIGNED_DATA if self.plan.signed else UNSIGNED_DATA)
        if self.problem.groups:
            groups = tuple((_size(rng, 200) - 1, _size(rng, 200), rng.choice(ks)) for _ in self.problem.groups)
            m, n, k = (f(g[i] for g in groups) for i, f in enumerate((sum, max, max)))
            if any(m and n for m, n, _ in groups):
                # Fewer groups than places would be another kernel.
                groups = tuple((max(1, m), n, k) for m, n, k in groups)
                m = sum(g[0] for g in groups)
            return replace(self.problem, m=m, n=n, k=k, groups=groups), data
        m, n = _size(rng, 300), _size(rng, 200 if self.problem.op is Op.DUAL_GEMM else 420)
        return replace(self.problem, m=m, n=n, k=rng.choice(ks)), data


def family(seed: int) -> Family:
    """The kernel that `seed` stands for: a random plan of a random kind of problem."""
    rng = random.Random(f"sm100:{seed}")
    op = rng.choice((Op.GEMM, Op.GEMM, Op.DUAL_GEMM, Op.GROUP_GEMM, Op.GROUP_GEMM))
    scaled, out = rng.random() < 0.4, rng.choice(("fp16", "bf16", "fp32"))
    a, b = form_of(rng, scaled), form_of(rng, scaled)
    unit = rng.choice(list(_KS))
    plan = replace(plan_of(rng, op, max(_KS[unit]) // 256), signed=rng.random() < 0.6)
    problem = Problem(op, 128, 128, max(_KS[unit]), rng.choice((1, 1, 2)) if op is Op.GEMM else 1, a, b, out)
    if op is Op.GROUP_GEMM and seed % 2:  # so that both forms are among any few seeds
        problem = replace(problem, stacked=rng.randint(1, 6))
    elif op is Op.GROUP_GEMM:
        problem = replace(problem, groups=((1, 1, 32),) * rng.randint(1, 4))
    return Family(plan, problem, unit)
