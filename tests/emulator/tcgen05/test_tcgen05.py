"""Kernels written with tcgen05 PTX, compiled by NVRTC for sm_100a and run by the emulator; and broken twins that it
must diagnose."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import nvrtc

from nvfp4.emulator import Checks, KernelFault, Module, TensorMap

HERE = Path(__file__).parent
STRICT = Checks.all().but(strict=True)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def _ok(result: tuple[Any, ...]) -> Any:
    assert int(result[0]) == 0, result[0]
    return result[1] if len(result) == 2 else result[1:]


@functools.cache
def module(name: str, *defines: str) -> Module:
    """The kernel file compiled to PTX with these macros."""
    header = (HERE / "tcgen05.cuh").read_bytes()
    source = (HERE / f"{name}.cu").read_bytes()
    program = _ok(nvrtc.nvrtcCreateProgram(source, f"{name}.cu".encode(), 1, [header], [b"tcgen05.cuh"]))
    flags = [b"-arch=compute_100a", b"--std=c++17", b"-lineinfo", *(f"-D{d}".encode() for d in defines)]
    status = nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]
    if int(status):
        log = b" " * _ok(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    text = b" " * _ok(nvrtc.nvrtcGetPTXSize(program))
    _ok(nvrtc.nvrtcGetPTX(program, text))
    return Module(text)


# ------------------------------------------------------------------------------------------------------------ kind::f16


def bf16(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Small numbers and their bf16 bits."""
    values = rng.choice([-2.0, -1.5, -1, -0.5, 0, 0.5, 1, 3], shape).astype(np.float32)
    return values, (values.view(np.uint32) >> 16).astype(np.uint16)


def dense(seed: int, *defines: str, n: int = 64) -> None:
    rng = np.random.default_rng(0)
    a, a_bits = bf16(rng, (128, 64))
    b, b_bits = bf16(rng, (n, 64))
    d = np.full((128, n), np.nan, np.float32)
    module("dense", f"N={n}", *defines).launch("dense", 1, 128, [a_bits, b_bits, d], seed=seed, checks=STRICT)
    np.testing.assert_array_equal(d, a @ b.T)


@pytest.mark.parametrize("where", ["", "A_IN_TMEM"])
@pytest.mark.parametrize("n", [8, 64])
def test_dense(where: str, n: int) -> None:
    for seed in range(3):
        dense(seed, *([where] if where else []), n=n)


# ----------------------------------------------------------------------------------------------------------
# kind::mxf4nvf4


