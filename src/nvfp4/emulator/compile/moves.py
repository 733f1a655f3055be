"""Comparison, selection, moves and addresses (PTX ISA 9.7.6, 9.7.7, 9.7.9)."""

from __future__ import annotations

from ..ptx.ast import Instruction, Operand, Pair, Sink, Vec, type_bits
from .emitter import Emitter, Unsupported, vec
from .integer import Handler, split_type

__all__ = ["HANDLERS", "compare_integers"]


_INTEGER = {
    "eq": "eq",
    "ne": "ne",
    "lt": "lt",
    "le": "le",
    "gt": "gt",
    "ge": "ge",
    "lo": "lt",
    "ls": "le",
    "hi": "gt",
    "hs": "ge",
}


def compare_integers(e: Emitter, name: str, kind: str, bits: int, a: str, b: str) -> str:
    """A predicate vector."""
    code = _INTEGER[name]
    if code not in ("eq", "ne"):
        code = ("s" if kind == "s" and name not in ("lo", "ls", "hi", "hs") else "u") + code
    return e.op(f"icmp {code} {vec(bits)} {a}, {b}")


def _compare(e: Emitter, i: Instruction, a: Operand, b: Operand) -> str:
    from .floating import compare_floats

    kind = i.parts[-1]
    name = i.parts[1]
    if kind[0] in "fb" and kind not in ("b16", "b32", "b64"):
        return compare_floats(e, name, kind, a, b, i.has("ftz"))
    bits = type_bits(kind)
    return compare_integers(e, name, kind[0], bits, e.read(a, bits, "i"), e.read(b, bits, "i"))


def _setp(e: Emitter, i: Instruction) -> None:
    target = i.operands[0]
    if i.parts[-1] in ("f16x2", "bf16x2"):
        from .floating import compare_pairs

        low, high = compare_pairs(e, i.parts[1], i.parts[-1], i.operands[1], i.operands[2], i.has("ftz"))
        assert isinstance(target, Pair)
        e.write(target.first, low, 1)
        e.write(target.second, high, 1)
        return
    result = _compare(e, i, i.operands[1], i.operands[2])
    inverse = e.op(f"xor <32 x i1> {result}, splat (i1 true)") if isinstance(target, Pair) else ""
    if len(i.operands) > 3:
        code = next(p for p in i.parts[2:] if p in ("and", "or", "xor"))
        other = e.read(i.operands[3], 1)
        result = e.op(f"{code} <32 x i1> {result}, {other}")
        if inverse:
            inverse = e.op(f"{code} <32 x i1> {inverse}, {other}")
    if isinstance(target, Pair):
        e.write(target.second, inverse, 1)
        target = target.first
    e.write(target, result, 1)


def _set(e: Emitter, i: Instruction) -> None:
    result_type = i.parts[-2]
    if i.parts[-1] in ("f16x2", "bf16x2"):
        _set_pairs(e, i, result_type)
        return
    result = _compare(e, i, i.operands[1], i.operands[2])
    if len(i.operands) > 3:
        code = next(p for p in i.parts[2:] if p in ("and", "or", "xor"))
        result = e.op(f"{code} <32 x i1> {result}, {e.read(i.operands[3], 1)}")
    bits = type_bits(result_type)
    yes = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}.get(result_type, -1)
    value = e.op(f"select <32 x i1> {result}, {vec(bits)} {e.splat(yes, bits)}, {vec(bits)} zeroinitializer")
    e.write(i.operands[0], value, bits)


def _set_pairs(e: Emitter, i: Instruction, result_type: str) -> None:
    """Both halves at once: 1.0 in the result type, or all ones of an integer half (PTX ISA 9.7.6.1)."""
    from .floating import compare_pairs

    low, high = compare_pairs(e, i.parts[1], i.parts[-1], i.operands[1], i.operands[2], i.has("ftz"))
    if len(i.operands) > 3:
        code = next(p for p in i.parts[2:] if p in ("and", "or", "xor"))
        other = e.read(i.operands[3], 1)
        low, high = (e.op(f"{code} <32 x i1> {p}, {other}") for p in (low, high))
    one = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(result_type, 0xFFFF)
    k = vec(32)
    parts = [
        e.op(f"select <32 x i1> {p}, {k} {e.splat(one << shift, 32)}, {k} zeroinitializer")
        for p, shift in ((low, 0), (high, 16))
    ]
    e.write(i.operands[0], e.op(f"or {k} {parts[0]}, {parts[1]}"), 32)


