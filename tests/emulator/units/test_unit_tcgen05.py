"""tcgen05.mma against matrices placed by the layouts of cute/atom/mma_traits_sm100_frag.hpp (tmem_frg, tmem_frg_ws,
tmem_sf_frg)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cute_layout import Layout
from numpy.typing import NDArray
from smem_layouts import canonical, store, strides

from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units import swizzle as sw
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import FORMATS
from nvfp4.emulator.units.tcgen05 import MmaOp, TensorMemory, parse_instruction, plan_mma

SMEM = 1 << 17
MODES = {sw.NONE: 0, sw.B128_ATOM32: 1, sw.B128: 2, sw.B64: 4, sw.B32: 6}
CODES = {
    "f16": {"f16": 0, "bf16": 1},
    "tf32": {"tf32": 2},
    "f8f6f4": {"e4m3": 0, "e5m2": 1, "e2m3": 3, "e3m2": 4, "e2m1": 5},
    "i8": {"u8": 0, "s8": 1},
    "mxf4": {"e2m1": 1},
}
CODES["mxf8f6f4"], CODES["mxf4nvf4"] = CODES["f8f6f4"], CODES["mxf4"]
K = {"f16": 16, "tf32": 8, "f8f6f4": 32, "i8": 32, "mxf8f6f4": 32, "mxf4": 64, "mxf4nvf4": 64}


def sm100(start: int, lbo: int, sbo: int, mode: int) -> int:
    return (start >> 4) | (lbo >> 4) << 16 | (sbo >> 4) << 32 | 1 << 46 | mode << 61


def idesc(kind: str, m: int, n: int, a: str, b: str, d: str = "f32", **fields: int) -> int:
    """An instruction descriptor, fields by name (tables 42 to 44)."""
    out = CODES[kind][a] << 7 | CODES[kind][b] << 10 | (n >> 3) << 17 | (m >> 4) << 24
    if kind in ("f16", "tf32", "f8f6f4", "i8"):
        out |= {"f16": 0, "f32": 1, "s32": 2}[d] << 4
    places = {"neg_a": 13, "neg_b": 14, "t_a": 15, "t_b": 16, "sat": 3, "ue8m0": 23, "sfa": 29, "sfb": 4, "shift": 30}
    for name, value in fields.items():
        out |= value << places[name]
    return out


def accumulator_atom(m: int, n: int, group: int, ws: bool) -> Layout:
    """(row of the CTA, column) -> lane + 128 * column."""
    rows = m // group
    if ws and rows == 32:
        return Layout((32, (n // 4, 4)), (1, (128, 32)))
    if (ws and rows == 64) or (group == 2 and m == 128):
        return Layout((64, (n // 2, 2)), (1, (128, 64)))
    if rows == 64:
        return Layout(((16, 4), n), ((1, 32), 128))
    return Layout((128, n), (1, 128))


def places(m: int, n: int, group: int, ws: bool, lane: int, column: int) -> tuple[Any, Any]:
    """(lanes, columns) of D, arrays [rows of the CTA, n]."""
    atom = accumulator_atom(m, n, group, ws)
    rows = m // group
    r, c = np.meshgrid(np.arange(rows), np.arange(n), indexing="ij")
    shape = atom.shape

    def split(x: Any, s: Any) -> Any:
        return (x % s[0], x // s[0]) if isinstance(s, tuple) else x

    flat = atom(split(r, shape[0]), split(c, shape[1]))
    return lane + flat % 128, column + flat // 128


class Case:
    """One MMA with random operands and an independently computed answer."""

    def __init__(self, kind: str, m: int, n: int, group: int = 1, **options: Any) -> None:
        self.kind, self.m, self.n, self.group, self.o = kind, m, n, group, options
        self.rng = np.random.default_rng(options.get("seed", 0))
        self.k = K[kind]
        self.a_type, self.b_type = options.get(
            "types",
            {
                "f16": ("bf16", "bf16"),
                "tf32": ("tf32",) * 2,
                "i8": ("s8", "u8"),
                "f8f6f4": ("e4m3", "e5m2"),
                "mxf8f6f4": ("e4m3", "e5m2"),
            }.get(kind, ("e2m1", "e2m1")),
        )
        self.d_type = options.get("d", "s32" if kind == "i8" else "f32")
        self.ws = options.get("ws", False)
        self.a = self.codes(self.a_type, m)
        self.b = self.codes(self.b_type, n)
        self.smems = [self.rng.integers(0, 256, SMEM, dtype=np.uint8) for _ in range(group)]
        self.tmems = [TensorMemory() for _ in range(group)]
        for t in self.tmems:
            t.words[:] = self.rng.integers(0, 1 << 32, (128, 512), dtype=np.uint32)
        fields = dict(options.get("fields", {}))
        mode = options.get("mode", sw.B128)
        self.modes = (
            sw.B128_ATOM32 if self.a_type == "tf32" and fields.get("t_a") else mode,
            sw.B128_ATOM32 if self.b_type == "tf32" and fields.get("t_b") else mode,
        )
        a_desc = self.place(self.a, self.a_type, self.modes[0], bool(fields.get("t_a")), 4096)
        b_desc = self.place(self.b, self.b_type, self.modes[1], bool(fields.get("t_b")), 65536)
        lane = options.get("lane", 0)
        self.column = 32
        scales: dict[str, Any] = {}
        if kind.startswith("mx"):
            self.scale_type = options.get("scale", "ue8m0")
            self.count = {"mxf8f6f4": 1, "mxf4": 2}.get(kind, options.get("count", 4))
            fields["ue8m0"] = int(self.scale_type == "ue8m0")
            self.sa, self.sb = self.scale_codes(m), self.scale_codes(n)
            self.put_scales(fields.get("sfa", 0), fields.get("sfb", 0))
            scales = {"scale_a": 400, "scale_b": 420, "vector": {1: "block32", 2: "block32", 4: "block16"}[self.count]}
        descriptor = idesc(kind, m, n, self.a_type, self.b_type, self.d_type, **fields)
        self.fields = fields
        self.op = MmaOp(kind, group, lane << 16 | self.column, b_desc, descriptor, a_desc=a_desc, ws=self.ws, **scales)
        self.lane = lane

    def codes(self, name: str, rows: int) -> NDArray[Any]:
        f = FORMATS[name]
        if f.integer or f.bits <= 6:
            return self.rng.integers(0, 1 << f.bits, (rows, self.k))
        return f.encode(self.rng.choice([-2.0, -1.5, -1, -0.5, 0, 0.5, 1, 3], (rows, self.k)))

    def scale_codes(self, rows: int) -> NDArray[np.uint8]:
        low, high = (0x28, 0x50) if self.scale_type == "ue4m3" else (122, 133)
        return self.rng.integers(low, high, (rows, self.count)).astype(np.uint8)

    def place(self, codes: NDArray[Any], name: str, mode: sw.Swizzle, transposed: bool, base: int) -> int:
        """Store the CTAs' parts of an operand; returns the descriptor (the same for both CTAs)."""
        f = FORMATS[name]
        part = codes.shape[0] // self.group
        padded = self.kind in ("f8f6f4", "mxf8f6f4") and f.bits < 8
        bits = 8 if padded else f.bits
        lbo, sbo = strides(mode, transposed, part, bits, self.k)
        layout = canonical(mode, transposed, 128 // bits, lbo * 8 // bits, sbo * 8 // bits, part, self.k)
        for cta, smem in enumerate(self.smems):
            mine = codes[cta * part : (cta + 1) * part]
            if padded:  # 16 codes, then padding, in every 16 bytes
                wide = self.rng.integers(0, 256, (part, self.k))
                for row in range(part):
                    for half in range(2):
                        packed = sum(
                            int(c) << (f.bits * i) for i, c in enumerate(mine[row, 16 * half : 16 * half + 16])
                        )
                        wide[row, 16 * half : 16 * half + 2 * f.bits] = list(packed.to_bytes(2 * f.bits, "little"))
                mine = wide
            store(smem, mine, bits, layout, mode, base)
        return sm100(base, lbo, sbo, MODES[mode])

    def put_scales(self, sfa: int, sfb: int) -> None:
        """tmem_sf_frg: (row % 32, row / 32), copies, factor -> lane row % 32 + 32 copy, byte of column row / 32.

        Of B in layout B each half of the lanes has its half of the rows, twice (ScaleFactorDuplicated2by2).
        """
        for cta, tmem in enumerate(self.tmems):
            raw = tmem.words.view(np.uint8).reshape(128, 2048)
            mine = self.sa[cta * self.m // self.group : (cta + 1) * self.m // self.group]
            for codes, column, ident in ((mine, 400, sfa), (self.sb, 420, sfb)):
                split = 2 if codes is self.sb and (self.m, self.group) == (128, 2) else 1
                part = codes.shape[0] // split
                for row in range(codes.shape[0]):
                    for copy in range(4 // split):
                        lane = 64 * (row // part) + 32 * copy + row % part % 32
                        at = 4 * (column + row % part // 32) + ident
                        raw[lane, at : at + self.count] = codes[row]

    def values(self) -> tuple[Any, Any]:
        a, b = (
            FORMATS[self.a_type].decode(self.a).astype(np.float64),
            FORMATS[self.b_type].decode(self.b).astype(np.float64),
        )
        if self.kind.startswith("mx"):
            f = FORMATS[self.scale_type]
            a = a * np.repeat(f.decode(self.sa).astype(np.float64), self.k // self.count, axis=1)
            b = b * np.repeat(f.decode(self.sb).astype(np.float64), self.k // self.count, axis=1)
        return a * (-1 if self.fields.get("neg_a") else 1), b * (-1 if self.fields.get("neg_b") else 1)

    def put_d(self, d: NDArray[Any]) -> None:
        rows = self.m // self.group
        for cta, tmem in enumerate(self.tmems):
            lanes, columns = places(self.m, self.n, self.group, self.ws, self.lane, self.column)
            mine = d[cta * rows : (cta + 1) * rows]
            dtype = {"f32": np.float32, "s32": np.int32, "f16": np.float16}[self.d_type]
            bits = mine.astype(dtype).view(np.uint16 if self.d_type == "f16" else np.uint32).astype(np.uint32)
            tmem.words[lanes, columns] = bits

    def get_d(self) -> NDArray[Any]:
        out = []
        for tmem in self.tmems:
            lanes, columns = places(self.m, self.n, self.group, self.ws, self.lane, self.column)
            words = tmem.words[lanes, columns]
            if self.d_type == "f16":
                assert not (words >> 16).any()
                out.append(words.astype(np.uint16).view(np.float16))
            else:
                out.append(words.view({"f32": np.float32, "s32": np.int32}[self.d_type]))
        return np.concatenate(out)

    def check(self, scale_d: int = 0) -> None:
        a, b = self.values()
        product = a @ b.T
        start = self.rng.integers(-64, 64, (self.m, self.n)).astype(np.float64)
        dtype = {"f32": np.float32, "s32": np.int32, "f16": np.float16}[self.d_type]
        op = replace(self.op, scale_d=scale_d)
        plan = plan_mma(op)
        for accumulate in (True, False):
            self.put_d(start)
            before = [t.words.copy() for t in self.tmems]
            for t in self.tmems:
                t.init[:] = False
            plan.run(self.smems, self.tmems, accumulate)
            want = (product + accumulate * start * 2.0**-scale_d).astype(dtype)
            np.testing.assert_array_equal(self.get_d(), want)
            for cta, tmem in enumerate(self.tmems):
                # Nothing else changed, and the accesses list what did.
                listed = np.zeros((128, 512), bool)
                for access in plan.accesses_of(accumulate):
                    if access.cta == cta and access.write:
                        for l0, l1, c0, c1 in access.spans:
                            listed[l0:l1, c0:c1] = True
                np.testing.assert_array_equal(tmem.init, listed)
                np.testing.assert_array_equal(tmem.words[~listed], before[cta][~listed])
        assert any(x.what == "accumulator D" and not x.write for x in plan.accesses_of(True))
        assert not any(x.what == "accumulator D" and not x.write for x in plan.accesses_of(False))


SHAPES = [
    (128, 128, 1, False, 0), (128, 8, 1, False, 0), (128, 248, 1, False, 0), (64, 64, 1, False, 0),
    (64, 24, 1, False, 16),
    (256, 256, 2, False, 0), (256, 32, 2, False, 0), (128, 64, 2, False, 0),
    (32, 64, 1, True, 0), (64, 128, 1, True, 0), (128, 64, 1, True, 0),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"m{s[0]}n{s[1]}-cta{s[2]}{'-ws' if s[3] else ''}-lane{s[4]}")
@pytest.mark.parametrize("kind", ["f16", "tf32", "i8", "f8f6f4"])
def test_layouts_of_d(kind: str, shape: tuple[int, int, int, bool, int]) -> None:
    m, n, group, ws, lane = shape
    if kind == "i8" and (n == 248 or (group == 2 and n % 32)):
        n = 240 if group == 1 else 64
    if kind == "i8" and n == 24 and m == 64:
        n = 16
    Case(kind, m, n, group, ws=ws, lane=lane).check()


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("kind", "types"), [("f16", ("f16", "f16")), ("f8f6f4", ("e4m3", "e4m3")), ("tf32", ("tf32", "tf32"))]
)
@pytest.mark.parametrize("transposed", [(0, 0), (1, 1), (1, 0), (0, 1)], ids=["", "AB", "A", "B"])
def test_majors_and_swizzles(mode: sw.Swizzle, kind: str, types: tuple[str, str], transposed: tuple[int, int]) -> None:
    fields = {"t_a": transposed[0], "t_b": transposed[1]}
    if kind != "tf32" and mode is sw.B128_ATOM32 and any(transposed):
        with pytest.raises(UnitError, match="32-byte atoms"):
            plan_mma(Case(kind, 128, 64, types=types, mode=mode, fields=fields).op)
        return
    Case(kind, 128, 128, types=types, mode=mode, fields=fields).check()


@pytest.mark.parametrize("a", ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1"])
@pytest.mark.parametrize("b", ["e4m3", "e2m3", "e3m2", "e2m1"])
@pytest.mark.parametrize("kind", ["f8f6f4", "mxf8f6f4"])
def test_mixed_narrow_types(kind: str, a: str, b: str) -> None:
    Case(kind, 128, 32, types=(a, b)).check()


def test_other_result_types_and_scaling_of_d() -> None:
    Case("f16", 128, 64, types=("f16", "f16"), d="f16").check()
    Case("f8f6f4", 64, 64, types=("e5m2", "e4m3"), d="f16").check()
    Case("f16", 128, 64, fields={"neg_a": 1}).check(scale_d=3)
    Case("tf32", 128, 64, fields={"neg_a": 1, "neg_b": 1}).check(scale_d=15)
    Case("f8f6f4", 128, 64, fields={"neg_b": 1}).check()


SCALED = [
    ("mxf8f6f4", "ue8m0", 1), ("mxf4", "ue8m0", 2), ("mxf4nvf4", "ue8m0", 2), ("mxf4nvf4", "ue8m0", 4),
    ("mxf4nvf4", "ue4m3", 4),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "scale", "count"), SCALED)
@pytest.mark.parametrize("shape", [(128, 128, 1), (128, 8, 1), (128, 200, 1), (256, 256, 2), (256, 80, 2)], ids=str)
def test_block_scaling(kind: str, scale: str, count: int, shape: tuple[int, int, int]) -> None:
    m, n, group = shape
    Case(kind, m, n, group, scale=scale, count=count, fields={"neg_b": 1}).check()


@pytest.mark.parametrize(
    ("kind", "count", "ids"), [("mxf8f6f4", 1, (0, 1, 2, 3)), ("mxf4", 2, (0, 2)), ("mxf4nvf4", 2, (0, 2))]
)
def test_scale_factor_ids(kind: str, count: int, ids: tuple[int, ...]) -> None:
    for sfa in ids:
        for sfb in ids:
            case = Case(kind, 128, 64, count=count, fields={"sfa": sfa, "sfb": sfb}, seed=sfa)
            case.check()
            # CUTLASS leaves the id in the two top bits of the scale addresses; they are not part of the lane.
            case.op = replace(case.op, scale_a=400 | sfa << 30, scale_b=420 | sfb << 30)
            case.check()


def test_each_quarter_uses_its_own_copy_of_the_scale_factors() -> None:
    case = Case("mxf4nvf4", 128, 64, scale="ue4m3")
    raw = case.tmems[0].words.view(np.uint8).reshape(128, 2048)
    raw[64:96, 4 * 420 : 4 * 422] = 0x38  # quarter 2 sees scales of 1.0 for B
    case.put_d(np.zeros((128, 64)))
    plan_mma(case.op).run(case.smems, case.tmems, False)
    a, b = case.values()
    plain = FORMATS["e2m1"].decode(case.b).astype(np.float64)
    want = a @ b.T
    want[64:96] = a[64:96] @ plain.T
    np.testing.assert_array_equal(case.get_d(), want.astype(np.float32))


def test_nan_scales_and_extreme_scales() -> None:
    case = Case("mxf4nvf4", 128, 16, scale="ue4m3")
    case.sa[5, 2] = 0x7F
    case.put_scales(0, 0)
    plan_mma(case.op).run(case.smems, case.tmems, False)
    got = case.get_d()
    assert np.isnan(got[5]).all()
    assert not np.isnan(np.delete(got, 5, axis=0)).any()
    # UE8M0: products of 2^127 * 2^-127 do not overflow on the way.
    case = Case("mxf4", 128, 16, scale="ue8m0")
    case.sa[:], case.sb[:] = 254, 0
    case.put_scales(0, 0)
    plan_mma(case.op).run(case.smems, case.tmems, False)
    a, b = FORMATS["e2m1"].decode(case.a).astype(np.float64), FORMATS["e2m1"].decode(case.b).astype(np.float64)
    np.testing.assert_array_equal(case.get_d(), (a @ b.T).astype(np.float32))


def test_random_scales_round_once() -> None:
    """Scales over the whole range of UE4M3, where float32 sums are not exact: the sum must be rounded once."""
    case = Case("mxf4nvf4", 128, 256, scale="ue4m3")
    case.sa = case.rng.integers(0, 0x7F, case.sa.shape).astype(np.uint8)
    case.sb = case.rng.integers(0, 0x7F, case.sb.shape).astype(np.uint8)
    case.put_scales(0, 0)
    case.check()


@pytest.mark.parametrize(
    ("kind", "types", "shape"),
    [
        ("f16", ("bf16", "bf16"), (128, 64, 1, False)), ("tf32", ("tf32", "tf32"), (64, 64, 1, False)),
        ("f8f6f4", ("e4m3", "e4m3"), (256, 64, 2, False)), ("f8f6f4", ("e2m1", "e4m3"), (128, 64, 1, False)),
        ("f8f6f4", ("e3m2", "e2m1"), (128, 64, 1, False)), ("i8", ("u8", "s8"), (128, 64, 2, False)),
        ("mxf4nvf4", ("e2m1", "e2m1"), (128, 64, 1, False)), ("mxf8f6f4", ("e2m3", "e5m2"), (256, 64, 2, False)),
        ("f16", ("f16", "f16"), (32, 64, 1, True)), ("f16", ("f16", "f16"), (64, 64, 1, True)),
    ],
)  # fmt: skip
def test_a_in_tensor_memory(kind: str, types: tuple[str, str], shape: tuple[int, int, int, bool]) -> None:
    m, n, group, ws = shape
    case = Case(kind, m, n, group, types=types, ws=ws)
    f = FORMATS[case.a_type]
    rows = m // group
    padded = kind in ("f8f6f4", "mxf8f6f4")
    for cta, tmem in enumerate(case.tmems):
        codes = case.a[cta * rows : (cta + 1) * rows].astype(np.uint64)
        if padded and f.bits == 4:
            codes = codes << np.uint64(2)
        bits = 8 if padded else f.bits
        per = 32 // bits
        words = sum(codes[:, i::per] << np.uint64(bits * i) for i in range(per)).astype(np.uint32)
        # Rows lie in the lanes of D; layouts that split N over lanes need a copy of A in each part
        # (TmemAllocMode::Duplicated).
        lanes, _ = places(m, n, group, ws, 0, 0)
        for column in range(n):
            tmem.words[lanes[:, column], 300:308] = words
    case.op = replace(case.op, a_desc=None, a_tmem=300)
    case.check()


def test_ashift_takes_the_next_row() -> None:
    case = Case("f16", 128, 16)
    words = (case.a[:, 0::2].astype(np.uint32) | case.a[:, 1::2].astype(np.uint32) << 16).astype(np.uint32)
    case.tmems[0].words[:, 300:308] = words
    case.op = replace(case.op, a_desc=None, a_tmem=300, ashift=True)
    case.a = np.concatenate((case.a[1:], case.a[-1:]))
    case.check()


def test_disabled_lanes_keep_their_contents() -> None:
    for shape in ((128, 32, 1), (256, 32, 2), (64, 32, 1)):
        case = Case("f16", *shape)
        start = np.full((shape[0], 32), 7.0)
        case.put_d(start)
        mask = int.from_bytes(case.rng.bytes(16 * shape[2]), "little")
        plan_mma(replace(case.op, disabled_lanes=mask)).run(case.smems, case.tmems, False)
        a, b = case.values()
        lanes, _ = places(*shape, False, 0, 0)
        bit = np.concatenate([lanes[:, 0] + 128 * cta for cta in range(shape[2])])
        off = np.array([(mask >> int(i)) & 1 for i in bit], bool)
        want = np.where(off[:, None], start, a @ b.T)
        np.testing.assert_array_equal(case.get_d(), want.astype(np.float32))


def test_integer_saturation() -> None:
    for saturate in (0, 1):
        case = Case("i8", 128, 16, types=("s8", "s8"), fields={"sat": saturate})
        big = np.full((128, 16), 2**31 - 1)
        case.put_d(big)
        plan_mma(case.op).run(case.smems, case.tmems, True)
        a, b = case.values()
        exact = (a @ b.T).astype(np.int64) + big
        want = np.minimum(exact, 2**31 - 1) if saturate else exact.astype(np.int32)
        np.testing.assert_array_equal(case.get_d(), want)


def test_silicon_model_agrees_where_nothing_is_cut() -> None:
    for kind, name in (("f16", "f16"), ("mxf4nvf4", "mxf4"), ("mxf8f6f4", "f8")):
        case = Case(kind, 128, 16, scale="ue4m3" if kind == "mxf4nvf4" else "ue8m0")
        case.put_d(np.zeros((128, 16)))
        if kind == "mxf8f6f4":
            case.sa[:], case.sb[:] = 127, 126
            case.put_scales(0, 0)
        plan_mma(case.op).run(case.smems, case.tmems, True, acc.SILICON["sm_100 tcgen05", name])
        a, b = case.values()
        np.testing.assert_array_equal(case.get_d(), (a @ b.T).astype(np.float32))


IDESC = [
    ("f16", idesc("f16", 128, 64, "f16", "f16") | 4, {}, "sparsity"),
    ("f16", idesc("f16", 128, 64, "f16", "bf16"), {}, "A is f16 and B is bf16"),
    ("f16", idesc("f16", 128, 64, "bf16", "bf16", "f16"), {}, "f16 accumulators"),
    ("f16", idesc("f16", 96, 64, "f16", "f16"), {}, "M = 96"),
    ("f16", idesc("f16", 64, 64, "f16", "f16"), {"group": 2}, "M = 64 with cta_group::2"),
    ("f16", idesc("f16", 256, 64, "f16", "f16"), {}, "M = 256 with cta_group::1"),
    ("f16", idesc("f16", 256, 8, "f16", "f16"), {"group": 2}, "N = 8 with cta_group::2"),
    ("f16", idesc("f16", 128, 0, "f16", "f16"), {}, "N = 0"),
    ("f16", idesc("f16", 128, 264, "f16", "f16"), {}, "N = 264"),
    ("f16", idesc("f16", 128, 64, "f16", "f16") | 1 << 6, {}, "reserved bits 0x40"),
    ("f16", idesc("f16", 128, 64, "f16", "f16") | 3 << 30, {}, "maximum shift 3"),
    ("f16", idesc("f16", 128, 96, "f16", "f16"), {"ws": True}, "N = 96 with .ws"),
    ("f16", idesc("f16", 128, 64, "f16", "f16", sat=1), {}, "saturation"),
    ("tf32", idesc("f16", 128, 64, "f16", "f16"), {}, "type of A is 0"),
    ("tf32", idesc("tf32", 128, 64, "tf32", "tf32", "f16"), {}, "type of D is 0"),
    ("i8", idesc("i8", 128, 40, "s8", "s8", "s32"), {}, "N = 40"),
    ("i8", idesc("i8", 128, 64, "s8", "s8", "s32", neg_a=1), {}, "negation"),
    ("f8f6f4", idesc("f8f6f4", 128, 24, "e4m3", "e4m3", t_b=1), {}, "transposed 8-bit B with N = 24"),
    ("mxf8f6f4", idesc("mxf8f6f4", 64, 64, "e4m3", "e4m3", ue8m0=1), {}, "reserved bits 0x4000000"),
    ("mxf8f6f4", idesc("mxf8f6f4", 128, 64, "e4m3", "e4m3"), {}, "UE4M3 scales"),
    ("mxf4", idesc("mxf4", 128, 64, "e2m1", "e2m1", ue8m0=1, sfa=1), {}, "scale factor id of A is 1"),
    ("mxf4", idesc("mxf4", 128, 64, "e2m1", "e2m1", ue8m0=1), {"vector": "block16"}, "scale vector size"),
    ("mxf4nvf4", idesc("mxf4nvf4", 128, 64, "e2m1", "e2m1"), {}, "scale vector size"),
    ("mxf4nvf4", idesc("mxf4nvf4", 128, 64, "e2m1", "e2m1"), {"vector": "block32"}, "UE4M3 scales with 2"),
    ("mxf4nvf4", idesc("mxf4nvf4", 128, 64, "e2m1", "e2m1", t_a=1), {"vector": "block16"}, "transposed 4-bit"),
    ("mxf4nvf4", idesc("mxf4nvf4", 128, 64, "e2m1", "e2m1") | 1 << 31, {"vector": "block16"}, "K = 96"),
    ("f16", idesc("f16", 128, 64, "f16", "f16"), {"vector": "block16"}, "only the block-scaled kinds"),
    ("f64", 0, {}, "kinds are"),
]


@pytest.mark.parametrize(("kind", "descriptor", "options", "message"), IDESC, ids=[i[3] for i in IDESC])
def test_malformed_instruction_descriptors(kind: str, descriptor: int, options: dict[str, Any], message: str) -> None:
    args: dict[str, Any] = {"group": 1, **options}
    with pytest.raises(UnitError, match=message) as info:
        parse_instruction(descriptor, kind, **args)
    assert info.value.remedy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": 16 << 16}, "D at lane 16"),
        ({"d": 500}, "D at 0x1f4"),
        ({"a_desc": None}, "A in neither memory"),
        ({"a_tmem": 0}, "A in both memory"),
        ({"a_desc": None, "a_tmem": 16 << 16}, "A at lane 16 and D at lane 0"),
        ({"a_desc": None, "a_tmem": 508}, "A reaches"),
        ({"scale_d": 16}, "scale-input-d 16"),
        ({"ashift": True}, "ashift"),
        ({"collector": "b0::fill"}, "collector::b0::fill"),
        ({"collector": "a::keep"}, "collector::a::keep"),
        ({"b_desc": 0}, "Hopper descriptor"),
    ],
    ids=lambda x: str(x),
)
def test_illegal_operands(change: dict[str, Any], message: str) -> None:
    case = Case("f16", 128, 64)
    with pytest.raises(UnitError, match=message):
        plan_mma(replace(case.op, **change))
    plan_mma(replace(case.op, collector="a::lastuse"))


def test_scaled_operands_that_are_refused() -> None:
    case = Case("mxf4nvf4", 128, 64, scale="ue4m3")
    with pytest.raises(UnitError, match="without scale factors"):
        plan_mma(replace(case.op, scale_b=None))
    with pytest.raises(UnitError, match="M = 128 and N = 96"):
        plan_mma(Case("mxf4nvf4", 128, 96, 2, scale="ue4m3").op)
    with pytest.raises(UnitError, match="scale factors of B reaches"):
        plan_mma(replace(case.op, scale_b=511))


NATIVE = [
    ("mxf4nvf4", (128, 200, 1, False), {"scale": "ue4m3"}),
    ("mxf4nvf4", (256, 80, 2, False), {"scale": "ue8m0", "count": 2}),
    ("mxf8f6f4", (128, 64, 1, False), {"types": ("e2m1", "e5m2")}),
    ("f16", (64, 48, 1, False), {"types": ("f16", "f16")}),
    ("f16", (128, 32, 2, False), {"fields": {"t_a": 1, "t_b": 1}}),
    ("tf32", (32, 64, 1, True), {"fields": {"neg_a": 1}}),
    ("f8f6f4", (256, 256, 2, False), {}),
]


@pytest.mark.parametrize(("kind", "shape", "options"), NATIVE, ids=[f"{n[0]}-{n[1]}" for n in NATIVE])
def test_native_products_equal_numpy(kind: str, shape: tuple[int, int, int, bool], options: dict[str, Any]) -> None:
    """Every bit, also of ties, NaNs, infinities and denormals; exact sums in f64, so the order does not show."""
    m, n, group, ws = shape
    for seed in range(3):
        case = Case(kind, m, n, group, ws=ws, seed=seed, **options)
        plan = plan_mma(case.op)
        assert plan.native is not None
        a, b = case.values()
        product = a @ b.T
        start = case.rng.standard_normal(product.shape) * 2.0 ** case.rng.integers(-30, 30, product.shape)
        # Half an ulp of the product away from it, and a little more or less: where one rounding too many would show.
        ulp = np.spacing(product.astype(np.float32)).astype(np.float64)
        start = np.where(case.rng.random(product.shape) < 0.5, ulp / 2 * case.rng.choice([1, -1, 1 + 2**-20]), start)
        start[0, :4] = np.nan, np.inf, -np.inf, 1e-42
        start = start.astype(np.float32)
        start[1, :] = np.float32(3.4028235e38)
        for accumulate in (True, False):
            results = []
            for run in (plan.run, plan.run_numpy):
                case.put_d(start)
                for t in case.tmems:
                    t.init[:] = False
                run(case.smems, case.tmems, accumulate)
                results.append((case.get_d().view(np.uint32).copy(), [t.init.copy() for t in case.tmems]))
            np.testing.assert_array_equal(*(r[0] for r in results))
            np.testing.assert_array_equal(*(r[1] for r in results))


def test_copies_of_scale_factors_that_differ_are_left_to_numpy() -> None:
    case = Case("mxf4nvf4", 128, 64, scale="ue4m3")
    case.tmems[0].words[64:96, 420:422] ^= 0x01010101
    plan = plan_mma(case.op)
    results = []
    for run in (plan.run, plan.run_numpy):
        run(case.smems, case.tmems, False)
        results.append(case.get_d().copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("n", [64, 128, 256])
@pytest.mark.parametrize(("kind", "options"), [("mxf4nvf4", {"scale": "ue4m3"}), ("mxf8f6f4", {})])
def test_scale_factors_on_split_datapaths(kind: str, options: dict[str, Any], n: int) -> None:
    """M = 128 with two CTAs: lanes 64 and up take the scale factors of the second half of B from their own columns."""
    case = Case(kind, 128, n, 2, **options)
    plan_mma(case.op).run(case.smems, case.tmems, False)
    a, b = case.values()
    np.testing.assert_array_equal(case.get_d(), (a @ b.T).astype(np.float32))


def test_cost() -> None:
    for m, n, group in ((128, 128, 1), (256, 256, 2)):
        case = Case("mxf4nvf4", m, n, group, scale="ue4m3")
        plan = plan_mma(case.op)
        start = time.perf_counter()
        for _ in range(50):
            plan.run(case.smems, case.tmems, False)
        print(f"mxf4nvf4 m{m}n{n}k64: {(time.perf_counter() - start) / 50 * 1e6:.0f} us")
