"""Grouped GEMM, exact: one product for each group, as lists or as stacked weights with the ends of the groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch

from nvfp4.errors import InputError
from nvfp4.reference.exact import Exact, Operand, Rows, products
from nvfp4.reference.gemm import gemm
from nvfp4.tensor import NVFP4Tensor

_OP = "reference.group_gemm"


@overload
def group_gemm(a: Operand, b: NVFP4Tensor, *, offsets: torch.Tensor, rows: torch.Tensor | None = None) -> Exact: ...


@overload
def group_gemm(
    a: Sequence[Operand], b: Sequence[NVFP4Tensor], *, offsets: None = None, rows: None = None
) -> list[Exact]: ...


def group_gemm(
    a: Operand | Sequence[Operand],
    b: NVFP4Tensor | Sequence[NVFP4Tensor],
    *,
    offsets: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> Exact | list[Exact]:
    """``a_i @ b_i.T`` for every group.

    List form: `a` holds [M_i, K_i], `b` holds [N_i, K_i]; a list of [M_i, N_i] results. Stacked form: `a` is [T, K],
    `b` is NVFP4 [G, N, K], and `offsets` (int32 [G]) holds the end row of each group in `a`; one [T, N] result, whose
    rows beyond the last end are zero. With `rows` (int32 [T]) row i of all groups is ``a[rows[i]]``, of `a` [R, K].

    Raises:
        InputError: The forms are mixed, lengths or shapes do not fit, or a group has a row that is not in `a`.
    """
    if isinstance(b, NVFP4Tensor):
        if offsets is None or not isinstance(a, (NVFP4Tensor, torch.Tensor)):
            raise InputError(_OP, "offsets", "the ends of the groups", offsets, "Stacked weights need offsets.")
        return _stacked(a, b, [int(end) for end in offsets.tolist()], rows)
    if offsets is not None or rows is not None or isinstance(a, (NVFP4Tensor, torch.Tensor)):
        raise InputError(_OP, "b", "stacked NVFP4 [G, N, K] with offsets", "a list", "Use one form for all arguments.")
    if len(a) != len(b):
        raise InputError(_OP, "b", f"{len(a)} groups, as a", f"{len(b)} groups", "Pass one weight for each group.")
    return [gemm(ai, bi) for ai, bi in zip(a, b, strict=True)]


def _stacked(a: Operand, b: NVFP4Tensor, ends: list[int], index: torch.Tensor | None) -> Exact:
    if b.ndim != 3:
        raise InputError(_OP, "b", "stacked weights [G, N, K]", b.shape, "Pass three dimensions.")
    rows = a.shape[0] if index is None else index.shape[0]
    starts = [0, *ends[:-1]]
    if len(ends) != b.L:
        raise InputError(_OP, "offsets", f"one end for each of {b.L} groups", len(ends), "Pass int32 [G].")
    if any(start > end for start, end in zip(starts, ends, strict=True)) or (ends and ends[-1] > rows):
        raise InputError(_OP, "offsets", f"ascending ends, at most {rows}", ends, "Pass the end row of each group.")
    out = Exact.empty((rows, b.rows), b.device)
    # Groups start anywhere, and rows of tiled scales can be taken from multiples of 128 only.
    linear = a.to_layout("linear") if isinstance(a, NVFP4Tensor) else a
    if index is not None:
        linear = _chosen(linear, index[: ends[-1]].long())
    for group, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start < end:
            out.fill((slice(start, end),), products(Rows(linear[start:end]), Rows(b, group)))
    return out


def _chosen(a: Operand, index: torch.Tensor) -> Operand:
    """Rows of `a`."""
    if bool(((index < 0) | (index >= a.shape[0])).any()):
        got = index[(index < 0) | (index >= a.shape[0])][:4].tolist()
        raise InputError(_OP, "rows", f"rows of a, 0 to {a.shape[0] - 1}", got, "Pass the row of a that each row is.")
    return a.take_rows(index) if isinstance(a, NVFP4Tensor) else a[index]
