"""Random operands for a problem, drawn on its device: fifty sets of them must not take longer than the timing.

They have the distribution of the contest's task for the operation (power, and so clocks, depend on the data). What a
check needs, the same operands on every machine and harder ones, is in `nvfp4.check.inputs`.
"""

from __future__ import annotations

import torch

from nvfp4 import formats, layouts
from nvfp4.backends.base import Operand, Operands
from nvfp4.contest.inputs import draw_codes, draw_scales
from nvfp4.contest.tasks import Distribution, distribution_of
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def _operand(shape: tuple[int, ...], form: Format, rule: Distribution, generator: torch.Generator) -> Operand:
    device = generator.device
    *outer, k = shape
    if form.kind != "nvfp4":
        return torch.randn(shape, device=device, generator=generator).to(DTYPES[form.kind])
    codes = draw_codes((*outer, k // 2), rule, generator)
    scales = layouts.by_name(form.scale_layout).pack(draw_scales((*outer, k // formats.BLOCK), rule, generator))
    count = outer[:-1] if len(outer) > 1 else []
    scale = torch.rand(count, device=device, generator=generator) + 0.5 if form.tensor_scale else None
    return NVFP4Tensor(codes, scales, scale, scale_layout=form.scale_layout, validate=False)


def make(
    problem: Problem, *, seed: int, device: torch.device | str, distribution: Distribution | None = None
) -> Operands:
    """Operands and results of one call, as a backend takes them.

    Args:
        problem: What is to be computed. Batches of one are matrices without a batch dimension; groups of the stacked
    form share the rows as evenly as they can; an index names random rows.
        seed: Decides the values, on one kind of device.
        device: Where everything lies.
        distribution: Of codes and block scales; that of the contest's task when None.
    """
    generator = torch.Generator(device=torch.device(device)).manual_seed(seed)
    rule = distribution or distribution_of(problem.op)
    dtype = DTYPES[problem.out_dtype]
    batch = () if problem.l == 1 else (problem.l,)
    sizes = problem.groups or ((problem.m, problem.n, problem.k),)
    a = tuple(_operand((*batch, problem.tokens or m, k), problem.a, rule, generator) for m, _, k in sizes)
    weights = (problem.stacked,) if problem.stacked else batch
    b = tuple(
        _operand((*weights, n, k), problem.b, rule, generator) for _ in range(problem.op.matrices) for _, n, k in sizes
    )
    results = [(n, m) if problem.op is Op.GEMV else (m, n) for m, n, _ in sizes]
    out = tuple(torch.empty((*batch, *result), dtype=dtype, device=device) for result in results)
    offsets = None
    if problem.stacked:
        ends = [problem.m * (group + 1) // problem.stacked for group in range(problem.stacked)]
        offsets = torch.tensor(ends, dtype=torch.int32, device=device)
    rows = None
    if problem.tokens:
        rows = torch.randint(0, problem.tokens, (problem.m,), device=device, generator=generator, dtype=torch.int32)
    return Operands(a, b, out, offsets, rows=rows)


def elements(problem: Problem) -> int:
    """Elements of all operands of a problem, which is what a peer that decodes them stores."""
    if problem.groups:
        return sum((m + problem.op.matrices * n) * k for m, n, k in problem.groups)
    weights = problem.stacked or problem.l
    return (problem.l * problem.m + weights * problem.op.matrices * problem.n) * problem.k
