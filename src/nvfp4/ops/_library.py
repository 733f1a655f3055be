"""Registration with `torch.library`: schemas over plain tensors, implementations, fake kernels.

An operand travels as four arguments: its data (codes, or 16-bit activations), its scales as bytes, its tensor scale,
and the name of its scale layout (``""`` for activations). Scales travel as uint8 because tools that compare arguments
bit by bit (`torch.library.opcheck`) have no such comparison for float8. Each operation has a functional and an out
variant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nvfp4.backends.base import Operand, Operands
from nvfp4.errors import InputError
from nvfp4.formats import as_bytes
from nvfp4.ops import _dispatch, _validate
from nvfp4.ops._dispatch import Spec, signature
from nvfp4.tensor import NVFP4Tensor

_library = torch.library.Library("nvfp4", "DEF")  # type: ignore[no-untyped-call]
_TAGS = tuple(
    getattr(torch.Tag, name) for name in ("pt2_compliant_tag", "needs_exact_strides") if hasattr(torch.Tag, name)
)

Flat = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, str]
FlatList = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], str]


def schema(*names: str) -> str:
    """Schema of the arguments that carry the operands called `names`."""
    return ", ".join(f"Tensor {n}, Tensor? {n}_scales, Tensor? {n}_tensor_scale, str {n}_layout" for n in names)


def schema_lists(*names: str) -> str:
    """Schema of the arguments that carry lists of operands, all of one format."""
    return ", ".join(f"Tensor[] {n}, Tensor[] {n}_scales, Tensor[] {n}_tensor_scales, str {n}_layout" for n in names)


def flatten(op: str, name: str, x: object) -> Flat:
    """An operand as the operators take it."""
    if isinstance(x, NVFP4Tensor):
        return x.codes, as_bytes(x.scales), x.tensor_scale, x.scale_layout
    if not isinstance(x, torch.Tensor):
        raise InputError(op, name, "an NVFP4Tensor or a torch.Tensor", type(x).__name__, "Pass a tensor.")
    return x, None, None, ""


def unflatten(data: torch.Tensor, scales: torch.Tensor | None, scale: torch.Tensor | None, layout: str) -> Operand:
    """The operand that the arguments of an operator stand for."""
    if scales is None:
        return data
    return NVFP4Tensor(data, scales, scale, scale_layout=layout, validate=False)


def _trusted(data: torch.Tensor, scales: torch.Tensor | None, scale: torch.Tensor | None, layout: str) -> Operand:
    """`unflatten` for arguments of a kind that was validated before."""
    return data if scales is None else NVFP4Tensor._trusted(data, scales, scale, layout)


def _same_memory(x: Operand, data: torch.Tensor, scales: torch.Tensor | None) -> bool:
    """Whether the constructor of NVFP4Tensor copied nothing to align it: then `_trusted` makes the same."""
    if not isinstance(x, NVFP4Tensor) or scales is None:
        return True
    return x.codes.data_ptr() == data.data_ptr() and x.scales.data_ptr() == scales.data_ptr()


def flatten_list(op: str, name: str, operands: Sequence[object]) -> FlatList:
    """Operands as the operators take them."""
    flat = [flatten(op, f"{name}[{i}]", x) for i, x in enumerate(operands)]
    data, layout = [x[0] for x in flat], flat[0][3] if flat else ""
    scales = [x[1] for x in flat if x[1] is not None]
    tensor_scales = [x[2] for x in flat if x[2] is not None]
    for part, parts in (("scales", scales), ("tensor scale", tensor_scales)):
        if len(parts) not in (0, len(data)) or any(x[3] != layout for x in flat):
            got = f"{part} in {len(parts)} of {len(data)} operands, layouts {[x[3] for x in flat]}"
            raise InputError(op, name, "operands of one format", got, "Convert them, or pass tensor scales of 1.0.")
    return data, scales, tensor_scales, layout


def unflatten_list(
    data: Sequence[torch.Tensor], scales: Sequence[torch.Tensor], tensor_scales: Sequence[torch.Tensor], layout: str
) -> tuple[Operand, ...]:
    """The operands that the arguments of an operator stand for."""
    if not scales:
        return tuple(data)
    every: Sequence[torch.Tensor | None] = tensor_scales or [None] * len(data)
    return tuple(unflatten(x, s, t, layout) for x, s, t in zip(data, scales, every, strict=True))


def dispatch(
    spec: Spec,
    operands: dict[str, object],
    offsets: torch.Tensor | None,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    backend: str | None,
) -> torch.Tensor:
    """Call the registered operator of an operation with one result.

    Args:
        spec: The operation.
        operands: All operands by name, in order.
        offsets: Stacked groups only.
        out_dtype: Type of the result.
        out: Where the result goes; None to allocate it.
        backend: The backend that the caller asks for.
    """
    flat: list[object] = []
    for name, x in operands.items():
        flat += flatten(spec.op, name, x)
    if offsets is not None:
        _tensor(spec, "offsets", offsets, "an int32 torch.Tensor")
        flat.append(offsets)
    flat += (_validate.out_name(spec.op, out_dtype), backend)
    if out is None:
        result: torch.Tensor = getattr(torch.ops.nvfp4, spec.name)(*flat)
        return result
    _tensor(spec, "out", out)
    getattr(torch.ops.nvfp4, spec.name + "_out")(*flat, out)
    return out


def dispatch_lists(
    spec: Spec,
    lists: dict[str, tuple[Operand, ...]],
    out_dtype: torch.dtype,
    out: Sequence[torch.Tensor] | None,
    backend: str | None,
) -> list[torch.Tensor]:
    """Call the registered operator of a list form; `lists` are its operands by name. Arguments as of `dispatch`."""
    if not torch.compiler.is_compiling():
        # Names the group that is wrong; under torch.compile the operator's own validation has to do.
        spec.describe(*lists.values(), out_dtype)
    flat: list[object] = []
    for name, operands in lists.items():
        flat += flatten_list(spec.op, name, operands)
    flat += (_validate.out_name(spec.op, out_dtype), backend)
    if out is None:
        results: list[torch.Tensor] = getattr(torch.ops.nvfp4, spec.name)(*flat)
        return results
    outs = list(out)
    for i, one in enumerate(outs):
        _tensor(spec, f"out[{i}]", one)
    getattr(torch.ops.nvfp4, spec.name + "_out")(*flat, outs)
    return outs


def _tensor(spec: Spec, name: str, x: object, expected: str = "a torch.Tensor") -> None:
    """What a schema cannot take gets our message instead of the dispatcher's."""
    if not isinstance(x, torch.Tensor):
        raise InputError(spec.op, name, expected, type(x).__name__, "Pass a tensor.")


