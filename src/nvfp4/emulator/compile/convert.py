"""cvt and its packed forms (PTX ISA 9.7.9.22 to 9.7.9.24)."""

from __future__ import annotations

from dataclasses import dataclass

from ..ptx.ast import Instruction, type_bits
from .emitter import Emitter, Unsupported, vec
from .floating import canonical, constrained, flush, round_double, to_bfloat, to_half, to_odd_float, unpack

__all__ = ["HANDLERS"]


@dataclass(frozen=True)
class Mini:
    """A format of at most eight bits: mantissa width, exponent bias, largest finite code, NaN code (or -1), infinity
    code (or -1)."""

    mantissa: int
    bias: int
    largest: int
    nan: int
    bits: int


MINIS = {
    "e4m3": Mini(3, 7, 0x7E, 0x7F, 8),
    "e5m2": Mini(2, 15, 0x7B, 0x7F, 8),
    "e2m1": Mini(1, 1, 7, -1, 4),
    "e2m3": Mini(3, 1, 0x1F, -1, 6),
    "e3m2": Mini(2, 3, 0x1F, -1, 6),
}
_INTEGERS = {"u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"}
_FLOATS = {"f16", "bf16", "f32", "f64", "tf32"}


def encode_mini(e: Emitter, value: str, fmt: Mini, relu: bool) -> str:
    """f32 lanes to codes in 32-bit lanes: nearest even, saturating to the largest finite number."""
    k, f = vec(32), "<32 x float>"
    raw = e.op(f"bitcast {f} {value} to {k}")
    sign = e.op(f"lshr {k} {raw}, splat (i32 31)")
    magnitude = e.op(f"and {k} {raw}, splat (i32 2147483647)")
    drop = 23 - fmt.mantissa
    odd = e.op(f"and {k} {e.op(f'lshr {k} {magnitude}, splat (i32 {drop})')}, splat (i32 1)")
    up = e.op(f"add {k} {e.op(f'add {k} {magnitude}, splat (i32 {(1 << (drop - 1)) - 1})')}, {odd}")
    normal = e.op(
        f"sub {k} {e.op(f'lshr {k} {up}, splat (i32 {drop})')}, splat (i32 {(127 - fmt.bias) << fmt.mantissa})"
    )
    # Below the smallest normal number the FPU rounds for us: adding 2^s aligns the last bit with the format's quantum.
    quantum = 1 - fmt.bias - fmt.mantissa
    magic = (quantum + 23 + 127) << 23
    total = e.op(f"fadd {f} {e.op(f'bitcast {k} {magnitude} to {f}')}, bitcast ({k} splat (i32 {magic}) to {f})")
    tiny = e.op(f"sub {k} {e.op(f'bitcast {f} {total} to {k}')}, splat (i32 {magic})")
    small = e.op(f"icmp ult {k} {magnitude}, splat (i32 {(128 - fmt.bias) << 23})")
    code = e.op(f"select <32 x i1> {small}, {k} {tiny}, {k} {normal}")
    code = e.intrinsic("llvm.umin.v32i32", k, (k, code), (k, e.splat(fmt.largest, 32)))
    huge = e.op(f"icmp ugt {k} {magnitude}, splat (i32 {0x7F000000})")
    code = e.op(f"select <32 x i1> {huge}, {k} {e.splat(fmt.largest, 32)}, {k} {code}")
    if relu:
        negative = e.op(f"icmp ne {k} {sign}, zeroinitializer")
        code = e.op(f"select <32 x i1> {negative}, {k} zeroinitializer, {k} {code}")
    else:
        code = e.op(f"or {k} {code}, {e.op(f'shl {k} {sign}, splat (i32 {fmt.bits - 1})')}")
    nan = e.op(f"icmp ugt {k} {magnitude}, splat (i32 2139095040)")
    # Formats without NaN take it to the largest positive number.
    return e.op(f"select <32 x i1> {nan}, {k} {e.splat(fmt.nan if fmt.nan >= 0 else fmt.largest, 32)}, {k} {code}")


