"""From the arguments of a call to a `Problem` and the shapes of its results, or to an error that helps.

Everything here looks at shapes, types, strides and devices only, never at values, so it runs on fake tensors as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch

from nvfp4.backends.base import Operand, Operands
from nvfp4.errors import InputError
from nvfp4.formats import BLOCK
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

OUT_DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
"""Types of results, and how a `Problem` calls them."""

OUT_NAMES = {name: dtype for dtype, name in OUT_DTYPES.items()}

ACTIVATIONS = {torch.float16: Format("fp16", ""), torch.bfloat16: Format("bf16", "")}
"""Types of activations that are not NVFP4."""

GEMV_ROWS = 16
"""Most vectors of one gemv."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Described:
    """A validated call.

    Attributes:
        problem: What is to be computed.
        shapes: Shape of each result.
        single: gemv with one vector a matrix and no dimension for it: operands and result lack that dimension.
    """

    problem: Problem
    shapes: tuple[Shape, ...]
    single: bool = False


def out_name(op: str, out_dtype: object) -> str:
    """How a `Problem` calls `out_dtype`."""
    if isinstance(out_dtype, torch.dtype) and out_dtype in OUT_DTYPES:
        return OUT_DTYPES[out_dtype]
    raise InputError(
        op, "out_dtype", "torch.float16, torch.bfloat16 or torch.float32", out_dtype, "Choose one, and cast the result."
    )


def _weights(op: str, name: str, x: object, dims: tuple[int, ...]) -> NVFP4Tensor:
    """`x`, which has to be NVFP4."""
    if not isinstance(x, NVFP4Tensor):
        got = f"a {x.dtype} torch.Tensor" if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(op, name, "an NVFP4Tensor", got, "Build one from codes and scales, or call nvfp4.quantize.")
    if x.ndim not in dims:
        raise InputError(op, name, _dims(dims), f"shape {x.shape}", "Index or stack the tensor.")
    return x


def _dims(dims: tuple[int, ...]) -> str:
    return " or ".join(f"{dim}" for dim in dims) + " dimensions"


def _operand(op: str, name: str, x: object, dims: tuple[int, ...]) -> tuple[Shape, Format, torch.device]:
    """Logical shape, format and device of an operand that is NVFP4 or 16-bit activations."""
    if isinstance(x, NVFP4Tensor):
        _weights(op, name, x, dims)
        return x.shape, x.format, x.device
    if not isinstance(x, torch.Tensor):
        expected = "an NVFP4Tensor, or a float16 or bfloat16 torch.Tensor"
        raise InputError(op, name, expected, type(x).__name__, "Pass a tensor.")
    if x.dtype not in ACTIVATIONS:
        remedy = "Cast the activations, or call nvfp4.quantize."
        if x.dtype in (torch.uint8, getattr(torch, "float4_e2m1fn_x2", None)):
            remedy = "Packed codes need their scales: build an NVFP4Tensor."
        raise InputError(op, name, "NVFP4, float16 or bfloat16", x.dtype, remedy)
    if x.dim() not in dims:
        raise InputError(op, name, _dims(dims), f"shape {tuple(x.shape)}", "Reshape the tensor.")
    if x.shape[-1] % BLOCK:
        remedy = "Pad K with zeros, in both operands."
        raise InputError(op, name, f"K a multiple of {BLOCK}", f"K = {x.shape[-1]}", remedy)
    if not x.is_contiguous():
        got = f"strides {tuple(x.stride())} for shape {tuple(x.shape)}"
        raise InputError(op, name, "contiguous memory, K fastest", got, "Call .contiguous().")
    if x.requires_grad and torch.is_grad_enabled():
        remedy = "nvfp4 has no gradients: pass .detach(), or call it under torch.no_grad()."
        raise InputError(op, name, "a tensor that needs no gradient", "requires_grad=True", remedy)
    return tuple(x.shape), ACTIVATIONS[x.dtype], x.device


def _same_k(op: str, name: str, k: int, expected: int, other: str) -> None:
    if k != expected:
        remedy = f"`{other}` and `{name}` are multiplied along K: both need the same."
        raise InputError(op, name, f"K = {expected}, as `{other}` has", f"K = {k}", remedy)


