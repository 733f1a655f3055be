"""Integer arithmetic, logic, shifts, comparison and data movement (PTX ISA 9.7.1, 9.7.2, 9.7.6 to 9.7.9)."""

from __future__ import annotations

from collections.abc import Callable

from ..ptx.ast import Imm, Instruction, Operand, Pair, Sink, Vec, type_bits
from .emitter import Emitter, Unsupported, vec

__all__ = ["HANDLERS", "compare_integers", "split_type"]

Handler = Callable[[Emitter, Instruction], None]


def split_type(i: Instruction) -> tuple[str, int]:
    """The last type of an opcode: (kind letter, bits)."""
    name = i.parts[-1]
    return name[0], type_bits(name)


def _simple(code: str) -> Handler:
    def run(e: Emitter, i: Instruction) -> None:
        _, bits = split_type(i)
        a, b = e.read(i.operands[1], bits, "i"), e.read(i.operands[2], bits, "i")
        e.write(i.operands[0], e.op(f"{code} {vec(bits)} {a}, {b}"), bits)

    return run


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


def _shift(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    a = e.read(i.operands[1], bits, "i")
    count = i.operands[2]
    code = "shl" if i.base == "shl" else ("ashr" if kind == "s" else "lshr")
    if isinstance(count, Imm):
        n = int(count.value) & 0xFFFFFFFF
        if n >= bits:
            if code == "ashr":
                value = e.op(f"ashr {vec(bits)} {a}, {e.splat(bits - 1, bits)}")
            else:
                value = "zeroinitializer"
        else:
            value = e.op(f"{code} {vec(bits)} {a}, {e.splat(n, bits)}")
        e.write(i.operands[0], value, bits, kind == "s")
        return
    n_ = e.read(count, 32)
    clamped = e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), n_), (vec(32), e.splat(bits - 1, 32)))
    value = e.op(f"{code} {vec(bits)} {a}, {e.resize(clamped, 32, bits, False)}")
    if code != "ashr":
        far = e.op(f"icmp uge {vec(32)} {n_}, {e.splat(bits, 32)}")
        value = e.op(f"select <32 x i1> {far}, {vec(bits)} zeroinitializer, {vec(bits)} {value}")
    e.write(i.operands[0], value, bits, kind == "s")


def _funnel(e: Emitter, i: Instruction) -> None:
    low, high, n = (e.read(o, 32) for o in i.operands[1:4])
    wide = e.op(f"shl {vec(64)} {e.resize(high, 32, 64, False)}, {e.splat(32, 64)}")
    wide = e.op(f"or {vec(64)} {wide}, {e.resize(low, 32, 64, False)}")
    if i.has("wrap"):
        n = e.op(f"and {vec(32)} {n}, {e.splat(31, 32)}")
    else:
        n = e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), n), (vec(32), e.splat(32, 32)))
    n = e.resize(n, 32, 64, False)
    if i.parts[1] == "l":
        wide = e.op(f"lshr {vec(64)} {e.op(f'shl {vec(64)} {wide}, {n}')}, {e.splat(32, 64)}")
    else:
        wide = e.op(f"lshr {vec(64)} {wide}, {n}")
    e.write(i.operands[0], e.resize(wide, 64, 32, False), 32)


def _logic(code: str) -> Handler:
    def run(e: Emitter, i: Instruction) -> None:
        _, bits = split_type(i)
        a, b = e.read(i.operands[1], bits), e.read(i.operands[2], bits)
        e.write(i.operands[0], e.op(f"{code} {vec(bits)} {a}, {b}"), bits)

    return run