def decode_mini(e: Emitter, code: str, fmt: Mini) -> str:
    """Codes in the low bits of 32-bit lanes (other bits ignored) to f32, exactly."""
    k, f = vec(32), "<32 x float>"
    body = e.op(f"and {k} {code}, {e.splat((1 << (fmt.bits - 1)) - 1, 32)}")
    raw = e.op(f"shl {k} {body}, splat (i32 {23 - fmt.mantissa})")
    # Read as an f32 the code is 2^(bias - 127) too small; f32 denormals scale exactly as well.
    scale = (254 - fmt.bias) << 23
    value = e.op(f"fmul {f} {e.op(f'bitcast {k} {raw} to {f}')}, bitcast ({k} splat (i32 {scale}) to {f})")
    out = e.op(f"bitcast {f} {value} to {k}")
    if fmt.nan == 0x7F and fmt.mantissa == 3:
        nan = e.op(f"icmp eq {k} {body}, splat (i32 127)")
        out = e.op(f"select <32 x i1> {nan}, {k} splat (i32 2147483647), {k} {out}")
    elif fmt.mantissa == 2 and fmt.bits == 8:
        nan = e.op(f"icmp ugt {k} {body}, splat (i32 124)")
        infinite = e.op(f"icmp eq {k} {body}, splat (i32 124)")
        out = e.op(f"select <32 x i1> {infinite}, {k} splat (i32 2139095040), {k} {out}")
        out = e.op(f"select <32 x i1> {nan}, {k} splat (i32 2147483647), {k} {out}")
    sign = e.op(f"and {k} {e.op(f'shl {k} {code}, {e.splat(32 - fmt.bits, 32)}')}, {e.splat(1 << 31, 32)}")
    return e.op(f"bitcast {k} {e.op(f'or {k} {out}, {sign}')} to {f}")


def _cvt(e: Emitter, i: Instruction) -> None:
    target, source = i.parts[-2], i.parts[-1]
    if i.has("rs") or target.endswith("x4"):
        raise Unsupported
    if i.parts[1] == "pack":
        _pack_integers(e, i)
    elif target.endswith("x2") or source.endswith("x2"):
        _packed(e, i, target, source)
    elif target in _INTEGERS and source in _INTEGERS:
        _integers(e, i, target, source)
    elif target in _FLOATS and source in _INTEGERS:
        _from_integer(e, i, target, source)
    elif target in _INTEGERS and source in _FLOATS:
        _to_integer(e, i, target, source)
    elif target in _FLOATS and source in _FLOATS:
        _floats(e, i, target, source)
    else:
        raise Unsupported


def _integers(e: Emitter, i: Instruction, target: str, source: str) -> None:
    have, want = type_bits(source), type_bits(target)
    value = e.read(i.operands[1], have, "i")
    signed_in, signed_out = source[0] == "s", target[0] == "s"
    if i.has("sat"):
        wide = 128
        value = e.resize(value, have, wide, signed_in)
        low = -(1 << (want - 1)) if signed_out else 0
        high = (1 << (want - 1)) - 1 if signed_out else (1 << want) - 1
        for name, bound in (("smax", low), ("smin", high)):
            value = e.intrinsic(
                f"llvm.{name}.v32i128", vec(wide), (vec(wide), value), (vec(wide), e.splat(bound, wide))
            )
        value = e.resize(value, wide, want, False)
    else:
        value = e.resize(value, have, want, signed_in)
    e.write(i.operands[0], value, want, signed_out)


def _rounding(i: Instruction) -> str | None:
    return next((p for p in i.parts[1:-2] if p in ("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")), None)


