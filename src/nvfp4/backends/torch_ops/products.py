"""Exact products with torch: decoded operands, fp32 sums, whatever precision the process has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nvfp4 import formats
from nvfp4.backends.base import Operand
from nvfp4.tensor import NVFP4Tensor


@contextlib.contextmanager
def plain_precision(device: torch.device) -> Iterator[None]:
    """Undo, for the time of one call, process-wide settings that would round operands or sums.

    They are autocast, fp16 accumulation in cuBLAS, and bf16 or TF32 passes for fp32 products on a CPU.
    """
    with contextlib.ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda" and torch.backends.cuda.matmul.allow_fp16_accumulation:
            torch.backends.cuda.matmul.allow_fp16_accumulation = False
            stack.callback(setattr, torch.backends.cuda.matmul, "allow_fp16_accumulation", True)
        if device.type == "cpu":
            settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
            before = settings.fp32_precision
            if before not in ("none", "ieee"):
                settings.fp32_precision = "ieee"
                stack.callback(setattr, settings, "fp32_precision", before)
        yield


def scale_of(x: Operand) -> torch.Tensor | None:
    """The tensor scale of an operand."""
    return x.tensor_scale if isinstance(x, NVFP4Tensor) else None


def decode(x: Operand, dtype: torch.dtype) -> torch.Tensor:
    """Codes times block scales (without the tensor scale), or activations, as [rows, K] of `dtype`: exact."""
    if isinstance(x, torch.Tensor):
        return x.to(dtype)
    values = formats.decode_e2m1(x.codes, dtype)
    scales = formats.decode_e4m3(x.linear_scales(), dtype)
    values.view(*scales.shape, formats.BLOCK).mul_(scales.unsqueeze(-1))
    return values


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A [M, K] times B [N, K] transposed, accumulated and returned in fp32."""
    if a.dtype == torch.float32:
        return torch.mm(a, b.t())
    return torch.mm(a, b.t(), out_dtype=torch.float32)


def scaled_mm(a: Operand, b: Operand) -> torch.Tensor:
    """A [M, K] times B [N, K] transposed by cuBLAS on NVFP4 with tiled scales, in fp32, without tensor scales."""
    assert isinstance(a, NVFP4Tensor)
    assert isinstance(b, NVFP4Tensor)
    return torch._scaled_mm(
        a.codes.view(torch.float4_e2m1fn_x2),
        b.codes.view(torch.float4_e2m1fn_x2).t(),
        a.scales.view(-1),
        b.scales.view(-1),
        out_dtype=torch.float32,
    )
