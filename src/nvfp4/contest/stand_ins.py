"""Stand-ins for what the contest's own evaluator takes for granted and this machine lacks; imports nothing of nvfp4.

A copy named ``sitecustomize.py`` is put on the path of the official evaluator's processes (`nvfp4.contest.official`),
so that the checkout itself stays as it is:

- the package ``cutlass``, of which the evaluators want classes of exceptions;
- ``torch._scaled_mm`` of NVFP4 operands on a GPU without FP4 matrix units: the same product of decoded operands in
  float64, rounded once.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

_CODES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def lacks_cutlass() -> bool:
    """Whether ``cutlass`` (nvidia-cutlass-dsl) is not installed."""
    return importlib.util.find_spec("cutlass") is None


def lacks_fp4() -> bool:
    """Whether the GPU at hand has no FP4 matrix units."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() < (10, 0)


class _Exceptions(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module below ``cutlass``; whatever is asked of one is a class of exceptions."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] != "cutlass":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return types.ModuleType(spec.name)

    def exec_module(self, module: Any) -> None:
        def attribute(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            found = type(name, (Exception,), {"__module__": module.__name__})
            setattr(module, name, found)
            return found

        module.__getattr__ = attribute


def provide_cutlass() -> None:
    """Make ``from cutlass.cute.nvgpu.common import OpError`` and the like work."""
    sys.meta_path.append(_Exceptions())


def decoded(codes: Any, scales: Any) -> Any:
    """Values of an operand, float64 [rows, K].

    Args:
        codes: float4_e2m1fn_x2 [rows, K/2], K contiguous.
        scales: float8_e4m3fn, 128x4 tiles one after another, flat, as cuBLAS takes them.
    """
    import torch

    data = codes.contiguous().view(torch.uint8).long()
    table = torch.tensor([*_CODES, *(-x for x in _CODES)], dtype=torch.float64, device=codes.device)
    values = table[torch.stack([data & 15, data >> 4], -1)].flatten(-2)
    rows, columns = values.shape[0], values.shape[1] // 16
    tiles = scales.to(codes.device).view(-(-rows // 128), -(-columns // 4), 32, 4, 4)
    factors = tiles.float().double().permute(0, 3, 2, 1, 4).reshape(tiles.shape[0] * 128, -1)[:rows, :columns]
    return (values.view(rows, columns, 16) * factors.unsqueeze(-1)).flatten(-2)


def provide_scaled_mm() -> None:
    """Make ``torch._scaled_mm`` take NVFP4 operands on any device."""
    import torch

    original: Any = torch._scaled_mm

    def scaled_mm(left: Any, right: Any, scale_a: Any, scale_b: Any, **options: Any) -> Any:
        if left.dtype != torch.float4_e2m1fn_x2:
            return original(left, right, scale_a, scale_b, **options)
        product = decoded(left, scale_a) @ decoded(right.t(), scale_b).t()
        return product.to(options.get("out_dtype") or torch.bfloat16)

    torch._scaled_mm = scaled_mm  # type: ignore[assignment]


if __name__ == "sitecustomize":
    if lacks_cutlass():
        provide_cutlass()
    if lacks_fp4():
        provide_scaled_mm()
