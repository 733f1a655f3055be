"""Floating-point arithmetic, bit exact where the ISA is (PTX ISA 9.7.3, 9.7.4, 9.7.5).

Narrow types compute in a type wide enough that one rounding remains: halves in f32, with the sum of a fused
operation rounded to odd first; bfloat16 products and directed f32 rounding in f64, likewise. NaN results are the
canonical NaN of the type.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ptx.ast import Instruction, Operand, type_bits
from .emitter import Emitter, Unsupported, vec

__all__ = [
    "FLOAT_TYPES",
    "HANDLERS",
    "canonical",
    "compare_floats",
    "compare_pairs",
    "constrained",
    "flush",
    "flush_half",
    "is_float",
    "pack",
    "round_double",
    "to_odd_float",
    "unpack",
]

Handler = Callable[[Emitter, Instruction], None]
FLOAT_TYPES = {"f16", "f16x2", "bf16", "bf16x2", "f32", "f32x2", "f64"}


def is_float(i: Instruction) -> bool:
    """Whether an opcode of a shared name (add, min, ...) works on floats."""
    return i.parts[-1] in FLOAT_TYPES


def _shape(kind: str) -> tuple[str, int]:
    """(element type, number of elements of a warp's vector)."""
    if kind.endswith("x2"):
        return kind[:-2], 64
    return kind, 32


def unpack(e: Emitter, value: str, kind: str) -> tuple[str, str]:
    """Integer lanes of ``kind`` to an exact float vector: (value, LLVM type)."""
    element, n = _shape(kind)
    bits = type_bits(kind)
    if element == "f64":
        return e.op(f"bitcast {vec(64)} {value} to <32 x double>"), "<32 x double>"
    if element == "f32":
        return e.op(f"bitcast {vec(bits)} {value} to <{n} x float>"), f"<{n} x float>"
    if element == "f16":
        half = e.op(f"bitcast {vec(bits)} {value} to <{n} x half>")
        return e.op(f"fpext <{n} x half> {half} to <{n} x float>"), f"<{n} x float>"
    raw = e.op(f"bitcast {vec(bits)} {value} to {vec(16, n)}") if n == 64 else value
    wide = e.op(f"zext {vec(16, n)} {raw} to {vec(32, n)}")
    wide = e.op(f"shl {vec(32, n)} {wide}, splat (i32 16)")
    return e.op(f"bitcast {vec(32, n)} {wide} to <{n} x float>"), f"<{n} x float>"


def canonical(e: Emitter, value: str, kind: str, n: int, tested: str, tested_type: str) -> str:
    """Replace NaNs by the type's canonical NaN (0x7fffffff, 0x7fff); ``value`` is an integer vector."""
    bits = 32 if kind in ("f32", "tf32") else 16
    nan = e.op(f"fcmp uno {tested_type} {tested}, zeroinitializer")
    constant = f"splat (i{bits} {0x7FFFFFFF if bits == 32 else 0x7FFF})"
    return e.op(f"select <{n} x i1> {nan}, {vec(bits, n)} {constant}, {vec(bits, n)} {value}")


def flush_half(e: Emitter, value: str, kind: str) -> str:
    """Denormals among f16 or f16x2 bits to zeros of the same sign."""
    _, n = _shape(kind)
    bits = type_bits(kind)
    k = vec(16, n)
    raw = e.op(f"bitcast {vec(bits)} {value} to {k}") if n == 64 else value
    tiny = e.op(f"icmp eq {k} {e.op(f'and {k} {raw}, splat (i16 31744)')}, zeroinitializer")
    raw = e.op(f"select <{n} x i1> {tiny}, {k} {e.op(f'and {k} {raw}, splat (i16 -32768)')}, {k} {raw}")
    return e.op(f"bitcast {k} {raw} to {vec(bits)}") if n == 64 else raw


# Arguments of llvm.set.rounding (LLVM language reference, "llvm.set.rounding").
_ROUNDING_CODES = {"rz": 0, "rn": 1, "rp": 2, "rm": 3}


def constrained(e: Emitter, code: str, result: str, operands: list[tuple[str, str]], mode: str) -> str:
    """One operation of the host's FPU in the rounding direction ``mode``.

    For what has no error-free transformation that covers overflow and denormals (f64), and for 64-bit integers.
    ``operands`` are (LLVM type, value); ``code`` is the name of a constrained intrinsic (fadd, fsub, fmul, fdiv,
    fma, sqrt, sitofp, uitofp).
    """

    def mangled(t: str) -> str:
        count, _, element = t.strip("<>").split()
        return f"v{count}" + {"double": "f64", "float": "f32"}.get(element, element)

    suffix = mangled(result)
    if code in ("sitofp", "uitofp"):
        suffix += "." + mangled(operands[0][0])
    name = f"llvm.experimental.constrained.{code}.{suffix}"
    e.declare(f"declare {result} @{name}({', '.join(t for t, _ in operands)}, metadata, metadata)")
    e.declare("declare void @llvm.set.rounding(i32)")

    def build(inner: Emitter, names: list[str]) -> str:
        inner.do(f"call void @llvm.set.rounding(i32 {_ROUNDING_CODES[mode]}) strictfp")
        given = ", ".join(f"{t} {n}" for (t, _), n in zip(operands, names, strict=True))
        how = 'metadata !"round.dynamic", metadata !"fpexcept.strict"'
        value = inner.op(f"call {result} @{name}({given}, {how}) strictfp")
        inner.do("call void @llvm.set.rounding(i32 1) strictfp")
        return value

    return e.call_helper(f"{mode}_{code}_{suffix.replace('.', '_')}", result, operands, build)


def to_bfloat(e: Emitter, value: str, n: int) -> str:
    """f32 to bfloat16 bits, nearest even."""
    k = vec(32, n)
    b = e.op(f"bitcast <{n} x float> {value} to {k}")
    odd = e.op(f"and {k} {e.op(f'lshr {k} {b}, splat (i32 16)')}, splat (i32 1)")
    b = e.op(f"add {k} {e.op(f'add {k} {b}, splat (i32 32767)')}, {odd}")
    short = e.op(f"trunc {k} {e.op(f'lshr {k} {b}, splat (i32 16)')} to {vec(16, n)}")
    return canonical(e, short, "bf16", n, value, f"<{n} x float>")


def to_half(e: Emitter, value: str, n: int, source: str = "float") -> str:
    """f32 (or f64) to binary16 bits, nearest even."""
    half = e.op(f"fptrunc <{n} x {source}> {value} to <{n} x half>")
    raw = e.op(f"bitcast <{n} x half> {half} to {vec(16, n)}")
    return canonical(e, raw, "f16", n, value, f"<{n} x {source}>")


def pack(e: Emitter, value: str, kind: str, source: str) -> str:
    """A float vector rounded to ``kind``, as integer lanes. ``source`` is its LLVM element type."""
    element, n = _shape(kind)
    bits = type_bits(kind)
    if element == "f64":
        return e.op(f"bitcast <32 x double> {value} to {vec(64)}")
    if element == "f32":
        raw = e.op(f"bitcast <{n} x float> {value} to {vec(32, n)}")
        raw = canonical(e, raw, "f32", n, value, f"<{n} x float>")
        return e.op(f"bitcast {vec(32, n)} {raw} to {vec(64)}") if n == 64 else raw
    if element == "f16":
        raw = to_half(e, value, n, source)
    else:
        if source == "double":
            value = to_odd_float(e, value, n)
        raw = to_bfloat(e, value, n)
    return e.op(f"bitcast {vec(16, n)} {raw} to {vec(bits)}") if n == 64 else raw


def flush(e: Emitter, value: str, n: int, kind: str = "f32") -> str:
    """Denormals of ``kind`` (f32, or f16 held as f32) to zero of the same sign."""
    k = vec(32, n)
    b = e.op(f"bitcast <{n} x float> {value} to {k}")
    magnitude = e.op(f"and {k} {b}, splat (i32 2147483647)")
    least = 1 << 23 if kind == "f32" else (127 - 14) << 23
    tiny = e.op(f"icmp ult {k} {magnitude}, splat (i32 {least})")
    sign = e.op(f"and {k} {b}, splat (i32 2147483648)")
    b = e.op(f"select <{n} x i1> {tiny}, {k} {sign}, {k} {b}")
    return e.op(f"bitcast {k} {b} to <{n} x float>")


def _odd_sum(e: Emitter, a: str, b: str, n: int, kind: str) -> str:
    """a + b rounded to odd, in float or double (the error of the rounded sum, by Knuth's two-sum, decides)."""
    t = f"<{n} x {kind}>"
    bits = 64 if kind == "double" else 32
    k = vec(bits, n)
    s = e.op(f"fadd {t} {a}, {b}")
    bb = e.op(f"fsub {t} {s}, {a}")
    left = e.op(f"fsub {t} {a}, {e.op(f'fsub {t} {s}, {bb}')}")
    error = e.op(f"fadd {t} {left}, {e.op(f'fsub {t} {b}, {bb}')}")
    inexact = e.op(f"fcmp one {t} {error}, zeroinitializer")
    raw = e.op(f"bitcast {t} {s} to {k}")
    even = e.op(f"icmp eq {k} {e.op(f'and {k} {raw}, splat (i{bits} 1)')}, zeroinitializer")
    fix = e.op(f"and <{n} x i1> {inexact}, {even}")
    up = e.op(f"fcmp ogt {t} {error}, zeroinitializer")
    positive = e.op(f"fcmp ogt {t} {s}, zeroinitializer")
    away = e.op(f"icmp eq <{n} x i1> {up}, {positive}")
    step = e.op(f"select <{n} x i1> {away}, {k} splat (i{bits} 1), {k} splat (i{bits} -1)")
    step = e.op(f"select <{n} x i1> {fix}, {k} {step}, {k} zeroinitializer")
    return e.op(f"bitcast {k} {e.op(f'add {k} {raw}, {step}')} to {t}")


def to_odd_float(e: Emitter, value: str, n: int) -> str:
    """f64 to f32 rounded to odd: whatever is rounded next, to fewer bits, comes out right."""
    k, d, f = vec(32, n), f"<{n} x double>", f"<{n} x float>"
    near = e.op(f"fptrunc {d} {value} to {f}")
    back = e.op(f"fpext {f} {near} to {d}")
    raw = e.op(f"bitcast {f} {near} to {k}")
    even = e.op(f"icmp eq {k} {e.op(f'and {k} {raw}, splat (i32 1)')}, zeroinitializer")
    fix = e.op(f"and <{n} x i1> {e.op(f'fcmp one {d} {back}, {value}')}, {even}")
    e.declare(f"declare {d} @llvm.fabs.v{n}f64({d})")
    small = e.op(
        f"fcmp olt {d} {e.op(f'call {d} @llvm.fabs.v{n}f64({d} {back})')}, "
        f"{e.op(f'call {d} @llvm.fabs.v{n}f64({d} {value})')}"
    )
    step = e.op(f"select <{n} x i1> {small}, {k} splat (i32 1), {k} splat (i32 -1)")
    step = e.op(f"select <{n} x i1> {fix}, {k} {step}, {k} zeroinitializer")
    return e.op(f"bitcast {k} {e.op(f'add {k} {raw}, {step}')} to {f}")


def round_double(e: Emitter, value: str, n: int, mode: str) -> str:
    """f64 (exact or rounded to odd) to f32 in direction ``mode``: rz, rm or rp (rn: to nearest)."""
    k, d, f = vec(32, n), f"<{n} x double>", f"<{n} x float>"
    near = e.op(f"fptrunc {d} {value} to {f}")
    if mode == "rn":
        return near
    back = e.op(f"fpext {f} {near} to {d}")
    raw = e.op(f"bitcast {f} {near} to {k}")
    negative = e.op(f"icmp slt {k} {raw}, zeroinitializer")
    above = e.op(f"fcmp ogt {d} {back}, {value}")
    below = e.op(f"fcmp olt {d} {back}, {value}")
    if mode == "rz":
        wrong_positive, wrong_negative = above, below
        step_positive, step_negative = -1, -1
    elif mode == "rm":
        wrong_positive, wrong_negative = above, above
        step_positive, step_negative = -1, 1
    else:
        wrong_positive, wrong_negative = below, below
        step_positive, step_negative = 1, -1
    wrong = e.op(f"select <{n} x i1> {negative}, <{n} x i1> {wrong_negative}, <{n} x i1> {wrong_positive}")
    step = e.op(f"select <{n} x i1> {negative}, {k} splat (i32 {step_negative}), {k} splat (i32 {step_positive})")
    step = e.op(f"select <{n} x i1> {wrong}, {k} {step}, {k} zeroinitializer")
    moved = e.op(f"add {k} {raw}, {step}")
    if mode != "rz":
        # A zero steps to the smallest number of the sign that it leans to.
        zero = e.op(f"and <{n} x i1> {wrong}, {e.op(f'fcmp oeq {f} {near}, zeroinitializer')}")
        tiny = 0x80000001 if mode == "rm" else 1
        moved = e.op(f"select <{n} x i1> {zero}, {k} splat (i32 {tiny}), {k} {moved}")
    return e.op(f"bitcast {k} {moved} to {f}")


def _saturate(e: Emitter, value: str, t: str, n: int) -> str:
    """Clamp to [0, 1]; NaN becomes +0."""
    one = "splat (double 1.0)" if "double" in t else "splat (float 1.0)"
    big = e.op(f"fcmp ogt {t} {value}, {one}")
    value = e.op(f"select <{n} x i1> {big}, {t} {one}, {t} {value}")
    positive = e.op(f"fcmp ogt {t} {value}, zeroinitializer")
    return e.op(f"select <{n} x i1> {positive}, {t} {value}, {t} zeroinitializer")


def _relu(e: Emitter, value: str, t: str, n: int) -> str:
    negative = e.op(f"fcmp olt {t} {value}, zeroinitializer")
    zero = e.op(f"fcmp oeq {t} {value}, zeroinitializer")
    clip = e.op(f"or <{n} x i1> {negative}, {zero}")
    return e.op(f"select <{n} x i1> {clip}, {t} zeroinitializer, {t} {value}")


def _mode(i: Instruction) -> str:
    return next((p for p in i.parts[1:] if p in ("rn", "rz", "rm", "rp")), "rn")


def _operands(e: Emitter, i: Instruction, kind: str) -> list[str]:
    bits = type_bits(kind)
    element, n = _shape(kind)
    found = []
    for o in i.operands[1:]:
        value, _ = unpack(e, _read_float(e, o, kind, bits), kind)
        if i.has("ftz") and element in ("f32", "f16"):
            value = flush(e, value, n, element)
        found.append(value)
    return found


def _read_float(e: Emitter, o: Operand, kind: str, bits: int) -> str:
    from ..ptx.ast import Imm

    if isinstance(o, Imm) and kind == "bf16" and o.is_float:
        from .emitter import float_bits

        return e.splat(float_bits(float(o.value), 32) >> 16, 16)
    # In f16 and packed types integer literals are bit patterns.
    return e.read(o, bits, "f" if kind in ("f32", "f64") else "u")


def _arithmetic(e: Emitter, i: Instruction) -> None:
    kind = i.parts[-1]
    if len(i.parts) > 2 and i.parts[-2] == "f32" and kind in ("f16", "bf16"):
        _mixed(e, i, kind)
        return
    element, n = _shape(kind)
    mode = _mode(i)
    scalar = "double" if element == "f64" else "float"
    t = f"<{n} x {scalar}>"
    operands = _operands(e, i, kind)
    code = {"add": "fadd", "sub": "fsub", "mul": "fmul", "fma": "fma", "mad": "fma"}[i.base]
    if mode != "rn" and element in ("f32", "f64"):
        value = constrained(e, code, t, [(t, v) for v in operands], mode)
    elif code != "fma":
        a, b = operands
        if element == "bf16" and code == "fmul":
            wide = [e.op(f"fpext <{n} x float> {x} to <{n} x double>") for x in (a, b)]
            value, scalar = e.op(f"fmul <{n} x double> {wide[0]}, {wide[1]}"), "double"
            t = f"<{n} x double>"
        else:
            value = e.op(f"{code} {t} {a}, {b}")
    else:
        a, b, c = operands
        if element == "f16":
            value = _odd_sum(e, e.op(f"fmul {t} {a}, {b}"), c, n, "float")
        elif element == "bf16":
            d = f"<{n} x double>"
            wide = [e.op(f"fpext <{n} x float> {x} to {d}") for x in (a, b, c)]
            value = _odd_sum(e, e.op(f"fmul {d} {wide[0]}, {wide[1]}"), wide[2], n, "double")
            t, scalar = d, "double"
        else:
            width = 64 if element == "f64" else 32
            value = e.intrinsic(f"llvm.fma.v{n}f{width}", t, (t, a), (t, b), (t, c))
    if element == "f64":
        # Of several NaNs the second operand's is kept, else the third's.
        value = _propagate(e, value, [operands[0], *operands[:0:-1]])
    tiny = ""
    if i.has("ftz") and element == "f32" and code in ("fmul", "fma"):
        tiny = _tiny_product(e, operands, n)
    _finish(e, i, value, kind, scalar, t, n, tiny)


def _propagate(e: Emitter, value: str, operands: list[str]) -> str:
    """f64 results keep the payload of a NaN operand, quieted; the last operand that is one decides (recorded on an
    H200)."""
    d, k = "<32 x double>", vec(64)
    raw = e.op(f"bitcast {d} {value} to {k}")
    for operand in operands:
        quiet = e.op(f"or {k} {e.op(f'bitcast {d} {operand} to {k}')}, splat (i64 {1 << 51})")
        nan = e.op(f"fcmp uno {d} {operand}, zeroinitializer")
        raw = e.op(f"select <32 x i1> {nan}, {k} {quiet}, {k} {raw}")
    return e.op(f"bitcast {k} {raw} to {d}")


def _tiny_product(e: Emitter, operands: list[str], n: int) -> str:
    """Lanes whose f32 product (plus addend) is below the normal numbers before it is rounded: that is what .ftz
    flushes."""
    d = f"<{n} x double>"
    wide = [e.op(f"fpext <{n} x float> {x} to {d}") for x in operands]
    exact = e.op(f"fmul {d} {wide[0]}, {wide[1]}")
    if len(wide) > 2:
        exact = _odd_sum(e, exact, wide[2], n, "double")
    return _tiny(e, exact, n)


def _tiny(e: Emitter, exact: str, n: int) -> str:
    d = f"<{n} x double>"
    return e.op(f"fcmp olt {d} {e.intrinsic(f'llvm.fabs.v{n}f64', d, (d, exact))}, splat (double {2.0**-126!r})")


def _mixed(e: Emitter, i: Instruction, kind: str) -> None:
    """add/sub/fma.rn.f32.f16 (PTX ISA 9.7.5): narrow multiplicands or first operand, f32 the rest and the result."""
    narrow = 2 if i.base == "fma" else 1
    values = []
    for index, o in enumerate(i.operands[1:]):
        source = kind if index < narrow else "f32"
        values.append(unpack(e, _read_float(e, o, source, type_bits(source)), source)[0])
    t = "<32 x float>"
    mode = _mode(i)
    if i.base == "fma":
        value = (
            e.intrinsic("llvm.fma.v32f32", t, *((t, v) for v in values))
            if mode == "rn"
            else constrained(e, "fma", t, [(t, v) for v in values], mode)
        )
    else:
        code = "f" + i.base
        value = (
            e.op(f"{code} {t} {values[0]}, {values[1]}")
            if mode == "rn"
            else constrained(e, code, t, [(t, v) for v in values], mode)
        )
    _finish(e, i, value, "f32", "float", t, 32)


def _finish(e: Emitter, i: Instruction, value: str, kind: str, scalar: str, t: str, n: int, tiny: str = "") -> None:
    """Flush, clamp, round and write. ``tiny``: lanes to flush as well, though rounding made them normal."""
    if tiny:
        k = vec(32, n)
        sign = e.op(f"and {k} {e.op(f'bitcast {t} {value} to {k}')}, splat (i32 -2147483648)")
        value = e.op(f"select <{n} x i1> {tiny}, {t} {e.op(f'bitcast {k} {sign} to {t}')}, {t} {value}")
    if i.has("ftz") and kind.startswith("f32"):
        value = flush(e, value, n)
    if i.has("ftz") and kind.startswith("f16") and scalar == "float":
        value = flush(e, value, n, "f16")
    if i.has("sat"):
        value = _saturate(e, value, t, n)
    if i.has("relu"):
        value = _relu(e, value, t, n)
    e.write(i.operands[0], pack(e, value, kind, scalar), type_bits(kind))


def _min_max(e: Emitter, i: Instruction) -> None:
    kind = i.parts[-1]
    element, n = _shape(kind)
    scalar = "double" if element == "f64" else "float"
    t = f"<{n} x {scalar}>"
    width = 64 if element == "f64" else 32
    operands = _operands(e, i, kind)
    suffix = "" if i.has("NaN") else "num"
    name = f"llvm.{'minimum' if i.base == 'min' else 'maximum'}{suffix}.v{n}f{width}"
    k = vec(width, n)
    signs = None
    if i.has("xorsign"):
        raws = [e.op(f"bitcast {t} {v} to {k}") for v in operands]
        signs = raws[0]
        for raw in raws[1:]:
            signs = e.op(f"xor {k} {signs}, {raw}")
        signs = e.op(f"and {k} {signs}, splat (i{width} {1 << (width - 1)})")
    if i.has("abs"):
        operands = [e.intrinsic(f"llvm.fabs.v{n}f{width}", t, (t, v)) for v in operands]
    value = operands[0]
    for other in operands[1:]:
        value = e.intrinsic(name, t, (t, value), (t, other))
    if element == "f64":
        both = e.op(f"fcmp uno {t} {value}, zeroinitializer")
        value = e.op(f"select <32 x i1> {both}, {t} {_propagate(e, value, operands)}, {t} {value}")
    if signs is not None:
        raw = e.op(f"or {k} {e.op(f'bitcast {t} {value} to {k}')}, {signs}")
        value = e.op(f"bitcast {k} {raw} to {t}")
    e.write(i.operands[0], pack(e, value, kind, scalar), type_bits(kind))


def _sign(e: Emitter, i: Instruction) -> None:
    """abs and neg work on the sign bit."""
    kind = i.parts[-1]
    bits = type_bits(kind)
    a = _read_float(e, i.operands[1], kind, bits)
    if i.has("ftz") and kind == "f32":
        a = e.op(f"bitcast <32 x float> {flush(e, e.op(f'bitcast {vec(32)} {a} to <32 x float>'), 32)} to {vec(32)}")
    element, n = _shape(kind)
    if i.has("ftz") and element == "f16":
        a = flush_half(e, a, kind)
    width = bits // (n // 32)
    sign = sum(1 << (width * (k + 1) - 1) for k in range(bits // width))
    if i.base == "abs":
        value = e.op(f"and {vec(bits)} {a}, {e.splat(~sign, bits)}")
    else:
        value = e.op(f"xor {vec(bits)} {a}, {e.splat(sign, bits)}")
    if element == "f32" and n == 32:
        value = canonical(e, value, "f32", 32, e.op(f"bitcast {vec(32)} {value} to <32 x float>"), "<32 x float>")
    elif element == "f64":
        d = "<32 x double>"
        nan = e.op(f"fcmp uno {d} {e.op(f'bitcast {vec(64)} {a} to {d}')}, zeroinitializer")
        quiet = e.op(f"or {vec(64)} {a}, splat (i64 {1 << 51})")
        value = e.op(f"select <32 x i1> {nan}, {vec(64)} {quiet}, {vec(64)} {value}")
    elif element in ("f16", "bf16"):
        wide, t = unpack(e, value, kind)
        short = e.op(f"bitcast {vec(bits)} {value} to {vec(16, n)}") if n == 64 else value
        short = canonical(e, short, element, n, wide, t)
        value = e.op(f"bitcast {vec(16, n)} {short} to {vec(bits)}") if n == 64 else short
    e.write(i.operands[0], value, bits)


def _divide(e: Emitter, i: Instruction) -> None:
    kind = i.parts[-1]
    if kind not in ("f32", "f64"):
        raise Unsupported
    t = "<32 x double>" if kind == "f64" else "<32 x float>"
    mode = _mode(i)
    a, b = _operands(e, i, kind)
    if mode != "rn":
        value = constrained(e, "fdiv", t, [(t, a), (t, b)], mode)
    else:
        if i.has("approx"):
            # Divisors beyond 2^126 count as infinite (9.7.3.8).
            far = e.op(f"fcmp ogt {t} {e.intrinsic('llvm.fabs.v32f32', t, (t, b))}, splat (float {2.0**126!r})")
            endless = e.intrinsic("llvm.copysign.v32f32", t, (t, "splat (float 0x7FF0000000000000)"), (t, b))
            number = e.op(f"fcmp ord {t} {b}, zeroinitializer")
            far = e.op(f"and <32 x i1> {far}, {number}")
            b = e.op(f"select <32 x i1> {far}, {t} {endless}, {t} {b}")
        value = e.op(f"fdiv {t} {a}, {b}")
    tiny = ""
    if kind == "f64":
        value = _propagate(e, value, [b, a])
    elif i.has("ftz"):
        # The f64 quotient of two f32 never rounds onto a normal number's border from below.
        wide = [e.op(f"fpext {t} {x} to <32 x double>") for x in (a, b)]
        tiny = _tiny(e, e.op(f"fdiv <32 x double> {wide[0]}, {wide[1]}"), 32)
    _finish(e, i, value, kind, "float" if kind == "f32" else "double", t, 32, tiny)


def _unary(e: Emitter, i: Instruction) -> None:
    kind = i.parts[-1]
    element, n = _shape(kind)
    scalar = "double" if element == "f64" else "float"
    width = 64 if element == "f64" else 32
    t = f"<{n} x {scalar}>"
    (a,) = _operands(e, i, kind)
    mode = _mode(i)
    base = i.base
    one = f"splat ({scalar} 1.0)"
    if base == "rcp":
        if mode != "rn":
            value = constrained(e, "fdiv", t, [(t, one), (t, a)], mode)
        else:
            value = e.op(f"fdiv {t} {one}, {a}")
    elif base == "sqrt":
        if mode != "rn":
            value = constrained(e, "sqrt", t, [(t, a)], mode)
        else:
            value = e.intrinsic(f"llvm.sqrt.v{n}f{width}", t, (t, a))
    elif base == "rsqrt":
        d = f"<{n} x double>"
        wide = a if scalar == "double" else e.op(f"fpext {t} {a} to {d}")
        root = e.intrinsic(f"llvm.sqrt.v{n}f64", d, (d, wide))
        value = e.op(f"fdiv {d} splat (double 1.0), {root}")
        value = value if scalar == "double" else e.op(f"fptrunc {d} {value} to {t}")
    else:
        name = {"ex2": "exp2", "lg2": "log2", "sin": "sin", "cos": "cos", "tanh": "tanh"}[base]
        value = e.intrinsic(f"llvm.{name}.v{n}f{width}", t, (t, a))
    _finish(e, i, value, kind, scalar, t, n)


_ORDERED = {
    "eq": "oeq",
    "ne": "one",
    "lt": "olt",
    "le": "ole",
    "gt": "ogt",
    "ge": "oge",
    "equ": "ueq",
    "neu": "une",
    "ltu": "ult",
    "leu": "ule",
    "gtu": "ugt",
    "geu": "uge",
    "num": "ord",
    "nan": "uno",
}


def compare_floats(e: Emitter, name: str, kind: str, a: Operand, b: Operand, ftz: bool) -> str:
    """A predicate vector from two scalars a lane."""
    bits = type_bits(kind)
    values = []
    t = ""
    for o in (a, b):
        value, t = unpack(e, _read_float(e, o, kind, bits), kind)
        values.append(flush(e, value, 32, kind) if ftz and kind in ("f32", "f16") else value)
    return e.op(f"fcmp {_ORDERED[name]} {t} {values[0]}, {values[1]}")


def compare_pairs(e: Emitter, name: str, kind: str, a: Operand, b: Operand, ftz: bool) -> tuple[str, str]:
    """Predicates of the low and of the high halves."""
    (va, t), (vb, _) = (unpack(e, e.read(o, 32), kind) for o in (a, b))
    if ftz and kind == "f16x2":
        va, vb = flush(e, va, 64, "f16"), flush(e, vb, 64, "f16")
    both = e.op(f"fcmp {_ORDERED[name]} {t} {va}, {vb}")
    parts = []
    for half in (0, 1):
        mask = "<" + ", ".join(f"i32 {2 * lane + half}" for lane in range(32)) + ">"
        parts.append(e.op(f"shufflevector <64 x i1> {both}, <64 x i1> poison, <32 x i32> {mask}"))
    return parts[0], parts[1]


def _copysign(e: Emitter, i: Instruction) -> None:
    bits = type_bits(i.parts[-1])
    a, b = (e.read(o, bits, "f") for o in i.operands[1:3])
    sign = 1 << (bits - 1)
    value = e.op(
        f"or {vec(bits)} {e.op(f'and {vec(bits)} {b}, {e.splat(~sign, bits)}')}, "
        f"{e.op(f'and {vec(bits)} {a}, {e.splat(sign, bits)}')}"
    )
    e.write(i.operands[0], value, bits)


def _testp(e: Emitter, i: Instruction) -> None:
    kind, test = i.parts[-1], i.parts[1]
    bits = type_bits(kind)
    a = e.read(i.operands[1], bits, "f")
    k = vec(bits)
    t = "<32 x float>" if bits == 32 else "<32 x double>"
    mantissa = 23 if bits == 32 else 52
    infinity = ((1 << (bits - 1 - mantissa)) - 1) << mantissa
    magnitude = e.op(f"and {k} {a}, {e.splat((1 << (bits - 1)) - 1, bits)}")
    f = e.op(f"bitcast {k} {a} to {t}")
    if test == "notanumber":
        value = e.op(f"fcmp uno {t} {f}, zeroinitializer")
    elif test == "number":
        value = e.op(f"fcmp ord {t} {f}, zeroinitializer")
    elif test == "infinite":
        value = e.op(f"icmp eq {k} {magnitude}, {e.splat(infinity, bits)}")
    elif test == "finite":
        value = e.op(f"icmp ult {k} {magnitude}, {e.splat(infinity, bits)}")
    else:
        tiny = e.op(f"icmp ult {k} {magnitude}, {e.splat(1 << mantissa, bits)}")
        nonzero = e.op(f"icmp ne {k} {magnitude}, zeroinitializer")
        if test == "subnormal":
            value = e.op(f"and <32 x i1> {tiny}, {nonzero}")
        else:
            finite = e.op(f"icmp ult {k} {magnitude}, {e.splat(infinity, bits)}")
            # Zeros count as normal.
            below = e.op(f"and <32 x i1> {tiny}, {nonzero}")
            value = e.op(f"and <32 x i1> {finite}, {e.op(f'xor <32 x i1> {below}, splat (i1 true)')}")
    e.write(i.operands[0], value, 1)


HANDLERS: dict[str, Handler] = {
    "add": _arithmetic,
    "sub": _arithmetic,
    "mul": _arithmetic,
    "fma": _arithmetic,
    "mad": _arithmetic,
    "min": _min_max,
    "max": _min_max,
    "abs": _sign,
    "neg": _sign,
    "div": _divide,
    "rcp": _unary,
    "sqrt": _unary,
    "rsqrt": _unary,
    "ex2": _unary,
    "lg2": _unary,
    "sin": _unary,
    "cos": _unary,
    "tanh": _unary,
    "copysign": _copysign,
    "testp": _testp,
}
