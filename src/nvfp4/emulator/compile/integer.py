"""Integer arithmetic (PTX ISA 9.7.1, 9.7.2)."""

from __future__ import annotations

from collections.abc import Callable

from ..ptx.ast import Instruction, type_bits
from .emitter import Emitter, vec

__all__ = ["HANDLERS", "Handler", "split_type"]


Handler = Callable[[Emitter, Instruction], None]


def split_type(i: Instruction) -> tuple[str, int]:
    """The last type of an opcode: (kind letter, bits)."""
    name = i.parts[-1]
    return name[0], type_bits(name)


def _add_sub(e: Emitter, i: Instruction) -> None:
    name = i.parts[-1]
    code = "add" if i.base.startswith("add") else "sub"
    if name in ("s16x2", "u16x2"):
        a, b = (e.op(f"bitcast {vec(32)} {e.read(o, 32)} to {vec(16, 64)}") for o in i.operands[1:3])
        made = e.op(f"{code} {vec(16, 64)} {a}, {b}")
        e.write(i.operands[0], e.op(f"bitcast {vec(16, 64)} {made} to {vec(32)}"), 32)
        return
    kind, bits = split_type(i)
    a, b = e.read(i.operands[1], bits, "i"), e.read(i.operands[2], bits, "i")
    if i.has("sat"):
        value = e.intrinsic(f"llvm.s{code}.sat.v32i{bits}", vec(bits), (vec(bits), a), (vec(bits), b))
        e.write(i.operands[0], value, bits)
        return
    carry_in, carry_out = i.base in ("addc", "subc"), i.has("cc")
    if not carry_in and not carry_out:
        e.write(i.operands[0], e.op(f"{code} {vec(bits)} {a}, {b}"), bits)
        return
    del kind
    _carry(e, i, code, a, b, bits, carry_in, carry_out)


def _carry(e: Emitter, i: Instruction, code: str, a: str, b: str, bits: int, carry_in: bool, carry_out: bool) -> None:
    wide = bits * 2
    wa, wb = e.resize(a, bits, wide, False), e.resize(b, bits, wide, False)
    total = e.op(f"{code} {vec(wide)} {wa}, {wb}")
    if carry_in:
        total = e.op(f"{code} {vec(wide)} {total}, {e.resize(e.get('%cc', False), 1, wide, False)}")
    e.write(i.operands[0], e.resize(total, wide, bits, False), bits)
    if carry_out:
        high = e.op(f"lshr {vec(wide)} {total}, {e.splat(bits, wide)}")
        e.set("%cc", e.op(f"icmp ne {vec(wide)} {high}, zeroinitializer"))


