"""GEMM, exact: A [M, K] times B [N, K] transposed."""

from __future__ import annotations

from nvfp4.errors import InputError
from nvfp4.reference.exact import Exact, Operand, Rows, products
from nvfp4.tensor import NVFP4Tensor


def gemm(a: Operand, b: NVFP4Tensor) -> Exact:
    """``a @ b.T`` for each matrix of the batch.

    Args:
        a: [M, K] or [L, M, K], NVFP4, float16 or bfloat16.
        b: [N, K] or [L, N, K], NVFP4.

    Returns:
        [M, N] or [L, M, N].

    Raises:
        InputError: The shapes do not fit.
    """
    if len(a.shape) != len(b.shape) or len(a.shape) not in (2, 3) or tuple(a.shape[:-2]) != tuple(b.shape[:-2]):
        expected = f"as many dimensions and matrices as a, {tuple(a.shape)}"
        raise InputError("reference.gemm", "b", expected, tuple(b.shape), "Pass two matrices, or two batches of them.")
    if len(a.shape) == 2:
        return products(Rows(a), Rows(b))
    count, m, n = a.shape[0], a.shape[1], b.shape[1]
    out = Exact.empty((count, m, n), b.device)
    for i in range(count):
        out.fill((i,), products(Rows(a, i), Rows(b, i)))
    return out
