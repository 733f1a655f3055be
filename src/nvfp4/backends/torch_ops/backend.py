"""The torch_ops backend: which path runs a problem, and the loops over batches, groups and chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nvfp4.backends.base import Operand, Operands, Plan, follows_no_index
from nvfp4.backends.torch_ops import products
from nvfp4.device import Capability
from nvfp4.layouts import TILE_ROWS
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SIZES = {"fp32": 4, "fp16": 2, "bf16": 2}

_CPU_CHUNK = 64 << 20
_GPU_CHUNK = 1 << 30


@dataclass(frozen=True)
class TorchPlan:
    """How torch computes a problem.

    Attributes:
        path: ``"decode"``: decode and multiply with BLAS; ``"scaled_mm"``: cuBLAS multiplies NVFP4 itself.
        operand: Type that operands are decoded to: fp32 on a CPU; on a GPU 16 bits, which hold every code times its
            scale exactly (6 significant bits, 2^-10 to 2688).
        chunk: Rows of one operand that are decoded at a time; a multiple of the rows of a scale tile.
    """

    path: str
    operand: str
    chunk: int

    def describe(self) -> str:
        """One line for people."""
        if self.path == "scaled_mm":
            return "torch._scaled_mm (cuBLAS NVFP4), fp32 result"
        return f"decode to {self.operand}, {self.chunk} rows at a time, matmul with fp32 result"


class TorchBackend:
    """Everything with torch's own operators. Refuses only GPUs without bfloat16 matrix products."""

    name = "torch_ops"

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons not to run `problem`."""
        reasons = [*follows_no_index(problem)]
        if capability.arch != "cpu" and capability.compute < (8, 0):
            reasons.append(f"needs sm_80 or later for 16-bit products with fp32 results, not {capability.arch}")
        return tuple(reasons)

    def plan(self, capability: Capability, problem: Problem) -> TorchPlan:
        """How it runs `problem`."""
        if capability.arch == "cpu":
            operand, budget = "fp32", _CPU_CHUNK
        else:
            activations = problem.b.kind if problem.op is Op.GEMV else problem.a.kind
            operand, budget = ("bf16" if activations == "nvfp4" else activations), _GPU_CHUNK
        path = "scaled_mm" if _native(capability, problem) else "decode"
        rows = budget // (max(problem.k, 1) * _SIZES[operand])
        return TorchPlan(path, operand, max(TILE_ROWS, rows // TILE_ROWS * TILE_ROWS))

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``.

        Stacked groups on a GPU: the ends of the groups are copied to the host, which waits for the device; while a CUDA
        graph is captured that is impossible, and every group is multiplied with all rows instead.
        """
        assert isinstance(plan, TorchPlan)
        with torch.no_grad(), products.plain_precision(operands.out[0].device):
            if problem.stacked:
                _stacked(plan, operands)
            elif problem.op is Op.GEMV:
                _gemv(plan, operands)
            else:
                for a, b, out in _matrices(problem, operands):
                    _multiply(plan, a, b, out)


def _native(capability: Capability, problem: Problem) -> bool:
    """Whether cuBLAS multiplies this as NVFP4: tiled scales, rows of whole 16-byte units (cuBLAS, "FP4 data type")."""
    formats = (problem.a, problem.b)
    return (
        (10, 0) <= capability.compute < (13, 0)
        and problem.op in (Op.GEMM, Op.DUAL_GEMM)
        and all(form.kind == "nvfp4" and form.scale_layout == "tiled" for form in formats)
        and problem.k % 32 == 0
        and problem.n % 16 == 0
    )


def _batches(x: Operand, count: int) -> Iterator[Operand]:
    """The matrices of a batch; a matrix itself is a batch of one."""
    if (x.ndim if isinstance(x, NVFP4Tensor) else x.dim()) == 2:
        yield x
    else:
        for i in range(count):
            yield x[i]


def _matrices(problem: Problem, operands: Operands) -> Iterator[tuple[Operand, tuple[Operand, ...], torch.Tensor]]:
    """(A, (B,) or (B1, B2), result) of every product."""
    if problem.groups:
        for i, (a, out) in enumerate(zip(operands.a, operands.out, strict=True)):
            yield a, operands.weights(i), out
        return
    outs = operands.out[0].view(problem.l, problem.m, problem.n)
    left = _batches(operands.a[0], problem.l)
    rights = zip(*(_batches(b, problem.l) for b in operands.b), strict=True)
    yield from zip(left, rights, outs, strict=True)


