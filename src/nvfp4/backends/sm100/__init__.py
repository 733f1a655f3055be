"""Blackwell kernels: NVFP4 times NVFP4 on the tensor core (tcgen05), and a GEMV.

None has run on silicon yet: they are checked in the emulator, and ranked by a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch

from nvfp4 import executors, jit
from nvfp4.backends.base import Operands, Plan, follows_no_index
from nvfp4.backends.operands import aligned, repeated
from nvfp4.backends.sm100 import decode, dual, gemm, gemv, group, model, planner
from nvfp4.backends.sm100.decode import DecodePlan
from nvfp4.backends.sm100.gemv import GemvPlan
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.device import Capability
from nvfp4.executors.launch import Kernel, Launch
from nvfp4.executors.scratch import Piece, Scratch
from nvfp4.problem import Op, Problem

ARCHS = ("sm_100a", "sm_103a")
_INT_MAX = 2**31 - 1
_GRID_Y_MAX = 65535


class Sm100Backend:
    """The backend of the kernels ``csrc/kernels/sm100_*.cu``."""

    name = "sm100"
    note = (
        "The kernels of nvfp4/sm100 were not yet timed on silicon when this version was written: "
        "docs/blackwell.md says what was checked, and what a model expects."
    )

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons why these kernels do not run `problem` there; empty when they do."""
        reasons = [*follows_no_index(problem)]
        if capability.arch not in ARCHS:
            what = "a CPU" if capability.arch == "cpu" else capability.arch
            reasons.append(f"needs tcgen05 with FP4, which {' and '.join(ARCHS)} have, not {what}")
        vectors = problem.op is Op.GEMV
        # Activations may have 16 bits where weights are decoded.
        wide = {Op.GEMV: "B", Op.GEMM: "A"}.get(problem.op, "")
        for form, name in ((problem.a, "A"), (problem.b, "B")):
            if form.kind != "nvfp4" and name != wide:
                reasons.append(f"{name} must be NVFP4, not {form.kind}: the tensor core takes FP4 on both sides only")
        if problem.op is Op.GROUP_DUAL_GEMM:
            reasons.append(f"has no kernel for {problem.op} yet")
        sizes = [size for size in problem.groups if size[0] and size[1]] or [(problem.m, problem.n, problem.k)]
        unit = min(gemv.UNITS) if vectors else 32
        why = "a block scale" if vectors else "rows of codes in a tensor map are multiples of 16 bytes"
        ks = sorted({k for _, _, k in sizes if k % unit or not k})
        if ks:
            reasons.append(f"K must be a positive multiple of {unit} ({why}), not {', '.join(map(str, ks))}")
        if problem.op is Op.GEMV and not 1 <= problem.n <= gemv.MAX_VECTORS:
            reasons.append(f"takes 1..{gemv.MAX_VECTORS} vectors, not {problem.n}; use gemm")
        if problem.op is Op.GEMV and problem.l > _GRID_Y_MAX:
            reasons.append(f"a batch of more than {_GRID_Y_MAX}")
        if problem.stacked > group.MAX_STACKED_GROUPS:
            reasons.append(f"{problem.stacked} stacked groups; it takes {group.MAX_STACKED_GROUPS}")
        if _largest(problem) > _INT_MAX:
            reasons.append("sizes or tiles beyond 2^31 - 1")
        return tuple(reasons)

    def plan(self, capability: Capability, problem: Problem) -> ProductPlan | GemvPlan | DecodePlan:
        """The plan for `problem` there."""
        if problem.op is Op.GEMM and problem.a.kind != "nvfp4":
            return planner.decoding_plan(capability, problem)
        return (gemv.plan if problem.op is Op.GEMV else planner.plan)(capability, problem)

    def details(self, plan: Plan, problem: Problem) -> tuple[str, ...]:
        """What the kernel takes of a multiprocessor, and what the model expects of it. Compiles it."""
        kernel = kernel_of(plan, problem)
        if kernel is None:
            return ()
        resources = jit.compile(kernel).resources
        assert resources is not None
        if isinstance(plan, GemvPlan):
            threads, shared, expected = 32 * plan.warps, 0, model.vector(plan, problem)
        elif isinstance(plan, DecodePlan):
            threads, shared, expected = decode.THREADS, plan.shared_bytes, model.decoded(plan, problem)
        else:
            product = cast(ProductPlan, plan)
            threads, shared = product.threads(problem), product.shared_bytes_of(problem.out_dtype)
            expected = model.product(product, problem)
        spills = f", {resources.local_bytes} bytes of local memory" if resources.local_bytes else ", no spills"
        return (
            f"{threads} threads of {resources.registers} registers{spills}, "
            f"{(shared + resources.shared_bytes) / 1024:.1f} KB of shared memory",
            f"a model, never measured, expects {expected}",
        )

    def launches(self, plan: Plan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
        """The launches, in order, that compute ``operands.out``."""
        return build(plan, problem, operands, scratch(plan, problem, operands))

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``: on a GPU, or with tensors on the CPU in the emulator."""
        operands = aligned(operands)
        executors.choose(operands.out[0].device).run(self.launches(plan, problem, operands))

    def prepare(self, plan: Plan, problem: Problem) -> Callable[[Operands], None]:
        """`run` for many calls: what does not depend on memory is done in the first.

        The operands of all calls lie on the same device, contiguous and 16-byte aligned.
        """
        return repeated(
            lambda operands, extra: build(plan, problem, operands, extra),
            lambda _: needs(plan, problem),
        )


def needs(plan: Plan, problem: Problem) -> Scratch | None:
    """Partial sums and counters where K is shared by blocks, tensor maps that blocks make; nothing elsewhere."""
    if isinstance(plan, ProductPlan) and plan.patches(problem):
        return Scratch((Piece((group.map_bytes(plan, problem),), torch.uint8),))
    if not isinstance(plan, ProductPlan | DecodePlan) or plan.splits == 1:
        return None
    if isinstance(plan, DecodePlan):
        floats, counters = decode.scratch_sizes(plan, problem)
    else:
        x_rows, y_rows = (problem.n, problem.m) if plan.swapped else (problem.m, problem.n)
        floats, counters = gemm.scratch_sizes(plan, gemm.tile_count(plan, x_rows, y_rows, problem.l))
    return Scratch((Piece((floats,), torch.float32), Piece((counters,), torch.int32, zeroed=True)))


def scratch(plan: Plan, problem: Problem, operands: Operands) -> tuple[torch.Tensor, ...]:
    """The memory of `needs` for one call."""
    needed = needs(plan, problem)
    return needed.allocate(operands.out[0].device) if needed is not None else ()


def kernel_of(plan: Plan, problem: Problem) -> Kernel | None:
    """The kernel that a plan runs, without operands; None for an empty result."""
    if isinstance(plan, GemvPlan):
        return gemv.kernel(plan, problem)
    if isinstance(plan, DecodePlan):
        return plan.kernel(problem)
    products = cast(ProductPlan, plan)
    if problem.op is Op.GROUP_GEMM:
        groups = problem.stacked or min(
            group.at_once(products, problem), sum(1 for m, n, _ in problem.groups if m and n)
        )
        return group.kernel(products, problem, groups) if groups else None
    return products.kernel(problem, "dual_gemm" if problem.op is Op.DUAL_GEMM else "gemm")


def build(plan: Plan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor]) -> tuple[Launch, ...]:
    """The launches, with the memory that `scratch` gave."""
    if isinstance(plan, GemvPlan):
        return gemv.launch(plan, problem, operands)
    memory = (extra[0], extra[1]) if len(extra) == 2 else None
    if isinstance(plan, DecodePlan):
        return decode.launch(plan, problem, operands, memory)
    products = cast(ProductPlan, plan)
    if products.staged and any(out.data_ptr() % 16 for out in operands.out):
        products = replace(products, staged=False)  # tensor maps begin at multiples of 16 bytes
    if problem.op is Op.GROUP_GEMM:
        return group.launch(products, problem, operands, extra[0] if extra else None)
    launch = dual.launch if problem.op is Op.DUAL_GEMM else gemm.launch
    return launch(products, problem, operands, memory)


def _largest(problem: Problem) -> int:
    """At least any size, row of scale tiles, or number of parts of tiles that the kernels count in 32 bits."""
    sizes = problem.groups or ((problem.m, problem.n, problem.k),)
    batch = max(problem.l, problem.stacked)
    tiles = sum((m // 64 + 1 + problem.stacked) * (n // 64 + 1) for m, n, _ in sizes) * problem.l
    rows = max((max(m, n) // 128 + 1) * batch for m, n, _ in sizes)
    return max(4 * tiles, rows, *(max(size) for size in sizes))


BACKEND = Sm100Backend()
