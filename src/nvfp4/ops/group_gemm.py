"""`nvfp4.group_gemm`: products of many groups at once, as lists of tensors or as stacked weights with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch

from nvfp4.backends.base import Operand
from nvfp4.ops import _dispatch, _library, _validate
from nvfp4.tensor import NVFP4Tensor

_STACKED = _dispatch.Spec("group_gemm", "group_gemm", _validate.group_gemm_stacked)
_LISTS = _dispatch.Spec("group_gemm", "group_gemm_lists", _validate.group_gemm_list)
_library.register(_STACKED, ("a",), ("b",), stacked=True)
_library.register_lists(_LISTS, ("a", "b"))


@overload
def group_gemm(
    a: Sequence[Operand],
    b: Sequence[NVFP4Tensor],
    *,
    offsets: None = None,
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
    out_dtype: torch.dtype = torch.float16,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor: ...


def group_gemm(
    a: Sequence[Operand] | Operand,
    b: Sequence[NVFP4Tensor] | NVFP4Tensor,
    *,
    offsets: torch.Tensor | None = None,
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

    Products and sums are fp32; tensor scales are applied to the fp32 sums, which are then rounded once.

    Args:
        a: NVFP4, or float16 or bfloat16 activations. List form: [M_g, K_g] each; stacked form: [T, K].
        b: NVFP4. List form: [N_g, K_g] each, all in one format; stacked form: [G, N, K].
        offsets: Stacked form only: int32 [G].
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
        return _lists(_validate.as_lists("group_gemm", {"a": a, "b": b}, out), out_dtype, out, backend)  # type: ignore[arg-type]
    _validate.not_lists("group_gemm", {"a": a, "b": b}, out)
    return _stacked(a, b, offsets, out_dtype, out, backend)  # type: ignore[arg-type]


def _lists(
    lists: dict[str, tuple[Operand, ...]],
    out_dtype: torch.dtype,
    out: Sequence[torch.Tensor] | None,
    backend: str | None,
) -> list[torch.Tensor]:
    results = _dispatch.call_lists(_LISTS, tuple(lists.values()), out_dtype, out, backend)
    if results is None:
        results = _library.dispatch_lists(_LISTS, lists, out_dtype, out, backend)
    return results


def _stacked(
    a: Operand,
    b: NVFP4Tensor,
    offsets: torch.Tensor,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    backend: str | None,
) -> torch.Tensor:
    result = _dispatch.call(_STACKED, (a,), (b,), offsets, out_dtype, out, backend)
    if result is None:
        result = _library.dispatch(_STACKED, {"a": a, "b": b}, offsets, out_dtype, out, backend)
    return result
