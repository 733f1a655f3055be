"""mma.sync fragments against the layouts of cute/atom/mma_traits_sm80.hpp and mma_traits_sm90.hpp, and against PTX
formulas."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cute_layout import Layout, size
from numpy.typing import NDArray

from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.mma import MmaSpec, fma_f64, mma_sync, parse_mma
from nvfp4.emulator.units.numerics import FORMATS

ROW_8x8 = Layout(((4, 8), 2), ((16, 1), 8))
ROW_16x8 = Layout(((4, 8), (2, 2)), ((32, 1), (16, 8)))
# (m, k, bits of an element) -> (A, B, C) as (thread, value) -> index in a column-major matrix (rows fastest; B is N
# x K).
CUTE = {
    (16, 8, 16): (ROW_16x8, ROW_8x8, ROW_16x8),
    (16, 16, 16): (
        Layout(((4, 8), (2, 2, 2)), ((32, 1), (16, 8, 128))),
        Layout(((4, 8), (2, 2)), ((16, 1), (8, 64))),
        ROW_16x8,
    ),
    (16, 4, 32): (Layout(((4, 8), 2), ((16, 1), 8)), Layout(((4, 8), 1), ((8, 1), 0)), ROW_16x8),
    (16, 8, 32): (Layout(((4, 8), (2, 2)), ((16, 1), (8, 64))), Layout(((4, 8), 2), ((8, 1), 32)), ROW_16x8),
    (8, 16, 8): (Layout(((4, 8), 4), ((32, 1), 8)), Layout(((4, 8), 4), ((32, 1), 8)), ROW_8x8),
    (16, 16, 8): (Layout(((4, 8), (4, 2)), ((64, 1), (16, 8))), Layout(((4, 8), 4), ((32, 1), 8)), ROW_16x8),
    (16, 32, 8): (
        Layout(((4, 8), (4, 2, 2)), ((64, 1), (16, 8, 256))),
        Layout(((4, 8), (4, 2)), ((32, 1), (8, 128))),
        ROW_16x8,
    ),
    (8, 32, 4): (Layout(((4, 8), 8), ((64, 1), 8)), Layout(((4, 8), 8), ((64, 1), 8)), ROW_8x8),
    (16, 32, 4): (Layout(((4, 8), (8, 2)), ((128, 1), (16, 8))), Layout(((4, 8), 8), ((64, 1), 8)), ROW_16x8),
    (16, 64, 4): (
        Layout(((4, 8), (8, 2, 2)), ((128, 1), (16, 8, 512))),
        Layout(((4, 8), (8, 2)), ((64, 1), (8, 256))),
        ROW_16x8,
    ),
    (8, 4, 64): (Layout(((4, 8), 1), ((8, 1), 0)), Layout(((4, 8), 1), ((8, 1), 0)), ROW_8x8),
    (16, 8, 64): (Layout(((4, 8), (2, 2)), ((16, 1), (8, 64))), Layout(((4, 8), 2), ((8, 1), 32)), ROW_16x8),
    (16, 16, 64): (Layout(((4, 8), (2, 4)), ((16, 1), (8, 64))), Layout(((4, 8), 4), ((8, 1), 32)), ROW_16x8),
}


def pack(codes: NDArray[Any], layout: Layout, bits: int) -> NDArray[Any]:
    """Codes of a matrix [rows, k] as registers [n, 32] according to a (thread, value) layout."""
    rows = codes.shape[0]
    count = size(layout.shape[1])
    if bits == 64:
        out = np.zeros((count, 32), np.uint64)
        for t in range(32):
            for v in range(count):
                index = layout(t, v)
                out[v, t] = codes[index % rows, index // rows]
        return out
    per = 32 // bits
    regs = np.zeros((count // per, 32), np.uint32)
    for t in range(32):
        for v in range(count):
            index = layout(t, v)
            regs[v // per, t] |= np.uint32(int(codes[index % rows, index // rows]) << (bits * (v % per)))
    return regs


def unpack(regs: NDArray[Any], layout: Layout, m: int, bits: int) -> NDArray[Any]:
    out = np.zeros((m, 8), np.uint64)
    per = max(1, 32 // bits)
    for t in range(32):
        for v in range(size(layout.shape[1])):
            index = layout(t, v)
            word = int(regs[v // per, t])
            out[index % m, index // m] = word >> (bits * (v % per)) & ((1 << bits) - 1)
    return out


FORMS = [
    ("m16n8k8", "f32", "f16", "f16", "f32"),
    ("m16n8k16", "f32", "f16", "f16", "f32"),
    ("m16n8k16", "f16", "f16", "f16", "f16"),
    ("m16n8k8", "f16", "f16", "f16", "f16"),
    ("m16n8k8", "f32", "bf16", "bf16", "f32"),
    ("m16n8k16", "f32", "bf16", "bf16", "f32"),
    ("m16n8k4", "f32", "tf32", "tf32", "f32"),
    ("m16n8k8", "f32", "tf32", "tf32", "f32"),
    ("m16n8k16", "f32", "e4m3", "e5m2", "f32"),
    ("m16n8k32", "f32", "e5m2", "e4m3", "f32"),
    ("m16n8k32", "f16", "e4m3", "e4m3", "f16"),
    ("m8n8k16", "s32", "s8", "u8", "s32"),
    ("m16n8k16", "s32", "u8", "s8", "s32"),
    ("m16n8k32", "s32", "s8", "s8", "s32"),
    ("m8n8k32", "s32", "s4", "u4", "s32"),
    ("m16n8k32", "s32", "u4", "s4", "s32"),
    ("m16n8k64", "s32", "s4", "s4", "s32"),
]


def operands(form: tuple[str, ...], seed: int) -> tuple[MmaSpec, Any, Any, Any, Any]:
    """(spec, A codes, B codes [8, k], C values, layouts) with values whose sums are exact."""
    spec = MmaSpec(*form)
    rng = np.random.default_rng(seed)
    bits = FORMATS[spec.a_type].bits

    def codes(name: str, rows: int) -> Any:
        if name in ("s8", "u8", "s4", "u4"):
            return rng.integers(0, 1 << FORMATS[name].bits, (rows, spec.k))
        values = rng.choice([-2.0, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 3], (rows, spec.k))
        return FORMATS[name].encode(values)

    a, b = codes(spec.a_type, spec.m), codes(spec.b_type, 8)
    c = rng.integers(-50, 50, (spec.m, 8))
    return spec, a, b, c, CUTE[spec.m, spec.k, bits]


@pytest.mark.parametrize("form", FORMS, ids=".".join)
def test_fragments_and_products(form: tuple[str, ...]) -> None:
    spec, a, b, c, (la, lb, lc) = operands(form, 1)
    bits = FORMATS[spec.a_type].bits
    wide = 16 if spec.c_type == "f16" else 32
    c_codes = {
        "f32": c.astype(np.float32).view(np.uint32),
        "f16": c.astype(np.float16).view(np.uint16),
        "s32": c.astype(np.int32).view(np.uint32),
    }
    regs = (pack(a, la, bits), pack(b, lb, bits), pack(c_codes[spec.c_type], lc, wide))
    assert tuple(r.shape[0] for r in regs) == spec.registers[:3]
    d = mma_sync(spec, regs)
    got = unpack(d, lc, spec.m, wide)
    fa, fb = FORMATS[spec.a_type], FORMATS[spec.b_type]
    want = fa.decode(a).astype(np.float64) @ fb.decode(b).astype(np.float64).T + c
    if spec.d_type == "s32":
        np.testing.assert_array_equal(got.astype(np.uint32).view(np.int32), want.astype(np.int64))
    elif spec.d_type == "f32":
        np.testing.assert_array_equal(got.astype(np.uint32).view(np.float32), want.astype(np.float32))
    else:
        np.testing.assert_array_equal(got.astype(np.uint16).view(np.float16), want.astype(np.float16))
    # A batch of warps gives the same.
    batch = tuple(np.stack([r, r]) for r in regs)
    np.testing.assert_array_equal(mma_sync(spec, batch)[1], d)


@pytest.mark.parametrize("form", [("m8n8k4",), ("m16n8k8",), ("m16n8k16",)], ids=lambda f: f[0])
def test_double_precision_is_a_chain_of_fmas(form: tuple[str]) -> None:
    spec = MmaSpec(form[0], "f64", "f64", "f64", "f64")
    rng = np.random.default_rng(7)
    a, b, c = rng.standard_normal((spec.m, spec.k)), rng.standard_normal((8, spec.k)), rng.standard_normal((spec.m, 8))
    la, lb, lc = CUTE[spec.m, spec.k, 64]
    regs = tuple(pack(x.view(np.uint64), layout, 64) for x, layout in ((a, la), (b, lb), (c, lc)))
    got = unpack(mma_sync(spec, regs), lc, spec.m, 64).view(np.float64)
    for i in range(spec.m):
        for j in range(8):
            total = Fraction(float(c[i, j]))
            for k in range(spec.k):
                total = Fraction(float(total + Fraction(float(a[i, k])) * Fraction(float(b[j, k]))))
            assert got[i, j] == float(total)


def test_fma_has_one_rounding() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal(5000), rng.standard_normal(5000)
    c = -(a * b) * (1 + rng.choice([0, 2.0**-52, 2.0**-30], 5000))
    want = [
        float(Fraction(x) * Fraction(y) + Fraction(z))
        for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(fma_f64(a, b, c), want)


SCALED = [
    ("mxf8f6f4", "m16n8k32", "e4m3", "e2m1", 1, "ue8m0"),
    ("mxf8f6f4", "m16n8k32", "e3m2", "e5m2", 1, "ue8m0"),
    ("mxf4", "m16n8k64", "e2m1", "e2m1", 2, "ue8m0"),
    ("mxf4nvf4", "m16n8k64", "e2m1", "e2m1", 2, "ue8m0"),
    ("mxf4nvf4", "m16n8k64", "e2m1", "e2m1", 4, "ue8m0"),
    ("mxf4nvf4", "m16n8k64", "e2m1", "e2m1", 4, "ue4m3"),
]


@pytest.mark.parametrize("form", SCALED, ids=lambda f: f"{f[0]}-{f[2]}-{f[3]}-{f[4]}X-{f[5]}")
def test_block_scaling(form: tuple[str, str, str, str, int, str]) -> None:
    kind, shape, ta, tb, count, ts = form
    spec = MmaSpec(shape, "f32", ta, tb, "f32", kind, count, ts)
    rng = np.random.default_rng(9)
    bits = spec.container
    a, b = rng.integers(0, 1 << FORMATS[ta].bits, (16, spec.k)), rng.integers(0, 1 << FORMATS[tb].bits, (8, spec.k))
    for name, codes in ((ta, a), (tb, b)):
        codes[~np.isfinite(FORMATS[name].decode(codes))] = 0

    def place(name: str, codes: Any) -> Any:
        """Sub-byte elements of the f8f6f4 kinds: e2m1 in the middle of the byte, 6-bit types at the bottom."""
        return codes << 2 if bits == 8 and FORMATS[name].bits == 4 else codes

    la, lb, lc = CUTE[16, spec.k, bits]
    regs = (pack(place(ta, a), la, bits), pack(place(tb, b), lb, bits), np.zeros((4, 32), np.uint32))
    low, high = (0x30, 0x48) if ts == "ue4m3" else (124, 131)
    sa, sb = rng.integers(low, high, (16, count)).astype(np.uint8), rng.integers(low, high, (8, count)).astype(np.uint8)
    fs = FORMATS[ts]
    block = spec.k // count
    wa = FORMATS[ta].decode(a).astype(np.float64) * np.repeat(fs.decode(sa).astype(np.float64), block, axis=1)
    wb = FORMATS[tb].decode(b).astype(np.float64) * np.repeat(fs.decode(sb).astype(np.float64), block, axis=1)
    want = (wa @ wb.T).astype(np.float32)
    for byte_a in {1: range(4), 2: (0, 2), 4: (0,)}[count]:
        for thread_a in range(2):
            for thread_b in range(4):
                byte_b = byte_a
                data_a, data_b = (rng.integers(0, 256, (32, 4), dtype=np.uint8) for _ in range(2))
                for g in range(8):
                    # PTX ISA 9.7.14.3: a pair of threads gives rows g and g + 8; one thread gives column g.
                    data_a[4 * g + 2 * thread_a, byte_a : byte_a + count] = sa[g]
                    data_a[4 * g + 2 * thread_a + 1, byte_a : byte_a + count] = sa[g + 8]
                    data_b[4 * g + thread_b, byte_b : byte_b + count] = sb[g]
                scales = (data_a.view(np.uint32).reshape(32), data_b.view(np.uint32).reshape(32))
                d = mma_sync(spec, regs, scales, (byte_a, thread_a, byte_b, thread_b))
                got = unpack(d, lc, 16, 32).astype(np.uint32).view(np.float32)
                np.testing.assert_array_equal(got, want)


def test_scale_factor_threads_of_cute() -> None:
    """SFALayout and SFBLayout of cute/atom/mma_traits_sm120.hpp for selectors 0: which row a lane's scale factor is
    for."""
    sfa = Layout((2, 2, 8), (8, 0, 1))
    sfb = Layout((4, 8), (0, 1))
    for lane in range(32):
        assert sfa(lane) == lane // 4 + 8 * (lane % 2)
        assert sfb(lane) == lane // 4


def test_saturation_of_integers() -> None:
    spec, a, b, _, (la, lb, lc) = operands(("m16n8k32", "s32", "s8", "s8", "s32"), 3)
    c = np.full((16, 8), 2**31 - 1, np.int64)
    regs = (pack(a, la, 8), pack(b, lb, 8), pack(c, lc, 32))
    product = FORMATS["s8"].decode(a).astype(np.int64) @ FORMATS["s8"].decode(b).astype(np.int64).T
    wrapped = unpack(mma_sync(spec, regs), lc, 16, 32).astype(np.uint32).view(np.int32)
    np.testing.assert_array_equal(wrapped, (c + product).astype(np.int32))
    clipped = MmaSpec("m16n8k32", "s32", "s8", "s8", "s32", saturate=True)
    got = unpack(mma_sync(clipped, regs), lc, 16, 32).astype(np.uint32).view(np.int32)
    np.testing.assert_array_equal(got, np.minimum(c + product, 2**31 - 1))


@pytest.mark.parametrize(
    ("opcode", "message"),
    [
        ("mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32", "sparse"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32", "m8n8k4"),
        ("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc", "b1"),
        ("mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16", "accumulators"),
        ("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.f32.e2m1.e2m1.f32.ue4m3", "scale_vec"),
        ("mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue8m0", "mxf4"),
        ("mma.sync.aligned.m16n8k16.col.col.f32.f16.f16.f32", "row"),
    ],
)
def test_refused_forms(opcode: str, message: str) -> None:
    with pytest.raises(UnitError, match=message):
        parse_mma(opcode)


def test_parse() -> None:
    text = "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3"
    assert parse_mma(text) == MmaSpec("m16n8k64", "f32", "e2m1", "e2m1", "f32", "mxf4nvf4", 4, "ue4m3")
    assert parse_mma("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.u8.s32").saturate
    assert parse_mma("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e2m3.e2m1.f32").kind == "f8f6f4"
    with pytest.raises(UnitError, match="A has 2 registers"):
        mma_sync(
            parse_mma("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
            tuple(np.zeros((2, 32), np.uint32) for _ in range(3)),
        )
    with pytest.raises(UnitError, match="byte-id 1"):
        mma_sync(
            parse_mma(text),
            (np.zeros((4, 32), np.uint32), np.zeros((2, 32), np.uint32), np.zeros((4, 32), np.uint32)),
            (np.zeros(32, np.uint32), np.zeros(32, np.uint32)),
            (1, 0, 0, 0),
        )