def _from_integer(e: Emitter, i: Instruction, target: str, source: str) -> None:
    have = type_bits(source)
    value = e.read(i.operands[1], have, "i")
    code = "sitofp" if source[0] == "s" else "uitofp"
    mode = _rounding(i) or "rn"
    if target == "f64":
        if mode != "rn" and have == 64:
            out = constrained(e, code, "<32 x double>", [(vec(64), value)], mode)
        else:
            out = e.op(f"{code} {vec(have)} {value} to <32 x double>")
        e.write(i.operands[0], e.op(f"bitcast <32 x double> {out} to {vec(64)}"), 64)
        return
    if target == "f32":
        if have == 64:
            single = constrained(e, code, "<32 x float>", [(vec(64), value)], mode)
        else:
            single = round_double(e, e.op(f"{code} {vec(have)} {value} to <32 x double>"), 32, mode)
        e.write(i.operands[0], e.op(f"bitcast <32 x float> {single} to {vec(32)}"), 32)
        return
    if have == 64:
        # Cut off to f32 and made odd where something was lost: what is rounded next, to 11 or 8 bits, comes out right.
        single = constrained(e, code, "<32 x float>", [(vec(64), value)], "rz")
        back = e.intrinsic(f"llvm.fpto{code[0]}i.sat.v32i64.v32f32", vec(64), ("<32 x float>", single))
        lost = e.op(f"icmp ne {vec(64)} {back}, {value}")
        raw = e.op(f"bitcast <32 x float> {single} to {vec(32)}")
        raw = e.op(f"or {vec(32)} {raw}, {e.op(f'zext <32 x i1> {lost} to {vec(32)}')}")
        single = e.op(f"bitcast {vec(32)} {raw} to <32 x float>")
    else:
        single = to_odd_float(e, e.op(f"{code} {vec(have)} {value} to <32 x double>"), 32)
    e.write(i.operands[0], _narrow(e, single, target, mode, False), 16)


def _to_integer(e: Emitter, i: Instruction, target: str, source: str) -> None:
    have, want = type_bits(source), type_bits(target)
    value, t = unpack(e, e.read(i.operands[1], have, "f"), source)
    if i.has("ftz") and source == "f32":
        value = flush(e, value, 32)
    if source == "f32" or "float" in t:
        value, t = e.op(f"fpext <32 x float> {value} to <32 x double>"), "<32 x double>"
    name = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}[_rounding(i) or "rzi"]
    value = e.intrinsic(f"llvm.{name}.v32f64", t, (t, value))
    code = "s" if target[0] == "s" else "u"
    out = e.intrinsic(f"llvm.fpto{code}i.sat.v32i{want}.v32f64", vec(want), (t, value))
    if want == 64 or source == "f64":
        nan = e.op(f"fcmp uno {t} {value}, zeroinitializer")
        out = e.op(f"select <32 x i1> {nan}, {vec(want)} {e.splat(1 << (want - 1), want)}, {vec(want)} {out}")
    e.write(i.operands[0], out, want, target[0] == "s")


def _floats(e: Emitter, i: Instruction, target: str, source: str) -> None:
    have = type_bits(source)
    mode = _rounding(i)
    raw = e.read(i.operands[1], have, "f")
    value, t = unpack(e, raw, source)
    # To f16 nothing is flushed, whatever the modifier says (recorded on an H200).
    if i.has("ftz") and source == "f32" and target != "f16":
        value = flush(e, value, 32)
    scalar = "double" if "double" in t else "float"
    if mode in ("rni", "rzi", "rmi", "rpi"):
        name = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}[mode]
        width = 64 if scalar == "double" else 32
        value = e.intrinsic(f"llvm.{name}.v32f{width}", t, (t, value))
        mode = "rn"
    mode = mode or "rn"
    nan = e.op(f"fcmp uno {t} {value}, zeroinitializer")
    if i.has("relu"):
        value = _clip(e, value, t)
    if i.has("sat") and not i.has("satfinite"):
        from .floating import _saturate

        value = _saturate(e, value, t, 32)
    if target == "f64":
        if scalar == "float":
            value = e.op(f"fpext {t} {value} to <32 x double>")
        out = e.op(f"bitcast <32 x double> {value} to {vec(64)}")
        if i.has("ftz"):
            # Flushing goes through an addition in f32, which makes NaNs canonical.
            out = e.op(f"select <32 x i1> {nan}, {vec(64)} {e.splat(0x7FFFFFFFE0000000, 64)}, {vec(64)} {out}")
        e.write(i.operands[0], out, 64)
        return
    if target == "f32":
        if scalar == "double":
            value = round_double(e, value, 32, mode)
        if i.has("ftz"):
            value = flush(e, value, 32)
        out = e.op(f"bitcast <32 x float> {value} to {vec(32)}")
        if source == "f64" and not i.has("sat"):
            out = _payload(e, out, raw, nan, "f32")
        elif source == "bf16":
            out = e.op(
                f"select <32 x i1> {nan}, {vec(32)} {e.op(f'bitcast {t} {value} to {vec(32)}')}, {vec(32)} {out}"
            )
        else:
            out = canonical(e, out, "f32", 32, value, "<32 x float>")
        e.write(i.operands[0], out, 32)
        return
    if scalar == "double":
        value = to_odd_float(e, value, 32)
    if target == "tf32":
        e.write(i.operands[0], _tf32(e, value, mode, i.has("satfinite")), 32)
        return
    out = _narrow(e, value, target, mode, i.has("satfinite"))
    if source == "f64":
        out = _payload(e, out, raw, nan, target)
    e.write(i.operands[0], out, 16)