def _lop3(e: Emitter, i: Instruction) -> None:
    operands = list(i.operands)
    extra = None
    if any(p in ("or", "and") for p in i.parts[1:-1]):
        extra = operands[-1]
        operands = operands[:-1]
    a, b, c = (e.read(o, 32) for o in operands[1:4])
    table = operands[4]
    assert isinstance(table, Imm)
    value = _truth(e, a, b, c, int(table.value) & 255)
    target = operands[0]
    if isinstance(target, Pair):
        nonzero = e.op(f"icmp ne {vec(32)} {value}, zeroinitializer")
        if extra is not None:
            nonzero = e.op(f"{'or' if i.has('or') else 'and'} <32 x i1> {nonzero}, {e.read(extra, 1)}")
        e.write(target.second, nonzero, 1)
        target = target.first
    e.write(target, value, 32)


_FOLDS: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    ("and", lambda x, y: x & y),
    ("or", lambda x, y: x | y),
    ("xor", lambda x, y: x ^ y),
)


def _truth(e: Emitter, a: str, b: str, c: str, table: int) -> str:
    kind = vec(32)
    known = {
        0x00: "zeroinitializer",
        0xFF: e.splat(-1, 32),
        0xF0: a,
        0xCC: b,
        0xAA: c,
    }
    if table in known:
        return known[table]
    for code, fold in _FOLDS:
        for x, tx in ((a, 0xF0), (b, 0xCC), (c, 0xAA)):
            for y, ty in ((a, 0xF0), (b, 0xCC), (c, 0xAA)):
                if tx > ty and fold(tx, ty) == table:
                    return e.op(f"{code} {kind} {x}, {y}")
        # The third operand joins a pair.
        for inner, fold2 in _FOLDS:
            for x, tx, y, ty, z, tz in (
                (a, 0xF0, b, 0xCC, c, 0xAA),
                (a, 0xF0, c, 0xAA, b, 0xCC),
                (b, 0xCC, c, 0xAA, a, 0xF0),
            ):
                if fold(fold2(tx, ty), tz) == table:
                    return e.op(f"{code} {kind} {e.op(f'{inner} {kind} {x}, {y}')}, {z}")
    result = "zeroinitializer"
    for index in range(8):
        if table >> index & 1:
            terms = [
                v if index >> bit & 1 else e.op(f"xor {kind} {v}, {e.splat(-1, 32)}")
                for v, bit in ((a, 2), (b, 1), (c, 0))
            ]
            term = e.op(f"and {kind} {e.op(f'and {kind} {terms[0]}, {terms[1]}')}, {terms[2]}")
            result = e.op(f"or {kind} {result}, {term}")
    return result


def _bfe(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    a = e.read(i.operands[1], bits)
    position = e.op(f"and {vec(32)} {e.read(i.operands[2], 32)}, {e.splat(255, 32)}")
    length = e.op(f"and {vec(32)} {e.read(i.operands[3], 32)}, {e.splat(255, 32)}")
    wide = 64 if bits == 32 else 128
    value = e.resize(a, bits, wide, kind == "s")
    limit = e.splat(bits, 32)
    position = e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), position), (vec(32), limit))
    length = e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), length), (vec(32), limit))
    value = e.op(f"{'ashr' if kind == 's' else 'lshr'} {vec(wide)} {value}, {e.resize(position, 32, wide, False)}")
    rest = e.resize(e.op(f"sub {vec(32)} {e.splat(wide, 32)}, {length}"), 32, wide, False)
    rest = e.intrinsic(f"llvm.umin.v32i{wide}", vec(wide), (vec(wide), rest), (vec(wide), e.splat(wide - 1, wide)))
    value = e.op(f"shl {vec(wide)} {value}, {rest}")
    value = e.op(f"{'ashr' if kind == 's' else 'lshr'} {vec(wide)} {value}, {rest}")
    empty = e.op(f"icmp eq {vec(32)} {length}, zeroinitializer")
    value = e.op(f"select <32 x i1> {empty}, {vec(wide)} zeroinitializer, {vec(wide)} {value}")
    e.write(i.operands[0], e.resize(value, wide, bits, False), bits)


