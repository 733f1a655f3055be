"""Triton's compiler as an independent producer: its kernels run unmodified, give right products and are clean."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="needs the extra nvfp4[triton]")

import triton_programs as tp  # noqa: E402

from nvfp4.emulator import Module  # noqa: E402

SEEDS = range(3)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
FP16_SHAPES = {"BM": 128, "BN": 128, "BK": 64}


@functools.cache
def _module(ptx: str) -> Module:
    return Module(ptx)


_COMPILED: dict[Any, tp.Compiled] = {}


def launch(
    kernel: Any, args: dict[str, Any], constants: dict[str, Any], arch: int, seed: int, grid: tuple[int, int]
) -> Any:
    """Compile once for each kernel, target and constants, and run; returns the report."""
    key = (kernel.fn.__name__, arch, tuple(constants.items()))
    if key not in _COMPILED:
        _COMPILED[key] = tp.compile_kernel(kernel, args, constants, arch, num_warps=4, num_stages=3)
    compiled = _COMPILED[key]
    report = tp.run(compiled, args, (*grid, 1), seed=seed, module=_module(compiled.ptx))
    assert report.clean
    return report


def uses(kernel: Any, arch: int, constants: dict[str, Any], opcode: str) -> bool:
    """Whether the compiled kernel has the instruction that it is here for."""
    return opcode in _COMPILED[(kernel.fn.__name__, arch, tuple(constants.items()))].ptx


def small(rng: np.random.Generator, *shape: int) -> Any:
    """Small integers in fp16: every sum is exact."""
    return rng.integers(-4, 5, shape).astype(np.float16)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("arch", "opcode"), [(80, "mma.sync.aligned.m16n8k16"), (90, "wgmma.mma_async"), (100, "tcgen05.mma")]
)
def test_fp16_gemm(arch, opcode, seed):
    rng = np.random.default_rng(seed)
    a, b, c = small(rng, 128, 192), small(rng, 256, 192), np.zeros((128, 256), np.float16)
    launch(tp.fp16_gemm, {"a": a, "b": b, "c": c, "N": 256, "K": 192}, FP16_SHAPES, arch, seed, (1, 2))
    assert np.array_equal(c.astype(np.float64), a.astype(np.float64) @ b.astype(np.float64).T)
    assert uses(tp.fp16_gemm, arch, FP16_SHAPES, opcode)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("arch", "specialize"), [(90, False), (100, False), (100, True)])
def test_fp16_gemm_by_tensor_descriptors(arch, specialize, seed):
    rng = np.random.default_rng(seed)
    a, b, c = small(rng, 128, 256), small(rng, 256, 256), np.zeros((128, 256), np.float16)
    args = {
        "a": tp.Descriptor(a, "fp16", (128, 64)),
        "b": tp.Descriptor(b, "fp16", (128, 64)),
        "c": tp.Descriptor(c, "fp16", (128, 128)),
        "K": 256,
    }
    constants = {**FP16_SHAPES, "SPECIALIZE": specialize}
    launch(tp.fp16_gemm_tma, args, constants, arch, seed, (1, 2))
    assert np.array_equal(c.astype(np.float64), a.astype(np.float64) @ b.astype(np.float64).T)
    assert uses(tp.fp16_gemm_tma, arch, constants, "cp.async.bulk.tensor.2d")
    if specialize:
        compiled = _COMPILED[("fp16_gemm_tma", arch, tuple(constants.items()))]
        assert compiled.warps > 4, "the compiler did not specialise"


def nvfp4(rng: np.random.Generator, rows: int, k: int) -> tuple[Any, Any, Any]:
    """(codes, e4m3 scales, values): scales are powers of two, so that every sum is exact."""
    codes = rng.integers(0, 256, (rows, k // 2), dtype=np.uint8)
    exponents = rng.integers(4, 10, (rows, k // 16))
    values = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], -1).reshape(rows, k)
    return codes, (exponents << 3).astype(np.uint8), values * np.repeat(2.0 ** (exponents - 7), 16, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_nvfp4_gemm_with_linear_scales(seed):
    rng = np.random.default_rng(seed)
    (a, sa, va), (b, sb, vb) = nvfp4(rng, 128, 256), nvfp4(rng, 256, 256)
    c = np.zeros((128, 256), np.float32)
    args = {"a": a, "sa": (sa, "*fp8e4nv"), "b": b, "sb": (sb, "*fp8e4nv"), "c": c, "N": 256, "K": 256}
    constants = {"BM": 128, "BN": 128, "BK": 128}
    launch(tp.nvfp4_gemm, args, constants, 100, seed, (1, 2))
    assert np.array_equal(c.astype(np.float64), va @ vb.T)
    assert uses(tp.nvfp4_gemm, 100, constants, "kind::mxf4nvf4.block_scale")


def tiled(scales: Any) -> Any:
    """[rows, k / 16] in 128 x 4 tiles, as [1, rows / 128, k / 64, 2, 256]."""
    rows, k = scales.shape
    tiles = scales.reshape(rows // 128, 4, 32, k // 4, 4).transpose(0, 3, 2, 1, 4)
    return np.ascontiguousarray(tiles).reshape(1, rows // 128, k // 4, 2, 256)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("specialize", [False, True])
def test_nvfp4_gemm_by_tensor_descriptors(specialize, seed):
    rng = np.random.default_rng(seed)
    (a, sa, va), (b, sb, vb) = nvfp4(rng, 128, 512), nvfp4(rng, 256, 512)
    c = np.zeros((128, 256), np.float32)
    args = {
        "a": tp.Descriptor(a, "u8", (128, 64)),
        "sa": tp.Descriptor(tiled(sa), "fp8e4nv", (1, 1, 2, 2, 256)),
        "b": tp.Descriptor(b, "u8", (128, 64)),
        "sb": tp.Descriptor(tiled(sb), "fp8e4nv", (1, 1, 2, 2, 256)),
        "c": tp.Descriptor(c, "fp32", (128, 128)),
        "K": 512,
    }
    constants = {"BM": 128, "BN": 128, "BK": 128, "SPECIALIZE": specialize}
    launch(tp.nvfp4_gemm_tma, args, constants, 100, seed, (1, 2))
    assert np.array_equal(c.astype(np.float64), va @ vb.T)
    assert uses(tp.nvfp4_gemm_tma, 100, constants, "kind::mxf4nvf4.block_scale")
    assert uses(tp.nvfp4_gemm_tma, 100, constants, "tcgen05.cp")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arch", [90, 100])
def test_bf16_times_mxfp4(arch, seed):
    """Before Blackwell, dot_scaled decodes FP4 in registers."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-4, 5, (128, 256))
    a = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    codes, exponents = (
        rng.integers(0, 256, (128, 128), dtype=np.uint8),
        rng.integers(125, 129, (128, 8)).astype(np.uint8),
    )
    b = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], -1).reshape(128, 256) * np.repeat(
        2.0 ** (exponents.astype(int) - 127), 32, 1
    )
    c = np.zeros((128, 128), np.float32)
    args = {"a": (a, "*bf16"), "b": codes, "sb": exponents, "c": c, "N": 128, "K": 256}
    launch(tp.mixed_gemm, args, FP16_SHAPES, arch, seed, (1, 1))
    assert np.array_equal(c.astype(np.float64), values @ b.T)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_softmax(arch, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 300)).astype(np.float32), np.zeros((5, 300), np.float32)
    launch(tp.softmax, {"x": x, "y": y, "N": 300}, {"BN": 512}, arch, seed, (5, 1))
    powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    # ex2.approx and div.full are good to 2 ulp each; the exponent's rounding adds |x| log2(e) half ulps.
    np.testing.assert_allclose(y, powers / powers.sum(1, keepdims=True), rtol=4e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_programs_that_wait_for_one_another_in_global_memory(arch, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-100, 100, (3, 1000)).astype(np.float32)
    y, parts, counters = np.zeros(3, np.float32), np.full((3, 4), np.nan, np.float32), np.zeros(3, np.int32)
    args = {"x": x, "parts": parts, "counters": counters, "y": y, "N": 1000}
    launch(tp.split_sum, args, {"BN": 256, "SPLITS": 4}, arch, seed, (3, 4))
    assert np.array_equal(y, x.sum(1))
    assert np.array_equal(counters, np.full(3, 4))
