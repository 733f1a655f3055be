"""NVFP4 kernels for Blackwell and Hopper GPUs: GEMV, GEMM, fused dual GEMM, and both GEMMs over groups.

Everything public is here, and is imported when it is first used: `import nvfp4` alone loads neither torch nor CUDA.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvfp4.device import Capability
    from nvfp4.errors import InputError, NVFP4Error, UnsupportedError
    from nvfp4.ops.dual_gemm import dual_gemm
    from nvfp4.ops.explain import explain
    from nvfp4.ops.gemm import gemm
    from nvfp4.ops.gemv import gemv
    from nvfp4.ops.group_dual_gemm import group_dual_gemm
    from nvfp4.ops.group_gemm import group_gemm
    from nvfp4.problem import Format, Op, Problem
    from nvfp4.quantize import quantize
    from nvfp4.tensor import NVFP4Tensor

__version__ = "0.1.0"

_HOMES = {
    "Capability": "nvfp4.device",
    "Format": "nvfp4.problem",
    "InputError": "nvfp4.errors",
    "NVFP4Error": "nvfp4.errors",
    "NVFP4Tensor": "nvfp4.tensor",
    "Op": "nvfp4.problem",
    "Problem": "nvfp4.problem",
    "UnsupportedError": "nvfp4.errors",
    "dual_gemm": "nvfp4.ops.dual_gemm",
    "explain": "nvfp4.ops.explain",
    "gemm": "nvfp4.ops.gemm",
    "gemv": "nvfp4.ops.gemv",
    "group_dual_gemm": "nvfp4.ops.group_dual_gemm",
    "group_gemm": "nvfp4.ops.group_gemm",
    "quantize": "nvfp4.quantize",
}
"""Public name -> module that defines it."""

__all__ = [
    "Capability",
    "Format",
    "InputError",
    "NVFP4Error",
    "NVFP4Tensor",
    "Op",
    "Problem",
    "UnsupportedError",
    "__version__",
    "dual_gemm",
    "explain",
    "gemm",
    "gemv",
    "group_dual_gemm",
    "group_gemm",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nvfp4' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """`nvfp4.quantize` is the function, also after its module, which has the same name, was imported.

    Importing a submodule binds it in its package; this keeps that binding from hiding the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "quantize" and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
