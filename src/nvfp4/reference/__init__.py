"""The operations, exact: slow beside a kernel, readable, on any device, in bounded memory.

Every function takes the operands of the operation of the same name and returns exact
numbers (`Exact`, `ExactDual`) instead of rounded tensors; ``.rounded(torch.float16)`` rounds them once.
"""

from nvfp4.reference.dual_gemm import ExactDual, dual_gemm
from nvfp4.reference.exact import Exact
from nvfp4.reference.gemm import gemm
from nvfp4.reference.gemv import gemv
from nvfp4.reference.group_dual_gemm import group_dual_gemm
from nvfp4.reference.group_gemm import group_gemm

__all__ = ["Exact", "ExactDual", "dual_gemm", "gemm", "gemv", "group_dual_gemm", "group_gemm"]