def _define(signature: str, implementation: Callable[..., object], fake: Callable[..., object]) -> None:
    _library.define(signature, tags=_TAGS)  # type: ignore[no-untyped-call]
    name = signature.partition("(")[0]
    # One implementation for all devices, so that tensors on the wrong ones meet our validation and its message.
    _library.impl(name, implementation, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"nvfp4::{name}", fake, lib=_library)


def register(spec: Spec, left: tuple[str, ...], right: tuple[str, ...], *, stacked: bool = False) -> None:
    """Define the operators ``nvfp4::OP(..., str out_dtype, str? backend) -> Tensor`` and ``nvfp4::OP_out(..., out)``.

    Args:
        spec: The operation.
        left, right: Names of its operands.
        stacked: Whether the argument `offsets` follows them.
    """
    count = len(left) + len(right)

    def split(args: tuple[Any, ...]) -> tuple[list[Operand], torch.Tensor | None, tuple[Any, ...]]:
        operands = [unflatten(*args[4 * i : 4 * i + 4]) for i in range(count)]
        rest = args[4 * count :]
        return (operands, rest[0], rest[1:]) if stacked else (operands, None, rest)

    def run(*args: Any) -> torch.Tensor:
        # What the first call of a kind is validated for holds for every call of that kind.
        key = ("operator", spec.name, *[signature(x) if isinstance(x, torch.Tensor) else x for x in args])
        prepared = _dispatch.find(key)
        make = unflatten if prepared is None else _trusted
        operands = [make(*args[4 * i : 4 * i + 4]) for i in range(count)]
        a, b, rest = tuple(operands[: len(left)]), tuple(operands[len(left) :]), args[4 * count :]
        offsets = rest[0] if stacked else None
        out_dtype, backend, *out = rest[1:] if stacked else rest
        if prepared is None:
            dtype = _dtype(spec, out_dtype)
            prepared = _dispatch.prepare_one(spec, a, b, offsets, dtype, out[0] if out else None, backend)
            if _dispatch.plain(args) and all(_same_memory(x, *args[4 * i : 4 * i + 2]) for i, x in enumerate(operands)):
                _dispatch.keep(key, prepared)
        return _dispatch.run(spec, prepared, Operands(a, b, tuple(out), offsets))

    def run_out(*args: Any) -> None:
        run(*args)

    def fake(*args: Any) -> torch.Tensor:
        operands, offsets, (out_dtype, *_) = split(args)
        dtype = _dtype(spec, out_dtype)
        described = spec.describe(*operands, *(() if offsets is None else (offsets,)), dtype)
        return torch.empty(described.shapes[0], dtype=dtype, device=operands[-1].device)

    def fake_out(*args: Any) -> None:
        expected, out = fake(*args[:-1]), args[-1]
        _validate.out_fits(spec.op, "out", out, expected.shape, expected.dtype, expected.device)

    arguments = schema(*left, *right) + (", Tensor offsets" if stacked else "") + ", str out_dtype, str? backend"
    _define(f"{spec.name}({arguments}) -> Tensor", run, fake)
    _define(f"{spec.name}_out({arguments}, Tensor(a!) out) -> ()", run_out, fake_out)