def _same_device(op: str, name: str, device: torch.device, expected: torch.device, other: str) -> None:
    if device != expected:
        remedy = f"Move both to one device with .to('{expected}')."
        raise InputError(op, name, f"device {expected}, as `{other}` has", device, remedy)


def _same_format(op: str, name: str, form: Format, expected: Format, other: str) -> None:
    if form == expected:
        return
    if form.kind != expected.kind:
        remedy = "One call takes one kind of operand: convert one of them."
    elif form.scale_layout != expected.scale_layout:
        remedy = f"Convert with .to_layout('{expected.scale_layout}')."
    else:
        remedy = "Give both a tensor scale (1.0 changes nothing), or neither."
    raise InputError(op, name, f"{expected}, as `{other}` has", form, remedy)


def _batch(op: str, name: str, shape: Shape, expected: Shape, other: str) -> None:
    if len(shape) != len(expected):
        remedy = "Both operands have a batch dimension, or neither: expand and copy the other."
        raise InputError(op, name, f"{len(expected)} dimensions, as `{other}` has", f"shape {shape}", remedy)
    if len(shape) == 3 and shape[0] != expected[0]:
        remedy = "Batches are not broadcast."
        raise InputError(op, name, f"L = {expected[0]}, as `{other}` has", f"L = {shape[0]}", remedy)


def gemv(a: object, x: object, bias: object, out_dtype: object) -> Described:
    """Check the arguments of gemv: a [M, K] or [L, M, K]; x [K], [N, K] or [L, K], [L, N, K]; bias [M] or None."""
    op = "gemv"
    out = out_name(op, out_dtype)
    matrix = _weights(op, "a", a, (2, 3))
    batched = matrix.ndim == 3
    shape, form, device = _operand(op, "x", x, (2, 3) if batched or isinstance(x, NVFP4Tensor) else (1, 2))
    if isinstance(x, NVFP4Tensor) and not batched and len(shape) != 2:
        raise InputError(op, "x", "[N, K], as `a` has no batch", f"shape {shape}", "Index the batch: x[0].")
    _same_device(op, "x", device, matrix.device, "a")
    _same_k(op, "x", shape[-1], matrix.k, "a")
    if batched and shape[0] != matrix.L:
        raise InputError(op, "x", f"L = {matrix.L}, as `a` has", f"shape {shape}", "Pass vectors for each matrix.")
    single = len(shape) == matrix.ndim - 1
    if single and isinstance(x, NVFP4Tensor) and x.scale_layout == "tiled":
        remedy = "Tiles mix the rows of different matrices here: pass [L, N, K], or linear scales."
        raise InputError(op, "x", f"[L, N, K] = [{matrix.L}, 1..{GEMV_ROWS}, {matrix.k}]", f"shape {shape}", remedy)
    n = 1 if single else shape[-2]
    if n > GEMV_ROWS:
        raise InputError(op, "x", f"at most {GEMV_ROWS} rows", f"{n} rows", "Call nvfp4.gemm(x, a) for more.")
    kind = "" if bias is None else _bias(op, bias, matrix)
    problem = Problem(Op.GEMV, matrix.rows, n, matrix.k, matrix.L, matrix.format, form, out, bias=kind)
    lead = (matrix.L,) if batched else ()
    return Described(problem, ((*lead, matrix.rows) if single else (*lead, n, matrix.rows),), single)


def _bias(op: str, bias: object, matrix: NVFP4Tensor) -> str:
    """The type of a bias, as a `Problem` calls it."""
    if not isinstance(bias, torch.Tensor):
        raise InputError(op, "bias", "a torch.Tensor, or None", type(bias).__name__, "Pass a tensor.")
    if bias.dtype not in OUT_DTYPES:
        raise InputError(op, "bias", "float16, bfloat16 or float32", bias.dtype, "Cast the bias.")
    if tuple(bias.shape) != (matrix.rows,):
        remedy = "It has one value for each row of `a`, the same for all vectors and matrices."
        raise InputError(op, "bias", f"shape ({matrix.rows},)", f"shape {tuple(bias.shape)}", remedy)
    _same_device(op, "bias", bias.device, matrix.device, "a")
    if not bias.is_contiguous():
        raise InputError(op, "bias", "contiguous memory", f"strides {tuple(bias.stride())}", "Call .contiguous().")
    if bias.requires_grad and torch.is_grad_enabled():
        remedy = "nvfp4 has no gradients: pass .detach(), or call it under torch.no_grad()."
        raise InputError(op, "bias", "a tensor that needs no gradient", "requires_grad=True", remedy)
    return OUT_DTYPES[bias.dtype]