def _clip(e: Emitter, value: str, t: str) -> str:
    """.relu: negative numbers and -0 become +0, NaN stays."""
    negative = e.op(f"fcmp ole {t} {value}, zeroinitializer")
    return e.op(f"select <32 x i1> {negative}, {t} zeroinitializer, {t} {value}")


def _payload(e: Emitter, value: str, raw: str, nan: str, target: str) -> str:
    """NaNs of an f64 keep sign and upper payload bits, quieted, in narrower formats (recorded on an H200)."""
    bits, mantissa = (32, 23) if target == "f32" else (16, 10 if target == "f16" else 7)
    exponent = ((1 << (bits - 1 - mantissa)) - 1) << mantissa
    k = vec(64)
    top = e.op(f"lshr {k} {raw}, {e.splat(52 - mantissa, 64)}")
    kept = e.op(f"and {k} {top}, {e.splat((1 << mantissa) - 1, 64)}")
    sign = e.op(f"and {k} {e.op(f'lshr {k} {raw}, {e.splat(64 - bits, 64)}')}, {e.splat(1 << (bits - 1), 64)}")
    whole = e.op(f"or {k} {e.op(f'or {k} {kept}, {sign}')}, {e.splat(exponent | 1 << (mantissa - 1), 64)}")
    return e.op(f"select <32 x i1> {nan}, {vec(bits)} {e.resize(whole, 64, bits, False)}, {vec(bits)} {value}")


def _narrow(e: Emitter, value: str, target: str, mode: str, satfinite: bool) -> str:
    """f32 to f16 or bf16 bits."""
    if mode == "rn":
        out = to_half(e, value, 32) if target == "f16" else to_bfloat(e, value, 32)
    elif mode == "rz":
        if target == "bf16":
            raw = e.op(f"bitcast <32 x float> {value} to {vec(32)}")
            short = e.resize(e.op(f"lshr {vec(32)} {raw}, splat (i32 16)"), 32, 16, False)
        else:
            half = e.op(f"fptrunc <32 x float> {value} to <32 x half>")
            back = e.op(f"fpext <32 x half> {half} to <32 x float>")
            t = "<32 x float>"
            wide, narrow = (e.intrinsic("llvm.fabs.v32f32", t, (t, v)) for v in (back, value))
            over = e.op(f"fcmp ogt {t} {wide}, {narrow}")
            short = e.op(f"bitcast <32 x half> {half} to {vec(16)}")
            short = e.op(f"sub {vec(16)} {short}, {e.op(f'zext <32 x i1> {over} to {vec(16)}')}")
        out = canonical(e, short, target, 32, value, "<32 x float>")
    else:
        out = _narrow_away(e, value, target, mode)
    if satfinite:
        largest, infinity = (0x7BFF, 0x7C00) if target == "f16" else (0x7F7F, 0x7F80)
        magnitude = e.op(f"and {vec(16)} {out}, splat (i16 32767)")
        isinf = e.op(f"icmp eq {vec(16)} {magnitude}, splat (i16 {infinity})")
        sign = e.op(f"and {vec(16)} {out}, splat (i16 -32768)")
        clamped = e.op(f"or {vec(16)} {sign}, splat (i16 {largest})")
        out = e.op(f"select <32 x i1> {isinf}, {vec(16)} {clamped}, {vec(16)} {out}")
    return out


