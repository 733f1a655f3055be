"""ldmatrix, stmatrix, movmatrix and the hot forms of mma.sync (PTX ISA 9.7.14.5). Other forms of mma go to the host
(host/mma.py)."""

from __future__ import annotations

import functools

from ..native.jit import NativeModule, compile_ir
from ..ptx.ast import Instruction, Operand, Vec
from .convert import MINIS, decode_mini
from .emitter import SCRATCH_ADDRESS, SCRATCH_OUT, SCRATCH_VALUES, Emitter, KernelLayout, Unsupported, vec
from .floating import _odd_sum, canonical, unpack
from .flow import Flow
from .warp import _converge

__all__ = ["HANDLERS", "mma_is_native", "product_addresses"]

_NATIVE = {"f16": 2, "bf16": 2, "tf32": 1, "e4m3": 4, "e5m2": 4}


def mma_is_native(i: Instruction) -> bool:
    """Whether an mma.sync runs as native code: floats of 8 to 32 bits into f32, M = 16, no scaling."""
    if i.base != "mma" or any(p.startswith("kind") or p == "sp" or p.startswith("sp::") for p in i.parts):
        return False
    types = i.parts[-4:]
    return (
        i.parts[3].startswith("m16n8k")
        and types[0] == types[3] == "f32"
        and types[1] in _NATIVE
        and types[2] in _NATIVE
    )


def _aligned(e: Emitter, i: Instruction) -> None:
    """All threads of the warp execute these (.aligned): wait for the others, then insist."""
    del i
    _converge(e, "-1")


def _address(e: Emitter, operand: Operand) -> str:
    return e.store_scratch(SCRATCH_ADDRESS, e.address(operand), 64)


def _ldmatrix(e: Emitter, i: Instruction) -> None:
    if "m8n8" not in i.parts:
        raise Unsupported
    _aligned(e, i)
    targets = i.operands[0].items if isinstance(i.operands[0], Vec) else (i.operands[0],)
    where = _address(e, i.operands[1])
    e.do(
        f"call void @load_matrix(ptr %ctx, ptr %w, i32 {e.number}, i32 {len(targets)}, i32 "
        f"{int(i.has('trans'))}, ptr {where}, "
        f"ptr {e.scratch(SCRATCH_OUT)})"
    )
    for k, target in enumerate(targets):
        e.write(target, e.load_scratch(SCRATCH_OUT + 128 * k, 32), 32)


def _stmatrix(e: Emitter, i: Instruction) -> None:
    if "m8n8" not in i.parts:
        raise Unsupported
    _aligned(e, i)
    values = i.operands[1].items if isinstance(i.operands[1], Vec) else (i.operands[1],)
    where = _address(e, i.operands[0])
    for k, value in enumerate(values):
        e.store_scratch(SCRATCH_VALUES + 128 * k, e.read(value, 32), 32)
    e.do(
        f"call void @store_matrix(ptr %ctx, ptr %w, i32 {e.number}, i32 {len(values)}, i32 "
        f"{int(i.has('trans'))}, ptr {where}, "
        f"ptr {e.scratch(SCRATCH_VALUES)})"
    )


def _movmatrix(e: Emitter, i: Instruction) -> None:
    _aligned(e, i)
    a = e.store_scratch(SCRATCH_VALUES, e.read(i.operands[1], 32), 32)
    e.do(f"call void @move_matrix(ptr {a}, ptr {e.scratch(SCRATCH_OUT)})")
    e.write(i.operands[0], e.load_scratch(SCRATCH_OUT, 32), 32)