def _bfi(e: Emitter, i: Instruction) -> None:
    _, bits = split_type(i)
    f, base = e.read(i.operands[1], bits), e.read(i.operands[2], bits)
    position = e.op(f"and {vec(32)} {e.read(i.operands[3], 32)}, {e.splat(255, 32)}")
    length = e.op(f"and {vec(32)} {e.read(i.operands[4], 32)}, {e.splat(255, 32)}")
    limit = e.splat(bits, 32)
    wide = bits * 2
    position = e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), position), (vec(32), limit))
    length = e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), length), (vec(32), limit))
    p, n = e.resize(position, 32, wide, False), e.resize(length, 32, wide, False)
    mask = e.op(f"shl {vec(wide)} {e.splat(1, wide)}, {n}")
    mask = e.op(f"shl {vec(wide)} {e.op(f'sub {vec(wide)} {mask}, {e.splat(1, wide)}')}, {p}")
    moved = e.op(f"shl {vec(wide)} {e.resize(f, bits, wide, False)}, {p}")
    mask, moved = e.resize(mask, wide, bits, False), e.resize(moved, wide, bits, False)
    keep = e.op(f"and {vec(bits)} {base}, {e.op(f'xor {vec(bits)} {mask}, {e.splat(-1, bits)}')}")
    e.write(i.operands[0], e.op(f"or {vec(bits)} {keep}, {e.op(f'and {vec(bits)} {moved}, {mask}')}"), bits)


def _count(e: Emitter, i: Instruction) -> None:
    kind, bits = split_type(i)
    a = e.read(i.operands[1], bits)
    k = vec(bits)
    if i.base == "popc":
        value = e.intrinsic(f"llvm.ctpop.v32i{bits}", k, (k, a))
    elif i.base == "clz":
        value = e.intrinsic(f"llvm.ctlz.v32i{bits}", k, (k, a), ("i1", "false"))
    elif i.base == "brev":
        e.write(i.operands[0], e.intrinsic(f"llvm.bitreverse.v32i{bits}", k, (k, a)), bits)
        return
    else:  # bfind
        if kind == "s":
            flipped = e.op(f"xor {k} {a}, {e.splat(-1, bits)}")
            negative = e.op(f"icmp slt {k} {a}, zeroinitializer")
            a = e.op(f"select <32 x i1> {negative}, {k} {flipped}, {k} {a}")
        zeros = e.intrinsic(f"llvm.ctlz.v32i{bits}", k, (k, a), ("i1", "false"))
        value = zeros if i.has("shiftamt") else e.op(f"sub {k} {e.splat(bits - 1, bits)}, {zeros}")
        none = e.op(f"icmp eq {k} {a}, zeroinitializer")
        value = e.op(f"select <32 x i1> {none}, {k} {e.splat(-1, bits)}, {k} {value}")
    e.write(i.operands[0], e.resize(value, bits, 32, False), 32)