def _narrow_away(e: Emitter, value: str, target: str, mode: str) -> str:
    """f32 to f16 or bf16 bits toward +infinity (rp) or -infinity (rm): cut off, then one further where something was
    lost."""
    t = "<32 x float>"
    cut = _narrow(e, value, target, "rz", False)
    back, _ = unpack(e, cut, target)
    lost = e.op(f"fcmp one {t} {back}, {value}")
    # By the sign bit, so that what vanishes becomes the smallest number of its sign.
    raw = e.op(f"bitcast {t} {value} to {vec(32)}")
    outwards = e.op(f"icmp {'sge' if mode == 'rp' else 'slt'} {vec(32)} {raw}, zeroinitializer")
    step = e.op(f"and <32 x i1> {lost}, {outwards}")
    finite = e.op(f"fcmp one {t} {e.intrinsic('llvm.fabs.v32f32', t, (t, value))}, splat (float 0x7FF0000000000000)")
    step = e.op(f"and <32 x i1> {step}, {finite}")
    return e.op(f"add {vec(16)} {cut}, {e.op(f'zext <32 x i1> {step} to {vec(16)}')}")


def _pack_integers(e: Emitter, i: Instruction) -> None:
    """cvt.pack.sat: two integers saturated side by side, below the upper part of a third (PTX ISA 9.7.9.23)."""
    name = next(p for p in i.parts[2:] if p != "sat")
    bits = type_bits(name)
    k = vec(32)
    low = -(1 << (bits - 1)) if name[0] == "s" else 0
    high = (1 << (bits - 1)) - 1 if name[0] == "s" else (1 << bits) - 1
    out = None
    if len(i.operands) > 3:
        out = e.op(f"shl {k} {e.read(i.operands[3], 32)}, {e.splat(2 * bits, 32)}")
    for operand, at in ((i.operands[2], 0), (i.operands[1], bits)):
        value = e.read(operand, 32, "i")
        value = e.intrinsic("llvm.smax.v32i32", k, (k, value), (k, e.splat(low, 32)))
        value = e.intrinsic("llvm.smin.v32i32", k, (k, value), (k, e.splat(high, 32)))
        value = e.op(f"and {k} {value}, {e.splat((1 << bits) - 1, 32)}")
        value = e.op(f"shl {k} {value}, {e.splat(at, 32)}")
        out = value if out is None else e.op(f"or {k} {out}, {value}")
    assert out is not None
    e.write(i.operands[0], out, 32)


def _tf32(e: Emitter, value: str, mode: str, satfinite: bool) -> str:
    k = vec(32)
    raw = e.op(f"bitcast <32 x float> {value} to {k}")
    if mode == "rna":
        up = e.op(f"add {k} {raw}, splat (i32 4096)")
    elif mode == "rz":
        up = raw
    else:
        odd = e.op(f"and {k} {e.op(f'lshr {k} {raw}, splat (i32 13)')}, splat (i32 1)")
        up = e.op(f"add {k} {e.op(f'add {k} {raw}, splat (i32 4095)')}, {odd}")
    out = e.op(f"and {k} {up}, splat (i32 -8192)")
    if satfinite:
        magnitude = e.op(f"and {k} {out}, splat (i32 2147483647)")
        big = e.op(f"icmp uge {k} {magnitude}, splat (i32 2139095040)")
        sign = e.op(f"and {k} {out}, splat (i32 -2147483648)")
        out = e.op(f"select <32 x i1> {big}, {k} {e.op(f'or {k} {sign}, splat (i32 2139086848)')}, {k} {out}")
    # What an H200 makes of a NaN: .rna cuts its payload off, the others have one of their own.
    nan = e.op(f"fcmp uno <32 x float> {value}, zeroinitializer")
    odd = e.op(f"and {k} {raw}, splat (i32 -8192)") if mode == "rna" else "splat (i32 2147475456)"
    return e.op(f"select <32 x i1> {nan}, {k} {odd}, {k} {out}")


