"""`nvfp4.gemm`: A [M, K] times B [N, K] transposed."""

from __future__ import annotations

import torch

from nvfp4.backends.base import Operand
from nvfp4.ops import _library, _validate
from nvfp4.ops._call import Call, Spec
from nvfp4.tensor import NVFP4Tensor

_SPEC = Spec("gemm", "gemm", _validate.gemm, ("a", "b"))
_library.register(_SPEC)


def gemm(
    a: Operand,
    b: NVFP4Tensor,
    *,
    out_dtype: torch.dtype = torch.float16,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """A [M, K] times B [N, K] transposed, both with K contiguous; or a batch of such products.

    Products and sums are fp32; tensor scales are applied to the fp32 sum, which is then rounded once.

    Args:
        a: [M, K] or [L, M, K], NVFP4 or float16 or bfloat16 activations.
        b: NVFP4 [N, K] or [L, N, K].
        out_dtype: float16, bfloat16 or float32.
        out: Where the result goes: contiguous, of `out_dtype`, apart from the inputs. None allocates it.
        backend: Name of a backend to use instead of the preferred one.

    Returns:
        [M, N] or [L, M, N].

    Raises:
        InputError: An argument is wrong; nothing was launched.
        UnsupportedError: No backend (or not the one asked for) runs this here; it holds the reasons.
    """
    call = Call(_SPEC, (a,), (b,), None, out_dtype, None if out is None else (out,), backend)
    return _library.run(call)[0]