def gemm(a: object, b: object, out_dtype: object) -> Described:
    """Check the arguments of gemm: a [M, K] or [L, M, K], b [N, K] or [L, N, K]."""
    op = "gemm"
    out = out_name(op, out_dtype)
    weights = _weights(op, "b", b, (2, 3))
    shape, form, device = _operand(op, "a", a, (2, 3))
    _batch(op, "a", shape, weights.shape, "b")
    _same_device(op, "a", device, weights.device, "b")
    _same_k(op, "a", shape[-1], weights.k, "b")
    m = shape[-2]
    problem = Problem(Op.GEMM, m, weights.rows, weights.k, weights.L, form, weights.format, out)
    return Described(problem, ((*shape[:-2], m, weights.rows),))


def dual_gemm(a: object, b1: object, b2: object, out_dtype: object) -> Described:
    """Check the arguments of dual_gemm: a [M, K], b1 and b2 [N, K]."""
    op = "dual_gemm"
    out = out_name(op, out_dtype)
    gate = _weights(op, "b1", b1, (2,))
    _twin(op, "b2", b2, "b1", gate)
    shape, form, device = _operand(op, "a", a, (2,))
    _same_device(op, "a", device, gate.device, "b1")
    _same_k(op, "a", shape[-1], gate.k, "b1")
    problem = Problem(Op.DUAL_GEMM, shape[0], gate.rows, gate.k, 1, form, gate.format, out)
    return Described(problem, ((shape[0], gate.rows),))


def _twin(op: str, name: str, x: object, other: str, gate: NVFP4Tensor) -> None:
    """Check the second matrix of a dual operation against the first."""
    up = _weights(op, name, x, (gate.ndim,))
    _same_device(op, name, up.device, gate.device, other)
    if up.shape != gate.shape:
        remedy = "The products of gate and up weights are multiplied element by element: both need one shape."
        raise InputError(op, name, f"shape {gate.shape}, as `{other}` has", f"shape {up.shape}", remedy)
    _same_format(op, name, up.format, gate.format, other)


def group_gemm_list(a: Sequence[object], b: Sequence[object], out_dtype: object) -> Described:
    """Check the list form of group_gemm: a_i [M_i, K_i], b_i [N_i, K_i]."""
    return _list(Op.GROUP_GEMM, a, {"b": b}, out_dtype)


def group_dual_gemm_list(
    a: Sequence[object], b1: Sequence[object], b2: Sequence[object], out_dtype: object
) -> Described:
    """Check the list form of group_dual_gemm: a_i [M_i, K_i], b1_i and b2_i [N_i, K_i]."""
    return _list(Op.GROUP_DUAL_GEMM, a, {"b1": b1, "b2": b2}, out_dtype)


def _list(what: Op, a: Sequence[object], bs: dict[str, Sequence[object]], out_dtype: object) -> Described:
    op = what.value
    out = out_name(op, out_dtype)
    name, b = next(iter(bs.items()))
    for other, listed in bs.items():
        if len(a) != len(listed):
            remedy = f"Pass one a and one {other} for each group."
            raise InputError(op, other, f"{len(a)} tensors, as `a` has", f"{len(listed)} tensors", remedy)
    if not len(a):
        raise InputError(op, "a", "at least one group", "an empty list", "Skip the call when there is no group.")
    groups: list[tuple[int, int, int]] = []
    forms: list[tuple[Format, Format]] = []
    device: torch.device | None = None
    for i, (left, right) in enumerate(zip(a, b, strict=True)):
        weights = _weights(op, f"{name}[{i}]", right, (2,))
        shape, form, where = _operand(op, f"a[{i}]", left, (2,))
        device = weights.device if device is None else device
        _same_device(op, f"{name}[{i}]", weights.device, device, f"{name}[0]")
        _same_device(op, f"a[{i}]", where, device, f"{name}[0]")
        _same_k(op, f"a[{i}]", shape[-1], weights.k, f"{name}[{i}]")
        forms.append((form, weights.format))
        _same_format(op, f"a[{i}]", form, forms[0][0], "a[0]")
        _same_format(op, f"{name}[{i}]", weights.format, forms[0][1], f"{name}[0]")
        for other, listed in list(bs.items())[1:]:
            _twin(op, f"{other}[{i}]", listed[i], f"{name}[{i}]", weights)
        groups.append((shape[0], weights.rows, weights.k))
    problem = list_problem(Problem(what, 0, 0, 0, 1, *forms[0], out), groups)
    return Described(problem, tuple((m, n) for m, n, _ in groups))


