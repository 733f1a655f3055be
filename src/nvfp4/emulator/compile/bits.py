"""Logic, shifts, bit fields, permutations (PTX ISA 9.7.1.15 to 9.7.1.24, 9.7.8)."""

from __future__ import annotations

from collections.abc import Callable

from ..ptx.ast import Imm, Instruction, Pair
from .emitter import Emitter, vec
from .integer import Handler, split_type

__all__ = ["HANDLERS"]


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


HANDLERS: dict[str, Handler] = {
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
    "bmsk": _bmsk,
    "szext": _szext,
    "fns": _fns,
}
