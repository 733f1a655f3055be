"""The operations as users call them: schema, validation, registration with torch, dispatch. One file an operation.

`_validate` turns arguments into a `Problem` or an error, `_dispatch` holds what is prepared for each kind of call, and
`_library` registers everything with `torch.library`. Importing this package registers all operators, which programs
that were exported with them need before they are loaded.

There are no gradients: operands and results that require one are refused while gradients are recorded, rather than
giving results that silently have none.
"""

from nvfp4.ops import dual_gemm, gemm, gemv, group_dual_gemm, group_gemm

__all__ = ["dual_gemm", "gemm", "gemv", "group_dual_gemm", "group_gemm"]