def list_problem(like: Problem, groups: Sequence[tuple[int, int, int]]) -> Problem:
    """`like` with these groups in the list form: m is the sum over the groups, n and k the maxima."""
    m = sum(group[0] for group in groups)
    n, k = max(group[1] for group in groups), max(group[2] for group in groups)
    return replace(like, m=m, n=n, k=k, groups=tuple(groups))


def group_gemm_stacked(a: object, b: object, offsets: object, rows: object, out_dtype: object) -> Described:
    """Check the stacked form of group_gemm: a [T, K], or [R, K] with rows int32 [T]; b [G, N, K], offsets int32 [G]."""
    return _stacked(Op.GROUP_GEMM, a, {"b": b}, offsets, rows, out_dtype)


def group_dual_gemm_stacked(
    a: object, b1: object, b2: object, offsets: object, rows: object, out_dtype: object
) -> Described:
    """Check the stacked form of group_dual_gemm: b1 and b2 [G, N, K], the others as in `group_gemm_stacked`."""
    return _stacked(Op.GROUP_DUAL_GEMM, a, {"b1": b1, "b2": b2}, offsets, rows, out_dtype)


def _stacked(what: Op, a: object, bs: dict[str, object], offsets: object, rows: object, out_dtype: object) -> Described:
    op = what.value
    out = out_name(op, out_dtype)
    name, b = next(iter(bs.items()))
    weights = _weights(op, name, b, (3,))
    shape, form, device = _operand(op, "a", a, (2,))
    if not weights.L:
        raise InputError(op, name, "at least one group", f"shape {weights.shape}", "Skip the call without groups.")
    for other, twin in list(bs.items())[1:]:
        _twin(op, other, twin, name, weights)
    _same_device(op, "a", device, weights.device, name)
    _same_k(op, "a", shape[-1], weights.k, name)
    if not isinstance(offsets, torch.Tensor):
        raise InputError(op, "offsets", "an int32 torch.Tensor", type(offsets).__name__, "Pass the ends of the groups.")
    if offsets.dtype != torch.int32:
        raise InputError(op, "offsets", "int32", offsets.dtype, "Convert with .int().")
    if tuple(offsets.shape) != (weights.L,):
        remedy = "Pass the end row of each group: the cumulative sum of their sizes, without a leading zero."
        raise InputError(op, "offsets", f"shape [{weights.L}], one end for each group", list(offsets.shape), remedy)
    _same_device(op, "offsets", offsets.device, weights.device, name)
    if not offsets.is_contiguous():
        raise InputError(op, "offsets", "contiguous memory", f"stride {offsets.stride()}", "Call .contiguous().")
    t, tokens = (shape[0], 0) if rows is None else (_index(op, rows, shape[0], device), shape[0])
    problem = Problem(what, t, weights.rows, weights.k, 1, form, weights.format, out, stacked=weights.L, tokens=tokens)
    return Described(problem, ((t, weights.rows),))


def _index(op: str, rows: object, tokens: int, device: torch.device) -> int:
    """Check the index of a stacked form, and count its rows."""
    if not isinstance(rows, torch.Tensor):
        got = type(rows).__name__
        raise InputError(op, "rows", "an int32 torch.Tensor, or None", got, "Pass the row of `a` that each row is.")
    if rows.dtype != torch.int32:
        raise InputError(op, "rows", "int32", rows.dtype, "Convert with .int().")
    if rows.dim() != 1:
        raise InputError(op, "rows", "shape [T], one row of `a` each", f"shape {tuple(rows.shape)}", "Flatten it.")
    _same_device(op, "rows", rows.device, device, "a")
    if not rows.is_contiguous():
        raise InputError(op, "rows", "contiguous memory", f"stride {rows.stride()}", "Call .contiguous().")
    if rows.shape[0] and not tokens:
        raise InputError(op, "a", "at least one row, as `rows` names some", "no rows", "Pass the rows that are named.")
    return rows.shape[0]


