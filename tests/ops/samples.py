"""Operands for the tests of the operations."""

from __future__ import annotations

import torch

from nvfp4.layouts import by_name
from nvfp4.tensor import NVFP4Tensor

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
"""Types of results."""


def weights(
    *shape: int, layout: str = "linear", scale: float | None = None, seed: int = 0, device: str = "cpu"
) -> NVFP4Tensor:
    """Random NVFP4 [rows, K] or [L, rows, K] whose products are exact in fp32: all codes, scales 0.5 to 2."""
    g = torch.Generator().manual_seed(seed)
    *lead, k = shape
    codes = torch.randint(0, 256, (*lead, k // 2), generator=g, dtype=torch.uint8)
    scales = torch.randint(0, 3, (*lead, k // 16), generator=g).float().sub(1).exp2().to(torch.float8_e4m3fn)
    return NVFP4Tensor(codes, by_name(layout).pack(scales), scale, scale_layout=layout).to(device)


def activations(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 1) -> torch.Tensor:
    """Small integers, whose products are exact."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def values(x: NVFP4Tensor | torch.Tensor) -> torch.Tensor:
    """The float64 values of an operand."""
    return x.double() if isinstance(x, torch.Tensor) else x.dequantize(torch.float64)


def operand(kind: str, *shape: int, layout: str = "linear", seed: int = 0) -> NVFP4Tensor | torch.Tensor:
    """NVFP4 with a tensor scale, or activations."""
    if kind == "nvfp4":
        return weights(*shape, layout=layout, scale=0.25, seed=seed)
    return activations(*shape, dtype=torch.float16 if kind == "fp16" else torch.bfloat16, seed=seed)


def product(a: NVFP4Tensor | torch.Tensor, b: NVFP4Tensor) -> torch.Tensor:
    """A times B transposed in float64."""
    return values(a) @ values(b).transpose(-1, -2)