def _prmt(e: Emitter, i: Instruction) -> None:
    a, b, c = i.operands[1:4]
    mode = i.parts[-1] if i.parts[-1] != "b32" else ""
    va, vb = e.read(a, 32), e.read(b, 32)
    k = vec(8, 128)
    if mode == "" and isinstance(c, Imm):
        selector = int(c.value)
        first = e.op(f"bitcast {vec(32)} {va} to {k}")
        second = e.op(f"bitcast {vec(32)} {vb} to {k}")
        chosen, signs = [], []
        for lane in range(32):
            for byte in range(4):
                nibble = selector >> (4 * byte) & 15
                chosen.append(lane * 4 + (nibble & 3) + (128 if nibble & 4 else 0))
                signs.append(nibble >> 3)
        mask = "<" + ", ".join(f"i32 {n}" for n in chosen) + ">"
        value = e.op(f"shufflevector {k} {first}, {k} {second}, <128 x i32> {mask}")
        if any(signs):
            spread = e.op(f"ashr {k} {value}, splat (i8 7)")
            choose = "<" + ", ".join(f"i1 {n}" for n in signs) + ">"
            value = e.op(f"select <128 x i1> {choose}, {k} {spread}, {k} {value}")
        e.write(i.operands[0], e.op(f"bitcast {k} {value} to {vec(32)}"), 32)
        return
    vc = e.read(c, 32)
    w = vec(64)
    both = e.op(
        f"or {w} {e.op(f'shl {w} {e.resize(vb, 32, 64, False)}, {e.splat(32, 64)}')}, {e.resize(va, 32, 64, False)}"
    )
    wide_c = e.resize(vc, 32, 64, False)
    result = "zeroinitializer"
    one, three, seven = e.splat(1, 64), e.splat(3, 64), e.splat(7, 64)
    low = e.op(f"and {w} {wide_c}, {three}")
    for byte in range(4):
        sign = "zeroinitializer"
        if mode == "":
            moved = e.op(f"lshr {w} {wide_c}, {e.splat(4 * byte, 64)}")
            pick = e.op(f"and {w} {moved}, {seven}")
            sign = e.op(f"and {w} {e.op(f'lshr {w} {moved}, {three}')}, {one}")
        elif mode == "f4e":
            pick = e.op(f"add {w} {low}, {e.splat(byte, 64)}")
        elif mode == "b4e":
            pick = e.op(f"and {w} {e.op(f'sub {w} {low}, {e.splat(byte, 64)}')}, {seven}")
        elif mode == "rc8":
            pick = low
        elif mode == "ecl":
            pick = e.intrinsic("llvm.umax.v32i64", w, (w, low), (w, e.splat(byte, 64)))
        elif mode == "ecr":
            pick = e.intrinsic("llvm.umin.v32i64", w, (w, low), (w, e.splat(byte, 64)))
        else:  # rc16
            half = e.op(f"shl {w} {e.op(f'and {w} {wide_c}, {one}')}, {one}")
            pick = e.op(f"add {w} {half}, {e.splat(byte & 1, 64)}")
        value = e.op(f"lshr {w} {both}, {e.op(f'shl {w} {pick}, {e.splat(3, 64)}')}")
        value = e.op(f"and {w} {value}, {e.splat(255, 64)}")
        if mode == "":
            top = e.op(f"lshr {w} {value}, {e.splat(7, 64)}")
            spread = e.op(f"mul {w} {top}, {e.splat(255, 64)}")
            replicate = e.op(f"icmp ne {w} {sign}, zeroinitializer")
            value = e.op(f"select <32 x i1> {replicate}, {w} {spread}, {w} {value}")
        result = e.op(f"or {w} {result}, {e.op(f'shl {w} {value}, {e.splat(8 * byte, 64)}')}")
    e.write(i.operands[0], e.resize(result, 64, 32, False), 32)


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


def _bmsk(e: Emitter, i: Instruction) -> None:
    a, n = e.read(i.operands[1], 32), e.read(i.operands[2], 32)
    if i.has("wrap"):
        a, n = (e.op(f"and {vec(32)} {v}, {e.splat(31, 32)}") for v in (a, n))
    else:
        a, n = (e.intrinsic("llvm.umin.v32i32", vec(32), (vec(32), v), (vec(32), e.splat(32, 32))) for v in (a, n))
    k = vec(64)
    wa, wn = e.resize(a, 32, 64, False), e.resize(n, 32, 64, False)
    ones = e.op(f"sub {k} {e.op(f'shl {k} {e.splat(1, 64)}, {wn}')}, {e.splat(1, 64)}")
    e.write(i.operands[0], e.resize(e.op(f"shl {k} {ones}, {wa}"), 64, 32, False), 32)


