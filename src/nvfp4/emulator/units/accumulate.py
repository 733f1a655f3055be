"""How matrix units sum: exactly (the default), or as measured on silicon.

The PTX ISA leaves order and rounding of accumulation open (9.7.14.5.14, 9.7.15.5.2). The default here is the sum of
all exact
products and the accumulator, rounded once to nearest even: what a kernel author can reason about. `Alignment` is the
model of what
tensor cores do: products and accumulator are aligned to the largest exponent among them, cut off (toward zero) a
fixed number of bits
below it, added, and the result is cut off to the output. Its parameters are data, from published measurements: Fasi,
Higham, Mikaitis,
Pranesh, "Numerical behavior of NVIDIA tensor cores" (2021); Xie, Wang, Yang, Yang, "MMA-Sim" (arXiv 2511.10909) and
its public model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units.numerics import F32, F64, FORMATS, add_round_f32

EXACT_F32 = float(1 << 24)


@dataclass(frozen=True)
class Alignment:
    """Parameters of the aligned, truncating accumulation.

    fraction_bits: bits kept below the largest exponent. group: K elements summed in one step (0: the instruction's
    whole K). scaled_group: with block scales, elements whose unscaled products are first summed exactly (0: none).
    out_fraction: fraction bits of the float32 result (23, or 13 for FP8 on Hopper). half: the accumulators are float16,
    and the result is rounded to nearest even.
    """

    fraction_bits: int
    group: int = 0
    scaled_group: int = 0
    out_fraction: int = 23
    half: bool = False


# (instruction family, element class) -> parameters; "f8" includes the 4- and 6-bit formats.
SILICON: dict[tuple[str, str], Alignment] = {
    ("sm_80 mma", "f16"): Alignment(24, group=8),
    ("sm_80 mma", "tf32"): Alignment(24, group=4),
    ("sm_89 mma", "f8"): Alignment(13, group=16, out_fraction=13),
    ("sm_90 mma", "f16"): Alignment(25),
    ("sm_90 mma", "tf32"): Alignment(25),
    # Of each HMMA: sm_90 has no mma.sync on FP8, ptxas makes two f16 HMMA and an addition of it. With their order of
    # the elements this gives the bits of an H200 (tests/hw/silicon/sums.py); alone it does not.
    ("sm_90 mma", "f8"): Alignment(25),
    ("sm_90 wgmma", "f16"): Alignment(25),
    ("sm_90 wgmma", "tf32"): Alignment(25),
    ("sm_90 wgmma", "f8"): Alignment(13, out_fraction=13),
    ("sm_100 tcgen05", "f16"): Alignment(25),
    ("sm_100 tcgen05", "tf32"): Alignment(25),
    ("sm_100 tcgen05", "f8"): Alignment(25),
    ("sm_100 tcgen05", "mxf4"): Alignment(35, scaled_group=16),
}


def product(a: NDArray[Any], bt: NDArray[Any]) -> NDArray[Any]:
    """``a @ bt`` for contiguous [m, k] and [k, n] of one floating dtype, on one thread.

    In pieces that OpenBLAS does not spread over threads (m n k up to 2**18): for matrices as small as an
    instruction's, threads that have
    to be woken cost more than they bring, on a busy machine a hundred times more.
    """
    m, k = a.shape
    n = bt.shape[1]
    pieces = 1
    while m * n * k > pieces << 18 and m % (2 * pieces) == 0:
        pieces *= 2
    out: NDArray[Any] = (a.reshape(pieces, -1, k) @ bt).reshape(m, n)
    return out


def gemm(a: F32, b: F32, exact_bound: float | None = None) -> F32 | F64:
    """``a @ b.T`` for float32 a [m, k] and b [n, k].

    In float32 when `exact_bound`, an upper bound of sum |products| over the granularity of the products, shows that
    every partial sum is an integer multiple below 2**24 of one granule, hence exact in any order; else in float64.
    """
    dtype = np.float32 if exact_bound is not None and exact_bound <= EXACT_F32 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        return product(np.ascontiguousarray(a, dtype), np.ascontiguousarray(b.T, dtype))


def _one_nan(out: F32) -> F32:
    """The results with every NaN as 0x7FFFFFFF, as tensor cores write it."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(out.sum()):  # one cheap pass decides whether to look closer
            nan = np.isnan(out)
            if nan.any():
                out = np.where(nan, np.uint32(0x7FFFFFFF), out.view(np.uint32)).astype(np.uint32).view(np.float32)
    return out


def add_f32(c: F32 | None, product: F32 | F64) -> F32:
    """The float32 result of accumulator plus product matrix, rounded once; c None: the product alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        if c is None:
            return _one_nan(product.astype(np.float32, copy=False))
        if product.dtype == np.float32:
            return _one_nan(np.add(c, product, dtype=np.float32))  # both exact, one rounding
    return _one_nan(add_round_f32(c, product.astype(np.float64, copy=False)))


def add_f16(c: NDArray[np.float16] | None, product: F32 | F64) -> NDArray[np.float16]:
    """The float16 result of accumulator plus product matrix, rounded once from float64; every NaN is 0x7FFF."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = product.astype(np.float64) if c is None else product.astype(np.float64) + c.astype(np.float64)
        out = total.astype(np.float16)
    nan = np.isnan(out)
    if nan.any():
        out = np.where(nan, np.uint16(0x7FFF), out.view(np.uint16)).astype(np.uint16).view(np.float16)
    return out


