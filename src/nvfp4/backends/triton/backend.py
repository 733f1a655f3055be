"""The Triton backend: plans, and launches of `kernels`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from nvfp4.backends.base import Operand, Operands, Plan, follows_no_index
from nvfp4.backends.operands import Parts, parts
from nvfp4.device import Capability
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor

_GRID_Y = 65535  # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": grid y and z
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class TritonPlan:
    """How a Triton kernel runs a problem.

    Attributes:
        kernel: ``"gemv"`` (one vector, dot products) or ``"gemm"`` (matrix instructions).
        native: Whether the block-scaled matrix instruction multiplies packed operands; otherwise they are decoded.
        operand: ``"fp16"`` or ``"bf16"``: what operands are decoded to.
        block_m, block_n, block_k: Tile of a program, in elements; gemv has no block_n.
        warps, stages: Warps of a program, and depth of its software pipeline.
    """

    kernel: str
    native: bool
    operand: str
    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int

    def describe(self) -> str:
        """One line for people."""
        how = "tl.dot_scaled" if self.native else f"decode to {self.operand}" + (" + tl.dot" if self.block_n else "")
        tile = f"{self.block_m}x{self.block_n}x{self.block_k}" if self.block_n else f"{self.block_m}x{self.block_k}"
        return f"{self.kernel} kernel, {how}, tiles {tile}, {self.warps} warps, {self.stages} stages"


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU in this process (``TRITON_INTERPRET=1``)."""
    return bool(importlib.import_module("triton").knobs.runtime.interpret)


@functools.cache
def _kernels() -> Any:
    return importlib.import_module("nvfp4.backends.triton.kernels")


class TritonBackend:
    """All operations with the two kernels of `kernels`."""

    name = "triton"

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons not to run `problem`."""
        if not _installed():
            return ("triton is not installed: pip install 'nvfp4[triton]'",)
        reasons = [*follows_no_index(problem)]
        if capability.arch == "cpu":
            if not _interpreted():
                reasons.append("needs a GPU; TRITON_INTERPRET=1 interprets the kernels on a CPU, for tests")
            elif "bf16" in (problem.a.kind, problem.b.kind, problem.out_dtype, problem.bias):
                reasons.append("Triton's interpreter multiplies bfloat16 as integers, and does not round to it")
        elif capability.compute < (8, 0):
            reasons.append(f"needs sm_80 or later, not {capability.arch}")
        batches = max(problem.l, problem.stacked)
        if batches > _GRID_Y:
            reasons.append(f"takes at most {_GRID_Y} batches or groups, not {batches}")
        if max(problem.m, problem.n, problem.k) + 256 > _INT32:
            reasons.append("sizes of 2^31 do not fit its 32-bit sizes")
        if problem.b.kind != "nvfp4" and problem.op is not Op.GEMV:
            reasons.append(f"weights must be NVFP4, not {problem.b.kind}")
        return tuple(reasons)

    def plan(self, capability: Capability, problem: Problem) -> TritonPlan:
        """How it runs `problem`."""
        activations = problem.b.kind if problem.op is Op.GEMV else problem.a.kind
        operand = "bf16" if activations == "bf16" else "fp16"
        if problem.op is Op.GEMV and problem.n == 1:
            return TritonPlan("gemv", False, operand, 16, 0, _block_k(problem.k, 512), 4, 3)
        # For gemv the vectors are the rows of A, and the matrix is B.
        m, n = (problem.n, problem.m) if problem.op is Op.GEMV else (problem.m, problem.n)
        if problem.stacked:
            m = -(-problem.m // problem.stacked)
        dual = problem.op.dual
        if (10, 0) <= capability.compute < (12, 0) and activations == "nvfp4" and m > 16:
            return TritonPlan("gemm", True, operand, 128, 64 if dual or n < 16384 else 128, 256, 4, 3)
        block_m = next(size for size in (16, 32, 64, 128) if size >= m or size == (64 if dual else 128))
        block_n = 64 if dual or n < 16384 else 128
        warps = 8 if block_m * block_n * (2 if dual else 1) >= 128 * 64 else 4
        # Two decoded blocks and their packed sources lie in shared memory: 128 elements along K fit three stages.
        stages = 3 if capability.shared_bytes >= 160 * 1024 else 2
        return TritonPlan("gemm", False, operand, block_m, block_n, _block_k(problem.k, 128), warps, stages)

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``."""
        assert isinstance(plan, TritonPlan)
        if problem.groups:
            for i, (a, out) in enumerate(zip(operands.a, operands.out, strict=True)):
                _gemm(plan, (a, *operands.weights(i)), (out.shape[0], out.shape[1]), Result(out))
            return
        (out,) = operands.out
        if plan.kernel == "gemv":
            _gemv(plan, problem, operands)
        elif problem.op is Op.GEMV:
            _gemm(plan, (operands.b[0], operands.a[0]), (problem.n, problem.m), Result(out, bias=operands.bias))
        else:
            _gemm(plan, (*operands.a, *operands.b), (problem.m, problem.n), Result(out, operands.offsets))