def _packed(e: Emitter, i: Instruction, target: str, source: str) -> None:
    element = target[:-2] if target.endswith("x2") else target
    if source == "f32" and element in ("f16", "bf16"):
        high, low = (unpack(e, e.read(o, 32, "f"), "f32")[0] for o in i.operands[1:3])
        mode = _rounding(i) or "rn"
        halves = []
        for value in (low, high):
            if i.has("relu"):
                value = _clip(e, value, "<32 x float>")
            halves.append(e.resize(_narrow(e, value, element, mode, i.has("satfinite")), 16, 32, False))
        out = e.op(f"or {vec(32)} {halves[0]}, {e.op(f'shl {vec(32)} {halves[1]}, splat (i32 16)')}")
        e.write(i.operands[0], out, 32)
    elif element in MINIS and source in ("f32", "f16x2", "bf16x2"):
        _encode_pair(e, i, MINIS[element], source, i.has("relu"))
    elif target in ("f16x2", "bf16x2") and source[:-2] in MINIS:
        _decode_pair(e, i, target, MINIS[source[:-2]])
    elif target == "ue8m0x2":
        _encode_ue8m0(e, i, source)
    elif target == "bf16x2" and source == "ue8m0x2":
        raw = e.resize(e.read(i.operands[1], 16), 16, 32, False)
        k = vec(32)
        parts = []
        for at in (0, 8):
            code = e.op(f"and {k} {e.op(f'lshr {k} {raw}, {e.splat(at, 32)}')}, splat (i32 255)")
            # 2^(code - 127): a zero exponent field is 2^-127, a denormal; 255 is NaN.
            value = e.op(f"shl {k} {code}, splat (i32 7)")
            zero = e.op(f"icmp eq {k} {code}, zeroinitializer")
            value = e.op(f"select <32 x i1> {zero}, {k} splat (i32 64), {k} {value}")
            nan = e.op(f"icmp eq {k} {code}, splat (i32 255)")
            parts.append(e.op(f"select <32 x i1> {nan}, {k} splat (i32 32767), {k} {value}"))
        e.write(i.operands[0], e.op(f"or {k} {parts[0]}, {e.op(f'shl {k} {parts[1]}, splat (i32 16)')}"), 32)
    else:
        raise Unsupported


def _pair_inputs(e: Emitter, i: Instruction, source: str) -> tuple[str, str]:
    """(low, high) f32 vectors of a conversion's inputs."""
    if source == "f32":
        high, low = (unpack(e, e.read(o, 32, "f"), "f32")[0] for o in i.operands[1:3])
        return low, high
    both, t = unpack(e, e.read(i.operands[1], 32), source)
    parts = []
    for half in (0, 1):
        mask = "<" + ", ".join(f"i32 {2 * lane + half}" for lane in range(32)) + ">"
        parts.append(e.op(f"shufflevector {t} {both}, {t} poison, <32 x i32> {mask}"))
    return parts[0], parts[1]


def _encode_pair(e: Emitter, i: Instruction, fmt: Mini, source: str, relu: bool) -> None:
    low, high = _pair_inputs(e, i, source)
    name = f"encode_{fmt.bits}_{fmt.mantissa}_{int(relu)}"
    f = "<32 x float>"
    codes = [
        e.call_helper(name, vec(32), [(f, v)], lambda inner, a: encode_mini(inner, a[0], fmt, relu))
        for v in (low, high)
    ]
    shift = 4 if fmt.bits == 4 else 8
    out = e.op(f"or {vec(32)} {codes[0]}, {e.op(f'shl {vec(32)} {codes[1]}, {e.splat(shift, 32)}')}")
    width = 8 if fmt.bits == 4 else 16
    e.write(i.operands[0], e.resize(out, 32, width, False), width)


