"""Tensor copies against a scalar model: one element at a time, straight from the rules of PTX ISA 5.5 and
cuTensorMapEncodeTiled."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from nvfp4.emulator.units import tensormap as tmod
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.reduction import bulk_reduce
from nvfp4.emulator.units.tma import OOB_NAN, TensorMap, plan_load, plan_store, replace_field

BASE = 0x7F0000000000
BYTES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "s32": 4, "s64": 8}


def swizzled(address: int, mode: int, atom: int = 16, flip: bool = False) -> int:
    """Physical address, with the shifts written out one mode at a time."""
    if mode == 0:
        return address
    if mode == 32:
        return address ^ (((address >> 7) & 1) << 4)
    if mode == 64:
        return address ^ (((address >> 7) & 3) << 4)
    if atom == 16:
        return address ^ (((address >> 7) & 7) << 4)
    if atom == 32:
        out = address ^ (((address >> 7) & 3) << 5)
        return out ^ (((address >> 7) & 1) << 3) if flip else out
    return address ^ (((address >> 7) & 1) << 6)


def visit(tmap: TensorMap, coords: tuple[int, ...]) -> Any:
    """(linear shared byte offset, global byte offset or None) of every byte of a box of whole-byte elements."""
    width = BYTES[tmap.element_type]
    steps = (1, *(tmap.element_strides or (1,) * tmap.rank)[1:])
    counts = [-(-b // s) for b, s in zip(tmap.box, steps, strict=True)]
    pitch = max(counts[0] * width, tmap.swizzle)
    for place in itertools.product(*(range(n) for n in reversed(counts))):
        index = tuple(reversed(place))
        row = 0
        for i in range(tmap.rank - 1, 0, -1):
            row = row * counts[i] + index[i]
        where = [c + i * s for c, i, s in zip(coords, index, steps, strict=True)]
        inside = all(0 <= w < n for w, n in zip(where, tmap.shape, strict=True))
        offset = where[0] * width + sum(w * s for w, s in zip(where[1:], tmap.strides, strict=True))
        for byte in range(width):
            yield row * pitch + index[0] * width + byte, offset + byte if inside else None, byte


def slow_load(
    tmap: TensorMap, coords: tuple[int, ...], smem: NDArray[np.uint8], address: int, gmem: NDArray[np.uint8]
) -> None:
    nan = OOB_NAN.get(tmap.element_type, 0) if tmap.nan_fill else 0
    for shared, source, byte in visit(tmap, coords):
        value = gmem[source] if source is not None else (nan >> (8 * byte)) & 0xFF
        smem[swizzled(address + shared, tmap.swizzle, tmap.atomicity, tmap.flip8)] = value


CASES = [
    TensorMap(BASE, "u8", (64,), (), (32,)),
    TensorMap(BASE, "f16", (40, 24), (96,), (16, 8), swizzle=32),
    TensorMap(BASE, "bf16", (40, 24), (96,), (32, 9), swizzle=64),
    TensorMap(BASE, "u8", (200, 30), (208,), (128, 11), swizzle=128),
    TensorMap(BASE, "u8", (200, 30), (208,), (64, 11), swizzle=128),
    TensorMap(BASE, "f32", (24, 20), (96,), (8, 12), swizzle=32, nan_fill=True),
    TensorMap(BASE, "f16", (40, 24), (96,), (16, 8), nan_fill=True),
    TensorMap(BASE, "u32", (20, 6, 5), (80, 480), (8, 4, 3), swizzle=128, atomicity=32),
    TensorMap(BASE, "u32", (20, 6, 5), (80, 480), (32, 4, 3), swizzle=128, atomicity=32, flip8=True),
    TensorMap(BASE, "u64", (16, 6, 5), (128, 768), (16, 4, 3), swizzle=128, atomicity=64),
    TensorMap(BASE, "u16", (24, 9, 5, 3), (48, 432, 2160), (8, 6, 4, 2), element_strides=(1, 2, 1, 2)),
    TensorMap(BASE, "u16", (24, 5, 4, 3, 2), (48, 240, 960, 2880), (8, 4, 3, 2, 2), element_strides=(1, 3, 1, 1, 1)),
    TensorMap(BASE, "s64", (8, 4), (64,), (2, 4)),
]


def memory(tmap: TensorMap, seed: int = 0) -> NDArray[np.uint8]:
    extent = tmap.shape[0] * tmap.bits // 8 + sum(
        (n - 1) * s for n, s in zip(tmap.shape[1:], tmap.strides, strict=True)
    )
    return np.random.default_rng(seed).integers(0, 256, extent, dtype=np.uint8)


def corners(tmap: TensorMap, count: int = 8, low: int | None = None) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    limits = [(-b if low is None else low, n + 2) for n, b in zip(tmap.shape, tmap.box, strict=True)]
    random = [tuple(int(rng.integers(lo, hi)) for lo, hi in limits) for _ in range(count)]
    # A box starts at a multiple of 16 bytes.
    granule = 128 // tmap.bits
    return [(0,) * tmap.rank, *((c[0] // granule * granule, *c[1:]) for c in random)]


@pytest.mark.parametrize("tmap", CASES, ids=str)
@pytest.mark.parametrize("address", [0, 1024, 1024 + 384])
def test_load_is_the_scalar_model(tmap: TensorMap, address: int) -> None:
    gmem = memory(tmap)
    for coords in corners(tmap):
        got, want = (np.full(32768, 0xEE, np.uint8) for _ in range(2))
        plan = plan_load(TensorMap.decode(tmap.encode()), coords, address)
        plan.run(got, gmem, BASE)
        slow_load(tmap, coords, want, address, gmem)
        np.testing.assert_array_equal(got, want)
        # The access lists name exactly the bytes that were touched.
        written = np.zeros(32768, bool)
        for lo, hi in plan.accesses[0].spans:
            written[lo:hi] = True
        touched = np.zeros(32768, bool)
        read = np.zeros(gmem.size, bool)
        for shared, source, _ in visit(tmap, coords):
            touched[swizzled(address + shared, tmap.swizzle, tmap.atomicity, tmap.flip8)] = True
            if source is not None:
                read[source] = True
        np.testing.assert_array_equal(written, touched)
        spans = plan.accesses[1].spans - BASE
        listed = np.zeros(gmem.size, bool)
        for lo, hi in spans:
            assert lo < hi
            listed[lo:hi] = True
        np.testing.assert_array_equal(listed, read)
        assert (spans[1:, 0] >= spans[:-1, 1]).all()
        if read.any():
            where = np.flatnonzero(read)
            assert plan.global_span == (BASE + where[0], BASE + where[-1] + 1)
        else:
            assert plan.global_span is None
        assert plan.tx_bytes == np.prod(tmap.counts) * BYTES[tmap.element_type]


@pytest.mark.parametrize("tmap", [t for t in CASES if not t.nan_fill], ids=str)
def test_store_is_the_scalar_model(tmap: TensorMap) -> None:
    smem = np.random.default_rng(1).integers(0, 256, 32768, dtype=np.uint8)
    granule = 128 // tmap.bits
    whole = replace(tmap, shape=(-(-tmap.shape[0] // granule) * granule, *tmap.shape[1:]))  # what a store fills
    for coords in corners(tmap, low=0):
        got, want = memory(whole), memory(whole)
        plan_store(tmap, coords, 1024).run(smem, got, BASE)
        for shared, target, _ in visit(whole, coords):
            if target is not None:
                want[target] = smem[swizzled(1024 + shared, tmap.swizzle, tmap.atomicity, tmap.flip8)]
        np.testing.assert_array_equal(got, want)


def test_a_store_fills_the_granule_in_which_the_row_ends() -> None:
    """As recorded on an H200: 16 bytes are written whole, though the tensor has 40 bytes a row."""
    tmap = TensorMap(BASE, "u8", (40, 4), (48,), (32, 4))
    smem, gmem = np.full(4096, 7, np.uint8), np.zeros(192, np.uint8)
    plan_store(tmap, (16, 1), 1024).run(smem, gmem, BASE)
    assert gmem.reshape(4, 48)[1:, 16:].all()
    assert not gmem.reshape(4, 48)[0].any()
    assert not gmem.reshape(4, 48)[:, :16].any()


def test_a_box_that_starts_within_a_granule_is_refused() -> None:
    with pytest.raises(UnitError, match="16 bytes"):
        plan_load(TensorMap(BASE, "f16", (40, 24), (96,), (16, 8)), (4, 0), 1024)


@pytest.mark.parametrize("tmap", [t for t in CASES if not t.nan_fill], ids=str)
def test_round_trip(tmap: TensorMap) -> None:
    gmem, smem = memory(tmap), np.zeros(32768, np.uint8)
    out = np.zeros_like(gmem)
    coords = (0,) * tmap.rank
    plan_load(tmap, coords, 2048).run(smem, gmem, BASE)
    plan = plan_store(tmap, coords, 2048)
    plan.run(smem, out, BASE)
    for lo, hi in plan.accesses[1].spans - BASE:
        np.testing.assert_array_equal(out[lo:hi], gmem[lo:hi])
    assert out.any()


def test_packed_fp4_expands_with_padding() -> None:
    gmem = np.random.default_rng(0).integers(0, 256, 4 * 128, dtype=np.uint8)
    plain = TensorMap(BASE, "u4x16_align8", (256, 4), (128,), (128, 4))
    smem = np.zeros(4096, np.uint8)
    plan_load(plain, (128, 0), 0).run(smem, gmem, BASE)
    np.testing.assert_array_equal(smem[:256].reshape(4, 64), gmem.reshape(4, 128)[:, 64:])
    padded = TensorMap(BASE, "u4x16_align16", (256, 4), (128,), (128, 4), swizzle=128)
    plan = plan_load(padded, (128, 0), 1024)
    assert plan.tx_bytes == 4 * 128
    plan.run(smem, gmem, BASE)
    for row in range(4):
        for chunk in range(8):
            place = swizzled(1024 + row * 128 + chunk * 16, 128)
            np.testing.assert_array_equal(smem[place : place + 8], gmem[row * 128 + 64 + chunk * 8 :][:8])


def test_packed_fp6_expands_and_packs() -> None:
    gmem = np.random.default_rng(0).integers(0, 256, 2 * 192, dtype=np.uint8)
    tmap = TensorMap(BASE, "u6x16_align16", (256, 2), (192,), (128, 2))
    smem = np.zeros(4096, np.uint8)
    plan_load(tmap, (128, 0), 0).run(smem, gmem, BASE)
    np.testing.assert_array_equal(smem[:256].reshape(2, 8, 16)[:, :, :12].reshape(2, 96), gmem.reshape(2, 192)[:, 96:])
    # b6p2x16 stores drop two bits of each byte.
    codes = np.random.default_rng(1).integers(0, 64, (2, 128))
    smem[:256] = codes.reshape(-1) | 0xC0
    plan_store(tmap, (0, 0), 0).run(smem, gmem, BASE)
    for row in range(2):
        bits = int.from_bytes(gmem[row * 192 : row * 192 + 96].tobytes(), "little")
        assert [(bits >> (6 * i)) & 63 for i in range(128)] == codes[row].tolist()


def test_gather4_and_scatter4() -> None:
    tmap = TensorMap(BASE, "bf16", (64, 12), (128,), (64, 1), swizzle=128)
    gmem = memory(tmap)
    smem = np.zeros(4096, np.uint8)
    plan = plan_load(tmap, (0, 3, 11, -1, 3), 1024, "tile::gather4")
    plan.run(smem, gmem, BASE)
    assert plan.tx_bytes == 512
    for i, row in enumerate((3, 11, None, 3)):
        got = np.array([smem[swizzled(1024 + i * 128 + b, 128)] for b in range(128)])
        want = np.zeros(128, np.uint8) if row is None else gmem[row * 128 : row * 128 + 128]
        np.testing.assert_array_equal(got, want)
    out = np.zeros_like(gmem)
    plan_store(tmap, (0, 5, 6, 0, 9), 1024, mode="tile::scatter4").run(smem, out, BASE)
    np.testing.assert_array_equal(out.reshape(12, 128)[6], gmem.reshape(12, 128)[11])
    assert not out.reshape(12, 128)[[1, 2, 3, 4, 7, 8, 10, 11]].any()


@pytest.mark.parametrize(
    ("kind", "op", "dtype"),
    [
        ("u32", "add", np.uint32),
        ("s32", "min", np.int32),
        ("u32", "max", np.uint32),
        ("u64", "add", np.uint64),
        ("s64", "max", np.int64),
        ("u32", "inc", np.uint32),
        ("u32", "dec", np.uint32),
        ("u32", "xor", np.uint32),
        ("f32", "add", np.float32),
        ("f16", "add", np.float16),
        ("bf16", "add", ml_dtypes.bfloat16),
        ("f16", "max", np.float16),
        ("bf16", "min", ml_dtypes.bfloat16),
        ("f64", "add", np.float64),
        ("u64", "and", np.uint64),
    ],
)
def test_reductions(kind: str, op: str, dtype: Any) -> None:
    rng = np.random.default_rng(4)
    size = np.dtype(dtype).itemsize
    shape = (64 // size, 8)
    tmap = TensorMap(BASE, kind, shape, (64,), (32 // size, 4))

    def numbers(n: int) -> Any:
        if np.dtype(dtype).kind in "ui":
            return rng.integers(0, 200, n).astype(dtype)
        return (rng.standard_normal(n) * 100).astype(np.float32).astype(dtype)

    old, new = numbers(512 // size), numbers(4096 // size)
    gmem, smem = np.ascontiguousarray(old).view(np.uint8).copy(), np.ascontiguousarray(new).view(np.uint8).copy()
    coords = (shape[0] - 16 // size, 5)  # half a row and one row of the box are outside
    plan_store(tmap, coords, 128, op).run(smem, gmem, BASE)
    out = gmem.view(dtype).reshape(8, -1)
    tile = new[128 // size :][: 128 // size].reshape(4, -1)
    for r in range(8):
        for c in range(shape[0]):
            before = old.reshape(8, -1)[r, c]
            if r < 5 or c < coords[0]:
                assert out[r, c] == before
                continue
            x = tile[r - 5, c - coords[0]]
            want = {
                "add": lambda a, b: dtype(a + b) if np.dtype(dtype).kind not in "ui" else dtype(int(a) + int(b)),
                "min": min,
                "max": max,
                "inc": lambda a, b: dtype(0 if a >= b else a + dtype(1)),
                "dec": lambda a, b: b if a == 0 or a > b else dtype(a - dtype(1)),
                "xor": lambda a, b: a ^ b,
                "and": lambda a, b: a & b,
            }[op](before, x)
            assert out[r, c] == want, (r, c)


def test_f32_reduction_flushes_subnormals() -> None:
    dst = np.array([1e-40, 1.0, 0, 0], np.float32).view(np.uint8).copy()
    src = np.array([0.0, 1e-40, -1e-40, 0], np.float32).view(np.uint8).copy()
    bulk_reduce("add", "f32", dst, src)
    assert dst.view(np.float32).tolist() == [0.0, 1.0, 0.0, 0.0]
    half = np.array([1e-7] + [0] * 7, np.float16)
    dst = half.view(np.uint8).copy()
    bulk_reduce("add", "f16", dst, half.view(np.uint8).copy())
    assert dst.view(np.float16)[0] == half[0] + half[0] != 0


BAD = [
    ({"shape": (64, 4), "strides": (60,)}, "stride of dimension 1 is 60"),
    ({"address": BASE + 8}, "not 16-byte aligned"),
    ({"box": (32, 512)}, "box size of dimension 1 is 512"),
    ({"box": (8, 4)}, "a box row has 8 bytes"),
    ({"box": (256, 4), "swizzle": 128}, "wider than the 128-byte swizzle"),
    ({"swizzle": 48}, "swizzle 48"),
    ({"swizzle": 64, "atomicity": 32}, "atomicity 32 with a 64-byte swizzle"),
    ({"interleave": 16}, "interleave 16B is not implemented"),
    ({"nan_fill": True}, "NaN fill with element type u8"),
    ({"dtype": "f8"}, "unknown element type"),
    ({"shape": (0, 4)}, "size of dimension 0 is 0"),
    ({"element_strides": (1, 9)}, "element stride of dimension 1 is 9"),
    ({"strides": ()}, "strides has 0 entries"),
    ({"address": None}, "not resolved"),
    ({"dtype": "u4x16_align16", "shape": (192, 4), "strides": (128,)}, "192 elements of a padded type"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_malformed_maps_are_refused(change: dict[str, Any], message: str) -> None:
    args: dict[str, Any] = {"address": BASE, "dtype": "u8", "shape": (256, 4), "strides": (256,), "box": (32, 4)}
    with pytest.raises(UnitError, match=re.escape(message)) as info:
        TensorMap(**{**args, **change}).encode()
    assert info.value.remedy


def test_illegal_copies_are_refused() -> None:
    tmap = TensorMap(BASE, "u8", (256, 4), (256,), (32, 4))
    with pytest.raises(UnitError, match="with 1 coordinates"):
        plan_load(tmap, (0,), 0)
    with pytest.raises(UnitError, match="shared address 0x10"):
        plan_load(tmap, (0, 0), 16)
    with pytest.raises(UnitError, match="non-negative"):
        plan_store(tmap, (-16, 0), 0)
    with pytest.raises(UnitError, match="im2col"):
        plan_load(tmap, (0, 0), 0, "im2col")
    with pytest.raises(UnitError, match="box"):
        plan_load(tmap, (0, 0, 1, 2, 3), 0, "tile::gather4")
    with pytest.raises(UnitError, match=r"reduction \.add on elements of type u8"):
        plan_store(tmap, (0, 0), 0, "add")
    with pytest.raises(UnitError, match="outside the buffer"):
        plan_load(tmap, (0, 0), 0).run(np.zeros(4096, np.uint8), np.zeros(100, np.uint8), BASE)
    with pytest.raises(UnitError, match="not a tensor map"):
        TensorMap.decode(bytes(128))


def test_replace_field_is_a_new_map() -> None:
    tmap = TensorMap(BASE, "u8", (256, 4), (256,), (32, 4))
    blob = tmap.encode()
    for field, value, ordinal in [
        ("global_address", BASE + 4096, 0),
        ("global_dim", 128, 0),
        ("global_dim", 7, 1),
        ("global_stride", 512, 0),
        ("box_dim", 64, 0),
        ("box_dim", 2, 1),
        ("element_stride", 2, 1),
        ("swizzle_mode", 3, 0),
        ("swizzle_atomicity", 1, 0),
        ("elemtype", tmod.ELEMENT_TYPES.index("f16"), 0),
        ("fill_mode", 1, 0),
        ("interleave_layout", 0, 0),
    ]:
        blob = replace_field(blob, field, value, ordinal)
    want = TensorMap(
        BASE + 4096, "f16", (128, 7), (512,), (64, 2), element_strides=(1, 2), swizzle=128, atomicity=32, nan_fill=True
    )
    assert blob == want.encode()
    assert TensorMap.decode(replace_field(tmap.encode(), "rank", 0)).shape == (256,)
    with pytest.raises(UnitError, match="ordinal 5"):
        replace_field(blob, "box_dim", 1, 5)
    with pytest.raises(UnitError, match="unknown field"):
        replace_field(blob, "color", 1)


def test_driver_type_order() -> None:
    """CUtensorMapDataType and tensormap.replace number the same types differently."""
    assert sorted(tmod.DRIVER_TYPES) == sorted(tmod.ELEMENT_TYPES)
    assert tmod.DRIVER_TYPES[9] == "bf16"
    assert tmod.ELEMENT_TYPES[10] == "bf16"


def test_cost() -> None:
    tmap = TensorMap.decode(TensorMap(BASE, "u8", (4096, 1024), (4096,), (128, 128), swizzle=128).encode())
    gmem, smem = np.zeros(4 << 20, np.uint8), np.zeros(1 << 17, np.uint8)
    start = time.perf_counter()
    for i in range(1000):
        plan_load(tmap, (128 * (i % 32), 128 * (i % 8)), 1024 + 16384 * (i % 4)).run(smem, gmem, BASE)
    print(f"16 KB box: {(time.perf_counter() - start) * 1e3:.1f} us")