def _selp(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    a, b = (e.read(o, bits, "f" if kind == "f" else "u") for o in i.operands[1:3])
    p = e.read(i.operands[3], 1)
    e.write(i.operands[0], e.op(f"select <32 x i1> {p}, {vec(bits)} {a}, {vec(bits)} {b}"), bits)


def _slct(e: Emitter, i: Instruction) -> None:
    bits = type_bits(i.parts[-2])
    a, b = e.read(i.operands[1], bits), e.read(i.operands[2], bits)
    c = e.read(i.operands[3], 32)
    if i.parts[-1] == "f32":
        f = e.op(f"bitcast {vec(32)} {c} to <32 x float>")
        if i.has("ftz"):
            from .floating import flush

            f = flush(e, f, 32)
        p = e.op(f"fcmp oge <32 x float> {f}, zeroinitializer")
    else:
        p = e.op(f"icmp sge {vec(32)} {c}, zeroinitializer")
    e.write(i.operands[0], e.op(f"select <32 x i1> {p}, {vec(bits)} {a}, {vec(bits)} {b}"), bits)


def _mov(e: Emitter, i: Instruction) -> None:
    target, source = i.operands
    name = i.parts[-1]
    bits = 1 if name == "pred" else type_bits(name)
    if isinstance(target, Vec):
        value = e.read(source, bits)
        part = bits // len(target.items)
        for index, item in enumerate(target.items):
            if isinstance(item, Sink):
                continue
            moved = e.op(f"lshr {vec(bits)} {value}, {e.splat(part * index, bits)}") if index else value
            e.write(item, e.resize(moved, bits, part, False), part)
        return
    if isinstance(source, Vec):
        part = bits // len(source.items)
        total = ""
        for index, item in enumerate(source.items):
            piece = e.resize(e.read(item, part), part, bits, False)
            if index:
                piece = e.op(f"shl {vec(bits)} {piece}, {e.splat(part * index, bits)}")
                total = e.op(f"or {vec(bits)} {total}, {piece}")
            else:
                total = piece
        e.write(target, total, bits)
        return
    e.write(target, e.read(source, bits, "f" if name[0] == "f" else "u"), bits)


def _cvta(e: Emitter, i: Instruction) -> None:
    to = i.has("to")
    bits = type_bits(i.parts[-1])
    space = next(p for p in i.parts[1:] if p != "to").split("::")[0]
    value = e.read(i.operands[1], bits)
    if bits == 64 and space in ("shared", "local"):
        from .emitter import GENERIC_WINDOWS

        base = GENERIC_WINDOWS[space]
        if to:
            # The window's offset is the low word; anything else stays wrong and faults at its use.
            value = e.op(f"sub {vec(64)} {value}, {e.splat(base, 64)}")
        else:
            value = e.op(f"add {vec(64)} {value}, {e.splat(base, 64)}")
    e.write(i.operands[0], value, bits)


def _isspacep(e: Emitter, i: Instruction) -> None:
    a = e.read(i.operands[1], 64)
    window = e.op(f"lshr {vec(64)} {a}, {e.splat(56, 64)}")
    space = i.parts[1]
    if space.startswith("shared"):
        value = e.op(f"icmp eq {vec(64)} {window}, {e.splat(1, 64)}")
        if space != "shared::cluster":
            rank = e.op(f"and {vec(64)} {e.op(f'lshr {vec(64)} {a}, {e.splat(24, 64)}')}, {e.splat(0xFFFFFFFF, 64)}")
            own = e.broadcast(e.op(f"zext i32 {e.cta_field('rank')} to i64"), 64)
            value = e.op(f"and <32 x i1> {value}, {e.op(f'icmp eq {vec(64)} {rank}, {own}')}")
    elif space == "local":
        value = e.op(f"icmp eq {vec(64)} {window}, {e.splat(2, 64)}")
    else:
        constant = e.op("or <32 x i1> zeroinitializer, zeroinitializer")
        for low, high in e.layout.constants:
            inside = e.op(
                f"icmp ult {vec(64)} {e.op(f'sub {vec(64)} {a}, {e.splat(low, 64)}')}, {e.splat(high - low, 64)}"
            )
            constant = e.op(f"or <32 x i1> {constant}, {inside}")
        if space == "const":
            value = constant
        elif space == "global":
            plain = e.op(f"icmp eq {vec(64)} {window}, zeroinitializer")
            value = e.op(f"and <32 x i1> {plain}, {e.op(f'xor <32 x i1> {constant}, splat (i1 true)')}")
        else:
            raise Unsupported
    e.write(i.operands[0], value, 1)


def _mapa(e: Emitter, i: Instruction) -> None:
    bits = type_bits(i.parts[-1])
    a = e.read(i.operands[1], bits)
    rank = e.resize(e.read(i.operands[2], 32), 32, bits, False)
    window = e.op(f"and {vec(bits)} {a}, {e.splat((~0xFF000000) & ((1 << bits) - 1), bits)}")
    value = e.op(f"or {vec(bits)} {window}, {e.op(f'shl {vec(bits)} {rank}, {e.splat(24, bits)}')}")
    e.write(i.operands[0], value, bits)


def _getctarank(e: Emitter, i: Instruction) -> None:
    bits = type_bits(i.parts[-1])
    a = e.read(i.operands[1], bits)
    value = e.op(f"lshr {vec(bits)} {a}, {e.splat(24, bits)}")
    value = e.op(f"and {vec(bits)} {value}, {e.splat(255, bits)}")
    e.write(i.operands[0], e.resize(value, bits, 32, False), 32)


def _nothing(e: Emitter, i: Instruction) -> None:
    """Hints without a functional meaning."""


def _createpolicy(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.splat(0x12F0000000000000, 64), 64)


HANDLERS: dict[str, Handler] = {
    "setp": _setp,
    "set": _set,
    "selp": _selp,
    "slct": _slct,
    "mov": _mov,
    "cvta": _cvta,
    "isspacep": _isspacep,
    "mapa": _mapa,
    "getctarank": _getctarank,
    "nanosleep": _nothing,
    "prefetch": _nothing,
    "prefetchu": _nothing,
    "discard": _nothing,
    "applypriority": _nothing,
    "pmevent": _nothing,
    "createpolicy": _createpolicy,
}