_ONE = (torch.Tensor, NVFP4Tensor)


def no_index(op: str, rows: object) -> NoReturn:
    """Say that a call of lists has no index."""
    remedy = "Index the operands of the groups, or pass stacked weights [G, N, K] with offsets."
    raise InputError(op, "rows", "None, as there are no offsets", type(rows).__name__, remedy)


def are_lists(op: str, operands: Sequence[object], out: object) -> None:
    """Check that a call without offsets has lists."""
    if any(isinstance(x, _ONE) for x in operands):
        remedy = "Pass lists, or stacked weights [G, N, K] with offsets."
        raise InputError(op, "offsets", "the end row of each group, for stacked operands", None, remedy)
    if isinstance(out, torch.Tensor):
        raise InputError(op, "out", "a list of tensors", "a torch.Tensor", "Pass one tensor for each group.")


def not_lists(op: str, operands: Mapping[str, object]) -> None:
    """Check that a call with offsets has tensors."""
    for name, x in operands.items():
        if not isinstance(x, _ONE):
            remedy = "With offsets all operands are stacked; leave offsets out for lists."
            raise InputError(op, name, "a tensor, as offsets are given", type(x).__name__, remedy)


def out_fits(op: str, name: str, out: object, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    """Check an ``out=`` tensor against the result that it is to hold."""
    if not isinstance(out, torch.Tensor):
        raise InputError(op, name, "a torch.Tensor", type(out).__name__, "Pass a tensor, or None to allocate one.")
    if out.dtype != dtype:
        raise InputError(op, name, f"{dtype}, the out_dtype", out.dtype, "Pass out_dtype as well, or another tensor.")
    if out.device != device:
        raise InputError(op, name, f"device {device}, where the operands are", out.device, "Allocate it there.")
    if tuple(out.shape) != tuple(shape):
        raise InputError(op, name, f"shape {tuple(shape)}", f"shape {tuple(out.shape)}", "Allocate that shape.")
    if not out.is_contiguous():
        got = f"strides {tuple(out.stride())} for shape {tuple(out.shape)}"
        raise InputError(op, name, "contiguous memory", got, "Pass a contiguous tensor, then copy from it.")
    if out.requires_grad and torch.is_grad_enabled():
        raise InputError(op, name, "a tensor that needs no gradient", "requires_grad=True", "Pass .detach().")


def out_count(op: str, outs: Sequence[object], groups: int) -> None:
    """Check the length of a list of ``out=`` tensors."""
    if len(outs) != groups:
        raise InputError(op, "out", f"{groups} tensors, one for each group", f"{len(outs)} tensors", "Pass that many.")


def no_alias(op: str, operands: Operands) -> None:
    """Name the memory that a result shares with an input or with another result."""
    named = [(side, part) for side, xs in (("a", operands.a), ("b", operands.b)) for x in xs for part in _parts(x)]
    others = (("offsets", operands.offsets), ("bias", operands.bias), ("rows", operands.rows))
    named += [(name, x) for name, x in others if x is not None]
    for i, out in enumerate(operands.out):
        begin = out.data_ptr()
        end = begin + out.nbytes
        for other_name, other in named:
            start = other.data_ptr()
            if start < end and begin < start + other.nbytes:
                name = "out" if len(operands.out) == 1 else f"out[{i}]"
                remedy = "The kernels read inputs while they write: pass separate memory."
                raise InputError(op, name, f"memory apart from `{other_name}`", "overlapping memory", remedy)
        named.append((f"out[{i}]", out))


def _parts(x: Operand) -> tuple[torch.Tensor, ...]:
    if isinstance(x, torch.Tensor):
        return (x,)
    return (x.codes, x.scales) if x.tensor_scale is None else (x.codes, x.scales, x.tensor_scale)
