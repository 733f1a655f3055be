"""cp.async.bulk.tensor and cp.reduce.async.bulk.tensor (PTX ISA 9.7.9.25.5): boxes in 1 to 5 dimensions."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501, RUF005
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..program import PRELUDE, Array, In, Map, Out, Program, words
from .copies import WAIT
from .matrix import finite

_BYTES = {"u8": 1, "u16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}


@dataclass(frozen=True)
class Box:
    """One copy: a map over the common buffer and the coordinates of the box, dimension 0 first.

    The first coordinate lies at a multiple of 16 bytes: an H200 answers others with an illegal instruction.
    """

    dtype: str
    shape: tuple[int, ...]
    box: tuple[int, ...]
    at: tuple[int, ...]
    swizzle: int = 0
    steps: tuple[int, ...] = ()
    nan_fill: bool = False
    pad: int = 0  # bytes between rows beyond what the shape needs

    def __post_init__(self) -> None:
        assert self.at[0] * _BYTES[self.dtype] % 16 == 0, self

    @property
    def strides(self) -> tuple[int, ...]:
        found, size = [], _BYTES[self.dtype]
        for n in self.shape[:-1]:
            size = -(-(size * n) // 16) * 16 + self.pad
            found.append(size)
        return tuple(found)

    @property
    def bytes(self) -> int:
        n = _BYTES[self.dtype]
        for i, b in enumerate(self.box):
            step = self.steps[i] if self.steps and i else 1
            n *= -(-b // step)
        return n

    def map(self, name: str) -> Map:
        return Map(name, self.dtype, self.shape, self.strides, self.box, self.steps, self.swizzle, self.nan_fill)


def _loads() -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {"1d": [
        Box("u8", (1000,), (64,), (112,)), Box("u16", (300,), (48,), (280,)), Box("f32", (90,), (32,), (-8,)), Box("f64", (64,), (8,), (60,)),
        Box("u32", (90,), (256,), (0,)), Box("i64", (100,), (16,), (200,)), Box("f16", (100,), (16,), (96,), nan_fill=True),
        Box("f32", (100,), (16,), (-4,), nan_fill=True),
    ]}  # fmt: skip
    for swizzle in (32, 64, 128):
        w = swizzle
        found[f"2d swizzle {swizzle}"] = [
            Box("u8", (256, 40), (w, 16), (16, 3), swizzle),
            Box("u16", (128, 40), (w // 2, 24), (64, 30), swizzle),  # the last rows are outside
            Box("u32", (100, 40), (w // 4, 8), (-4, -2), swizzle),
            Box("f32", (64, 20), (w // 8, 9), (4, 2), swizzle),  # rows narrower than the swizzle
            Box("f16", (64, 20), (w // 2, 8), (56, 18), swizzle, nan_fill=True),
            Box("bf16", (80, 20), (w // 2, 10), (8, 4), swizzle, steps=(1, 3)),
        ]
    found["2d"] = [
        Box("u8", (100, 20), (48, 5), (80, 17), pad=16), Box("bf16", (33, 9), (40, 9), (-8, 0), nan_fill=True),
        Box("u16", (64, 50), (8, 30), (8, 7), steps=(1, 2)), Box("i32", (64, 50), (16, 6), (8, 46), steps=(1, 4)),
        Box("u64", (20, 20), (4, 4), (18, 18)), Box("f64", (20, 20), (6, 3), (-2, -1), nan_fill=True), Box("u8", (64, 64), (16, 256), (0, -100)),
    ]  # fmt: skip
    found["3d"] = [
        Box("u8", (64, 10, 6), (32, 4, 3), (16, 7, 4)), Box("u16", (64, 10, 6), (32, 8, 2), (0, 4, 5), 64),
        Box("f16", (64, 10, 6), (64, 4, 3), (0, -1, -1), 128), Box("f32", (20, 10, 6), (8, 3, 4), (4, 2, 0), 32, steps=(1, 2, 3)),
        Box("u32", (20, 10, 6), (12, 4, 5), (12, 0, 3), steps=(1, 1, 2)),
    ]  # fmt: skip
    found["4d"] = [
        Box("u8", (32, 6, 5, 4), (16, 3, 2, 2), (16, 2, 1, 1)), Box("u16", (32, 6, 5, 4), (32, 2, 3, 2), (0, -1, 3, 3), 64),
        Box("f32", (32, 6, 5, 4), (32, 2, 2, 2), (0, 5, 4, -1), 128, nan_fill=True), Box("u16", (32, 6, 5, 4), (8, 4, 4, 4), (16, 1, 0, 0), steps=(1, 2, 3, 2)),
    ]  # fmt: skip
    found["5d"] = [
        Box("u8", (32, 4, 3, 3, 3), (16, 2, 2, 2, 2), (16, 1, 1, 1, 1)), Box("u16", (32, 4, 3, 3, 3), (16, 2, 1, 3, 2), (0, 3, 2, -1, 2), 32),
        Box("bf16", (64, 4, 3, 3, 3), (64, 2, 2, 2, 1), (0, -1, 0, 2, 1), 128), Box("u32", (8, 5, 5, 5, 5), (4, 4, 3, 2, 3), (4, 0, 1, 3, 2), steps=(1, 2, 1, 1, 2)),
    ]  # fmt: skip
    return found


def _values(dtype: str, count: int, seed: str) -> Array:
    """Finite elements of `dtype`, as bytes."""
    raw = words(seed, -(-count // 8))
    if dtype in ("f16", "bf16", "f32", "f64"):
        return np.ascontiguousarray(finite(dtype, raw, False)).view(np.uint8)[:count]
    return raw.view(np.uint8)[:count]


def _pattern() -> Array:
    """32 KiB whose words count up, so that recordings stay small; every 32-bit word differs."""
    i = np.arange(8192, dtype=np.uint32)
    return (i * np.uint32(0x00010003) + np.uint32(0x3C003A00)).view(np.uint8)


def _coordinates(at: tuple[int, ...], first: int) -> tuple[str, str]:
    names = "{" + ", ".join(f"%{first + i}" for i in range(len(at))) + "}"
    return names, ", ".join(f'"r"({c})' for c in at)


def _load(name: str, boxes: list[Box]) -> Program:
    """Boxes one after another into a poisoned tile; all of the tile is recorded."""
    text, offset = "", 0
    for i, box in enumerate(boxes):
        assert box.bytes <= 8192, (name, box, box.bytes)
        size = -(-box.bytes // 128) * 128 + 128
        names, values = _coordinates(box.at, 3)
        text += f"""    for (u32 j = t; j < {size // 4}; j += 64) tile[j] = 0xEEEEEEEE;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (t == 0) {{
        expect(bar, {box.bytes});
        asm volatile("cp.async.bulk.tensor.{len(box.at)}d.shared::cluster.global{".tile" if i % 2 else ""}.mbarrier::complete_tx::bytes [%0], [%1, {names}], [%2];" :: "r"(shared_address(tile)), "l"(&m{i}), "r"(bar), {values} : "memory");
    }}
    wait(bar, {i & 1});
    for (u32 j = t; j < {size // 4}; j += 64) out[{offset // 4} + j] = tile[j];
    __syncthreads();
"""
        offset += size
    maps = ", ".join(f"const __grid_constant__ Map m{i}" for i in range(len(boxes)))
    source = f"""{PRELUDE}{WAIT}
extern "C" __global__ void kernel({maps}, u32* out) {{
    __shared__ __align__(1024) u32 tile[{8192 // 4 + 64}];
    __shared__ u64 bars[1];
    u32 t = threadIdx.x, bar = shared_address(bars);
    if (t == 0) {{ init(bar, 1); asm volatile("prefetch.tensormap [%0];" :: "l"(&m0) : "memory"); }}
    __syncthreads();
{text}}}
"""
    args = (*(b.map("in") for b in boxes), Out("out", "uint32", (offset // 4,)))
    inputs = {"in": _pattern()}
    covers = tuple(dict.fromkeys(f"cp.async.bulk.tensor.{len(b.at)}d.shared::cluster.global" for b in boxes)) + (
        "prefetch.tensormap",
    )
    return Program(f"tma/load {name}", "TMA load", covers, source, args, inputs, block=(64, 1, 1))


_STORES: tuple[tuple[str, Box], ...] = (
    ("", Box("u8", (40, 9), (32, 4), (16, 7))),
    ("", Box("u16", (64, 12), (64, 8), (0, 6), 128)),
    ("", Box("f32", (40, 12), (16, 4), (32, 9), 64)),
    ("", Box("u32", (16, 4, 3), (8, 2, 2), (12, 3, 1), 32)),
    ("", Box("u16", (16, 4, 3, 2), (8, 2, 2, 2), (8, 1, 2, 1))),
    ("", Box("u8", (16, 3, 3, 2, 2), (16, 2, 2, 2, 2), (0, 2, 1, 1, 0))),
    ("", Box("u32", (100,), (32,), (88,))),
    ("", Box("u16", (32, 20), (16, 8), (8, 2), steps=(1, 3))),
    ("add", Box("u32", (16, 8), (8, 4), (4, 2))),
    ("add", Box("f32", (16, 8), (8, 4), (12, 6))),
    ("add", Box("f16", (32, 8), (16, 4), (8, 2))),
    ("add", Box("bf16", (32, 8), (32, 4), (8, 2), 64)),
    ("min", Box("i32", (16, 8), (8, 4), (4, 2))),
    ("max", Box("i32", (16, 8), (8, 4), (4, 2))),
    ("min", Box("f16", (32, 8), (16, 4), (8, 2))),
    ("max", Box("bf16", (32, 8), (16, 4), (8, 2))),
    ("and", Box("u32", (16, 8), (8, 4), (4, 2))),
    ("or", Box("u32", (16, 8), (8, 4), (4, 2))),
    ("xor", Box("u32", (16, 8), (8, 4), (4, 2))),
    ("inc", Box("u32", (16, 8), (8, 4), (4, 2))),
    ("dec", Box("u32", (16, 8), (8, 4), (4, 2))),
    ("add", Box("u64", (16, 8), (4, 4), (4, 2))),
)


def _stores() -> Program:
    """Boxes out of shared memory, plain and reducing, each onto a region of its own of one buffer."""
    text, args, states, tiles = "", [], [], []
    region = tile_at = 0
    for i, (o, box) in enumerate(_STORES):
        size = box.strides[-1] * box.shape[-1] if box.strides else box.shape[0] * _BYTES[box.dtype]
        size = -(-size // 128) * 128
        names, values = _coordinates(box.at, 2)
        rank = len(box.at)
        name = (
            f"cp.reduce.async.bulk.tensor.{rank}d.global.shared::cta.{o}"
            if o
            else f"cp.async.bulk.tensor.{rank}d.global.shared::cta"
        )
        text += (
            f'        asm volatile("{name}.tile.bulk_group [%0, {names}], [%1];" :: "l"(&m{i}), "r"(shared_address(tile) + {tile_at}), '
            f'{values} : "memory");\n'
        )
        m = box.map("state")
        args.append(Map(m.name, m.dtype, m.shape, m.strides, m.box, m.element_strides, m.swizzle, m.nan_fill, region))
        states.append(_values(box.dtype, size, f"tma state {i}"))
        used = -(-box.bytes // 1024) * 1024
        tiles.append(_values(box.dtype, used, f"tma tile {i}"))
        region += size
        tile_at += used
    maps = ", ".join(f"const __grid_constant__ Map m{i}" for i in range(len(_STORES)))
    source = f"""{PRELUDE}
extern "C" __global__ void kernel({maps}, const u32* in, u8* state) {{
    __shared__ __align__(1024) u32 tile[{tile_at // 4}];
    u32 t = threadIdx.x;
    for (u32 i = t; i < {tile_at // 4}; i += 64) tile[i] = in[i];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (t == 0) {{
{text}        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }}
}}
"""
    inputs = {"in": np.concatenate(tiles).view(np.uint32), "state": np.concatenate(states)}
    covers = tuple(dict.fromkeys(
        (f"cp.reduce.async.bulk.tensor.{o}" if o else f"cp.async.bulk.tensor.{len(b.at)}d.global.shared::cta") for o, b in _STORES))  # fmt: skip
    return Program("tma/store", "TMA store and reduce", covers, source, (*args, In("in"), In("state")), inputs, block=(64, 1, 1),
                   recorded_inputs=("state",))  # fmt: skip


def _replace() -> Program:
    """A tensor map changed in shared memory (tensormap.replace), published, and used (PTX ISA 9.7.9.27, 9.7.9.28)."""
    box = Box("u16", (64, 16), (32, 8), (0, 0))
    source = f"""{PRELUDE}{WAIT}
extern "C" __global__ void kernel(const __grid_constant__ Map m, const u8* in, u32* scratch, u32* out) {{
    __shared__ __align__(1024) u32 tile[256];
    __shared__ __align__(128) u32 image[32];
    __shared__ u64 bars[1];
    u32 t = threadIdx.x, bar = shared_address(bars);
    if (t == 0) init(bar, 1);
    image[t] = ((const u32*)&m)[t];
    for (u32 i = t; i < 256; i += 32) tile[i] = 0xEEEEEEEE;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (t == 0) {{
        u32 s = shared_address(image);
        asm volatile("tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" :: "r"(s), "l"((u64)(in + 4096)) : "memory");
        asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 1, %1;" :: "r"(s), "r"(5) : "memory");
        asm volatile("tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%0], 0, %1;" :: "r"(s), "l"(256ull) : "memory");
        asm volatile("tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%0], 0, %1;" :: "r"(s), "r"(16) : "memory");
    }}
    __syncwarp();
    asm volatile("tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%0], [%1], 128;" :: "l"((u64)scratch), "r"(shared_address(image)) : "memory");
    if (t == 0) {{
        asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" :: "l"((u64)scratch) : "memory");
        expect(bar, 16 * 8 * 2);
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {{%3, %4}}], [%2];" :: "r"(shared_address(tile)), "l"((u64)scratch), "r"(bar), "r"(8), "r"(1) : "memory");
    }}
    wait(bar, 0);
    for (u32 i = t; i < 64; i += 32) out[i] = tile[i];
}}
"""
    args = (box.map("in"), In("in"), In("scratch"), Out("out", "uint32", (64,)))
    inputs = {"in": _pattern(), "scratch": np.zeros(32, np.uint32)}
    return Program(
        "tma/replace",
        "tensormap.replace",
        ("tensormap.replace.tile", "tensormap.cp_fenceproxy", "fence.proxy.tensormap"),
        source,
        args,
        inputs,
    )


def programs() -> list[Program]:
    return [*(_load(name, boxes) for name, boxes in _loads().items()), _stores(), _replace()]
