"""Judging results: bit equality where sums are exact in fp32, a derived element-wise bound elsewhere.

The bound. A kernel forms exact products of decoded values and adds them in fp32, in any order. With K products and u
the unit of one addition, the sum is within ``gamma_K * sum |products|``, gamma_K = K u / (1 - K u) (Higham, "Accuracy
and Stability of Numerical Algorithms", 2nd ed., section 3.1). Tensor cores truncate where IEEE addition rounds (Fasi,
Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021), so u is 2^-23 rather than 2^-24.
Tensor scales add two fp32 multiplications, a bias one addition, a SiLU a few more operations; conversion to the output
adds half an ulp.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch

from nvfp4 import reference
from nvfp4.backends.base import Operands
from nvfp4.check import diagnosis
from nvfp4.check.inputs import DTYPES
from nvfp4.check.poison import Poisoned
from nvfp4.problem import Op, Problem
from nvfp4.reference import Exact, ExactDual
from nvfp4.tensor import NVFP4Tensor

UNIT = 2.0**-23
"""Relative error of one fp32 addition that may truncate."""

SILU_ROUNDINGS = 16
"""fp32 units (2^-24) that evaluating silu(g) * u may add: exp within 2 ulp, and the error of its argument's range
reduction, one addition, one division or a reciprocal and a product, one product; doubled."""

_UNIT_OUT = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": 2.0**-24}
_SMALLEST = {"fp16": 2.0**-24, "bf16": 2.0**-133, "fp32": 2.0**-149}


@dataclass(frozen=True, eq=False)
class Expected:
    """What one output must be.

    Attributes:
        value: float64, exact result rounded to float64.
        rounded: The output type, the exact result rounded once.
        bound: float64, largest admissible ``|got - value|`` where `exact` is unset.
        exact: bool, where nothing but `rounded` is right.
        magnitude: float64, sum of absolute products (the product of both magnitudes for dual operations).
    """

    value: torch.Tensor
    rounded: torch.Tensor
    bound: torch.Tensor
    exact: torch.Tensor
    magnitude: torch.Tensor


@dataclass(frozen=True)
class Mismatch:
    """One wrong element."""

    where: tuple[int, ...]
    got: float
    want: float
    bound: float

    def __str__(self) -> str:
        allowed = "exactly" if self.bound == 0 else f"within {self.bound:.3g}"
        return f"{list(self.where)}: got {self.got:.9g}, want {self.want:.9g} {allowed}"


@dataclass(frozen=True)
class Verdict:
    """The judgement on one call.

    Attributes:
        elements: Outputs that were looked at.
        exact: Those that had to be bit-equal.
        wrong: Those that were wrong.
        worst: Largest error over its bound, among the others; 0 when there are none.
        first: The first wrong elements, of each output.
        faults: Damage beside the values: guard zones, elements never written.
        diagnoses: Probable causes, best first.
    """

    elements: int
    exact: int
    wrong: int
    worst: float
    first: tuple[Mismatch, ...] = ()
    faults: tuple[str, ...] = ()
    diagnoses: tuple[diagnosis.Diagnosis, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the result is right."""
        return not self.wrong and not self.faults

    @property
    def summary(self) -> str:
        """A few words: ``bit-equal``, the error over its bound, or what is wrong."""
        if not self.ok:
            cause = f": {self.diagnoses[0].cause}" if self.diagnoses else ""
            parts = [f"{self.wrong} of {self.elements} wrong{cause}"] if self.wrong else []
            return "; ".join([*parts, *self.faults])
        if self.exact == self.elements:
            return "bit-equal"
        share = f"{self.exact / self.elements:.0%} bit-equal, " if self.exact else ""
        return f"{share}error {self.worst:.2g} of the bound"

    def __str__(self) -> str:
        lines = [self.summary, *map(str, self.first), *(f"probably: {cause}" for cause in self.diagnoses[:3])]
        return "\n  ".join(lines)


def _power_of_two(scale: torch.Tensor | None) -> torch.Tensor:
    return torch.tensor(True) if scale is None else torch.frexp(scale.cpu()).mantissa.abs() == 0.5


def _scales_exact(operands: Operands) -> torch.Tensor:
    """bool [] or [L]: whether the tensor scales are powers of two, so that applying them rounds nothing."""
    exact = torch.tensor(True)
    for operand in (*operands.a, *operands.b):
        if isinstance(operand, NVFP4Tensor):
            exact = exact & _power_of_two(operand.tensor_scale)
    return exact


def _half_ulp(value: torch.Tensor, dtype: str) -> torch.Tensor:
    return value.abs() * _UNIT_OUT[dtype] + _SMALLEST[dtype] / 2