def _szext(e: Emitter, i: Instruction) -> None:
    signed = i.parts[-1] == "s32"
    a, n = e.read(i.operands[1], 32), e.read(i.operands[2], 32)
    n = e.op(f"and {vec(32)} {n}, {e.splat(31, 32)}") if i.has("wrap") else n
    keep = e.intrinsic("llvm.usub.sat.v32i32", vec(32), (vec(32), e.splat(32, 32)), (vec(32), n))
    k = vec(64)
    wide = e.op(
        f"shl {k} {e.resize(a, 32, 64, False)}, {e.op(f'add {k} {e.resize(keep, 32, 64, False)}, {e.splat(32, 64)}')}"
    )
    back = e.op(f"add {k} {e.resize(keep, 32, 64, False)}, {e.splat(32, 64)}")
    far = e.op(f"icmp ugt {k} {back}, {e.splat(63, 64)}")
    wide = e.op(f"{'ashr' if signed else 'lshr'} {k} {wide}, {e.op(f'and {k} {back}, {e.splat(63, 64)}')}")
    wide = e.op(f"select <32 x i1> {far}, {k} zeroinitializer, {k} {wide}")
    e.write(i.operands[0], e.resize(wide, 64, 32, False), 32)


# -- comparison and selection ----------------------------------------------------------------------------------------

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


def _fns(e: Emitter, i: Instruction) -> None:
    """The position of the nth set bit, counted from ``base`` upwards (n > 0) or downwards (PTX ISA 9.7.1.20)."""
    k = vec(32)
    operands = [(k, e.read(o, 32, "i")) for o in i.operands[1:4]]
    e.write(i.operands[0], e.call_helper("fns", k, operands, _build_fns), 32)


def _build_fns(e: Emitter, a: list[str]) -> str:
    k = vec(32)
    mask, base, offset = a
    negative = e.op(f"icmp slt {k} {offset}, zeroinitializer")
    positive = e.op(f"icmp sgt {k} {offset}, zeroinitializer")
    zero = e.op(f"icmp eq {k} {offset}, zeroinitializer")
    distance = e.intrinsic("llvm.abs.v32i32", k, (k, offset), ("i1", "false"))
    found = e.splat(-1, 32)
    for downwards in (False, True):
        count = e.splat(0, 32)
        for position in range(31, -1, -1) if downwards else range(32):
            here = e.op(f"icmp ne {k} {e.op(f'and {k} {mask}, {e.splat(1 << position, 32)}')}, zeroinitializer")
            beyond = e.op(f"icmp {'uge' if downwards else 'ule'} {k} {base}, {e.splat(position, 32)}")
            counts = e.op(f"and <32 x i1> {here}, {beyond}")
            count = e.op(f"add {k} {count}, {e.op(f'zext <32 x i1> {counts} to {k}')}")
            hit = e.op(f"and <32 x i1> {counts}, {e.op(f'icmp eq {k} {count}, {distance}')}")
            hit = e.op(f"and <32 x i1> {hit}, {negative if downwards else positive}")
            found = e.op(f"select <32 x i1> {hit}, {k} {e.splat(position, 32)}, {k} {found}")
    # Offset 0 asks whether the bit at the base itself is set.
    at = e.op(f"and {k} {base}, {e.splat(31, 32)}")
    own = e.op(f"and {k} {e.op(f'lshr {k} {mask}, {at}')}, {e.splat(1, 32)}")
    isset = e.op(f"icmp ne {k} {own}, zeroinitializer")
    single = e.op(f"select <32 x i1> {isset}, {k} {base}, {k} {e.splat(-1, 32)}")
    return e.op(f"select <32 x i1> {zero}, {k} {single}, {k} {found}")


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


# -- moves -----------------------------------------------------------------------------------------------------------


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
    "shl": _shift,
    "shr": _shift,
    "shf": _funnel,
    "and": _logic("and"),
    "or": _logic("or"),
    "xor": _logic("xor"),
    "lop3": _lop3,
    "bfe": _bfe,
    "bfi": _bfi,
    "popc": _count,
    "clz": _count,
    "brev": _count,
    "bfind": _count,
    "prmt": _prmt,
    "dp4a": _dot,
    "dp2a": _dot,
    "sad": _sad,
    "bmsk": _bmsk,
    "szext": _szext,
    "setp": _setp,
    "set": _set,
    "selp": _selp,
    "slct": _slct,
    "mov": _mov,
    "cvta": _cvta,
    "isspacep": _isspacep,
    "fns": _fns,
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