def _decode_pair(e: Emitter, i: Instruction, target: str, fmt: Mini) -> None:
    width = 8 if fmt.bits == 4 else 16
    relu = i.has("relu")
    raw = e.resize(e.read(i.operands[1], width), width, 32, False)

    def build(inner: Emitter, a: list[str]) -> str:
        k = vec(32)
        parts = []
        for at in (0, 4 if fmt.bits == 4 else 8):
            code = inner.op(f"lshr {k} {a[0]}, {inner.splat(at, 32)}")
            value = decode_mini(inner, code, fmt)
            if relu:
                value = _clip(inner, value, "<32 x float>")
            short = to_half(inner, value, 32) if target == "f16x2" else to_bfloat(inner, value, 32)
            parts.append(inner.resize(short, 16, 32, False))
        return inner.op(f"or {k} {parts[0]}, {inner.op(f'shl {k} {parts[1]}, splat (i32 16)')}")

    def build_e2m1(inner: Emitter, a: list[str]) -> str:
        """f16 only: 0x3C00 + (c - 2) * 0x200 for codes of at least 1.0, 0x3800 for one half."""
        k = vec(32)
        both = inner.op(f"and {k} {a[0]}, splat (i32 15)")
        top = inner.op(f"and {k} {inner.op(f'shl {k} {a[0]}, splat (i32 12)')}, splat (i32 983040)")
        both = inner.op(f"or {k} {both}, {top}")
        sign = inner.op(f"shl {k} {inner.op(f'and {k} {both}, splat (i32 524296)')}, splat (i32 12)")
        body = inner.op(f"bitcast {k} {inner.op(f'and {k} {both}, splat (i32 458759)')} to {vec(16, 64)}")
        h = vec(16, 64)
        normal = inner.op(f"add {h} {inner.op(f'shl {h} {body}, splat (i16 9)')}, splat (i16 14336)")
        one = inner.op(f"icmp eq {h} {body}, splat (i16 1)")
        value = inner.op(f"select <64 x i1> {one}, {h} splat (i16 14336), {h} {normal}")
        zero = inner.op(f"icmp eq {h} {body}, zeroinitializer")
        value = inner.op(f"select <64 x i1> {zero}, {h} zeroinitializer, {h} {value}")
        return inner.op(f"or {k} {inner.op(f'bitcast {h} {value} to {k}')}, {sign}")

    special = fmt.bits == 4 and target == "f16x2" and not relu
    name = f"decode_{fmt.bits}_{fmt.mantissa}_{target}_{int(relu)}"
    out = e.call_helper(name, vec(32), [(vec(32), raw)], build_e2m1 if special else build)
    e.write(i.operands[0], out, 32)


def _encode_ue8m0(e: Emitter, i: Instruction, source: str) -> None:
    """Powers of two: rz truncates the mantissa, rp rounds up; NaN is 255, saturation 254."""
    low, high = _pair_inputs(e, i, source)
    up = i.has("rp")
    k = vec(32)
    codes = []
    for value in (low, high):
        raw = e.op(f"bitcast <32 x float> {value} to {k}")
        magnitude = e.op(f"and {k} {raw}, splat (i32 2147483647)")
        code = e.op(f"lshr {k} {magnitude}, splat (i32 23)")
        if up:
            rest = e.op(f"and {k} {magnitude}, splat (i32 8388607)")
            more = e.op(f"icmp ne {k} {rest}, zeroinitializer")
            # 2^-127 is the smallest code: denormals up to it stay there.
            low_enough = e.op(f"icmp ule {k} {magnitude}, splat (i32 4194304)")
            more = e.op(f"and <32 x i1> {more}, {e.op(f'xor <32 x i1> {low_enough}, splat (i1 true)')}")
            code = e.op(f"add {k} {code}, {e.op(f'zext <32 x i1> {more} to {k}')}")
        code = e.intrinsic("llvm.umin.v32i32", k, (k, code), (k, e.splat(254, 32)))
        nan = e.op(f"icmp ugt {k} {magnitude}, splat (i32 2139095040)")
        codes.append(e.op(f"select <32 x i1> {nan}, {k} splat (i32 255), {k} {code}"))
    out = e.op(f"or {k} {codes[0]}, {e.op(f'shl {k} {codes[1]}, splat (i32 8)')}")
    e.write(i.operands[0], e.resize(out, 32, 16, False), 16)


HANDLERS = {"cvt": _cvt}
