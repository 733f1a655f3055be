"""Registration with `torch.library`: schemas over plain tensors, implementations, fake kernels.

An operand travels as three arguments: its data (codes, or 16-bit activations), its scales as bytes, and its tensor
scale. The layout of the scales shows in their dimensions; every argument takes time. Scales travel as uint8 because
tools that compare arguments bit by bit (`torch.library.opcheck`) have no such comparison for float8. Each operation has
a functional and an out variant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from nvfp4.backends.base import Operand
from nvfp4.errors import InputError
from nvfp4.formats import as_bytes
from nvfp4.ops import _dispatch, _validate
from nvfp4.ops._call import Call, Spec, signature
from nvfp4.ops._prepare import Prepared, prepare
from nvfp4.ops._shortcut import Lists, Singles
from nvfp4.tensor import NVFP4Tensor, maker

_library = torch.library.Library("nvfp4", "DEF")  # type: ignore[no-untyped-call]
_TAGS = tuple(
    getattr(torch.Tag, name) for name in ("pt2_compliant_tag", "needs_exact_strides") if hasattr(torch.Tag, name)
)

Flat = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
_Maker = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], NVFP4Tensor]
FlatList = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


def schema(*names: str) -> str:
    """Schema of the arguments that carry the operands called `names`."""
    return ", ".join(f"Tensor {n}, Tensor? {n}_scales, Tensor? {n}_tensor_scale" for n in names)


def schema_lists(*names: str) -> str:
    """Schema of the arguments that carry lists of operands, all of one format."""
    return ", ".join(f"Tensor[] {n}, Tensor[] {n}_scales, Tensor[] {n}_tensor_scales" for n in names)


def flatten(op: str, name: str, x: object) -> Flat:
    """An operand as the operators take it."""
    if isinstance(x, NVFP4Tensor):
        return x.codes, as_bytes(x.scales), x.tensor_scale
    if not isinstance(x, torch.Tensor):
        raise InputError(op, name, "an NVFP4Tensor or a torch.Tensor", type(x).__name__, "Pass a tensor.")
    return x, None, None


def unflatten(data: torch.Tensor, scales: torch.Tensor | None, scale: torch.Tensor | None) -> Operand:
    """The operand that the arguments of an operator stand for."""
    if scales is None:
        return data
    # Of tiles the constructor demands three dimensions more.
    layout = "linear" if scales.dim() == data.dim() else "tiled"
    return NVFP4Tensor(data, scales, scale, scale_layout=layout, validate=False)


def _same_memory(made: Call, args: Sequence[Any]) -> bool:
    """Whether the constructor of NVFP4Tensor copied nothing to align it: then `maker` makes the same.

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
    data, layouts = [x[0] for x in flat], [x.scale_layout for x in operands if isinstance(x, NVFP4Tensor)]
    scales = [x[1] for x in flat if x[1] is not None]
    tensor_scales = [x[2] for x in flat if x[2] is not None]
    for part, parts in (("scales", scales), ("tensor scale", tensor_scales)):
        if len(parts) not in (0, len(data)) or len(set(layouts)) > 1:
            got = f"{part} in {len(parts)} of {len(data)} operands, layouts {layouts}"
            raise InputError(op, name, "operands of one format", got, "Convert them, or pass tensor scales of 1.0.")
    return data, scales, tensor_scales


def unflatten_list(
    data: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor],
    tensor_scales: Sequence[torch.Tensor],
) -> tuple[Operand, ...]:
    """The operands that the arguments of an operator stand for."""
    if not scales:
        return tuple(data)
    every: Sequence[torch.Tensor | None] = tensor_scales or [None] * len(data)
    return tuple([unflatten(x, s, t) for x, s, t in zip(data, scales, every, strict=True)])


def run(call: Call) -> tuple[torch.Tensor, ...]:
    """The results of a call, by the shortest way that shows it to all who want to see it."""
    results = _dispatch.directly(call)
    return dispatch(call) if results is None else results


def dispatch(call: Call) -> tuple[torch.Tensor, ...]:
    """Call the registered operator."""
    if torch.compiler.is_compiling():
        return _dispatch_flat(call)
    try:
        return _dispatch_flat(call)
    except InputError:
        call.described()  # names the group of a list that is wrong, where this is what is wrong
        raise


