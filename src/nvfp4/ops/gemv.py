"""`nvfp4.gemv`: a matrix times one or a few vectors."""

from __future__ import annotations

import torch

from nvfp4.backends.base import Operand
from nvfp4.ops import _library, _validate
from nvfp4.ops._call import Call, Spec
from nvfp4.tensor import NVFP4Tensor

_SPEC = Spec("gemv", "gemv", _validate.gemv, ("a", "x"), bias=True, weights=0)
_library.register(_SPEC)


def gemv(
    a: NVFP4Tensor,
    x: Operand,
    *,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """A [M, K] times N vectors of K elements, N at most 16; or a batch of such products.

    Products and sums are fp32; tensor scales are applied to the fp32 sum, the bias is added to it in fp32, and the
    result is rounded once.

    Args:
        a: NVFP4 [M, K] or [L, M, K].
        x: The vectors, NVFP4 or float16 or bfloat16: [K] or [N, K] for one matrix; [L, K] or [L, N, K] for a batch.
            (An NVFP4Tensor always has rows; [L, K] needs linear scales.)
        bias: [M] float16, bfloat16 or float32: added to the results of every vector and matrix.
        out_dtype: float16, bfloat16 or float32.
        out: Where the result goes: contiguous, of `out_dtype`, apart from the inputs. None allocates it.
        backend: Name of a backend to use instead of the preferred one.

    Returns:
        [M] or [N, M]; for a batch [L, M] or [L, N, M].

    Raises:
        InputError: An argument is wrong; nothing was launched.
        UnsupportedError: No backend (or not the one asked for) runs this here; it holds the reasons.
    """
    call = Call(_SPEC, (a,), (x,), None, out_dtype, None if out is None else (out,), backend, (), bias)
    return _library.run(call)[0]