def _from_exact(problem: Problem, exact: Exact, k: int, scales_exact: torch.Tensor) -> Expected:
    dtype = DTYPES[problem.out_dtype]
    gamma = (k + 4) * UNIT / (1 - (k + 4) * UNIT)
    error = gamma * exact.magnitude
    bound = error + _half_ulp(exact.value.abs() + error, problem.out_dtype)
    # An exact sum times a power of two rounds once; below the fp32 range it would round twice.
    tiny = (exact.value != 0) & (exact.value.abs() < 2.0**-126)
    mask = exact.sums_exact & ~tiny
    if scales_exact.dim():
        mask = mask & scales_exact.to(mask.device).view(-1, *[1] * (mask.dim() - 1))
    elif not bool(scales_exact):
        mask = torch.zeros_like(mask)
    return Expected(exact.value, exact.rounded(dtype), bound, mask, exact.magnitude)


def _from_dual(problem: Problem, dual: ExactDual, k: int) -> Expected:
    gamma = (k + 4) * UNIT / (1 - (k + 4) * UNIT)
    gate = torch.where(dual.gate.sums_exact, 2 * UNIT * dual.gate.value.abs(), gamma * dual.gate.magnitude)
    up = torch.where(dual.up.sums_exact, 2 * UNIT * dual.up.value.abs(), gamma * dual.up.magnitude)
    error = dual.error(gate, up) + SILU_ROUNDINGS * 2.0**-24 * dual.value.abs() + 2.0**-149
    bound = error + _half_ulp(dual.value.abs() + error, problem.out_dtype)
    never = torch.zeros_like(dual.value, dtype=torch.bool)
    magnitude = dual.gate.magnitude * dual.up.magnitude
    return Expected(dual.value, dual.rounded(DTYPES[problem.out_dtype]), bound, never, magnitude)


def _expected_dual(problem: Problem, operands: Operands) -> tuple[Expected, ...]:
    weights = cast("tuple[NVFP4Tensor, ...]", operands.b)
    if problem.groups:
        count = len(problem.groups)
        duals = reference.group_dual_gemm(operands.a, weights[:count], weights[count:])
        sizes = [k for _, _, k in problem.groups]
        return tuple(_from_dual(problem, dual, k) for dual, k in zip(duals, sizes, strict=True))
    if operands.offsets is not None:
        stacked = reference.group_dual_gemm(operands.a[0], *weights, offsets=operands.offsets, rows=operands.rows)
        return (_from_dual(problem, stacked, problem.k),)
    return (_from_dual(problem, reference.dual_gemm(operands.a[0], *weights), problem.k),)


def expected(problem: Problem, operands: Operands) -> tuple[Expected, ...]:
    """What each output must be, by the exact reference."""
    weights = cast("tuple[NVFP4Tensor, ...]", operands.b)
    scales_exact = _scales_exact(operands)
    if problem.op.dual:
        return _expected_dual(problem, operands)
    if problem.groups:
        results = reference.group_gemm(operands.a, weights)
        each = [_scales_exact(Operands((a,), (b,), ())) for a, b in zip(operands.a, operands.b, strict=True)]
        sizes = [k for _, _, k in problem.groups]
        return tuple(_from_exact(problem, r, k, s) for r, k, s in zip(results, sizes, each, strict=True))
    if operands.offsets is not None:
        result = reference.group_gemm(operands.a[0], weights[0], offsets=operands.offsets, rows=operands.rows)
        if scales_exact.dim():  # one scale a group: one flag a row
            ends = operands.offsets.cpu()
            group = torch.bucketize(torch.arange(problem.m), ends, right=True).clamp(max=problem.stacked - 1)
            scales_exact = scales_exact[group]
        return (_from_exact(problem, result, problem.k, scales_exact),)
    if problem.op is Op.GEMV:
        exact = reference.gemv(cast("NVFP4Tensor", operands.a[0]), operands.b[0], operands.bias)
    else:
        exact = reference.gemm(operands.a[0], weights[0])
    return (_from_exact(problem, exact, problem.k, scales_exact),)


def _wrong(got: torch.Tensor, want: Expected) -> tuple[torch.Tensor, float]:
    """Mask of the wrong elements, and the largest error over its bound among the right ones that are not exact."""
    wide = got.double()
    error = (wide - want.value).abs()
    largest = torch.finfo(got.dtype).max
    # Infinity is what rounding gives when an admissible value of its sign lies beyond the largest finite one.
    overflow = torch.isinf(wide) & (want.value * wide.sign() + want.bound >= largest)
    close = (error <= want.bound) | overflow
    same = got == want.rounded  # also takes -0 for +0: the sign of a zero sum depends on the order
    right = torch.where(want.exact, same, close)
    loose = ~want.exact & right & ~overflow
    ratio = (error / want.bound)[loose]
    return ~right, float(ratio.max()) if ratio.numel() else 0.0


