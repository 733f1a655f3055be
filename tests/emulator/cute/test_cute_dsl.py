"""GEMMs of CUTLASS's CuTe DSL examples, compiled by NVIDIA's compiler and run unmodified by the emulator.

Optional: needs nvidia-cutlass-dsl (the extra ``cute``; NVFP4_CUTEDSL_PYTHON names the interpreter when
it is not this one) and a checkout of CUTLASS (CUTLASS_DIR=...). No GPU is needed.
"""

from __future__ import annotations

import functools
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nvfp4.emulator import Checks, KernelFault, Module, TensorMap

HERE = Path(__file__).parent
CUTLASS = os.environ.get("CUTLASS_DIR", "")
PYTHON = os.environ.get("NVFP4_CUTEDSL_PYTHON", sys.executable)
SHARED = 227 * 1024
# These kernels have no tcgen05.wait::ld between a load and whatever writes or frees those columns next.
IMPLICIT = Checks.all().but(implicit_waits=True)
ELEMENTS = {
    "U4": "u4x16_align8", "U8": "u8", "U16": "u16", "U32": "u32", "F16_RN": "f16", "BF16_RN": "bf16", "F32_RN": "f32",
    "TF32_RN": "tf32",
}  # fmt: skip
TYPES: dict[str, Any] = {
    "Float16": np.float16, "BFloat16": ml_dtypes.bfloat16, "TFloat32": np.float32, "Int8": np.int8, "Uint8": np.uint8,
    "Float8E4M3FN": ml_dtypes.float8_e4m3fn, "Float8E5M2": ml_dtypes.float8_e5m2, "Float32": np.float32,
    "Int32": np.int32,
}  # fmt: skip


@functools.cache
def missing() -> str:
    """Why these tests cannot run, or nothing."""
    if not (Path(CUTLASS) / "examples/python/CuTeDSL").is_dir() or not CUTLASS:
        return "CUTLASS_DIR names no checkout of CUTLASS with examples/python/CuTeDSL"
    found = subprocess.run([PYTHON, "-c", "import cutlass.cute"], capture_output=True, check=False)
    return "" if found.returncode == 0 else f"{PYTHON} has no nvidia-cutlass-dsl"


@pytest.fixture(autouse=True)
def _available() -> None:
    if missing():
        pytest.skip(missing())


@dataclass(frozen=True)
class Tile:
    """One tensor map of a kernel as the DSL's intermediate code describes it."""

    box: tuple[int, ...]
    modes: tuple[str, ...]
    swizzle: int
    atomicity: int
    element: str

    def map(self, array: np.ndarray[Any, Any], extents: dict[str, tuple[int, int]]) -> TensorMap:
        """``extents``: elements and bytes of stride of each mode."""
        found = [extents[mode] for mode in self.modes]
        shape, strides = tuple(n for n, _ in found), tuple(s for _, s in found[1:])
        settings = {"swizzle": self.swizzle, "atomicity": self.atomicity}
        return TensorMap(array, ELEMENTS[self.element], shape, strides, self.box, **settings)


def tiles(code: str) -> list[Tile]:
    """The tensor maps in the order of the kernel's parameters."""
    found = []
    for line in code.splitlines():
        if "= cute_nvgpu.atom.make_non_exec_tiled_tma" not in line:
            continue
        text = re.search(r'tma_gbasis = <"\((.*)\):\((.*)\)">, tma_format = (\w+)', line)
        assert text is not None, line
        box = [prod(int(n) for n in re.findall(r"\d+", part)) for part in re.findall(r"\([^)]*\)|[^,]+", text[1])]
        # The first mode of scale factors is several that lie one behind the other.
        modes = re.findall(r"\([^)]*\)|[^,]+", text[2])
        copies = re.search(r"num_multicast = (\d+)", line)
        left = int(copies[1]) if copies else 1
        for i in reversed(range(len(box))):  # each CTA fetches one part of what is multicast
            box[i], left = -(-box[i] // left), -(-left // box[i])
        # Of 16-byte units within 32, 64 or 128 bytes; or of 32-byte units within 128.
        swizzle = re.search(r"S<(\d),(\d),\d>", line)
        bits, unit = (int(swizzle[1]), 1 << int(swizzle[2])) if swizzle else (0, 16)
        width = unit << bits if bits else 0
        found.append(Tile(tuple(box), tuple("block" if m[0] == "(" else m for m in modes), width, unit, text[3]))
    return found


@functools.cache
def compiled(arch: str, kernel: str, settings: str) -> tuple[str, list[Tile]]:
    """PTX and tensor maps of an example."""
    with tempfile.TemporaryDirectory() as folder:
        target = {"CUTE_DSL_ARCH": arch, "CUTE_DSL_LINEINFO": "1", "CUTE_DSL_KEEP": "ptx,ir-debug"}
        command = [PYTHON, str(HERE / "compile_example.py"), CUTLASS, kernel, settings]
        environment = {**os.environ, **target, "CUTE_DSL_DUMP_DIR": folder}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        ptx = next(Path(folder).glob("*.ptx")).read_text()
        return ptx, tiles(next(Path(folder).glob("*.mlir")).read_text())


def found(pattern: str, text: str) -> str:
    """What the group of ``pattern`` matches."""
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]