def _gemv(plan: TorchPlan, operands: Operands) -> None:
    """The vectors are the rows of A, the matrix is B: the result [N, M] is A times B transposed."""
    (matrix,), (vectors,), (out,) = operands.a, operands.b, operands.out
    count = matrix.shape[0] if len(matrix.shape) == 3 else 1
    outs = out.view(count, -1, out.shape[-1])
    for a, x, result in zip(_batches(matrix, count), _batches(vectors, count), outs, strict=True):
        if operands.bias is None:
            _multiply(plan, x, (a,), result)
            continue
        wide = torch.empty_like(result, dtype=torch.float32)
        _multiply(plan, x, (a,), wide)
        result.copy_(wide.add_(operands.bias.float()))


def _stacked(plan: TorchPlan, operands: Operands) -> None:
    (a,), b, (out,), offsets = operands.a, operands.b, operands.out, operands.offsets
    assert offsets is not None
    if offsets.is_cuda and torch.cuda.is_current_stream_capturing():
        rows = torch.arange(out.shape[0], device=out.device).unsqueeze(1)
        begin = torch.zeros_like(offsets[0])
        scratch = torch.empty_like(out)
        for group, end in enumerate(offsets):
            _multiply(plan, a, tuple(x[group] for x in b), scratch)
            out.copy_(torch.where((rows >= begin) & (rows < end), scratch, out))
            begin = end
        return
    wide = products.decode(a, _DTYPES[plan.operand])
    begin_row = 0
    for group, end_row in enumerate(offsets.tolist()):
        last = min(end_row, out.shape[0])
        if last > begin_row:
            # Decoded rows, because tiled scales cannot be cut at any row; the scale of A comes with them.
            weights = tuple(x[group] for x in b)
            _multiply(plan, wide[begin_row:last], weights, out[begin_row:last], products.scale_of(a))
        begin_row = max(begin_row, last)


def _multiply(
    plan: TorchPlan, a: Operand, b: tuple[Operand, ...], out: torch.Tensor, scale: torch.Tensor | None = None
) -> None:
    """out = A B^T, or silu(A B1^T) * (A B2^T).

    Args:
        plan: How.
        a: [M, K], NVFP4 or values.
        b: One or two NVFP4 [N, K].
        out: [M, N].
        scale: A tensor scale of `a`, when `a` is values of an NVFP4 tensor.
    """
    scale_a = products.scale_of(a) if scale is None else scale
    m, n = out.shape
    if plan.path == "scaled_mm":
        accumulated = [products.scaled_mm(a, x) for x in b]
        _finish(accumulated, scale_a, b, out)
        return
    dtype = _DTYPES[plan.operand]
    for i in range(0, m, plan.chunk):
        left = products.decode(_rows(a, i, plan.chunk), dtype)
        for j in range(0, n, plan.chunk):
            accumulated = [products.matmul(left, products.decode(_rows(x, j, plan.chunk), dtype)) for x in b]
            _finish(accumulated, scale_a, b, out[i : i + plan.chunk, j : j + plan.chunk])


def _rows(x: Operand, begin: int, count: int) -> Operand:
    """Rows begin .. begin + count; `x` itself where that is all of it."""
    return (
        x
        if begin == 0 and count >= (x.rows if isinstance(x, NVFP4Tensor) else x.shape[0])
        else x[begin : begin + count]
    )


def _finish(
    accumulated: list[torch.Tensor], scale_a: torch.Tensor | None, b: tuple[Operand, ...], out: torch.Tensor
) -> None:
    """Apply tensor scales to the fp32 sums, then SiLU where there are two, and round once."""
    for sums, x in zip(accumulated, b, strict=True):
        for scale in (scale_a, products.scale_of(x)):
            if scale is not None:
                sums.mul_(scale)
    result = accumulated[0]
    if len(accumulated) == 2:
        result = torch.nn.functional.silu(result).mul_(accumulated[1])
    out.copy_(result)


BACKEND = TorchBackend()
