"""Tensor memory: allocation, loads, stores, shifts and copies, against the traits of
cute/atom/copy_traits_sm100.hpp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cute_layout import Layout
from smem_layouts import canonical, store

from nvfp4.emulator.units import swizzle as sw
from nvfp4.emulator.units.access import Access, intervals_of_chunks, rectangles
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.tcgen05 import TensorMemory, plan_cp, plan_ld, plan_shift, plan_st, registers, split_address

DP = 1 << 21  # bits from one lane to the next in these layouts; a column is 32 bits


def traits(shape: str, n: int) -> tuple[Layout, Layout, int]:
    """(ValID: logical bit -> lane * DP + column bit, DstLayout: (thread, bit) -> logical bit, bits of a thread)."""
    return {
        "32x32b": (Layout((32 * n, 32), (1, DP)), Layout((32, 32 * n), (32 * n, 1)), 32 * n),
        "16x64b": (
            Layout((64 * n, 16), (1, DP)),
            Layout(((2, 2, 8), (32, n)), ((512 * n, 32, 64 * n), (1, 64))),
            32 * n,
        ),
        "16x128b": (
            Layout((128 * n, 16), (1, DP)),
            Layout(((4, 8), (32, 2, n)), ((32, 128 * n), (1, 1024 * n, 128))),
            64 * n,
        ),
        "16x256b": (
            Layout((256 * n, 16), (1, DP)),
            Layout(((4, 8), (64, 2, n)), ((64, 256 * n), (1, 2048 * n, 256))),
            128 * n,
        ),
        "16x32bx2": (Layout((64 * n, 16), (1, DP)), Layout(((16, 2), 32 * n), ((64 * n, 32 * n), 1)), 32 * n),
    }[shape]


def numbered() -> TensorMemory:
    """Every word holds its own lane and column in both halves, distinctly."""
    tmem = TensorMemory()
    lane, column = np.meshgrid(np.arange(128), np.arange(512), indexing="ij")
    tmem.words[:] = (lane << 9 | column).astype(np.uint32) | np.uint32(0xA5000000)
    return tmem


SHAPES = ["32x32b", "16x64b", "16x128b", "16x256b", "16x32bx2"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 4, 16, 32])
def test_load_map_is_cutes(shape: str, n: int) -> None:
    tmem = numbered()
    address = (96 + (16 if shape != "32x32b" else 0)) << 16 | 64
    regs = plan_ld(shape, n, address, 3, split=n).run(tmem)
    valid, target, bits = traits(shape, n)
    lane0, column0 = split_address(address)
    assert regs.shape == (registers(shape, n), 32) == (bits // 32, 32)
    for thread in range(32):
        for r in range(bits // 32):
            place = valid(target(thread, 32 * r))
            assert regs[r, thread] == tmem.words[lane0 + place // DP, column0 + place % DP // 32]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 8])
def test_packed_load_map_is_cutes(shape: str, n: int) -> None:
    """The _16b traits: 16-bit values of adjacent columns, ValID ((16, c), lanes) : ((1, 32), DP)."""
    tmem = numbered()
    regs = plan_ld(shape, n, 32 << 16 | 8, 1, packed=True, split=2 * n).run(tmem)
    _, target, bits = traits(shape, n)
    columns = {"32x32b": n, "16x64b": 2 * n, "16x128b": 4 * n, "16x256b": 8 * n, "16x32bx2": 2 * n}[shape] * 2
    valid = Layout(((16, columns), 32), ((1, 32), DP))
    for thread in range(32):
        for half in range(bits // 16):
            place = valid(target(thread, 16 * half))
            word = int(tmem.words[32 + place // DP, 8 + place % DP // 32])
            assert place % 32 == 0
            assert int(regs[half // 2, thread]) >> (16 * (half % 2)) & 0xFFFF == word & 0xFFFF


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 4, 16])
def test_store_then_load(shape: str, n: int, packed: bool) -> None:
    tmem = TensorMemory()
    regs = np.random.default_rng(0).integers(0, 1 << 32, (registers(shape, n), 32), dtype=np.uint32)
    split = (2 if packed else 1) * n + 3
    plan = plan_st(shape, n, 64 << 16 | 100, 2, packed, split)
    plan.run(tmem, regs)
    np.testing.assert_array_equal(plan_ld(shape, n, 64 << 16 | 100, 2, packed, split).run(tmem), regs)
    # Exactly the rectangles were written and marked as initialised.
    marked = np.zeros((128, 512), bool)
    for l0, l1, c0, c1 in plan.accesses[0].spans:
        marked[l0:l1, c0:c1] = True
    np.testing.assert_array_equal(tmem.init, marked)
    assert marked.sum() == regs.size * (2 if packed else 1)
    assert not tmem.words[~marked].any()


def test_load_reductions() -> None:
    tmem = TensorMemory()
    values = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    values[5, 3] = np.nan
    tmem.words[:] = values.view(np.uint32)
    plan = plan_ld("32x32b", 8, 0, 0)
    regs = plan.run(tmem)
    window = values[:32, :8]
    np.testing.assert_array_equal(plan.reduce(regs, "max", "f32").view(np.float32), np.fmax.reduce(window, axis=1))
    np.testing.assert_array_equal(
        plan.reduce(regs, "min", "f32", absolute=True).view(np.float32), np.fmin.reduce(abs(window), axis=1)
    )
    assert plan.reduce(regs, "max", "f32", nan=True)[5] == 0x7FFFFFFF
    np.testing.assert_array_equal(plan.reduce(regs, "min", "s32").view(np.int32), window.view(np.int32).min(axis=1))
    with pytest.raises(UnitError, match=r"only \.32x32b"):
        plan_ld("16x64b", 8, 0, 0).reduce(regs, "max", "f32")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("32x32b", 1, 32 << 16, 0), "lane 32 by warp 0"),
        (("32x32b", 1, 16 << 16, 0), "lane 16 by warp 0"),
        (("16x64b", 1, 24 << 16, 0), "lane 24 by warp 0"),
        (("32x32b", 64, 500, 0), "columns \\[500, 564\\)"),
        (("16x256b", 64, 0, 0), "at most 128 registers"),
        (("32x32b", 3, 0, 0), "x3"),
        (("8x8b", 1, 0, 0), "shape .8x8b"),
    ],
)
def test_illegal_transfers(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UnitError, match=message):
        plan_ld(*args)
    with pytest.raises(UnitError, match=message):
        plan_st(*args)


def test_allocation() -> None:
    tmem = TensorMemory()
    first = tmem.allocate(256)
    second = tmem.allocate(128)
    assert (first, second) == (0, 256)
    assert tmem.allocate(128) == 384
    assert tmem.allocate(32) is None
    tmem.init[:, 256:384] = True
    with pytest.raises(UnitError, match="128 were allocated"):
        tmem.deallocate(256, 64)
    with pytest.raises(UnitError, match="not an allocation"):
        tmem.deallocate(288, 32)
    tmem.deallocate(256, 128)
    with pytest.raises(UnitError, match="allocated: 256 columns at 0x0, 128 columns at 0x180"):
        tmem.deallocate(256, 128)
    assert not tmem.init[:, 256:384].any()
    assert tmem.allocate(64) == 256
    with pytest.raises(UnitError, match="must not increase"):
        tmem.allocate(128)
    tmem.relinquish()
    with pytest.raises(UnitError, match="relinquish"):
        tmem.allocate(32)
    for columns in (0, 16, 48, 1024):
        with pytest.raises(UnitError, match="power of two"):
            TensorMemory().allocate(columns)


def test_use_of_unallocated_and_uninitialised_columns() -> None:
    tmem = TensorMemory()
    tmem.allocate(32)
    inside, outside = plan_ld("32x32b", 32, 0, 0), plan_ld("32x32b", 32, 8, 0)
    tmem.check_allocated(inside.spans, "tcgen05.ld")
    with pytest.raises(UnitError, match="column 32 is not allocated"):
        tmem.check_allocated(outside.spans, "tcgen05.ld")
    assert tmem.uninitialised(inside.spans) == (0, 0)
    plan_st("32x32b", 16, 0, 0).run(tmem, np.zeros((16, 32), np.uint32))
    assert tmem.uninitialised(inside.spans) == (0, 16)
    assert tmem.uninitialised(plan_ld("32x32b", 16, 0, 0).spans) is None


def test_shift() -> None:
    tmem = numbered()
    before = tmem.words.copy()
    plan_shift(32 << 16 | 16, 1).run([tmem])
    want = before.copy()
    want[32:63, 16:24] = before[33:64, 16:24]
    np.testing.assert_array_equal(tmem.words, want)
    with pytest.raises(UnitError, match="multiple of 32"):
        plan_shift(8 << 16, 1)


# ------------------------------------------------------------------------------------------------------------
# tcgen05.cp


def sm100(start: int, lbo: int, sbo: int, mode: int) -> int:
    return (start >> 4) | (lbo >> 4) << 16 | (sbo >> 4) << 32 | 1 << 46 | mode << 61


DPC = 1 << 14  # bits from one lane to the next
# (rows, bits, copies): logical bit -> (lane, bit), the first mode the rows and the second the bits of a row.
UTCCP = {
    ("128x256b", ""): (Layout((128, 256), (DPC, 1)), 128, 256),
    ("128x128b", ""): (Layout((128, 128), (DPC, 1)), 128, 128),
    ("4x256b", ""): (Layout((4, 256), (32 * DPC, 1)), 4, 256),
    ("32x128b", "warpx4"): (Layout((32, 128, 4), (DPC, 1, 32 * DPC)), 32, 128),
    ("64x128b", "warpx2::02_13"): (Layout((64, 128, 2), (DPC, 1, 64 * DPC)), 64, 128),
    ("64x128b", "warpx2::01_23"): (Layout(((32, 2), 128, 2), ((DPC, 64 * DPC), 1, 32 * DPC)), 64, 128),
}


@pytest.mark.parametrize(("shape", "multicast"), UTCCP)
@pytest.mark.parametrize("mode", [(sw.NONE, 0), (sw.B32, 6), (sw.B128, 2)], ids=lambda m: m[0].name)
def test_copy_map_is_cutes(shape: str, multicast: str, mode: tuple[sw.Swizzle, int]) -> None:
    layout, rows, bits = UTCCP[shape, multicast]
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (rows, bits // 8), dtype=np.uint8)
    smem = np.zeros(1 << 16, np.uint8)
    lbo, sbo = (rows * 32, 144) if mode[0] is sw.NONE else (0, 8 * mode[0].span)
    source = canonical(mode[0], False, 16, lbo, sbo, max(rows, 8), bits // 8)
    store(smem, data, 8, source, mode[0], 4096)
    lane = 0 if shape != "4x256b" else 31
    plan = plan_cp(shape, multicast, 1, lane << 16 | 40, sm100(4096, lbo, sbo, mode[1]))
    tmem = TensorMemory()
    plan.run([smem], [tmem])
    want = np.zeros((128, 2048), np.uint8)
    marked = np.zeros((128, 512), bool)
    copies = layout.shape[2] if len(layout.shape) > 2 else 1
    for row in range(rows):
        for byte in range(bits // 8):
            for copy in range(copies):
                coordinate = (row, 8 * byte, copy)[: len(layout.shape)]
                place = layout(*coordinate) if not isinstance(layout.shape[0], tuple) else _split(layout, coordinate)
                want[lane + place // DPC, 160 + place % DPC // 8] = data[row, byte]
                marked[lane + place // DPC, 40 + place % DPC // 32] = True
    np.testing.assert_array_equal(tmem.words.view(np.uint8), want)
    np.testing.assert_array_equal(tmem.init, marked)
    listed = np.zeros((128, 512), bool)
    for l0, l1, c0, c1 in plan.accesses[1].spans:
        listed[l0:l1, c0:c1] = True
    np.testing.assert_array_equal(listed, marked)


def _split(layout: Layout, coordinate: tuple[int, ...]) -> int:
    row, bit, copy = coordinate
    return int(layout((row % 32, row // 32), bit, copy))


def test_copy_decompresses() -> None:
    rng = np.random.default_rng(1)
    for name, width, shift in (("b4x16_p64", 4, 2), ("b6x16_p32", 6, 0)):
        codes = rng.integers(0, 1 << width, (128, 16))
        smem = rng.integers(0, 256, 1 << 14, dtype=np.uint8)
        for row in range(128):
            packed = sum(int(c) << (width * i) for i, c in enumerate(codes[row])).to_bytes(2 * width, "little")
            at = row // 8 * 128 + row % 8 * 16
            smem[at : at + 2 * width] = np.frombuffer(packed, np.uint8)
        tmem = TensorMemory()
        plan_cp("128x128b", "", 1, 0, sm100(0, 0, 128, 0), name).run([smem], [tmem])
        np.testing.assert_array_equal(np.ascontiguousarray(tmem.words[:, :4]).view(np.uint8), codes << shift)


def test_copy_to_a_pair_reads_each_ctas_own_shared_memory() -> None:
    rng = np.random.default_rng(2)
    smems = [rng.integers(0, 256, 4096, dtype=np.uint8) for _ in range(2)]
    tmems = [TensorMemory(), TensorMemory()]
    plan = plan_cp("32x128b", "warpx4", 2, 12, sm100(512, 0, 128, 0))
    plan.run(smems, tmems)
    for smem, tmem in zip(smems, tmems, strict=True):
        for quarter in range(4):
            got = np.ascontiguousarray(tmem.words[32 * quarter : 32 * quarter + 32, 12:16]).view(np.uint8)
            np.testing.assert_array_equal(got.reshape(-1), smem[512:1024])
    assert [(a.space, a.cta, a.write) for a in plan.accesses] == [
        ("shared", 0, False), ("tensor", 0, True), ("shared", 1, False), ("tensor", 1, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("32x128b", "", 1, 0), "takes .warpx4"),
        (("64x128b", "warpx4", 1, 0), "takes .warpx2::02_13 or .warpx2::01_23"),
        (("128x256b", "", 1, 508), "columns \\[508, 516\\)"),
        (("128x128b", "", 1, 16 << 16), "lanes \\[16, 144\\)"),
        (("7x7b", "", 1, 0), "shape .7x7b"),
    ],
)
def test_illegal_copies(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UnitError, match=message):
        plan_cp(*args, sm100(0, 0, 128, 0))


def test_words_are_the_spans() -> None:
    rng = np.random.default_rng(0)
    starts = np.unique(rng.integers(0, 4096, 60)) * 16
    shared = Access("shared", 0, False, "x", intervals_of_chunks(starts, 16))
    np.testing.assert_array_equal(shared.words, np.unique((starts[:, None] // 4 + np.arange(4)).reshape(-1)))
    tensor = Access("tensor", 0, True, "x", rectangles([(0, 2, 5, 8), (1, 3, 6, 7)]))
    np.testing.assert_array_equal(tensor.words, [5, 6, 7, 512 + 5, 512 + 6, 512 + 7, 1024 + 6])
    assert Access("tensor", 0, True, "x", rectangles([])).words.size == 0
    assert Access("shared", 0, True, "x", intervals_of_chunks(np.empty(0), 16)).words.size == 0