def tiles(scales: Any) -> Any:
    """Scale bytes [rows, K/16] as 512-byte tiles of 128 rows x 4 scales, uint8 [row tiles * K/64, 512]."""
    rows, count = scales.shape
    out = np.zeros((-(-rows // 128), count // 4, 512), np.uint8)
    for (row, column), code in np.ndenumerate(scales):
        out[row // 128, column // 4, row % 32 * 16 + row % 128 // 32 * 4 + column % 4] = code
    return out.reshape(-1, 512)


def block_scaled(seed: int, group: int, n: int, blocks: int, *defines: str, exact: bool = True) -> None:
    rng = np.random.default_rng(1)
    m, k = 128 * group, 256 * blocks
    a, b = rng.integers(0, 256, (m, k // 2), dtype=np.uint8), rng.integers(0, 256, (n, k // 2), dtype=np.uint8)
    if exact:  # scales 0.5, 1, 2: every partial sum is exact in float32
        sa, sb = (rng.choice([0x30, 0x38, 0x40], (rows, k // 16)).astype(np.uint8) for rows in (m, n))
    else:
        sa, sb = (rng.integers(1, 0x7E, (rows, k // 16)).astype(np.uint8) for rows in (m, n))
    sfa, sfb = tiles(sa), tiles(sb)
    d = np.full((m, n), np.nan, np.float32)
    # 128 bytes of K are 256 elements: one box row.
    maps = [
        TensorMap(a, "u8", (k // 2, m), (k // 2,), (128, 128), swizzle=128),
        TensorMap(b, "u8", (k // 2, n), (k // 2,), (128, n // group), swizzle=128),
        TensorMap(sfa, "u16", (256, sfa.shape[0]), (512,), (256, 1)),
        TensorMap(sfb, "u16", (256, sfb.shape[0]), (512,), (256, 1)),
    ]
    columns = -(-n // 128)
    stage = 128 * 128 + n // group * 128 + 2048 + 2048 * columns
    module("block_scaled", f"GROUP={group}", f"N={n}", *defines).launch(
        "block_scaled",
        group,
        128,
        [*maps, d, blocks],
        cluster=group if group > 1 else None,
        shared_bytes=2 * stage,
        seed=seed,
        checks=STRICT,
    )

    def values(codes: Any, scales: Any) -> Any:
        x = np.stack((E2M1[codes & 15], E2M1[codes >> 4]), axis=-1).reshape(codes.shape[0], -1)
        field, fraction = (scales >> 3).astype(int), scales & 7
        s = np.where(field == 0, fraction * 2.0**-9, (1 + fraction / 8) * np.exp2(field - 7.0))
        return x * np.repeat(s, 16, axis=1)

    want = values(a, sa) @ values(b, sb).T
    if exact:
        np.testing.assert_array_equal(d, want)
    else:
        np.testing.assert_allclose(d, want, rtol=0, atol=float(np.abs(want).max()) * 2.0**-20)


@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 128), (1, 64), (2, 256), (2, 128)], ids=str)
def test_block_scaled(shape: tuple[int, int], blocks: int) -> None:
    for seed in range(2):
        block_scaled(seed, *shape, blocks)


def test_block_scaled_with_every_scale() -> None:
    block_scaled(0, 1, 128, 2, exact=False)
    block_scaled(0, 2, 256, 2, exact=False)


# -------------------------------------------------------------------------------------------------------------
# tcgen05.ld


def test_transfers() -> None:
    out = np.zeros((4, 5, 8, 32), np.uint32)
    module("transfers").launch("transfers", 1, 128, [out], checks=STRICT)

    def word(warp: int, lane: int, column: int) -> int:
        return (32 * warp + lane) << 8 | column

    for w in range(4):
        for t in range(32):
            for r in range(8):
                h, rep = r % 2, r // 2
                expected = [
                    word(w, 16 + t // 4 + 8 * (t % 2), 2 * r + t // 2 % 2),
                    word(w, t // 4 + 8 * h, 4 * rep + t % 4),
                    word(w, t // 4 + 8 * (r // 2 % 2), 8 + 8 * (r // 4) + 2 * (t % 4) + r % 2),
                    word(w, t % 16, 2 + r + (16 if t >= 16 else 0)),
                    (word(w, t, 4 + 2 * r) & 0xFFFF) | (word(w, t, 5 + 2 * r) & 0xFFFF) << 16,
                ]
                assert out[w, :, r, t].tolist() == expected


# ----------------------------------------------------------------------------------------------------------------
# mutants

MUTANTS = [
    ("dense", ("MUTANT_NO_PROXY_FENCE",), "proxy"),
    ("dense", ("A_IN_TMEM", "MUTANT_NO_WAIT_ST"), "tcgen05|race"),
    ("scaled", ("MUTANT_NO_FENCE_AFTER",), "tcgen05|race"),
    ("scaled", ("MUTANT_NO_WAIT",), "race|tcgen05"),
    ("scaled", ("MUTANT_NO_WAIT_LD",), "wait|race"),
    ("scaled", ("MUTANT_WRONG_LANES",), "lane"),
    ("scaled", ("MUTANT_NO_DEALLOC",), "tensor-memory-leak"),
    ("scaled", ("MUTANT_NO_EMPTY_WAIT",), "race|mbarrier"),
    ("scaled", ("MUTANT_TOO_MANY_BYTES",), "deadlock"),
    ("scaled", ("MUTANT_ALL_LANES",), "32 lanes"),
    ("scaled", ("MUTANT_INSTRUCTION",), "reserved bits 0x4000000"),
    ("scaled", ("MUTANT_SCALES_MISPLACED",), "uninitialised"),
    ("scaled", ("MUTANT_ACCUMULATE_FIRST",), "uninitialised"),
    ("pair", ("MUTANT_ALLOC_ALONE",), "deadlock"),
    ("pair", ("MUTANT_NO_EMPTY_WAIT",), "race|mbarrier"),
    ("pair", ("MUTANT_NO_WAIT",), "race"),
    ("pair", ("MUTANT_TOO_MANY_BYTES",), "deadlock"),
]


@pytest.mark.parametrize(("kernel", "defines", "message"), MUTANTS, ids=[f"{k}-{'-'.join(d)}" for k, d, _ in MUTANTS])
def test_broken_twins_are_diagnosed(kernel: str, defines: tuple[str, ...], message: str) -> None:
    """Under every seed: what is wrong does not depend on luck."""
    for seed in range(4):
        with pytest.raises(KernelFault, match=f"(?i){message}"):
            _run(kernel, seed, defines)


def _run(kernel: str, seed: int, defines: tuple[str, ...] = ()) -> None:
    if kernel == "dense":
        dense(seed, *defines)
    elif kernel == "pair":
        block_scaled(seed, 2, 128, 3, *defines)
    else:
        block_scaled(seed, 1, 128, 3, *defines)


@pytest.mark.parametrize("kernel", ["dense", "scaled", "pair"])
def test_sound_twins_are_clean_under_many_seeds(kernel: str) -> None:
    for seed in range(20):
        _run(kernel, seed)
