"""Matrix operands in shared memory and wgmma, against canonical layouts written in CuTe's algebra (`smem_layouts`)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from cute_layout import Layout, swizzle
from smem_layouts import CUTE_SWIZZLE, canonical, store, strides

from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units import swizzle as sw
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import FORMATS
from nvfp4.emulator.units.operand import MatrixDescriptor, operand, parse_sm90, parse_sm100, unpack_six
from nvfp4.emulator.units.wgmma import (
    WgmmaSpec,
    a_fragment,
    accumulator_matrix,
    accumulator_registers,
    half_matrix,
    half_registers,
    plan_wgmma,
)

MODES = list(CUTE_SWIZZLE)
SMEM = 1 << 17


@pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])
@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["e2m1", "e4m3", "s8", "bf16", "tf32"])
@pytest.mark.parametrize("rows", [8, 64, 128])
def test_operand_is_the_canonical_layout(mode: sw.Swizzle, mn_major: bool, name: str, rows: int) -> None:
    f = FORMATS[name]
    k = 256 // f.bits
    if mn_major and (f.bits < 8 or (f.bits == 32) != (mode is sw.B128_ATOM32)):
        with pytest.raises(UnitError):
            operand(MatrixDescriptor(0, 0, 0, 0, mode), rows, k, name, mn_major)
        return
    per = 128 // f.bits
    if mn_major and rows < per:
        pytest.skip("a 16-byte cell along MN holds more elements than there are rows")
    if not mn_major and mode is sw.B128_ATOM32 and name != "tf32":
        pytest.skip("one element width is enough for this pairing")
    if mn_major and rows < per * mode.span // 16:
        rows = per * mode.span // 16
    lbo, sbo = strides(mode, mn_major, rows, f.bits, k)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << min(f.bits, 31), (rows, k))
    smem = rng.integers(0, 256, SMEM, dtype=np.uint8)
    base = 2048
    layout = canonical(mode, mn_major, per, lbo * 8 // f.bits, sbo * 8 // f.bits, rows, k)
    store(smem, codes, f.bits, layout, mode, base)
    op = operand(MatrixDescriptor(base, lbo, sbo, 0, mode), rows, k, name, mn_major)
    np.testing.assert_array_equal(op.values(smem), f.decode(codes))
    # The spans are exactly the bytes that matter: scrambling all others changes nothing, scrambling them does.
    inside = np.zeros(SMEM, bool)
    for lo, hi in op.spans:
        inside[lo:hi] = True
    assert inside.sum() == rows * k * f.bits // 8
    noise = rng.integers(0, 256, SMEM, dtype=np.uint8)
    np.testing.assert_array_equal(op.values(np.where(inside, smem, noise)), f.decode(codes))


def test_advancing_the_start_address_inside_a_swizzled_row() -> None:
    """K blocks of one 128-byte row: CUTLASS and DeepGEMM add the block's bytes to the start address."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (64, 128))
    smem = np.zeros(SMEM, np.uint8)
    store(smem, codes, 8, Layout(((8, 8), 128), ((128, 1024), 1)), sw.B128, 4096)
    for block in range(4):
        op = operand(MatrixDescriptor(4096 + 32 * block, 16, 1024, 0, sw.B128), 64, 32, "u8")
        np.testing.assert_array_equal(op.values(smem), codes[:, 32 * block : 32 * block + 32])


