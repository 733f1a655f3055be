"""Peers: what else computes the same on this machine, over the same inputs, each with its weights prepared untimed.

A peer turns the operands of one call into a call of its own. Weights are decoded, quantized or shuffled before timing,
as a server would when it loads a model. Activations that a peer cannot take as NVFP4 are decoded before timing too,
which favours the peer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nvfp4.backends.base import Operand, Operands
from nvfp4.bench.timing import Call
from nvfp4.device import Capability
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Peer:
    """Something to compare with.

    Attributes:
        name: Such as ``"cublas-fp16"``.
        about: What it computes and what it is spared, in one line.
        refuse: Why it does not run a problem on a device; empty when it does.
        prepare: Makes the call for the operands of one call, which returns its result.
        same: Whether it computes the same up to the rounding of its types; not so when a part is left out, or operands
            are rounded to fewer bits.
    """

    name: str
    about: str
    refuse: Callable[[Capability, Problem], tuple[str, ...]]
    prepare: Callable[[Problem, Operands], Call]
    same: bool = True


def dense(operand: Operand, dtype: torch.dtype) -> torch.Tensor:
    """The values of an operand as a plain tensor."""
    return operand.dequantize(dtype) if isinstance(operand, NVFP4Tensor) else operand.to(dtype)


def silu_times(both: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """silu of the left half of the columns times the right half."""
    left, right = both.chunk(2, dim=-1)
    return torch.mul(torch.nn.functional.silu(left), right, out=out)


def _needs_gpu(capability: Capability) -> tuple[str, ...]:
    return () if capability.arch != "cpu" else ("needs a GPU",)


# cuBLAS on decoded 16-bit operands.


def _cublas(dtype: torch.dtype, silu: bool) -> Callable[[Problem, Operands], Call]:
    def prepare(problem: Problem, operands: Operands) -> Call:
        if problem.op.grouped:
            return _loop(problem, operands, dtype, silu)
        a = [dense(x, dtype) for x in operands.a]
        b = [dense(x, dtype) for x in operands.b]
        if problem.op is Op.DUAL_GEMM:
            weights = torch.cat(b).t()
            both = a[0].new_empty(problem.m, 2 * problem.n)
            if not silu:
                return lambda: torch.mm(a[0], weights, out=both)
            out = a[0].new_empty(problem.m, problem.n)
            return lambda: silu_times(torch.mm(a[0], weights, out=both), out)
        # A GEMV is the product of its few vectors with the matrix transposed.
        left, right = (b[0], a[0]) if problem.op is Op.GEMV else (a[0], b[0])
        return _product(left, right)

    return prepare


def _groups(operands: Operands, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Decoded A and B of every group that has rows; B1 and B2 of a dual operation lie below each other."""
    if operands.offsets is None:
        rows = [dense(x, dtype) for x in operands.a]
        weights = [torch.cat([dense(y, dtype) for y in operands.weights(i)]) for i in range(len(rows))]
        return list(zip(rows, weights, strict=True))
    whole = dense(operands.a[0], dtype)
    matrices = torch.cat([dense(x, dtype) for x in operands.b], dim=1)
    ends = operands.offsets.tolist()
    starts = [0, *ends[:-1]]
    return [(whole[i:j], matrices[g]) for g, (i, j) in enumerate(zip(starts, ends, strict=True)) if i < j]