def entry(ptx: str) -> str:
    """The name of its kernel."""
    return found(r"\.visible \.entry (\w+)", ptx)


def threads(ptx: str) -> int:
    """Threads of a block."""
    return int(found(r"\.reqntid (\d+)", ptx))


def integers(*values: int) -> bytes:
    """Dynamic extents as the DSL passes them."""
    return struct.pack(f"<{len(values)}i", *values)


def divisor(d: int) -> bytes:
    """cute.fast_divmod_divisor: divisor, multiplier, two shifts (Granlund and Montgomery)."""
    bits = (d - 1).bit_length()
    multiplier = ((1 << 32) * ((1 << bits) - d)) // d + 1
    return struct.pack("<IIBBH", d, multiplier & 0xFFFFFFFF, min(bits, 1), max(bits - 1, 0), 0)


@dataclass
class Operand:
    """A block-scaled matrix: what the kernel reads, and its value."""

    data: np.ndarray[Any, Any]
    scales: np.ndarray[Any, Any]
    value: np.ndarray[Any, Any]

    @property
    def extents(self) -> dict[str, tuple[int, int]]:
        """Modes of the data, K fastest."""
        rows, k = self.value.shape
        pitch = self.data.strides[0]
        return {"1@1": (k, 0), "1@0": (rows, pitch), "1@2": (1, rows * pitch)}

    @property
    def scale_extents(self) -> dict[str, tuple[int, int]]:
        """Modes of the scales: blocks of 512 bytes, K fastest."""
        down, across = self.scales.shape[:2]
        block = {"block": (256, 0), "1@1@1": (across, 512), "1@1@0": (down, 512 * across)}
        return block | {"1@1@2": (1, self.scales.nbytes)}