def _multiply(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    mode = next((p for p in i.parts if p in ("lo", "hi", "wide")), "lo")
    if i.base in ("mul24", "mad24"):
        _multiply24(e, i, kind, mode)
        return
    a, b = e.read(i.operands[1], bits, "i"), e.read(i.operands[2], bits, "i")
    signed = kind == "s"
    if mode == "lo":
        value, width = e.op(f"mul {vec(bits)} {a}, {b}"), bits
    else:
        wide = bits * 2
        value = e.op(f"mul {vec(wide)} {e.resize(a, bits, wide, signed)}, {e.resize(b, bits, wide, signed)}")
        width = wide
        if mode == "hi":
            value = e.resize(e.op(f"lshr {vec(wide)} {value}, {e.splat(bits, wide)}"), wide, bits, False)
            width = bits
    if i.base.startswith("mad"):
        c = e.read(i.operands[3], width, "i")
        if i.has("cc") or i.base == "madc":
            _carry(e, i, "add", value, c, width, i.base == "madc", i.has("cc"))
            return
        if i.has("sat"):
            value = e.intrinsic(f"llvm.sadd.sat.v32i{width}", vec(width), (vec(width), value), (vec(width), c))
        else:
            value = e.op(f"add {vec(width)} {value}, {c}")
    e.write(i.operands[0], value, width, signed)


def _multiply24(e: Emitter, i: Instruction, kind: str, mode: str) -> None:
    shift = "ashr" if kind == "s" else "lshr"
    parts = []
    for o in i.operands[1:3]:
        top = e.op(f"shl {vec(32)} {e.read(o, 32)}, {e.splat(8, 32)}")
        parts.append(e.resize(e.op(f"{shift} {vec(32)} {top}, {e.splat(8, 32)}"), 32, 64, kind == "s"))
    value = e.op(f"mul {vec(64)} {parts[0]}, {parts[1]}")
    if mode == "hi":
        value = e.op(f"lshr {vec(64)} {value}, {e.splat(16, 64)}")
    value = e.resize(value, 64, 32, False)
    if i.base == "mad24":
        c = e.read(i.operands[3], 32, "i")
        if i.has("sat"):
            value = e.intrinsic("llvm.sadd.sat.v32i32", vec(32), (vec(32), value), (vec(32), c))
        else:
            value = e.op(f"add {vec(32)} {value}, {c}")
    e.write(i.operands[0], value, 32)


def _divide(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    a, b = e.read(i.operands[1], bits, "i"), e.read(i.operands[2], bits, "i")
    sign = "s" if kind == "s" else "u"
    zero = e.op(f"icmp eq {vec(bits)} {b}, zeroinitializer")
    # Inactive lanes hold anything: LLVM must not see a division by zero or the overflowing one. By zero, hardware gives
    # all ones.
    safe = e.op(f"select <32 x i1> {zero}, {vec(bits)} {e.splat(1, bits)}, {vec(bits)} {b}")
    negate = None
    if kind == "s":
        negate = e.op(f"icmp eq {vec(bits)} {b}, {e.splat(-1, bits)}")
        safe = e.op(f"select <32 x i1> {negate}, {vec(bits)} {e.splat(1, bits)}, {vec(bits)} {safe}")
    if i.base == "div":
        value = e.op(f"{sign}div {vec(bits)} {a}, {safe}")
        if negate is not None:
            minus = e.op(f"sub {vec(bits)} zeroinitializer, {a}")
            value = e.op(f"select <32 x i1> {negate}, {vec(bits)} {minus}, {vec(bits)} {value}")
        value = e.op(f"select <32 x i1> {zero}, {vec(bits)} {e.splat(-1, bits)}, {vec(bits)} {value}")
    else:
        value = e.op(f"{sign}rem {vec(bits)} {a}, {safe}")
        value = e.op(f"select <32 x i1> {zero}, {vec(bits)} {a}, {vec(bits)} {value}")
    e.write(i.operands[0], value, bits, kind == "s")


def _min_max(e: Emitter, i: Instruction) -> None:
    name = i.parts[-1]
    code = ("s" if name[0] == "s" else "u") + i.base
    lanes, bits = (64, 16) if name.endswith("x2") else (32, type_bits(name))
    values = [e.read(o, 32 if lanes == 64 else bits, "i") for o in i.operands[1:]]
    if lanes == 64:
        values = [e.op(f"bitcast {vec(32)} {v} to {vec(16, 64)}") for v in values]
    kind = vec(bits, lanes)
    value = values[0]
    for other in values[1:]:
        value = e.intrinsic(f"llvm.{code}.v{lanes}i{bits}", kind, (kind, value), (kind, other))
    if i.has("relu"):
        value = e.intrinsic(f"llvm.smax.v{lanes}i{bits}", kind, (kind, value), (kind, "zeroinitializer"))
    if lanes == 64:
        value, bits = e.op(f"bitcast {kind} {value} to {vec(32)}"), 32
    e.write(i.operands[0], value, bits, name[0] == "s")


def _negate(e: Emitter, i: Instruction) -> None:
    _, bits = split_type(i)
    a = e.read(i.operands[1], bits, "i")
    if i.base == "neg":
        value = e.op(f"sub {vec(bits)} zeroinitializer, {a}")
    elif i.base == "abs":
        value = e.intrinsic(f"llvm.abs.v32i{bits}", vec(bits), (vec(bits), a), ("i1", "false"))
    elif i.base == "not":
        value = e.op(f"xor {vec(bits)} {a}, {e.splat(-1, bits)}")
    else:  # cnot
        value = e.resize(e.op(f"icmp eq {vec(bits)} {a}, zeroinitializer"), 1, bits, False)
    e.write(i.operands[0], value, bits)


def _dot(e: Emitter, i: Instruction) -> None:
    signed_a, signed_b = i.parts[-2][0] == "s", i.parts[-1][0] == "s"
    a, b = e.read(i.operands[1], 32), e.read(i.operands[2], 32)
    total = e.read(i.operands[3], 32)

    def piece(value: str, at: int, width: int, signed: bool) -> str:
        top = e.op(f"shl {vec(32)} {value}, {e.splat(32 - at - width, 32)}")
        return e.op(f"{'ashr' if signed else 'lshr'} {vec(32)} {top}, {e.splat(32 - width, 32)}")

    if i.base == "dp4a":
        pairs = [(8 * n, 8, 8 * n) for n in range(4)]
    else:
        start = 16 if i.has("hi") else 0
        pairs = [(0, 16, start), (16, 16, start + 8)]
    for at_a, width, at_b in pairs:
        product = e.op(f"mul {vec(32)} {piece(a, at_a, width, signed_a)}, {piece(b, at_b, 8, signed_b)}")
        total = e.op(f"add {vec(32)} {total}, {product}")
    e.write(i.operands[0], total, 32)


def _sad(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    a, b, c = (e.read(o, bits) for o in i.operands[1:4])
    k = vec(bits)
    less = e.op(f"icmp {'s' if kind == 's' else 'u'}lt {k} {a}, {b}")
    value = e.op(f"select <32 x i1> {less}, {k} {e.op(f'sub {k} {b}, {a}')}, {k} {e.op(f'sub {k} {a}, {b}')}")
    e.write(i.operands[0], e.op(f"add {k} {value}, {c}"), bits)


HANDLERS: dict[str, Handler] = {
    "add": _add_sub,
    "addc": _add_sub,
    "sub": _add_sub,
    "subc": _add_sub,
    "mul": _multiply,
    "mad": _multiply,
    "madc": _multiply,
    "mul24": _multiply,
    "mad24": _multiply,
    "div": _divide,
    "rem": _divide,
    "min": _min_max,
    "max": _min_max,
    "neg": _negate,
    "abs": _negate,
    "not": _negate,
    "cnot": _negate,
    "dp4a": _dot,
    "dp2a": _dot,
    "sad": _sad,
}