def _mma(e: Emitter, i: Instruction) -> None:
    if not mma_is_native(i):
        raise Unsupported
    _aligned(e, i)
    kind_a, kind_b = i.parts[-3], i.parts[-2]
    k_extent = int(i.parts[3].rpartition("k")[2])
    per_register = _NATIVE[kind_a]
    d, a, b, c = i.operands[:4]
    assert isinstance(d, Vec)
    assert isinstance(a, Vec)
    assert isinstance(b, Vec)
    groups = k_extent // (4 * per_register)
    if (len(a.items), len(b.items), len(d.items)) != (2 * groups, groups, 4):
        e.fail(
            f"A, B and D take {2 * groups}, {groups} and 4 registers, got {len(a.items)}, "
            f"{len(b.items)} and {len(d.items)}"
        )
    if isinstance(c, Vec):
        accumulators = [e.read(item, 32, "f") for item in c.items]
    else:
        accumulators = [e.read(c, 32, "f")] * 4
    name = f"mma_{kind_a}_{kind_b}_{k_extent}"
    kind = vec(32)
    operands = [e.read(o, 32) for o in (*a.items, *b.items)]
    for index, value in enumerate((*operands, *accumulators)):
        e.store_scratch(SCRATCH_VALUES + 128 * index, value, 32)
    _product(kind_a, kind_b, groups, per_register)
    e.declare(f"declare void @{name}(ptr, ptr)")
    e.do(f"call void @{name}(ptr {e.scratch(SCRATCH_VALUES)}, ptr {e.scratch(SCRATCH_OUT)})")
    from ..runtime.layout import CONTEXT, Counter

    counters = CONTEXT.fields["counters"].offset + 8 * int(Counter.MMA_FLOPS)
    where = e.field_pointer("%ctx", counters)
    before = e.op(f"load i64, ptr {where}")
    after = e.op(f"add i64 {before}, {2 * 16 * 8 * k_extent}")
    e.do(f"store i64 {after}, ptr {where}")
    for index, target in enumerate(d.items):
        e.write(target, e.op(f"load {kind}, ptr {e.scratch(SCRATCH_OUT + 128 * index)}, align 64"), 32)


def _decode(e: Emitter, value: str, kind: str) -> list[str]:
    """One register to f32 in K order: a list of <32 x float>, or one <64 x float> for halves."""
    if kind in ("f16", "bf16"):
        return [unpack(e, value, kind + "x2")[0]]
    if kind == "tf32":
        raw = e.op(f"and {vec(32)} {value}, splat (i32 -8192)")
        return [e.op(f"bitcast {vec(32)} {raw} to <32 x float>")]
    out = []
    for byte in range(4):
        code = e.op(f"lshr {vec(32)} {value}, {e.splat(8 * byte, 32)}")
        out.append(decode_mini(e, code, MINIS[kind]))
    return out


_products: dict[str, NativeModule] = {}


def product_addresses() -> dict[str, int]:
    """Where the functions of the forms of mma.sync used so far lie."""
    return {name: module.address(name) for name, module in _products.items()}


@functools.cache
def _product(kind_a: str, kind_b: str, groups: int, per_register: int) -> None:
    """Compile one form of mma.sync: apart from the kernels, so that all of them share machine code that LLVM had time
    to optimise."""
    name = f"mma_{kind_a}_{kind_b}_{groups * 4 * per_register}"
    flow = Flow(name, [], {}, {}, {}, {}, set(), {})
    e = Emitter(flow, KernelLayout(), {}, set())
    body = _mma_function(e, name, kind_a, kind_b, groups, per_register)
    text = "\n".join([*sorted(e.declared), *e.helpers.values(), body])
    _products[name] = compile_ir(text, 3, True)


# Rows of D that are computed side by side: enough chains of additions to hide the latency of one.
_ROWS = 8


