"""Batched GEMV, exact: each matrix A [M, K] times up to 16 vectors."""

from __future__ import annotations

import torch

from nvfp4.errors import InputError
from nvfp4.reference.exact import Exact, Operand, Rows, products
from nvfp4.tensor import NVFP4Tensor


def gemv(a: NVFP4Tensor, x: Operand, bias: torch.Tensor | None = None) -> Exact:
    """``a @ x + bias`` for each vector and matrix.

    Args:
        a: [M, K] or [L, M, K], NVFP4.
        x: NVFP4, float16 or bfloat16: [K] or [N, K] for one matrix; [L, K] or [L, N, K] for a batch.
        bias: [M] float16, bfloat16 or float32, added to the results of every vector and matrix.

    Returns:
        [M] or [N, M]; [L, M] or [L, N, M].

    Raises:
        InputError: The shapes do not fit.
    """
    sums = _products(a, x)
    return sums if bias is None else sums.plus(bias.double())


def _products(a: NVFP4Tensor, x: Operand) -> Exact:
    shape = tuple(x.shape)
    if a.ndim == 2:
        if len(shape) == 1 and isinstance(x, torch.Tensor):
            return products(Rows(x.unsqueeze(0)), Rows(a)).reshape(a.rows)
        if len(shape) == 2:
            return products(Rows(x), Rows(a))
        raise InputError("reference.gemv", "x", "[K] or [N, K] for one matrix", shape, "Index the batch, or reshape.")
    if len(shape) not in (2, 3) or shape[0] != a.L:
        expected = f"[{a.L}, K] or [{a.L}, N, K] for a batch of {a.L}"
        raise InputError("reference.gemv", "x", expected, shape, "Pass vectors for each matrix.")
    if len(shape) == 3:
        out = Exact.empty((a.L, shape[1], a.rows), a.device)
        for i in range(a.L):
            out.fill((i,), products(Rows(x, i), Rows(a, i)))
        return out
    # One vector for each matrix: row i of x belongs to matrix i.
    vectors = x.to_layout("linear") if isinstance(x, NVFP4Tensor) else x
    out = Exact.empty((a.L, a.rows), a.device)
    for i in range(a.L):
        out.fill((slice(i, i + 1),), products(Rows(vectors[i : i + 1]), Rows(a, i)))
    return out