def add_s32(c: NDArray[np.int32] | None, product: F32 | F64, saturate: bool) -> NDArray[np.int32]:
    """The int32 result, wrapping or saturating (PTX ``.satfinite``)."""
    total = product.astype(np.int64) if c is None else product.astype(np.int64) + c
    if saturate:
        total = np.clip(total, -(1 << 31), (1 << 31) - 1)
    return total.astype(np.int32)


def _split(x: F64, least: int) -> tuple[F64, NDArray[np.int64]]:
    """(significand, exponent) with exponent at least `least` (subnormals keep the smallest one); zero has exponent
    -126 or less."""
    mantissa, exponent = np.frexp(x)
    e = np.maximum(exponent.astype(np.int64) - 1, least)
    e = np.where(x == 0, np.minimum(-126, least), e)
    return np.where(x == 0, 0.0, np.ldexp(mantissa, (exponent - e).astype(np.int64))), e


def _cut(x: F64, fraction: int, least: int) -> F64:
    """Truncate to `fraction` bits after the leading one, exponents at least `least`."""
    s, e = _split(x, least)
    return np.ldexp(np.trunc(np.ldexp(s, fraction)), e - fraction)


def _finish(total: F64, special: F64, model: Alignment) -> F32:
    """The sum in the output format, as float32: truncated to `out_fraction` bits, or for half precision rounded to
    nearest even."""
    odd = ~np.isfinite(special)
    with np.errstate(over="ignore", invalid="ignore"):
        if model.half:
            halves = total.astype(np.float16)
            if odd.any():
                bits = np.where(np.isnan(special), np.uint16(0x7FFF), special.astype(np.float16).view(np.uint16))
                halves = np.where(odd, bits, halves.view(np.uint16)).astype(np.uint16).view(np.float16)
            return halves.astype(np.float32)
        result = _cut(total, model.out_fraction, -126).astype(np.float32)
        # Truncation never reaches infinity.
        result = np.where(np.isinf(result), np.copysign(np.float32(np.finfo(np.float32).max), result), result)
        if odd.any():
            result = np.where(odd, special.astype(np.float32), result)
            words = np.where(np.isnan(result), np.uint32(0x7FFFFFFF), result.view(np.uint32))
            result = words.astype(np.uint32).view(np.float32)
    return result.astype(np.float32, copy=False)


def aligned(a: F32, b: F32, c: F32, kinds: tuple[str, str], model: Alignment) -> F32:
    """The accumulation of `model`: float32 a [m, k], b [n, k] of element formats `kinds`, c [m, n]; float32 [m, n].

    Finite inputs follow the alignment; NaN and infinity follow IEEE, every NaN result being 0x7FFFFFFF.
    """
    k = a.shape[1]
    step = model.group or k
    out = c
    least = tuple(1 - FORMATS[name].bias if FORMATS[name].exponent else 0 for name in kinds)
    for start in range(0, k, step):
        part_a, part_b = a[:, start : start + step].astype(np.float64), b[:, start : start + step].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            special = (part_a @ part_b.T) + out.astype(np.float64)
        safe_a, safe_b = np.where(np.isfinite(part_a), part_a, 0), np.where(np.isfinite(part_b), part_b, 0)
        sa, ea = _split(safe_a, least[0])
        sb, eb = _split(safe_b, least[1])
        sc, ec = _split(np.where(np.isfinite(out), out, 0).astype(np.float64), -14 if model.half else -126)
        products = sa[:, None, :] * sb[None, :, :]
        exponents = ea[:, None, :] + eb[None, :, :]
        top = np.maximum(exponents.max(axis=2), ec)
        total = np.trunc(np.ldexp(products, model.fraction_bits + exponents - top[:, :, None])).sum(axis=2)
        total += np.trunc(np.ldexp(sc, model.fraction_bits + ec - top))
        out = _finish(np.ldexp(total, top - model.fraction_bits), special, model)
    return out


def aligned_block_scaled(a: F32, b: F32, c: F32, scales: tuple[F32, F32], model: Alignment) -> F32:
    """As `aligned` for FP4 with block scales: groups of `model.scaled_group` products are summed exactly before
    scaling.

    a [m, k], b [n, k] unscaled values; scales: float32 [m, k / block] and [n, k / block]; c [m, n]. float32 [m, n].
    """
    m, k = a.shape
    n = b.shape[0]
    width = model.scaled_group
    per_block = k // scales[0].shape[1]
    dots = np.einsum(
        "mgk,ngk->mng", a.reshape(m, -1, width).astype(np.float64), b.reshape(n, -1, width).astype(np.float64)
    )
    pick = np.arange(k // width) * width // per_block
    sa, ea = _split(scales[0].astype(np.float64)[:, pick], -127)
    sb, eb = _split(scales[1].astype(np.float64)[:, pick], -127)
    sc, ec = _split(np.where(np.isfinite(c), c, 0).astype(np.float64), -126)
    exponents = ea[:, None, :] + eb[None, :, :]
    top = np.maximum(exponents.max(axis=2), ec)
    with np.errstate(invalid="ignore"):
        terms = np.ldexp(dots * sa[:, None, :] * sb[None, :, :], model.fraction_bits + exponents - top[:, :, None])
        special = (scales[0].sum(axis=1)[:, None] + scales[1].sum(axis=1)[None, :]).astype(np.float64) * 0 + c
    total = np.trunc(np.where(np.isfinite(terms), terms, 0)).sum(axis=2)
    total += np.trunc(np.ldexp(sc, model.fraction_bits + ec - top))
    return _finish(np.ldexp(total, top - model.fraction_bits), special, model)