def _mma_function(e: Emitter, name: str, kind_a: str, kind_b: str, groups: int, per_register: int) -> str:
    """A function that reads A, B, C registers from memory and leaves D: exact products, summed in f64, rounded once to
    f32.

    Decoded, register r of A is [8 rows g][4 E values in K order] for rows g + 8 (r % 2); register r of B is [8
    columns][4 E values]. A row of D is a vector of eight f64: for each k one broadcast of A times the eight columns
    of B.
    """
    inner = Emitter(e.flow, e.layout, e.helpers, e.declared)
    row = 4 * per_register
    lanes = 32 * per_register

    def decoded(index: int, kind: str) -> str:
        where = inner.op(f"getelementptr i8, ptr %values, i64 {128 * index}")
        value = inner.op(f"load {vec(32)}, ptr {where}, align 64")
        parts = _decode(inner, value, kind)
        if len(parts) == 1:
            return parts[0]
        # Bytes of a register are consecutive k: interleave the four vectors of 32 lanes.
        first = inner.op(
            f"shufflevector <32 x float> {parts[0]}, <32 x float> {parts[1]}, <64 x i32> {_interleave(32)}"
        )
        second = inner.op(
            f"shufflevector <32 x float> {parts[2]}, <32 x float> {parts[3]}, <64 x i32> {_interleave(32)}"
        )
        order = []
        for lane in range(32):
            order += [2 * lane, 2 * lane + 1, 64 + 2 * lane, 64 + 2 * lane + 1]
        mask = "<" + ", ".join(f"i32 {n}" for n in order) + ">"
        return inner.op(f"shufflevector <64 x float> {first}, <64 x float> {second}, <128 x i32> {mask}")

    for r in range(2 * groups):
        wide = inner.op(f"fpext <{lanes} x float> {decoded(r, kind_a)} to <{lanes} x double>")
        where = inner.op(f"getelementptr double, ptr %a, i64 {r * lanes}")
        inner.do(f"store <{lanes} x double> {wide}, ptr {where}, align 64")
    for r in range(groups):
        value = decoded(2 * groups + r, kind_b)
        for j in range(row):
            mask = "<" + ", ".join(f"i32 {column * row + j}" for column in range(8)) + ">"
            column = inner.op(f"shufflevector <{lanes} x float> {value}, <{lanes} x float> poison, <8 x i32> {mask}")
            wide = inner.op(f"fpext <8 x float> {column} to <8 x double>")
            where = inner.op(f"getelementptr <8 x double>, ptr %b, i64 {r * row + j}")
            inner.do(f"store <8 x double> {wide}, ptr {where}, align 64")
    prologue = "\n".join(inner.lines)
    inner.lines = []
    t = "<8 x double>"
    inner.declare(f"declare {t} @llvm.fma.v8f64({t}, {t}, {t})")
    totals = ["zeroinitializer"] * _ROWS
    # Rows in turn: g and g + 8 (the odd registers of A), then the next g.
    rows = [(n // 2, n % 2) for n in range(_ROWS)]
    for r in range(groups):
        for j in range(row):
            column = inner.op(f"getelementptr {t}, ptr %b, i64 {r * row + j}")
            value = inner.op(f"load {t}, ptr {column}, align 64")
            for n, (g, half) in enumerate(rows):
                at = inner.op(f"add i64 %base, {(2 * r + half) * lanes + g * row + j}")
                scalar = inner.op(f"load double, ptr {inner.op(f'getelementptr double, ptr %a, i64 {at}')}, align 8")
                one = inner.op(f"insertelement {t} poison, double {scalar}, i32 0")
                spread = inner.op(f"shufflevector {t} {one}, {t} poison, <8 x i32> zeroinitializer")
                totals[n] = inner.op(f"call {t} @llvm.fma.v8f64({t} {spread}, {t} {value}, {t} {totals[n]})")
    for n, (g, half) in enumerate(rows):
        out = inner.op(f"add i64 %out, {4 * g + 64 * half}")
        c_at = inner.op(f"getelementptr float, ptr %c, i64 {out}")
        even = inner.op(f"load <4 x float>, ptr {c_at}, align 4")
        odd = inner.op(f"load <4 x float>, ptr {inner.op(f'getelementptr float, ptr {c_at}, i64 32')}, align 4")
        mixed = inner.op(
            f"shufflevector <4 x float> {even}, <4 x float> {odd}, <8 x i32> <i32 0, i32 4, i32 1, i32 5, "
            f"i32 2, i32 6, i32 3, i32 7>"
        )
        total = _odd_sum(inner, totals[n], inner.op(f"fpext <8 x float> {mixed} to {t}"), 8, "double")
        single = inner.op(f"fptrunc {t} {total} to <8 x float>")
        raw = canonical(inner, inner.op(f"bitcast <8 x float> {single} to <8 x i32>"), "f32", 8, single, "<8 x float>")
        d_at = inner.op(f"getelementptr float, ptr %d, i64 {out}")
        for parity, mask in ((0, "<i32 0, i32 2, i32 4, i32 6>"), (1, "<i32 1, i32 3, i32 5, i32 7>")):
            part = inner.op(f"shufflevector <8 x i32> {raw}, <8 x i32> poison, <4 x i32> {mask}")
            where = inner.op(f"getelementptr float, ptr {d_at}, i64 {32 * parity}")
            inner.do(f"store <4 x i32> {part}, ptr {where}, align 4")
    body = "\n".join(inner.lines)
    return f"""define void @{name}(ptr noalias %values, ptr noalias %d) nounwind {{
entry:
  %a = alloca [{2 * groups * lanes} x double], align 64
  %b = alloca [{groups * row} x {t}], align 64
  %c = getelementptr i8, ptr %values, i64 {128 * 3 * groups}
{prologue}
  br label %loop
loop:
  %g = phi i64 [ 0, %entry ], [ %next, %loop ]
  %base = mul i64 %g, {row}
  %out = mul i64 %g, 4
{body}
  %next = add i64 %g, {_ROWS // 2}
  %more = icmp ult i64 %next, 8
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


def _interleave(n: int) -> str:
    order = []
    for lane in range(n):
        order += [lane, n + lane]
    return "<" + ", ".join(f"i32 {x}" for x in order) + ">"


HANDLERS = {"ldmatrix": _ldmatrix, "stmatrix": _stmatrix, "movmatrix": _movmatrix, "mma": _mma}
