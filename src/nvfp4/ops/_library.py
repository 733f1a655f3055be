"""Registration with `torch.library`: schemas over plain tensors, implementations, fake kernels.

An operand travels as four arguments: its data (codes, or 16-bit activations), its scales as bytes, its tensor scale,
and the name of its scale layout (``""`` for activations). Scales travel as uint8 because tools that compare arguments
bit by bit (`torch.library.opcheck`) have no such comparison for float8. Each operation has a functional and an out
variant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from nvfp4.backends.base import Operand
from nvfp4.errors import InputError
from nvfp4.formats import as_bytes
from nvfp4.ops import _dispatch, _validate
from nvfp4.ops._call import Call, Spec, signature
from nvfp4.ops._prepare import prepare
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


def _same_memory(made: Call, args: Sequence[Any]) -> bool:
    """Whether the constructor of NVFP4Tensor copied nothing to align it: then `_trusted` makes the same.

    Args:
        made: The call.
        args: The arguments that its operands were made of.
    """
    given = [x for part in args for x in (part if isinstance(part, list) else [part]) if isinstance(x, torch.Tensor)]
    memory = {x.data_ptr() for x in given}
    return all(
        x.codes.data_ptr() in memory and x.scales.data_ptr() in memory
        for x in made.a + made.b
        if isinstance(x, NVFP4Tensor)
    )


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
    data: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor],
    tensor_scales: Sequence[torch.Tensor],
    layout: str,
    make: Callable[..., Operand] = unflatten,
) -> tuple[Operand, ...]:
    """The operands that the arguments of an operator stand for."""
    if not scales:
        return tuple(data)
    every: Sequence[torch.Tensor | None] = tensor_scales or [None] * len(data)
    return tuple([make(x, s, t, layout) for x, s, t in zip(data, scales, every, strict=True)])


def run(call: Call) -> tuple[torch.Tensor, ...]:
    """The results of a call, by the shortest way that shows it to all who want to see it."""
    results = _dispatch.directly(call)
    return dispatch(call) if results is None else results


def dispatch(call: Call) -> tuple[torch.Tensor, ...]:
    """Call the registered operator."""
    spec, out = call.spec, call.out
    call.check_kinds()
    if spec.lists and not torch.compiler.is_compiling():
        # Names the group that is wrong; under torch.compile the operator's own validation has to do.
        call.described()
    flat: list[object] = []
    for name, x in zip(spec.operands, call.arguments(), strict=True):
        flat += flatten_list(spec.op, name, x) if isinstance(x, tuple) else flatten(spec.op, name, x)
    if spec.stacked:
        _tensor(spec, "offsets", call.offsets, "an int32 torch.Tensor")
        flat.append(call.offsets)
    flat += (_validate.out_name(spec.op, call.out_dtype), call.backend)
    if out is None:
        results = getattr(torch.ops.nvfp4, spec.name)(*flat)
        return tuple(results) if spec.lists else (results,)
    for i, one in enumerate(out):
        _tensor(spec, f"out[{i}]" if spec.lists else "out", one)
    getattr(torch.ops.nvfp4, spec.name + "_out")(*flat, list(out) if spec.lists else out[0])
    return out


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


def register(spec: Spec) -> None:
    """Define the operators ``nvfp4::OP(..., str out_dtype, str? backend)`` and ``nvfp4::OP_out(..., out)``.

    The first returns a tensor, or a list of them in a list form; the second returns nothing.
    """
    count = 4 * len(spec.operands)
    tensors = "Tensor[]" if spec.lists else "Tensor"

    def call(args: Sequence[Any], make: Callable[..., Operand]) -> Call:
        """The call that the arguments of an operator stand for; `make` puts an operand together."""
        parts = [args[i : i + 4] for i in range(0, count, 4)]
        rest = iter(args[count:])
        offsets = next(rest) if spec.stacked else None
        dtype, backend, out = _dtype(spec, next(rest)), next(rest), next(rest, None)
        if spec.lists:
            lists = tuple(unflatten_list(x, s, t, layout, make) for x, s, t, layout in parts)
            return Call.of_lists(spec, lists, dtype, out, backend)
        a, *b = (make(*part) for part in parts)
        return Call(spec, (a,), tuple(b), offsets, dtype, None if out is None else (out,), backend)

    def compute(*args: Any) -> tuple[torch.Tensor, ...]:
        # What the first call of a kind is validated for holds for every call of that kind.
        key = ("operator", spec, *map(_signature, args))
        prepared = _dispatch.find(key)
        if prepared is not None:
            return _dispatch.compute(prepared, call(args, _trusted))
        made = call(args, unflatten)
        prepared = prepare(made)
        if made.plain() and _same_memory(made, args[:count]):
            _dispatch.keep(key, prepared)
        return _dispatch.compute(prepared, made)

    def run(*args: Any) -> torch.Tensor | list[torch.Tensor]:
        results = compute(*args)
        return list(results) if spec.lists else results[0]

    def run_out(*args: Any) -> None:
        compute(*args)

    def described(args: Sequence[Any]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """Results without values, and the tensors that were passed for them."""
        made = call(args, unflatten)
        shapes, device = made.described().shapes, made.b[0].device
        return [torch.empty(shape, dtype=made.out_dtype, device=device) for shape in shapes], made.out or ()

    def fake(*args: Any) -> torch.Tensor | list[torch.Tensor]:
        results, _ = described(args)
        return results if spec.lists else results[0]

    def fake_out(*args: Any) -> None:
        for i, (like, out) in enumerate(zip(*described(args), strict=True)):
            name = f"out[{i}]" if spec.lists else "out"
            _validate.out_fits(spec.op, name, out, like.shape, like.dtype, like.device)

    names = (schema_lists if spec.lists else schema)(*spec.operands)
    arguments = names + (", Tensor offsets" if spec.stacked else "") + ", str out_dtype, str? backend"
    _define(f"{spec.name}({arguments}) -> {tensors}", run, fake)
    _define(f"{spec.name}_out({arguments}, {tensors.replace('Tensor', 'Tensor(a!)')} out) -> ()", run_out, fake_out)


def _signature(x: object) -> Hashable:
    """What a prepared call may depend on in one argument of an operator."""
    if isinstance(x, torch.Tensor):
        return signature(x)
    return tuple(map(signature, x)) if isinstance(x, list) else x


def _dtype(spec: Spec, name: str) -> torch.dtype:
    if name not in _validate.OUT_NAMES:
        raise InputError(spec.op, "out_dtype", "'fp16', 'bf16' or 'fp32'", repr(name), "Name one of them.")
    return _validate.OUT_NAMES[name]