def operand(rng: np.random.Generator, kind: str, rows: int, k: int) -> Operand:
    """Random codes of ``kind``, and scale factors in the layout of cuBLAS (128 rows by 4 factors)."""
    if kind == "mxfp8":
        data = rng.integers(-8, 9, (rows, k)).astype(ml_dtypes.float8_e4m3fn)
        value, stored = data.astype(np.float32), data.view(np.uint8)
    else:
        codes = rng.integers(0, 16, (rows, k), dtype=np.uint8)
        value = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
        stored = codes[:, ::2] | codes[:, 1::2] << 4
    vector = 16 if kind == "nvfp4" else 32
    if kind == "nvfp4":
        scales = rng.integers(0x30, 0x40, (rows, k // vector), dtype=np.uint8)
        factor = scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    else:
        scales = rng.integers(125, 130, (rows, k // vector), dtype=np.uint8)
        factor = np.exp2(scales.astype(np.float32) - 127)
    blocks = scales.reshape(rows // 128, 4, 32, -1, 4).transpose(0, 3, 2, 1, 4)
    return Operand(stored, np.ascontiguousarray(blocks), value * np.repeat(factor, vector, axis=1))


def block_scaled(kind: str, m: int, n: int, k: int) -> tuple[Operand, Operand, np.ndarray[Any, Any]]:
    """Two operands and their product."""
    rng = np.random.default_rng(0)
    a, b = operand(rng, kind, m, k), operand(rng, kind, n, k)
    return a, b, (a.value.astype(np.float64) @ b.value.T.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "tile", "cluster"),
    [
        ("nvfp4", (128, 128), (1, 1)),
        ("nvfp4", (128, 256), (1, 1)),
        ("nvfp4", (256, 128), (2, 1)),
        ("nvfp4", (256, 64), (2, 2)),
        ("mxfp4", (128, 128), (1, 1)),
        ("mxfp8", (128, 192), (1, 1)),
        ("mxfp8", (256, 256), (2, 1)),
    ],
)
def test_persistent_block_scaled_gemm(kind: str, tile: tuple[int, int], cluster: tuple[int, int]) -> None:
    settings = json.dumps({"tile": tile, "cluster": cluster, "kind": kind})
    ptx, maps = compiled("sm_100a", "persistent", settings)
    m, n, k = 512, 768 if tile[1] == 192 else 512, 768
    a, b, product = block_scaled(kind, m, n, k)
    c = np.zeros((m, n), ml_dtypes.bfloat16)
    group = 2 if tile[0] == 256 else 1
    down, across = m // (tile[0] // group), n // tile[1]
    clusters = (down // cluster[0], across // cluster[1])
    scheduler = [down, across, 1, divisor(clusters[0]), divisor(clusters[1])]
    arguments = [
        bytes(12), bytes(12),
        maps[0].map(a.data, a.extents), integers(m, k, 1),
        maps[1].map(b.data, b.extents), integers(n, k, 1),
        maps[2].map(a.scales, a.scale_extents), integers(m, k, 1),
        maps[3].map(b.scales, b.scale_extents), integers(n, k, 1),
        maps[4].map(c.view(np.uint16), {"1@1": (n, 0), "1@0": (m, 2 * n), "1@2": (1, 2 * m * n)}), integers(m, n, 1),
        *scheduler, *scheduler,
    ]  # fmt: skip
    module = Module(ptx)
    for seed in range(3):
        c[:] = 0
        grid = (*cluster, min(3, prod(clusters)))
        module.launch(
            entry(ptx), grid, 192, arguments, cluster=(*cluster, 1), shared_bytes=SHARED, seed=seed, checks=IMPLICIT
        )
        np.testing.assert_array_equal(c, product.astype(ml_dtypes.bfloat16))


def tutorial(number: int, **launch: Any) -> None:
    ptx, maps = compiled("sm_100a", "tutorial", json.dumps({"number": number}))
    m, n, k = 512, 512, 1024
    a, b, product = block_scaled("nvfp4", m, n, k)
    c = np.zeros((m, n), np.float16)
    module = Module(ptx)
    arguments = [
        *[bytes(12)] * (number + 1),
        maps[0].map(a.data, a.extents), integers(m, k, 1),
        maps[1].map(b.data, b.extents), integers(n, k, 1),
        maps[2].map(a.scales, a.scale_extents), integers(m, k, 1),
        maps[3].map(b.scales, b.scale_extents), integers(n, k, 1),
        struct.pack("<Q", module.address_of(c)) + integers(m, n, 1, n, m * n, 0),
    ]  # fmt: skip
    grid = (m // 128, n // 256)
    module.launch(entry(ptx), grid, 128, arguments, cluster=number + 1, shared_bytes=SHARED, **launch)
    np.testing.assert_array_equal(c, product.astype(np.float16))


@pytest.mark.parametrize("number", [0, 1])
def test_tutorial(number: int) -> None:
    for seed in range(5):
        tutorial(number, seed=seed, checks=IMPLICIT)


@pytest.mark.parametrize("number", [0, 1])
def test_missing_wait_of_the_tutorial_is_found(number: int) -> None:
    with pytest.raises(KernelFault, match="wait::ld"):
        tutorial(number)


@pytest.mark.parametrize(("tile", "cluster"), [((128, 128), (1, 1)), ((128, 256), (2, 1)), ((64, 128), (1, 2))])
def test_hopper_gemm(tile: tuple[int, int], cluster: tuple[int, int]) -> None:
    ptx, maps = compiled("sm_90a", "hopper", json.dumps({"tile": tile, "cluster": cluster}))
    m, n, k, batch = 256, 512, 320, 2
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-2, 3, (batch, rows, k)).astype(ml_dtypes.bfloat16) for rows in (m, n))
    c = np.zeros((batch, m, n), ml_dtypes.bfloat16)
    product = np.matmul(a.astype(np.float32), b.astype(np.float32).transpose(0, 2, 1))

    def map_of(tile_: Tile, x: np.ndarray[Any, Any]) -> TensorMap:
        _, rows, columns = x.shape
        extents = {"1@1": (columns, 0), "1@0": (rows, 2 * columns), "1@2": (batch, 2 * rows * columns)}
        return tile_.map(x.view(np.uint16), extents)

    arguments = [
        map_of(maps[0], a), integers(m, k, batch), map_of(maps[1], b), integers(n, k, batch),
        map_of(maps[2], c), integers(m, n, batch), bytes(1),
    ]  # fmt: skip
    grid = (m // tile[0], n // tile[1], batch)
    module = Module(ptx)
    for seed in range(3):
        c[:] = 0
        module.launch(entry(ptx), grid, threads(ptx), arguments, cluster=(*cluster, 1), shared_bytes=SHARED, seed=seed)
        np.testing.assert_array_equal(c, product.astype(ml_dtypes.bfloat16))


def stored(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of an array of an extended type, for a tensor map."""
    return x.view(f"u{x.itemsize}")


def matrix(shape: tuple[int, int, int], dtype: Any, transposed: bool) -> np.ndarray[Any, Any]:
    """Zeros of (batch, rows, columns), with rows contiguous if ``transposed``."""
    batch, rows, columns = shape
    if transposed:
        return np.zeros((batch, columns, rows), dtype).transpose(0, 2, 1)
    return np.zeros(shape, dtype)


def extents(x: np.ndarray[Any, Any]) -> dict[str, tuple[int, int]]:
    """Modes of a matrix."""
    batch, rows, columns = x.shape
    return {"1@0": (rows, x.strides[1]), "1@1": (columns, x.strides[2]), "1@2": (batch, x.strides[0])}


@pytest.mark.parametrize(
    ("name", "tile", "cluster", "types", "majors"),
    [
        ("dense_gemm_persistent", (128, 128), (1, 1), ("Float16", "Float32", "BFloat16"), "kkn"),
        ("dense_gemm_persistent", (256, 128), (2, 1), ("BFloat16", "Float32", "Float32"), "mnn"),
        ("dense_gemm_persistent", (64, 128), (1, 2), ("Float16", "Float16", "Float16"), "mkm"),
        ("dense_gemm_persistent", (128, 64), (2, 1), ("TFloat32", "Float32", "Float32"), "knn"),
        ("dense_gemm_persistent", (256, 256), (2, 2), ("Float8E4M3FN", "Float32", "BFloat16"), "knn"),
        ("dense_gemm_persistent", (64, 64), (1, 1), ("Float8E5M2", "Float16", "Float16"), "mkn"),
        ("dense_gemm_persistent", (128, 96), (1, 1), ("Int8", "Int32", "Int32"), "kkn"),
        ("dense_gemm_persistent", (256, 128), (2, 1), ("Uint8", "Int32", "Int32"), "kkn"),
        ("dense_gemm_persistent_dynamic", (256, 128), (2, 1), ("Float16", "Float32", "BFloat16"), "kkn"),
    ],
)
def test_blackwell_dense_gemm(
    name: str, tile: tuple[int, int], cluster: tuple[int, int], types: tuple[str, str, str], majors: str
) -> None:
    settings = {"name": name, "tile": tile, "cluster": cluster, "types": types, "majors": majors}
    ptx, maps = compiled("sm_100a", "dense", json.dumps(settings))
    m, n, k, batch = 512, 384 if tile[1] == 96 else 512, 192, 2
    rng = np.random.default_rng(0)
    a = matrix((batch, m, k), TYPES[types[0]], majors[0] == "m")
    b = matrix((batch, n, k), TYPES[types[0]], majors[1] == "n")
    c = matrix((batch, m, n), TYPES[types[2]], majors[2] == "m")
    for x in (a, b):
        x[:] = rng.integers(0 if types[0] == "Uint8" else -2, 3, x.shape).astype(x.dtype)
    product = np.matmul(a.astype(np.float64), b.astype(np.float64).transpose(0, 2, 1)).astype(np.float32)
    group = 2 if tile[0] == 256 else 1
    down, across = m // (tile[0] // group), n // tile[1]
    clusters = (down // cluster[0], across // cluster[1])
    scheduler: list[Any] = [down, across, batch]
    grid: tuple[int, ...] = (down, across, batch)
    if name == "dense_gemm_persistent":
        scheduler += [divisor(clusters[0]), divisor(clusters[1])]
        grid = (*cluster, 3)
    arguments = [
        bytes(int(found(r"param_0\[(\d+)\]", ptx))),
        maps[0].map(stored(a), extents(a)), integers(m, k, batch),
        maps[1].map(stored(b), extents(b)), integers(n, k, batch),
        maps[2].map(stored(c), extents(c)), integers(m, n, batch),
        *scheduler, *scheduler,
    ]  # fmt: skip
    module = Module(ptx)
    for seed in range(2):
        c[:] = 0
        module.launch(
            entry(ptx), grid, threads(ptx), arguments, cluster=(*cluster, 1), shared_bytes=SHARED, seed=seed,
            checks=IMPLICIT,
        )  # fmt: skip
        np.testing.assert_array_equal(c, product.astype(c.dtype))


def test_mixed_gemm() -> None:
    ptx, maps = compiled("sm_100a", "mixed", "{}")
    m, n, k, batch = 256, 256, 384, 2
    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, (batch, m, k)).astype(np.int8)
    b = rng.integers(-2, 3, (batch, n, k)).astype(ml_dtypes.bfloat16)
    c = np.zeros((batch, m, n), ml_dtypes.bfloat16)
    product = np.matmul(a.astype(np.float64), b.astype(np.float64).transpose(0, 2, 1)).astype(np.float32)
    scheduler = [m // 128, n // 128, batch, divisor(m // 128), divisor(n // 128)]
    arguments = [
        bytes(int(found(r"param_0\[(\d+)\]", ptx))),
        maps[0].map(a, extents(a)), integers(m, k, batch),
        maps[1].map(stored(b), extents(b)), integers(n, k, batch),
        maps[2].map(stored(c), extents(c)), integers(m, n, batch),
        *scheduler, *scheduler,
    ]  # fmt: skip
    module = Module(ptx)
    for seed in range(3):
        c[:] = 0
        module.launch(entry(ptx), (1, 1, 3), threads(ptx), arguments, shared_bytes=SHARED, seed=seed, checks=IMPLICIT)
        np.testing.assert_array_equal(c, product.astype(c.dtype))


@pytest.mark.parametrize("update", ["SMEM", "GMEM"])
def test_grouped_gemm(update: str) -> None:
    sizes = [(128, 128, 64), (256, 128, 128), (128, 384, 192)]
    count = sum(m // 128 * n // 128 for m, n, _ in sizes)
    settings = {"groups": len(sizes), "tiles": count, "update": update}
    ptx, maps = compiled("sm_100a", "grouped", json.dumps(settings))
    rng = np.random.default_rng(0)
    a, b = ([rng.integers(-2, 3, (1, s[i], s[2])).astype(ml_dtypes.bfloat16) for s in sizes] for i in (0, 1))
    c = [np.zeros((1, m, n), ml_dtypes.bfloat16) for m, n, _ in sizes]
    module = Module(ptx)
    tables = (
        np.array([(*s, 1) for s in sizes], np.int32),
        np.array([[(k, 1), (k, 1), (n, 1)] for _, n, k in sizes], np.int32),
        np.array([[module.address_of(x) for x in group] for group in zip(a, b, c, strict=True)], np.int64),
        np.zeros((4, 3, 16), np.int64),
    )
    scheduler = [count, divisor(1), divisor(1)]
    arguments: list[Any] = [bytes(int(found(r"param_0\[(\d+)\]", ptx)))]
    for tile, x in zip(maps, (a[0], b[0], c[0]), strict=True):
        arguments += [tile.map(stored(x), extents(x)), integers(*x.shape[1:], 1)]
    arguments += [*scheduler, *scheduler, *(struct.pack("<Q", module.address_of(x)) for x in tables)]
    for seed in range(3):
        for x in c:
            x[:] = 0
        module.launch(entry(ptx), (1, 1, 4), threads(ptx), arguments, shared_bytes=SHARED, seed=seed, checks=IMPLICIT)
        for x, y, z in zip(a, b, c, strict=True):
            product = x[0].astype(np.float32) @ y[0].astype(np.float32).T
            np.testing.assert_array_equal(z[0], product.astype(z.dtype))


def geforce(checks: Checks, seed: int) -> None:
    ptx, maps = compiled("sm_120a", "geforce", "{}")
    m, n, k = 256, 256, 512
    a, b, product = block_scaled("nvfp4", m, n, k)
    c = np.zeros((1, m, n), ml_dtypes.bfloat16)
    scheduler = [m // 128, n // 128, 1, divisor(m // 128), divisor(n // 128)]
    arguments = [
        maps[0].map(a.data, a.extents), integers(m, k, 1),
        maps[1].map(b.data, b.extents), integers(n, k, 1),
        maps[2].map(a.scales, a.scale_extents), integers(m, k, 1),
        maps[3].map(b.scales, b.scale_extents), integers(n, k, 1),
        maps[4].map(stored(c), extents(c)), integers(m, n, 1),
        bytes(16), *scheduler, *scheduler,
    ]  # fmt: skip
    module = Module(ptx)
    module.launch(entry(ptx), (1, 1, 3), threads(ptx), arguments, shared_bytes=99 * 1024, seed=seed, checks=checks)
    np.testing.assert_array_equal(c[0], product.astype(c.dtype))


def test_geforce_gemm() -> None:
    for seed in range(3):
        geforce(Checks.all().but(leaks=False), seed)


def test_exit_with_stores_in_flight_is_found() -> None:
    with pytest.raises(KernelFault, match="tensor store from shared memory is in flight"):
        geforce(Checks.all(), 0)