def judge(
    problem: Problem,
    operands: Operands,
    outputs: tuple[Poisoned, ...] | None = None,
    *,
    wants: tuple[Expected, ...] | None = None,
    explain: bool = True,
) -> Verdict:
    """Judge the results of one call, ``operands.out``.

    Args:
        problem: What was computed.
        operands: From what, and the results.
        outputs: The poisoned allocations that the results lie in, to look at their guard zones and at elements that
            were never written; None when there are none.
        wants: What the results must be, when `expected` gave it before.
        explain: Whether to look for the cause of a wrong result.
    """
    wants = expected(problem, operands) if wants is None else wants
    wrong = exact = elements = 0
    worst = 0.0
    first: list[Mismatch] = []
    faults: list[str] = []
    bad: list[tuple[int, torch.Tensor]] = []
    for index, (want, got) in enumerate(zip(wants, operands.out, strict=True)):
        mask, ratio = _wrong(got, want)
        if operands.offsets is not None:
            # Rows that belong to no group are not the operation's business: they must stay as they were.
            last = int(operands.offsets[-1])
            mask[last:] = ~outputs[index].unwritten()[last:] if outputs is not None else False
        worst = max(worst, ratio)
        elements += got.numel()
        exact += int(want.exact.sum())
        count = int(mask.sum())
        wrong += count
        if outputs is not None and (damage := outputs[index].guard_damage()):
            faults.append(damage if len(outputs) == 1 else f"output {index}: {damage}")
        if not count:
            continue
        bad.append((index, mask))
        for where in mask.nonzero()[:4].tolist():
            at = tuple(where)
            limit = 0.0 if bool(want.exact[at]) else float(want.bound[at])
            lead = (index,) if len(wants) > 1 else ()
            first.append(Mismatch((*lead, *at), float(got[at]), float(want.value[at]), limit))
    diagnoses: tuple[diagnosis.Diagnosis, ...] = ()
    if bad and explain:
        index, mask = bad[0]
        unwritten = outputs[index].unwritten() if outputs is not None else torch.zeros_like(mask)
        diagnoses = diagnosis.diagnose(_product(problem, operands, wants[index], unwritten, index, mask))
    return Verdict(elements, exact, wrong, worst, tuple(first[:8]), tuple(faults), diagnoses)


def _product(
    problem: Problem, operands: Operands, want: Expected, unwritten: torch.Tensor, index: int, mask: torch.Tensor
) -> diagnosis.Product:
    """The first wrong product of a call, in the form that diagnosis takes: A [M, K] times B [N, K] transposed."""
    result = operands.out[index]
    largest = torch.finfo(result.dtype).max
    got, value = result.double().cpu(), want.value.cpu()
    if operands.bias is not None:
        bias = operands.bias.double().cpu()
        got, value = got - bias, value - bias
    parts = [got, value, want.magnitude.cpu(), unwritten.cpu()]
    unit = _UNIT_OUT[problem.out_dtype]
    b: tuple[diagnosis.Side, ...]
    others: tuple[tuple[str, diagnosis.Side, tuple[diagnosis.Side, ...]], ...]
    if problem.stacked:
        ends = [0, *(operands.offsets.tolist() if operands.offsets is not None else [])]
        row = int(mask.nonzero()[0, 0])
        group = next((g for g in range(problem.stacked) if ends[g] <= row < ends[g + 1]), 0)
        rows = slice(ends[group], ends[group + 1])
        a = diagnosis.side(operands.a[0], None)
        a = diagnosis.take_rows(a, rows if operands.rows is None else operands.rows[rows].long().cpu())
        b = tuple(diagnosis.side(x, group) for x in operands.b)
        others = tuple(
            (f"group {g}", a, tuple(diagnosis.side(x, g) for x in operands.b))
            for g in range(min(problem.stacked, 8))
            if g != group
        )
        parts = [part[rows] for part in parts]
        name = f"group {group}"
    elif problem.groups:
        a = diagnosis.side(operands.a[index], None)
        b = tuple(diagnosis.side(x, None) for x in operands.weights(index))
        name = f"group {index}"
        same = [g for g, sizes in enumerate(problem.groups) if sizes[2] == problem.groups[index][2] and g != index]
        others = tuple(
            (
                f"group {g}",
                diagnosis.side(operands.a[g], None),
                tuple(diagnosis.side(x, None) for x in operands.weights(g)),
            )
            for g in same[:8]
        )
    else:
        batch = int(mask.nonzero()[0, 0]) if got.dim() == 3 else None
        if batch is not None:
            parts = [part[batch] for part in parts]
        # The matrix of a gemv is `a`, its vectors are `b`: the result [N, M] is vectors times the matrix transposed.
        left, right = (operands.b[:1], operands.a) if problem.op is Op.GEMV else (operands.a, operands.b)
        a, b = diagnosis.side(left[0], batch), tuple(diagnosis.side(x, batch) for x in right)
        name = "" if batch is None else f"batch {batch}"
        others = tuple(
            (f"batch {i}", diagnosis.side(left[0], i), tuple(diagnosis.side(x, i) for x in right))
            for i in range(min(problem.l, 8))
            if batch is not None and i != batch
        )
    return diagnosis.Product(problem.op, a, b, parts[0], parts[1], parts[2], unit, largest, name, others, parts[3])
