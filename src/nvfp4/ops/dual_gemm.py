"""`nvfp4.dual_gemm`: two products with one A, joined by SiLU and a multiplication: half of a gated MLP."""

from __future__ import annotations

import torch

from nvfp4.backends.base import Operand
from nvfp4.ops import _library, _validate
from nvfp4.ops._call import Call, Spec
from nvfp4.tensor import NVFP4Tensor

_SPEC = Spec("dual_gemm", "dual_gemm", _validate.dual_gemm, ("a", "b1", "b2"))
_library.register(_SPEC)


def dual_gemm(
    a: Operand,
    b1: NVFP4Tensor,
    b2: NVFP4Tensor,
    *,
    out_dtype: torch.dtype = torch.float16,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """silu(A B1^T) * (A B2^T), where silu(v) = v / (1 + exp(-v)) in fp32.

    Products and sums are fp32; tensor scales are applied to the fp32 sums before SiLU; the result is rounded once.

    Args:
        a: [M, K], NVFP4 or float16 or bfloat16 activations.
        b1: The gate, NVFP4 [N, K].
        b2: The other factor, NVFP4 [N, K], in the format of `b1`.
        out_dtype: float16, bfloat16 or float32.
        out: Where the result goes: contiguous, of `out_dtype`, apart from the inputs. None allocates it.
        backend: Name of a backend to use instead of the preferred one.

    Returns:
        [M, N].

    Raises:
        InputError: An argument is wrong; nothing was launched.
        UnsupportedError: No backend (or not the one asked for) runs this here; it holds the reasons.
    """
    call = Call(_SPEC, (a,), (b1, b2), None, out_dtype, None if out is None else (out,), backend)
    return _library.run(call)[0]