def test_base_offset_moves_the_pattern() -> None:
    """A tile whose swizzle pattern starts three lines after a 1024-byte boundary."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (16, 32))
    smem = np.zeros(SMEM, np.uint8)
    start = 4096 + 3 * 128
    for (row, column), code in np.ndenumerate(codes):
        linear = row * 128 + column
        smem[start + int(swizzle(linear, 3, 4, 3))] = code
    op = operand(MatrixDescriptor(start, 16, 1024, 3, sw.B128), 16, 32, "u8")
    np.testing.assert_array_equal(op.values(smem), codes)


def test_padded_sub_byte_operands() -> None:
    rng = np.random.default_rng(3)
    for name, width in (("e2m1", 4), ("e3m2", 6), ("e2m3", 6)):
        codes = rng.integers(0, 1 << width, (8, 32))
        smem = rng.integers(0, 256, 4096, dtype=np.uint8)
        for row in range(8):
            for half in range(2):
                packed = sum(int(c) << (width * i) for i, c in enumerate(codes[row, 16 * half : 16 * half + 16]))
                smem[row * 16 + half * 128 :][: 2 * width] = np.frombuffer(
                    packed.to_bytes(2 * width, "little"), np.uint8
                )
        op = operand(MatrixDescriptor(0, 128, 256, 0, sw.NONE), 8, 32, name, False, True)
        np.testing.assert_array_equal(op.values(smem), FORMATS[name].decode(codes))


def test_unpack_six() -> None:
    codes = np.random.default_rng(0).integers(0, 64, 64)
    packed = sum(int(c) << (6 * i) for i, c in enumerate(codes)).to_bytes(48, "little")
    np.testing.assert_array_equal(unpack_six(np.frombuffer(packed, np.uint8)), codes)


def sm90(start: int, lbo: int, sbo: int, mode: int, base: int = 0) -> int:
    return (start >> 4) | (lbo >> 4) << 16 | (sbo >> 4) << 32 | base << 49 | mode << 62


def test_descriptors_of_both_generations() -> None:
    d = parse_sm90(sm90(0x1230, 0x40, 0x400, 1, 5))
    assert d == MatrixDescriptor(0x1230, 0x40, 0x400, 5, sw.B128)
    assert parse_sm90(sm90(0, 0, 0, 2)).swizzle is sw.B64
    assert parse_sm90(sm90(0, 0, 0, 3)).swizzle is sw.B32
    for mode, want in ((0, sw.NONE), (1, sw.B128_ATOM32), (2, sw.B128), (4, sw.B64), (6, sw.B32)):
        desc = 0x123 | 0x45 << 16 | 0x67 << 32 | 1 << 46 | 2 << 49 | mode << 61
        assert parse_sm100(desc) == MatrixDescriptor(0x1230, 0x450, 0x670, 2, want)


@pytest.mark.parametrize(
    ("parse", "desc", "message"),
    [
        (parse_sm90, 1 << 14, "reserved bits 0x4000"),
        (parse_sm90, 1 << 46, "reserved bits"),
        (parse_sm100, 0, "Hopper descriptor"),
        (parse_sm100, 2 << 46, "bits 46-48 = 0b010"),
        (parse_sm100, 1 << 46 | 1 << 52, "absolute leading-dimension mode"),
        (parse_sm100, 1 << 46 | 1 << 55, "reserved bits"),
        (parse_sm100, 1 << 46 | 3 << 61, "swizzle mode 3"),
    ],
)
def test_malformed_descriptors(parse: Any, desc: int, message: str) -> None:
    with pytest.raises(UnitError, match=message):
        parse(desc)


def test_operand_outside_shared_memory() -> None:
    op = operand(MatrixDescriptor(0x3000, 128, 256, 0, sw.NONE), 64, 16, "f16")
    with pytest.raises(UnitError, match="beyond the 0x1000 bytes"):
        op.values(np.zeros(0x1000, np.uint8))


# --------------------------------------------------------------------------------------------------------------- wgmma

C_64xN = {n: Layout(((4, 8, 4), (2, 2, n // 8)), ((128, 1, 16), (64, 8, 512))) for n in range(8, 257, 8)}
A_64xK = {
    8: Layout(((4, 8, 4), (2, 2)), ((64, 1, 16), (8, 256))),
    16: Layout(((4, 8, 4), (2, 2, 2)), ((128, 1, 16), (64, 8, 512))),
    32: Layout(((4, 8, 4), (4, 2, 2)), ((256, 1, 16), (64, 8, 1024))),
}


@pytest.mark.parametrize("n", [8, 24, 256])
def test_accumulator_fragment_of_cute(n: int) -> None:
    layout = C_64xN[n]
    regs = np.arange(64 * n, dtype=np.uint32).reshape(4, n // 2, 32)
    matrix = accumulator_matrix(regs, n)
    for thread in range(128):
        for value in range(n // 2):
            index = layout(thread, value)
            assert matrix[index % 64, index // 64] == regs[thread // 32, value, thread % 32]
    np.testing.assert_array_equal(accumulator_registers(matrix), regs)
    halves = np.arange(64 * n, dtype=np.uint16).reshape(4, n // 4, 32, 2).view(np.uint32)[..., 0]
    pairs = half_matrix(halves, n).view(np.uint16)
    for thread in range(128):
        for value in range(n // 2):
            index = layout(thread, value)
            word = int(halves[thread // 32, value // 2, thread % 32])
            assert pairs[index % 64, index // 64] == word >> (16 * (value % 2)) & 0xFFFF
    np.testing.assert_array_equal(half_registers(half_matrix(halves, n)), halves)


@pytest.mark.parametrize(("name", "k"), [("tf32", 8), ("bf16", 16), ("e4m3", 32)])
def test_a_fragment_of_cute(name: str, k: int) -> None:
    bits = FORMATS[name].bits
    layout = A_64xK[k]
    codes = np.random.default_rng(0).integers(0, 1 << (bits - 1), (64, k))
    regs = np.zeros((4, 4, 32), np.uint32)
    per = 32 // bits
    for thread in range(128):
        for value in range(4 * per):
            index = layout(thread, value)
            code = int(codes[index % 64, index // 64])
            regs[thread // 32, value // per, thread % 32] |= np.uint32(code << (bits * (value % per)))
    np.testing.assert_array_equal(a_fragment(regs, name), FORMATS[name].decode(codes))


@pytest.mark.parametrize(
    ("d_type", "a_type", "b_type", "trans_a", "trans_b"),
    [
        ("f32", "f16", "f16", False, False),
        ("f32", "bf16", "bf16", True, True),
        ("f16", "f16", "f16", True, False),
        ("f32", "tf32", "tf32", False, False),
        ("f32", "e4m3", "e5m2", False, False),
        ("f16", "e5m2", "e4m3", False, False),
        ("s32", "s8", "u8", False, False),
        ("s32", "u8", "s8", False, False),
    ],
)
@pytest.mark.parametrize("mode", [1, 2, 3, 0], ids=["128B", "64B", "32B", "none"])
@pytest.mark.parametrize("a_in_registers", [False, True])
def test_wgmma(
    d_type: str, a_type: str, b_type: str, trans_a: bool, trans_b: bool, mode: int, a_in_registers: bool
) -> None:
    if a_in_registers and trans_a:
        trans_a = False
    n = 64
    spec = WgmmaSpec(n, d_type, a_type, b_type, trans_a, trans_b, negate_a=d_type != "s32")
    swizzle_mode = (sw.NONE, sw.B128, sw.B64, sw.B32)[mode]
    rng = np.random.default_rng(4)
    smem = rng.integers(0, 256, SMEM, dtype=np.uint8)
    matrices, descs = [], []
    for name, rows, transposed, base in ((a_type, 64, trans_a, 4096), (b_type, n, trans_b, 65536)):
        f = FORMATS[name]
        if f.integer:
            codes = rng.integers(0, 256, (rows, spec.k))
        else:
            codes = f.encode(rng.choice([-2.0, -1, -0.5, 0, 0.5, 1, 1.5, 3], (rows, spec.k)))
            codes = codes >> 0
        lbo, sbo = strides(swizzle_mode, transposed, rows, f.bits, spec.k)
        layout = canonical(swizzle_mode, transposed, 128 // f.bits, lbo * 8 // f.bits, sbo * 8 // f.bits, rows, spec.k)
        store(smem, codes, f.bits, layout, swizzle_mode, base)
        matrices.append(f.decode(codes).astype(np.float64))
        descs.append(sm90(base, lbo, sbo, mode))
        if name == a_type and rows == 64 and base == 4096:
            a_codes = codes
    regs = None
    if a_in_registers:
        regs = np.zeros((4, 4, 32), np.uint32)
        bits = FORMATS[a_type].bits
        per = 32 // bits
        for thread in range(128):
            for value in range(4 * per):
                index = A_64xK[spec.k](thread, value)
                code = int(a_codes[index % 64, index // 64])
                regs[thread // 32, value // per, thread % 32] |= np.uint32(code << (bits * (value % per)))
    plan = plan_wgmma(spec, None if a_in_registers else descs[0], descs[1])
    start = rng.integers(-40, 40, (64, n))
    product = matrices[0] @ matrices[1].T * (1 if d_type == "s32" else -1)
    dtype = {"f32": np.float32, "f16": np.float16, "s32": np.int32}[d_type]
    if d_type == "f16":
        d = half_registers(start.astype(np.float16))
    else:
        d = np.ascontiguousarray(accumulator_registers(start.astype(dtype))).view(np.uint32)
    for scale_d in (True, False):
        out = plan.run(smem, d, regs, scale_d)
        assert out.shape == (4, spec.d_registers, 32)
        got = half_matrix(out, n) if d_type == "f16" else accumulator_matrix(out, n).view(dtype)
        np.testing.assert_array_equal(got, (product + start * scale_d).astype(dtype))
    assert [a.what for a in plan.accesses] == (["matrix B"] if a_in_registers else ["matrix A", "matrix B"])
    if d_type == "f32":
        silicon = plan.run(smem, d, regs, True, acc.SILICON["sm_90 wgmma", {"tf32": "tf32"}.get(a_type, "f16")])
        np.testing.assert_array_equal(accumulator_matrix(silicon, n).view(dtype), (product + start).astype(dtype))


def test_nan_results_have_one_encoding() -> None:
    smem = np.zeros(SMEM, np.uint8)
    smem[0:2] = (0x00, 0x7C)  # infinity times zero
    spec = WgmmaSpec(8, "f32", "f16", "f16")
    plan = plan_wgmma(spec, sm90(0, 128, 256, 0), sm90(32768, 128, 256, 0))
    out = plan.run(smem, np.zeros((4, 4, 32), np.uint32), None, False)
    assert (accumulator_matrix(out, 8)[0] == 0x7FFFFFFF).all()
    assert not accumulator_matrix(out, 8)[1:].any()
    half = plan_wgmma(WgmmaSpec(8, "f16", "f16", "f16"), sm90(0, 128, 256, 0), sm90(32768, 128, 256, 0))
    out = half.run(smem, np.zeros((4, 2, 32), np.uint32), None, True)
    assert (half_matrix(out, 8).view(np.uint16)[0] == 0x7FFF).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((12, "f32", "f16", "f16"), "N = 12"),
        ((264, "f32", "f16", "f16"), "N = 264"),
        ((40, "s32", "s8", "s8"), "above 32 of 16"),
        ((64, "f16", "bf16", "bf16"), "D one of"),
        ((64, "f32", "f16", "bf16"), "B is one of"),
        ((64, "f32", "e4m3", "e4m3", True), "transposed .e4m3"),
        ((64, "s32", "b1", "b1"), "b1"),
        ((64, "s32", "s8", "s8", False, False, True), "negated integer"),
    ],
)
def test_illegal_wgmma(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UnitError, match=message):
        WgmmaSpec(*args)


def test_cost() -> None:
    spec = WgmmaSpec(128, "f32", "f16", "f16")
    smem = np.random.default_rng(0).integers(0, 60, SMEM, dtype=np.uint8)
    d = np.zeros((4, 64, 32), np.uint32)
    plan = plan_wgmma(spec, sm90(1024, 16, 1024, 1), sm90(32768, 16, 1024, 1))
    start = time.perf_counter()
    for _ in range(200):
        d = plan.run(smem, d, None, True)
    print(f"wgmma m64n128k16: {(time.perf_counter() - start) / 200 * 1e6:.1f} us")
