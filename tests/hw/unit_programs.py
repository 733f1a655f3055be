"""Programs that pin down what the copy and matrix units do on silicon: one instruction each, on data that shows
every byte.

`record_units.py` runs them on a GPU and stores what came out; `test_units.py` holds `nvfp4.emulator.units` to it
everywhere. Inputs are
regenerated from seeds, so only outputs are stored.
"""

# ruff: noqa: E501 (CUDA sources)
from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IMAGE = 49152  # bytes of shared memory that a wgmma program fills
DUMP = 24576  # bytes of shared memory that a tensor copy program dumps
GLOBAL = 1 << 16  # bytes of the tensor behind a tensor map


def rng(name: str) -> np.random.RandomState:
    """A generator for a program's inputs (the legacy generator: its stream never changes)."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def numbers(kind: str, count: int, r: np.random.RandomState, spread: int = 6) -> Any:
    """Random bit patterns of finite numbers, uint8 [count * size]: signs, magnitudes over 2**±spread, some zeros and
    subnormals."""
    x = r.standard_normal(count) * np.exp2(r.randint(-spread, spread + 1, count))
    x[r.rand(count) < 0.03] = 0
    if kind == "f16":
        tiny = r.rand(count) < 0.03
        return np.where(tiny, x * 2.0**-18, x).astype(np.float16).view(np.uint8)
    if kind == "bf16":
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    if kind in ("f32", "tf32"):
        return x.astype(np.float32).view(np.uint8)
    if kind == "f64":
        return x.view(np.uint8)
    data = r.randint(0, 256, count).astype(np.uint8)
    if kind in ("e4m3", "e5m2"):
        data = np.where((data & 0x7C == 0x7C) | (spread < 4), data & 0xBF, data).astype(
            np.uint8
        )  # small: no overflow of f16
    return data


# ---------------------------------------------------------------------------------------------------------------- wgmma


@dataclass(frozen=True)
class Wgmma:
    """One wgmma.mma_async; offsets in bytes from the image's start, descriptor fields in bytes."""

    name: str
    n: int
    types: tuple[str, str, str]  # D, A, B
    a: tuple[int, int, int, int, int] | None  # start, LBO, SBO, swizzle mode, base offset; None: registers
    b: tuple[int, int, int, int, int]
    transpose: tuple[int, int] = (0, 0)
    negate: tuple[int, int] = (0, 0)
    scale_d: int = 1
    saturate: bool = False
    spread: int = 6

    @property
    def k(self) -> int:
        return {"f16": 16, "bf16": 16, "tf32": 8}.get(self.types[1], 32)

    @property
    def registers(self) -> int:
        return self.n // 4 if self.types[0] == "f16" else self.n // 2

    def inputs(self) -> tuple[Any, Any, Any]:
        """(image uint8 [IMAGE], A registers uint32 [4, 4, 32], D registers uint32 [4, registers, 32])."""
        r = rng("wgmma " + self.name)
        _, ta, tb = self.types
        size = {"f16": 2, "bf16": 2, "tf32": 4}.get(ta, 1)
        image = numbers(ta if ta == tb else "e5m2", IMAGE // size, r, self.spread)
        a = numbers(ta, 4 * 4 * 32 * 4 // size, r, self.spread).view(np.uint32).reshape(4, 4, 32)
        if self.types[0] == "s32":
            d = r.randint(-(2**31), 2**31, (4, self.registers, 32), dtype=np.int64).astype(np.int32).view(np.uint32)
        elif self.types[0] == "f16":
            d = numbers("f16", 4 * self.registers * 64, r, 3).view(np.uint32).reshape(4, self.registers, 32)
        else:
            d = numbers("f32", 4 * self.registers * 32, r, self.spread).view(np.uint32).reshape(4, self.registers, 32)
        return image, a, d

    def source(self) -> str:
        d, a, b = self.types
        count = self.registers
        regs = ", ".join(f"%{i}" for i in range(count))
        next_ = count
        operand = f"%{next_}" if self.a is not None else "{" + ", ".join(f"%{next_ + i}" for i in range(4)) + "}"
        a_in = '"l"(da)' if self.a is not None else ", ".join(f'"r"(a[{i}])' for i in range(4))
        next_ += 1 if self.a is not None else 4
        tail = ""
        if d != "s32":
            tail += ", " + ", ".join("-1" if x else "1" for x in self.negate)
        if a in ("f16", "bf16"):
            tail += (f", {self.transpose[0]}" if self.a is not None else "") + f", {self.transpose[1]}"
        clamp = ".satfinite" if self.saturate else ""
        opcode = f"wgmma.mma_async.sync.aligned.m64n{self.n}k{self.k}{clamp}.{d}.{a}.{b}"
        outs = ", ".join(f'"+r"(d[{i}])' for i in range(count))
        return f"""
extern "C" __global__ void __launch_bounds__(128)
wgmma_{self.name}(const uint4* image, u64 da, u64 db, const u32* a_in, const u32* d_in, u32* d_out, u32* base_out) {{
    extern __shared__ __align__(1024) u8 memory[];
    for (u32 i = threadIdx.x; i < {IMAGE} / 16; i += 128) reinterpret_cast<uint4*>(memory)[i] = image[i];
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    const u32 base = (u32)__cvta_generic_to_shared(memory), w = threadIdx.x / 32, l = threadIdx.x % 32;
    if (threadIdx.x == 0) *base_out = base;
    da += base >> 4; db += base >> 4;
    u32 d[{count}], a[4];
    for (int i = 0; i < {count}; ++i) d[i] = d_in[(w * {count} + i) * 32 + l];
    for (int i = 0; i < 4; ++i) a[i] = a_in[(w * 4 + i) * 32 + l];
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("{{ .reg .pred p; setp.ne.s32 p, %{next_ + 1}, 0;\\n"
                 "{opcode} {{{regs}}}, {operand}, %{next_}, p{tail}; }}" : {outs} : {a_in}, "l"(db),
                 "n"({self.scale_d}));
    asm volatile("wgmma.commit_group.sync.aligned;\\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < {count}; ++i) d_out[(w * {count} + i) * 32 + l] = d[i];
}}
"""


def descriptor(fields: tuple[int, int, int, int, int], base: int = 0) -> int:
    """A wgmma descriptor whose start is `base` bytes further."""
    start, leading, stride, mode, offset = fields
    return ((start + base) >> 4) | (leading >> 4) << 16 | (stride >> 4) << 32 | offset << 49 | mode << 62


_K = (0, 16, 1024, 1, 0)
_KB = (16384, 16, 1024, 1, 0)
WGMMA = (
    Wgmma("f16_128b", 64, ("f32", "f16", "f16"), _K, _KB),
    Wgmma("f16_wide", 64, ("f32", "f16", "f16"), _K, _KB, spread=12),
    Wgmma("f16_no_d", 64, ("f32", "f16", "f16"), _K, _KB, scale_d=0),
    Wgmma("f16_advanced", 64, ("f32", "f16", "f16"), (64, 16, 1024, 1, 0), (16384 + 96, 16, 1024, 1, 0)),
    Wgmma("f16_64b", 64, ("f32", "f16", "f16"), (0, 16, 512, 2, 0), (16384, 16, 1536, 2, 0)),
    Wgmma("f16_32b", 64, ("f32", "f16", "f16"), (0, 16, 256, 3, 0), (16384, 16, 512, 3, 0)),
    Wgmma("f16_none", 64, ("f32", "f16", "f16"), (0, 128, 256, 0, 0), (16384, 2048, 144, 0, 0)),
    Wgmma("f16_base", 64, ("f32", "f16", "f16"), (384, 16, 1024, 1, 3), (16384 + 640, 16, 1024, 1, 5)),
    Wgmma("f16_unaligned", 64, ("f32", "f16", "f16"), (384, 16, 1024, 1, 0), (16384 + 640, 16, 1024, 1, 0)),
    Wgmma("f16_mn_128b", 64, ("f32", "f16", "f16"), (0, 2048, 1024, 1, 0), (16384, 4096, 1024, 1, 0), (1, 1)),
    Wgmma("f16_mn_128b_n128", 128, ("f32", "f16", "f16"), (0, 2048, 1024, 1, 0), (16384, 4096, 1024, 1, 0), (1, 1)),
    Wgmma("f16_mn_64b", 64, ("f32", "f16", "f16"), (0, 1024, 512, 2, 0), (16384, 2048, 512, 2, 0), (1, 1)),
    Wgmma("f16_mn_32b", 64, ("f32", "f16", "f16"), (0, 512, 256, 3, 0), (16384, 1024, 256, 3, 0), (1, 1)),
    Wgmma("f16_mn_none", 64, ("f32", "f16", "f16"), (0, 1152, 144, 0, 0), (16384, 2048, 256, 0, 0), (1, 1)),
    Wgmma("f16_mixed", 64, ("f32", "f16", "f16"), _K, (16384, 4096, 1024, 1, 0), (0, 1), (1, 0)),
    Wgmma("f16_registers", 64, ("f32", "f16", "f16"), None, _KB, negate=(0, 1)),
    Wgmma("f16_half", 64, ("f16", "f16", "f16"), _K, _KB, spread=3),
    Wgmma("bf16", 64, ("f32", "bf16", "bf16"), _K, _KB, spread=20),
    Wgmma("bf16_registers", 24, ("f32", "bf16", "bf16"), None, (16384, 4096, 1024, 1, 0), (0, 1), spread=20),
    Wgmma("tf32", 64, ("f32", "tf32", "tf32"), _K, _KB, spread=20),
    Wgmma("tf32_registers", 8, ("f32", "tf32", "tf32"), None, _KB),
    Wgmma("e4m3", 64, ("f32", "e4m3", "e4m3"), _K, _KB),
    Wgmma("e5m2_e4m3", 64, ("f32", "e5m2", "e4m3"), _K, _KB),
    Wgmma("e4m3_e5m2_registers", 64, ("f32", "e4m3", "e5m2"), None, _KB),
    Wgmma("e4m3_half", 64, ("f16", "e4m3", "e4m3"), _K, _KB, spread=3),
    Wgmma("s8", 64, ("s32", "s8", "s8"), _K, _KB),
    Wgmma("u8_s8_sat", 64, ("s32", "u8", "s8"), _K, _KB, saturate=True),
    Wgmma("s8_u8_registers", 64, ("s32", "s8", "u8"), None, _KB),
)


# --------------------------------------------------------------------------------------------------------------
# mma.sync


@dataclass(frozen=True)
class Mma:
    """One mma.sync opcode."""

    opcode: str
    spread: int = 6

    @property
    def name(self) -> str:
        return self.opcode.replace("mma.sync.aligned.", "").replace(".row.col", "").replace(".", "_")

    @property
    def types(self) -> tuple[str, str, str, str]:
        d, a, b, c = self.opcode.split(".")[-4:]
        return d, a, b, c

    def inputs(self, registers: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """A, B, C registers [16 warps, n, 32]."""
        r = rng("mma " + self.opcode + str(self.spread))
        out = []
        for kind, count in zip(self.types[1:], registers, strict=False):
            size = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4, "f64": 8, "s32": 4}.get(kind, 1)
            width = 8 if kind == "f64" else 4
            data = numbers(
                kind if kind != "s32" else "u8",
                16 * count * 32 * width // (size if kind != "s32" else 1),
                r,
                self.spread,
            )
            out.append(
                np.ascontiguousarray(data).view(np.uint64 if kind == "f64" else np.uint32).reshape(16, count, 32)
            )
        return out[0], out[1], out[2]

    def source(self, registers: tuple[int, ...]) -> str:
        na, nb, nc, nd = registers
        word, letter = ("u64", "l") if self.types[0] == "f64" else ("u32", "r")
        if self.types[0] == "f64":
            letter = "d"
        names, at = [], 0
        for count in (nd, na, nb, nc):
            names.append("{" + ", ".join(f"%{at + i}" for i in range(count)) + "}")
            at += count
        kind = "double" if letter == "d" else "u32"
        outs = ", ".join(f'"={letter}"(d[{i}])' for i in range(nd))
        ins = ", ".join(f'"{letter}"({v}[{i}])' for v, n in (("a", na), ("b", nb), ("c", nc)) for i in range(n))
        load = "__longlong_as_double" if letter == "d" else ""
        keep = "__double_as_longlong" if letter == "d" else ""
        return f"""
extern "C" __global__ void mma_{self.name}(const {word}* a_in, const {word}* b_in, const {word}* c_in, {word}* d_out) {{
    const u32 w = blockIdx.x, l = threadIdx.x;
    {kind} a[{na}], b[{nb}], c[{nc}], d[{nd}];
    for (int i = 0; i < {na}; ++i) a[i] = {load}(a_in[(w * {na} + i) * 32 + l]);
    for (int i = 0; i < {nb}; ++i) b[i] = {load}(b_in[(w * {nb} + i) * 32 + l]);
    for (int i = 0; i < {nc}; ++i) c[i] = {load}(c_in[(w * {nc} + i) * 32 + l]);
    asm volatile("{self.opcode} {names[0]}, {names[1]}, {names[2]}, {names[3]};" : {outs} : {ins});
    for (int i = 0; i < {nd}; ++i) d_out[(w * {nd} + i) * 32 + l] = {keep}(d[i]);
}}
"""


_P = "mma.sync.aligned."
MMA = tuple(
    Mma(_P + text, spread)
    for text, spread in (
        ("m16n8k8.row.col.f32.f16.f16.f32", 6),
        ("m16n8k16.row.col.f32.f16.f16.f32", 6),
        ("m16n8k16.row.col.f32.f16.f16.f32", 12),
        ("m16n8k16.row.col.f16.f16.f16.f16", 3),
        ("m16n8k8.row.col.f16.f16.f16.f16", 3),
        ("m16n8k8.row.col.f32.bf16.bf16.f32", 20),
        ("m16n8k16.row.col.f32.bf16.bf16.f32", 20),
        ("m16n8k4.row.col.f32.tf32.tf32.f32", 20),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", 20),
        ("m16n8k32.row.col.f32.e4m3.e4m3.f32", 6),
        ("m16n8k32.row.col.f32.e5m2.e4m3.f32", 6),
        ("m16n8k16.row.col.f32.e4m3.e5m2.f32", 6),
        ("m16n8k32.row.col.f16.e4m3.e4m3.f16", 3),
        ("m16n8k32.row.col.s32.s8.u8.s32", 0),
        ("m16n8k16.row.col.s32.u8.s8.s32", 0),
        ("m8n8k16.row.col.s32.s8.s8.s32", 0),
        ("m16n8k32.row.col.satfinite.s32.s8.s8.s32", 0),
        ("m16n8k64.row.col.s32.s4.u4.s32", 0),
        ("m8n8k4.row.col.f64.f64.f64.f64", 6),
        ("m16n8k4.row.col.f64.f64.f64.f64", 6),
        ("m16n8k8.row.col.f64.f64.f64.f64", 6),
        ("m16n8k16.row.col.f64.f64.f64.f64", 6),
    )
)


# ------------------------------------------------------------------------------------------------------------ tensor
# copies


@dataclass(frozen=True)
class Copy:
    """One tensor copy. `op` None: a load, whose shared memory is dumped; "store" or a reduction: the tensor is
    dumped."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    coords: tuple[int, ...]
    swizzle: int = 0
    element_strides: tuple[int, ...] = ()
    nan_fill: bool = False
    offset: int = 0  # of the tile in shared memory
    op: str | None = None
    special: bool = False  # values that the converting types change
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def tensor(self) -> Any:
        """The tensor's bytes, uint8 [GLOBAL]."""
        r = rng("copy " + self.name)
        data = r.randint(0, 256, GLOBAL).astype(np.uint8)
        if self.special or (self.op and self.dtype[0] in "fb"):
            kind = self.dtype.split(".")[0]
            data = numbers(
                kind, GLOBAL // {"f16": 2, "bf16": 2, "f64": 8}.get(kind, 4), r, 20 if kind not in ("f16",) else 6
            ).copy()
            if self.dtype.startswith(("f32", "tf32")):
                words = data.view(np.uint32)
                words[::7] &= 0x807FFFFF  # subnormals
                words[1::13] = (words[1::13] & 0xFFFFE000) | 0x1000  # ties of the tf32 rounding
        return data

    def shared(self) -> Any:
        """What shared memory holds before a store, uint8 [DUMP]."""
        r = rng("shared " + self.name)
        if self.op in ("add", "min", "max") and self.dtype[0] in "fb":
            kind = self.dtype.split(".")[0]
            data = numbers(
                kind, DUMP // {"f16": 2, "bf16": 2, "f64": 8}.get(kind, 4), r, 20 if kind != "f16" else 6
            ).copy()
            if kind == "f32":
                data.view(np.uint32)[::5] &= 0x807FFFFF
            return data
        return r.randint(0, 256, DUMP).astype(np.uint8)


def _load(name: str, dtype: str, shape: Any, strides: Any, box: Any, coords: Any, **rest: Any) -> Copy:
    return Copy(name, dtype, tuple(shape), tuple(strides), tuple(box), tuple(coords), **rest)


_2D = ((96, 60), (192,), (64, 40), (16, 8))
COPIES = (
    _load("plain", "u16", *_2D),
    _load("sw128", "u16", *_2D, swizzle=128),
    _load("sw64", "u16", (96, 60), (192,), (32, 40), (16, 8), swizzle=64),
    _load("sw32", "u16", (96, 60), (192,), (16, 40), (16, 8), swizzle=32),
    _load("sw128_offset", "u16", *_2D, swizzle=128, offset=384),
    _load("sw64_offset", "u16", (96, 60), (192,), (32, 40), (16, 8), swizzle=64, offset=128),
    _load("sw32_offset", "u16", (96, 60), (192,), (16, 40), (16, 8), swizzle=32, offset=896),
    _load("narrow128_by_64", "u16", (96, 60), (192,), (32, 24), (16, 8), swizzle=128),
    _load("narrow128_by_32", "u16", (96, 60), (192,), (16, 24), (16, 8), swizzle=128),
    _load("narrow128_by_48", "u16", (96, 60), (192,), (24, 24), (16, 8), swizzle=128),
    _load("narrow64_by_32", "u16", (96, 60), (192,), (16, 24), (16, 8), swizzle=64),
    _load("narrow32_by_16", "u16", (96, 60), (192,), (8, 24), (16, 8), swizzle=32),
    _load("oob", "u16", (96, 60), (192,), (64, 40), (-8, 50), swizzle=128),
    _load("oob_corner", "u8", (90, 60), (96,), (64, 40), (64, -5)),
    _load("oob_all", "u8", (90, 60), (96,), (64, 40), (208, 0)),
    *(
        _load(f"nan_{t.replace('.', '_')}", t, (64, 16), (512,), (16, 8), (56, 12), nan_fill=True, special=True)
        for t in ("f16", "bf16", "f32", "tf32", "f64", "f32.ftz", "tf32.ftz")
    ),
    *(
        _load(f"convert_{t.replace('.', '_')}", t, (64, 16), (256,), (64, 8), (0, 4), special=True)
        for t in ("f32", "f32.ftz", "tf32", "tf32.ftz")
    ),
    _load("strided", "u16", (96, 60), (192,), (64, 40), (16, 3), element_strides=(1, 3)),
    _load("strided0", "u16", (96, 60), (192,), (64, 40), (16, 3), element_strides=(2, 1)),
    _load("strided_oob", "u16", (96, 60), (192,), (64, 40), (16, -5), element_strides=(1, 3)),
    _load("one", "u32", (2000,), (), (256,), (1900,)),
    _load("three", "u8", (64, 20, 10), (64, 1280), (32, 6, 5), (16, 17, -2), swizzle=32),
    _load("four", "u16", (24, 9, 5, 3), (48, 432, 2160), (8, 6, 4, 2), (8, 2, 3, 1), element_strides=(1, 2, 1, 1)),
    _load("five", "u16", (24, 5, 4, 3, 2), (48, 240, 960, 2880), (8, 4, 3, 2, 2), (8, 2, 1, 2, 0)),
    _load("store", "u16", *_2D, swizzle=128, op="store"),
    _load("store_oob", "u16", (96, 60), (192,), (64, 40), (48, 40), swizzle=128, op="store"),
    _load("store_narrow", "u16", (96, 60), (192,), (32, 24), (16, 8), swizzle=128, op="store"),
    *(
        _load(f"{op}_{t}", t, (64, 20), (512,), (16, 12), (8, 5), op=op)
        for t, op in (
            ("f32", "add"),
            ("f16", "add"),
            ("bf16", "add"),
            ("f16", "min"),
            ("f16", "max"),
            ("bf16", "min"),
            ("u32", "add"),
            ("s32", "min"),
            ("s32", "max"),
            ("u32", "max"),
            ("u64", "add"),
            ("u64", "min"),
            ("s64", "max"),
            ("u32", "inc"),
            ("u32", "dec"),
            ("u32", "and"),
            ("u32", "or"),
            ("u64", "xor"),
        )
    ),
)

_HEAD = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
struct alignas(64) Map { u8 opaque[128]; };
"""


def copy_source() -> str:
    """A load and a store kernel for each rank, and a reduction for each operation and rank that is used."""
    out = []
    for rank in range(1, 6):
        names = "{" + ", ".join(f"%{i + 2}" for i in range(rank)) + "}"
        ins = ", ".join(f'"r"(c{i})' for i in range(rank))
        out.append(f"""
extern "C" __global__ void load_{rank}(const __grid_constant__ Map map, int c0, int c1, int c2, int c3, int c4, u32
offset, u32 bytes, uint4* dump,
                                       u32* status) {{
    extern __shared__ __align__(1024) u8 memory[];
    __shared__ __align__(8) u64 bar;
    for (u32 i = threadIdx.x; i < {DUMP} / 16; i += 32) reinterpret_cast<uint4*>(memory)[i] = make_uint4(0xEEEEEEEE,
    0xEEEEEEEE, 0xEEEEEEEE, 0xEEEEEEEE);
    const u32 base = (u32)__cvta_generic_to_shared(memory), b = (u32)__cvta_generic_to_shared(&bar);
    if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(b) : "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncwarp();
    u32 done = 0;
    if (threadIdx.x == 0) {{
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory");
        asm volatile("cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {names}], [%{rank + 2}];"
                     :: "r"(base + offset), "l"(&map), {ins}, "r"(b) : "memory");
        for (int i = 0; i < 2000000 && !done; ++i)
            asm volatile("{{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }}" : "=r"(done) : "r"(b)
                         : "memory");
        status[0] = base; status[1] = done;
    }}
    __syncwarp();
    for (u32 i = threadIdx.x; i < {DUMP} / 16; i += 32) dump[i] = reinterpret_cast<uint4*>(memory)[i];
}}
""")
        for op in sorted({c.op for c in COPIES if c.op and len(c.shape) == rank}):
            stem = "cp.async.bulk.tensor" if op == "store" else "cp.reduce.async.bulk.tensor"
            names = "{" + ", ".join(f"%{i + 1}" for i in range(rank)) + "}"
            kind = "" if op == "store" else f".{op}"
            out.append(f"""
extern "C" __global__ void {op}_{rank}(const __grid_constant__ Map map, int c0, int c1, int c2, int c3, int c4, u32
offset, const uint4* image,
                                       u32* status) {{
    extern __shared__ __align__(1024) u8 memory[];
    for (u32 i = threadIdx.x; i < {DUMP} / 16; i += 32) reinterpret_cast<uint4*>(memory)[i] = image[i];
    const u32 base = (u32)__cvta_generic_to_shared(memory);
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncwarp();
    if (threadIdx.x == 0) {{
        asm volatile("{stem}.{rank}d.global.shared::cta{kind}.bulk_group [%0, {names}], [%{rank + 1}];" :: "l"(&map),
        {ins}, "r"(base + offset)
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;\\ncp.async.bulk.wait_group 0;" ::: "memory");
        status[0] = base; status[1] = 1;
    }}
}}
""")
    return "".join(out)


def source(mma_registers: dict[str, tuple[int, ...]]) -> str:
    """The whole CUDA source."""
    seen: dict[str, str] = {}
    for m in MMA:
        seen[m.name] = m.source(mma_registers[m.opcode])
    return _HEAD + "".join(w.source() for w in WGMMA) + "".join(seen.values()) + copy_source()