def _loop(problem: Problem, operands: Operands, dtype: torch.dtype, silu: bool) -> Call:
    """One product after another for every group that has rows. The ends of stacked groups are read before timing."""
    groups = _groups(operands, dtype)
    products = [(x, y.t(), x.new_empty(x.shape[0], y.shape[0])) for x, y in groups]
    if not (problem.op.dual and silu):
        return lambda: [torch.mm(x, y, out=out) for x, y, out in products]
    columns = {y.shape[1] for _, y, _ in products}
    if len(columns) > 1:
        return lambda: [silu_times(torch.mm(x, y, out=out)) for x, y, out in products]
    # All products into one tensor, so that SiLU and the multiplication are launched once.
    sizes = [x.shape[0] for x, _ in groups]
    both = groups[0][0].new_empty(sum(sizes), columns.pop())
    parts = [(x, y, out) for (x, y, _), out in zip(products, torch.split(both, sizes), strict=True)]
    result = both.new_empty(both.shape[0], both.shape[1] // 2)

    def call() -> torch.Tensor:
        for x, y, out in parts:
            torch.mm(x, y, out=out)
        return silu_times(both, result)

    return call


def _product(left: torch.Tensor, right: torch.Tensor) -> Call:
    """left [.., m, k] times right [.., n, k] transposed; batches of one are plain products."""
    left = left.unsqueeze(-2) if left.dim() == right.dim() - 1 else left
    if left.dim() == 3 and left.shape[0] == 1:
        left, right = left[0], right[0]
    turned = right.transpose(-1, -2)
    out = left.new_empty(*left.shape[:-1], right.shape[-2])
    if left.dim() == 2:
        return lambda: torch.mm(left, turned, out=out)
    return lambda: torch.bmm(left, turned, out=out)


def _grouped_mm(dtype: torch.dtype) -> Callable[[Problem, Operands], Call]:
    """torch._grouped_mm: one call for all groups, which must agree in N and K."""

    def prepare(problem: Problem, operands: Operands) -> Call:
        device = operands.out[0].device
        if problem.stacked:
            rows, offsets = dense(operands.a[0], dtype), operands.offsets
            weights = torch.cat([dense(x, dtype) for x in operands.b], dim=1)
        else:
            groups = _groups(operands, dtype)
            rows = torch.cat([x for x, _ in groups])
            weights = torch.stack([y for _, y in groups])
            ends = torch.tensor([m for m, _, _ in problem.groups]).cumsum(0)
            offsets = ends.to(device=device, dtype=torch.int32)
        turned = weights.transpose(1, 2)
        if problem.op.dual:
            return lambda: silu_times(torch._grouped_mm(rows, turned, offs=offsets))
        return lambda: torch._grouped_mm(rows, turned, offs=offsets)

    return prepare


def _refuse_grouped_mm(capability: Capability, problem: Problem) -> tuple[str, ...]:
    reasons = list(_needs_gpu(capability))
    if not problem.op.grouped:
        reasons.append("computes groups only")
    if len({(n, k) for _, n, k in problem.groups}) > 1:
        reasons.append("groups must agree in N and K")
    if (9, 0) > capability.compute > (0, 0):
        reasons.append("torch._grouped_mm needs sm_90")
    return tuple(reasons)


def _refuse_cublas(silu: bool) -> Callable[[Capability, Problem], tuple[str, ...]]:
    def refuse(capability: Capability, problem: Problem) -> tuple[str, ...]:
        reasons = _needs_gpu(capability)
        if not silu and not problem.op.dual:
            reasons += ("only dual GEMM has an activation to leave out",)
        return reasons

    return refuse


# cuBLAS FP8: both operands rounded to E4M3 with one scale each. Not the same answer, but what FP8 weights would cost.


def _to_fp8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (values.abs().amax().float() / 448.0).clamp_min(torch.finfo(torch.float32).tiny)
    return (values.float() / scale).to(torch.float8_e4m3fn), scale


def _fp8_product(left: torch.Tensor, right: torch.Tensor) -> Call:
    (x, x_scale), (y, y_scale) = _to_fp8(left), _to_fp8(right)
    turned = y.t()
    return lambda: torch._scaled_mm(
        x, turned, scale_a=x_scale, scale_b=y_scale, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _prepare_fp8(problem: Problem, operands: Operands) -> Call:
    if problem.op.dual or problem.op.grouped:
        pairs = _groups(operands, torch.bfloat16)
    else:
        a = [dense(x, torch.bfloat16) for x in operands.a]
        b = [dense(x, torch.bfloat16) for x in operands.b]
        left, right = (b[0], a[0]) if problem.op is Op.GEMV else (a[0], b[0])
        count = problem.l
        pairs = list(zip(left.reshape(count, -1, problem.k), right.reshape(count, -1, problem.k), strict=True))
    products: list[Any] = [_fp8_product(left, right) for left, right in pairs]
    if problem.op.dual:
        return lambda: [silu_times(product()) for product in products]
    return lambda: [product() for product in products]


def _refuse_fp8(capability: Capability, problem: Problem) -> tuple[str, ...]:
    reasons = list(_needs_gpu(capability))
    if (8, 9) > capability.compute > (0, 0):
        reasons.append("FP8 matrix units need sm_89")
    if problem.stacked:
        reasons.append("no FP8 product for stacked groups is written here")
    columns = problem.m if problem.op is Op.GEMV else problem.n * problem.op.matrices
    if columns % 16 or any(n % 16 for _, n, _ in problem.groups):
        reasons.append("torch._scaled_mm needs a multiple of 16 columns")
    return tuple(reasons)


# cuBLAS NVFP4, where the device has FP4 matrix units.


def _prepare_nvfp4(problem: Problem, operands: Operands) -> Call:
    out_dtype = DTYPES[problem.out_dtype]

    def product(x: NVFP4Tensor, y: NVFP4Tensor) -> Call:
        x, y = x.to_layout("tiled"), y.to_layout("tiled")
        left = x.codes.view(torch.float4_e2m1fn_x2)
        right = y.codes.view(torch.float4_e2m1fn_x2).t()
        factors = (x.scales.flatten(), y.scales.flatten())
        return lambda: torch._scaled_mm(left, right, scale_a=factors[0], scale_b=factors[1], out_dtype=out_dtype)

    a: list[Any] = list(operands.a)
    b: list[Any] = list(operands.b)
    if problem.op.dual:
        silu: Any = torch.nn.functional.silu
        weights: list[Any] = [operands.weights(i) for i in range(len(a))]
        pairs = [(product(x, first), product(x, second)) for x, (first, second) in zip(a, weights, strict=True)]
        return lambda: [silu(first()) * second() for first, second in pairs]
    if not problem.op.grouped and a[0].ndim == 3:
        a, b = [[x[i] for i in range(problem.l)] for x in (a[0], b[0])]
    products = [product(x, y) for x, y in zip(a, b, strict=True)]
    return lambda: [one() for one in products]


def _refuse_nvfp4(capability: Capability, problem: Problem) -> tuple[str, ...]:
    reasons = list(_needs_gpu(capability))
    if (10, 0) > capability.compute > (0, 0):
        reasons.append("FP4 matrix units need sm_100")
    if problem.a.kind != "nvfp4" or problem.b.kind != "nvfp4":
        reasons.append("both operands must be NVFP4")
    if problem.a.tensor_scale or problem.b.tensor_scale:
        reasons.append("tensor scales are not passed on here")
    if problem.stacked or problem.op is Op.GEMV:
        reasons.append("computes GEMM, dual GEMM and groups in list form only")
    return tuple(reasons)


PEERS: tuple[Peer, ...] = (
    Peer(
        "cublas-fp16",
        "cuBLAS fp16 on decoded operands; dual: one product and eager silu*mul; groups: a loop",
        _refuse_cublas(silu=True),
        _cublas(torch.float16, silu=True),
    ),
    Peer(
        "cublas-bf16",
        "cuBLAS bf16 on decoded operands; dual: one product and eager silu*mul; groups: a loop",
        _refuse_cublas(silu=True),
        _cublas(torch.bfloat16, silu=True),
    ),
    Peer(
        "cublas-fp16-products",
        "cuBLAS fp16 on decoded operands, the products of dual GEMM without silu*mul",
        _refuse_cublas(silu=False),
        _cublas(torch.float16, silu=False),
        same=False,
    ),
    Peer(
        "grouped-mm-bf16", "torch._grouped_mm on decoded bf16 operands", _refuse_grouped_mm, _grouped_mm(torch.bfloat16)
    ),
    Peer(
        "cublas-fp8",
        "cuBLAS FP8, operands rounded to E4M3 (an approximate answer)",
        _refuse_fp8,
        _prepare_fp8,
        same=False,
    ),
    Peer("cublas-nvfp4", "cuBLAS NVFP4; dual and groups: one product after another", _refuse_nvfp4, _prepare_nvfp4),
)


def peers() -> tuple[Peer, ...]:
    """All peers, installed or not."""
    from nvfp4.bench.humming import HUMMING

    return (*PEERS, *HUMMING)


def peer(name: str) -> Peer:
    """The peer of that name.

    Raises:
        InputError: There is none.
    """
    everyone = peers()
    for candidate in everyone:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in everyone)
    raise InputError("bench", "peers", f"some of {known}", repr(name), "Name known peers.")


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