def _dispatch_flat(call: Call) -> tuple[torch.Tensor, ...]:
    spec, out = call.spec, call.out
    call.check_kinds()
    flat: list[object] = []
    for name, x in zip(spec.operands, call.arguments(), strict=True):
        flat += flatten_list(spec.op, name, x) if isinstance(x, tuple) else flatten(spec.op, name, x)
    if spec.stacked:
        _tensor(spec, "offsets", call.offsets, "an int32 torch.Tensor")
        flat.append(call.offsets)
        if call.rows is not None:
            _tensor(spec, "rows", call.rows, "an int32 torch.Tensor, or None")
        flat.append(call.rows)
    if spec.bias:
        if call.bias is not None:
            _tensor(spec, "bias", call.bias, "a torch.Tensor, or None")
        flat.append(call.bias)
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
    count = 3 * len(spec.operands)
    tensors = "Tensor[]" if spec.lists else "Tensor"

    def call(args: Sequence[Any]) -> Call:
        """The call that the arguments of an operator stand for."""
        parts = [args[i : i + 3] for i in range(0, count, 3)]
        rest = iter(args[count:])
        offsets, rows = (next(rest), next(rest)) if spec.stacked else (None, None)
        bias = next(rest) if spec.bias else None
        dtype, backend, out = _dtype(spec, next(rest)), next(rest), next(rest, None)
        if spec.lists:
            lists = tuple(unflatten_list(*part) for part in parts)
            return Call.of_lists(spec, lists, dtype, out, backend)
        a, *b = (unflatten(*part) for part in parts)
        outs = None if out is None else (out,)
        return Call(spec, (a,), tuple(b), offsets, dtype, outs, backend, bias=bias, rows=rows)

    # What the first call of a kind is validated for holds for every call of that kind.
    known: dict[Hashable, tuple[Prepared, Callable[[Sequence[Any]], Call]]] = {}

    def compute(shortcut: Singles | Lists, args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        key = _key(args)
        found = known.get(key)
        if found is not None:
            prepared, again = found
            results = _dispatch.compute(prepared, again(args))
            shortcut.remember(args, prepared)
            return results
        made = call(args)
        prepared = prepare(made)
        results = _dispatch.compute(prepared, made)
        if made.plain() and _same_memory(made, args[:count]):
            _dispatch.keep(known, key, (prepared, _again(made, count)))
            shortcut.remember(args, prepared)
        return results

    _dispatch.caches.append(known)

    def shortcuts() -> list[Singles | Lists]:
        """Of the functional and of the out variant."""
        return [(Lists if spec.lists else Singles)(spec, into) for into in (False, True)]

    short, short_out = shortcuts()
    run = short.implementation(lambda args: compute(short, args)[0])
    run_lists = short.implementation(lambda args: list(compute(short, args)))
    into = short_out.implementation(functools.partial(compute, short_out))

    def run_out(*args: Any) -> None:
        into(*args)

    def described(args: Sequence[Any]) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """Results without values, and the tensors that were passed for them."""
        made = call(args)
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
    extra = (", Tensor offsets, Tensor? rows" if spec.stacked else "") + (", Tensor? bias" if spec.bias else "")
    arguments = f"{names}{extra}, str out_dtype, str? backend"
    _define(f"{spec.name}({arguments}) -> {tensors}", run_lists if spec.lists else run, fake)
    _define(f"{spec.name}_out({arguments}, {tensors.replace('Tensor', 'Tensor(a!)')} out) -> ()", run_out, fake_out)

    def prepared(args: Sequence[Any]) -> Prepared | None:
        """What was prepared for a call of an operator with these arguments."""
        found = known.get(_key(args))
        return found and found[0]

    for name, shortcut in zip((spec.name, spec.name + "_out"), shortcuts(), strict=True):
        _shorten(name, shortcut, prepared)


def _shorten(name: str, shortcut: Singles | Lists, prepared: Callable[[Sequence[Any]], Prepared | None]) -> None:
    """Let calls of an operator from Python go the short way around torch's dispatcher, while nobody watches.

    The dispatcher takes as long as all that is ours. What callers of ``torch.ops.nvfp4.OP`` and of its overload reach
    is an attribute of these two, which torch does not document: where it is missing, every call is dispatched.
    """
    packet = getattr(torch.ops.nvfp4, name)
    for operator in (packet, packet.default):
        dispatched = getattr(operator, "_op", None)
        if callable(dispatched):
            operator._op = shortcut.instead_of(dispatched, prepared)


_TENSORS = (torch.Tensor, torch.nn.Parameter, list)


def _key(args: Sequence[Any]) -> Hashable:
    """What a prepared call may depend on in the arguments of an operator."""
    return tuple([_signature(x) if type(x) in _TENSORS else x for x in args])


def _signature(x: Any) -> Hashable:
    """What a prepared call may depend on in one argument of an operator."""
    return tuple(map(signature, x)) if type(x) is list else signature(x)


def _again(made: Call, count: int) -> Callable[[Sequence[Any]], Call]:
    """What makes the calls that arguments stand for which only differ from those of `made` in their memory.

    Args:
        made: A validated call.
        count: Arguments that its operands were made of.
    """
    # Nothing of `made` is kept but its kind.
    spec, out_dtype, backend, groups, into = made.spec, made.out_dtype, made.backend, len(made.a), made.out is not None
    places = range(0, count, 3)
    makers = [
        [maker(x) if isinstance(x, NVFP4Tensor) else None for x in (part if isinstance(part, tuple) else (part,))]
        for part in made.arguments()
    ]

    def put_together(make: _Maker | None, data: Any, scales: Any, tensor_scale: Any) -> Operand:
        operand: Operand = data if make is None else make(data, scales, tensor_scale)
        return operand

    def one(args: Sequence[Any]) -> Call:
        a, *b = [put_together(each[0], *args[i : i + 3]) for each, i in zip(makers, places, strict=True)]
        out = (args[-1],) if into else None
        offsets, rows = args[count : count + 2] if spec.stacked else (None, None)
        bias = args[count + 2 * spec.stacked] if spec.bias else None
        return Call(spec, (a,), tuple(b), offsets, out_dtype, out, backend, bias=bias, rows=rows)

    def lists(args: Sequence[Any]) -> Call:
        nothing = [None] * groups
        sides = [
            [
                put_together(*parts)
                for parts in zip(each, args[i], args[i + 1] or nothing, args[i + 2] or nothing, strict=True)
            ]
            for each, i in zip(makers, places, strict=True)
        ]
        return Call.of_lists(spec, tuple(sides), out_dtype, args[-1] if into else None, backend)

    return lists if spec.lists else one


def _dtype(spec: Spec, name: str) -> torch.dtype:
    if name not in _validate.OUT_NAMES:
        raise InputError(spec.op, "out_dtype", "'fp16', 'bf16' or 'fp32'", repr(name), "Name one of them.")
    return _validate.OUT_NAMES[name]
