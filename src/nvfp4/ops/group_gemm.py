"""`nvfp4.group_gemm`: products of many groups at once, as lists of tensors or as stacked weights with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, overload

import torch

from nvfp4.backends.base import Operand
from nvfp4.ops import _library, _validate
from nvfp4.ops._call import Call, Spec
from nvfp4.tensor import NVFP4Tensor

_STACKED = Spec("group_gemm", "group_gemm", _validate.group_gemm_stacked, ("a", "b"), stacked=True)
_LISTS = Spec("group_gemm", "group_gemm_lists", _validate.group_gemm_list, ("a", "b"), lists=True)
_library.register(_STACKED)
_library.register(_LISTS)


@overload
def group_gemm(
    a: Sequence[Operand],
    b: Sequence[NVFP4Tensor],
    *,
    offsets: None = None,
    rows: None = None,
    out_dtype: torch.dtype = torch.float16,
    out: Sequence[torch.Tensor] | None = None,
    backend: str | None = None,
) -> list[torch.Tensor]: ...


@overload
def group_gemm(
    a: Operand,
    b: NVFP4Tensor,
    *,
    offsets: torch.Tensor,
    rows: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor: ...


def group_gemm(
    a: Sequence[Operand] | Operand,
    b: Sequence[NVFP4Tensor] | NVFP4Tensor,
    *,
    offsets: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.float16,
    out: Sequence[torch.Tensor] | torch.Tensor | None = None,
    backend: str | None = None,
) -> list[torch.Tensor] | torch.Tensor:
    """A_g [M_g, K] times B_g [N, K] transposed for every group g.

    List form: `a` and `b` are lists with one operand for each group, whose sizes may all differ.

    Stacked form (mixtures of experts): the rows of all groups lie one after another in `a`, the weights are stacked in
    `b`, and `offsets` holds the end row of each group, on the device, as ``torch._grouped_mm`` has it. Kernels read
    them there, so the sizes of the groups may change between replays of a CUDA graph. (Backend torch_ops waits for the
    device outside of graphs.) Ends must not decrease nor exceed T; their values are not checked.

    With `rows`, row i of all groups is ``a[rows[i]]``, so that the tokens of a mixture need not be gathered first. Like
    `offsets` it is read on the device; its values, from 0 to R - 1, are not checked, and none leads outside of `a`.
    (Backends without kernels for that gather the rows; `nvfp4.explain` tells.)

    Products and sums are fp32; tensor scales are applied to the fp32 sums, which are then rounded once.

    Args:
        a: NVFP4, or float16 or bfloat16 activations. List form: [M_g, K_g] each; stacked form: [T, K], or [R, K] with
            `rows`.
        b: NVFP4. List form: [N_g, K_g] each, all in one format; stacked form: [G, N, K].
        offsets: Stacked form only: int32 [G].
        rows: Stacked form only: int32 [T], the row of `a` that each row of the product is; None where `a` holds these
            rows themselves.
        out_dtype: float16, bfloat16 or float32.
        out: Where results go: contiguous, of `out_dtype`, apart from the inputs and each other. None allocates them.
        backend: Name of a backend to use instead of the preferred one.

    Returns:
        List form: a list of [M_g, N_g], which may be parts of one allocation. Stacked form: [T, N]; rows from
        ``offsets[-1]`` on belong to no group and are not written: pass ``out=torch.zeros(...)`` to have zeros there.

    Raises:
        InputError: An argument is wrong; nothing was launched.
        UnsupportedError: No backend (or not the one asked for) runs this here; it holds the reasons.
    """
    if offsets is None:
        if rows is not None:
            _validate.no_index("group_gemm", rows)
        lists: Any = (a, b)
        return list(_library.run(Call.of_lists(_LISTS, lists, out_dtype, out, backend)))  # type: ignore[arg-type]
    # Whether these are tensors is looked at where a call is prepared.
    one: Any = None if out is None else (out,)
    left, right = cast("tuple[Operand, ...]", (a,)), cast("tuple[Operand, ...]", (b,))
    return _library.run(Call(_STACKED, left, right, offsets, out_dtype, one, backend, (), None, rows))[0]