def register_lists(spec: Spec, names: tuple[str, ...]) -> None:
    """Define the operators of an operation over lists: ``nvfp4::OP -> Tensor[]`` and ``nvfp4::OP_out``.

    Args:
        spec: The operation.
        names: Of its operands, each a list.
    """
    count = len(names)

    def split(args: tuple[Any, ...]) -> tuple[_dispatch.Lists, tuple[Any, ...]]:
        return tuple(unflatten_list(*args[4 * i : 4 * i + 4]) for i in range(count)), args[4 * count :]

    def run(*args: Any) -> list[torch.Tensor]:
        lists, (out_dtype, backend, *out) = split(args)
        return _dispatch.implement_lists(spec, lists, _dtype(spec, out_dtype), out[0] if out else None, backend)

    def run_out(*args: Any) -> None:
        run(*args)

    def fake(*args: Any) -> list[torch.Tensor]:
        lists, (out_dtype, *_) = split(args)
        dtype = _dtype(spec, out_dtype)
        described = spec.describe(*lists, dtype)
        return [torch.empty(shape, dtype=dtype, device=lists[1][0].device) for shape in described.shapes]

    def fake_out(*args: Any) -> None:
        expected, outs = fake(*args[:-1]), args[-1]
        _validate.out_count(spec.op, outs, len(expected))
        for i, (out, like) in enumerate(zip(outs, expected, strict=True)):
            _validate.out_fits(spec.op, f"out[{i}]", out, like.shape, like.dtype, like.device)

    arguments = schema_lists(*names) + ", str out_dtype, str? backend"
    _define(f"{spec.name}({arguments}) -> Tensor[]", run, fake)
    _define(f"{spec.name}_out({arguments}, Tensor(a!)[] out) -> ()", run_out, fake_out)


def _dtype(spec: Spec, name: str) -> torch.dtype:
    if name not in _validate.OUT_NAMES:
        raise InputError(spec.op, "out_dtype", "'fp16', 'bf16' or 'fp32'", repr(name), "Name one of them.")
    return _validate.OUT_NAMES[name]