def _block_k(k: int, largest: int) -> int:
    """Enough for all of `k`, as a power of two between what a matrix instruction takes and `largest`."""
    size = 32
    while size < min(k, largest):
        size *= 2
    return size


def _taken(x: Operand) -> tuple[Parts, bool]:
    """An operand's parts, scales as bytes, and whether they are tiled."""
    part = parts(x)
    if part.scales is None:
        return part, False
    assert isinstance(x, NVFP4Tensor)
    return Parts(part.data, part.scales.view(torch.uint8), part.tensor_scale, part.tensor_stride), (
        x.scale_layout == "tiled"
    )


def _k(x: Operand) -> int:
    return x.k if isinstance(x, NVFP4Tensor) else int(x.shape[-1])


def _type(plan: TritonPlan) -> Any:
    language = importlib.import_module("triton.language")
    return language.bfloat16 if plan.operand == "bf16" else language.float16


@dataclass(frozen=True, eq=False)
class Result:
    """Where products go: the offsets of their groups of rows, and the bias of their columns, where they have some."""

    out: torch.Tensor
    offsets: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def _gemm(plan: TritonPlan, operands: tuple[Operand, ...], size: tuple[int, int], result: Result) -> None:
    """A times one or two B, for every matrix of a batch or group of rows; `operands` are A and them."""
    m, n = size
    out, offsets = result.out, result.offsets
    (a, a_tiled), (b, b_tiled) = _taken(operands[0]), _taken(operands[1])
    b2 = _taken(operands[2])[0] if len(operands) == 3 else Parts(None, None, None, 0)  # type: ignore[arg-type]
    batches = offsets.numel() if offsets is not None else out.numel() // (m * n)
    grid = (-(-m // plan.block_m) * -(-n // plan.block_n), batches)
    _kernels().gemm_kernel[grid](
        *(a.data, a.scales, a.tensor_scale),
        *(b.data, b.scales, b.tensor_scale),
        *(b2.data, b2.scales, b2.tensor_scale),
        *(offsets, result.bias, out, m, n, _k(operands[0])),
        A_TILED=a_tiled,
        B_TILED=b_tiled,
        A_STRIDE=a.tensor_stride,
        B_STRIDE=b.tensor_stride,
        B2_STRIDE=b2.tensor_stride,
        TYPE=_type(plan),
        NATIVE=plan.native,
        BLOCK_M=plan.block_m,
        BLOCK_N=plan.block_n,
        BLOCK_K=plan.block_k,
        num_warps=plan.warps,
        num_stages=plan.stages,
    )


def _gemv(plan: TritonPlan, problem: Problem, operands: Operands) -> None:
    (a, a_tiled), (x, x_tiled) = _taken(operands.a[0]), _taken(operands.b[0])
    _kernels().gemv_kernel[(-(-problem.m // plan.block_m), problem.l)](
        *(a.data, a.scales, a.tensor_scale),
        *(x.data, x.scales, x.tensor_scale),
        *(operands.bias, operands.out[0], problem.m, problem.k),
        A_TILED=a_tiled,
        X_TILED=x_tiled,
        A_STRIDE=a.tensor_stride,
        X_STRIDE=x.tensor_stride,
        TYPE=_type(plan),
        BLOCK_M=plan.block_m,
        BLOCK_K=plan.block_k,
        num_warps=plan.warps,
        num_stages=plan.stages,
    )


BACKEND = TritonBackend()
