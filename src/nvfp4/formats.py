"""The number formats of NVFP4: E2M1 codes, two to a byte, and E4M3 (fn) block scales. One definition for each fact.

E2M1 is sign, two exponent bits (bias 1), one mantissa bit; it has no infinity and no NaN::

    bit    3   2  1   0
           s   e  e   m        value = (-1)^s * 2^(ee-1) * 1.m    (ee > 0)
                                       (-1)^s * 0.m               (ee = 0)

A byte holds the even element of a pair along K in its low nibble and the odd one in its high nibble. Each run of
`BLOCK` elements along K shares one E4M3 scale: sign, four exponent bits (bias 7), three mantissa bits, no infinity,
NaN at 0x7F and 0xFF, largest value 448 (OCP Microscaling Formats 1.0, sections 5.3.1 and 5.3.3).

Everything here works on tensors of any device and any number of elements, and imports nothing of CUDA.
"""

from __future__ import annotations

import functools

import torch

from nvfp4.errors import InputError

BLOCK = 16
"""Elements along K that share one scale."""

E2M1_MAGNITUDES: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The value of each code 0..7; codes 8..15 are the same values negated (8 is -0)."""

E2M1_MAX = 6.0
"""Largest E2M1 value."""

E4M3_MAX = 448.0
"""Largest finite E4M3 (fn) value."""

E4M3_MIN_NORMAL = 2.0**-6
"""Smallest normal E4M3 value."""

E4M3_MIN_SUBNORMAL = 2.0**-9
"""Smallest positive E4M3 value."""

# Round to nearest, ties to the even code: code i+1 begins beyond the midpoint of values i and i+1, or at the midpoint
# itself when i+1 is the even one of the two. The second entry says which.
_MIDPOINTS: tuple[tuple[float, bool], ...] = (
    (0.25, False),
    (0.75, True),
    (1.25, False),
    (1.75, True),
    (2.5, False),
    (3.5, True),
    (5.0, False),
)

# Bytes looked up at a time: on a CPU the indices and results of a chunk stay in the cache (measured: 0.25 s rather than
# 1.4 s for 7168x16384); on a GPU the chunk only bounds the memory of the indices.
_CPU_CHUNK = 1 << 16
_GPU_CHUNK = 1 << 26

# The integer type as wide as two values of the decoded type, so that one look-up fetches a pair.
_PAIR = {torch.float16: torch.int32, torch.bfloat16: torch.int32, torch.float32: torch.int64}


@functools.cache
def _pair_table(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """For each byte, its two values of `dtype` (low nibble first) as one integer: [256]."""
    values = [*E2M1_MAGNITUDES, *(-magnitude for magnitude in E2M1_MAGNITUDES)]
    pairs = torch.tensor([(values[byte & 15], values[byte >> 4]) for byte in range(256)], dtype=dtype)
    return pairs.view(_PAIR[dtype]).view(-1).to(device)


def as_bytes(packed: torch.Tensor) -> torch.Tensor:
    """A uint8 view of packed codes (uint8 or float4_e2m1fn_x2) or of scales (uint8 or float8_e4m3fn)."""
    return packed if packed.dtype == torch.uint8 else packed.view(torch.uint8)


def decode_e2m1(packed: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The values of packed E2M1 codes; exact in every supported type.

    Args:
        packed: [..., K/2] uint8 or float4_e2m1fn_x2, the even element in the low nibble.
        dtype: float16, bfloat16, float32 or float64.

    Returns:
        [..., K] of `dtype`, contiguous.

    Raises:
        InputError: `packed` or `dtype` has another type.
    """
    if packed.dtype not in (torch.uint8, torch.float4_e2m1fn_x2):
        raise InputError("decode_e2m1", "packed", "uint8 or float4_e2m1fn_x2", packed.dtype, "Pass packed codes.")
    if dtype == torch.float64:
        return decode_e2m1(packed, torch.float32).double()
    if dtype not in _PAIR:
        raise InputError("decode_e2m1", "dtype", "float16, bfloat16, float32 or float64", dtype, "Cast the result.")
    data = as_bytes(packed)
    pairs = look_up(_pair_table(dtype, data.device), data)
    return pairs.view(dtype).view(*data.shape[:-1], 2 * data.shape[-1])


def look_up(table: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """``table[byte]`` for each byte: `table` [256] of any type, `data` uint8 of any shape; of the shape of `data`."""
    flat = data.reshape(-1)
    result = torch.empty(flat.shape, dtype=table.dtype, device=data.device)
    chunk = _CPU_CHUNK if data.device.type == "cpu" else _GPU_CHUNK
    for begin in range(0, flat.numel(), chunk):
        torch.index_select(table, 0, flat[begin : begin + chunk].int(), out=result[begin : begin + chunk])
    return result.view(data.shape)


@functools.cache
def _boundaries(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The largest value of `dtype` that still rounds to code i, for i in 0..6."""
    middle = torch.tensor([midpoint for midpoint, _ in _MIDPOINTS], dtype=dtype)
    below = torch.nextafter(middle, torch.zeros_like(middle))
    upward = torch.tensor([inclusive for _, inclusive in _MIDPOINTS])
    return torch.where(upward, below, middle).to(device)


def found(flags: torch.Tensor) -> bool:
    """Whether any of `flags` is set. Waits for a GPU; False while a CUDA graph is captured, when no value is known."""
    if flags.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return bool(flags.any())


def encode_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Unpacked E2M1 codes of `values`: to nearest, ties to even, saturating at 6; the sign is kept, also of zero.

    Args:
        values: floating point of any shape; infinities saturate, NaN is refused.

    Returns:
        uint8 of the same shape, 0..15.

    Raises:
        InputError: `values` is not floating point, or has a NaN.
    """
    if not values.is_floating_point():
        raise InputError("encode_e2m1", "values", "floating point", values.dtype, "Convert with .float().")
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    if found(torch.isnan(wide)):
        raise InputError("encode_e2m1", "values", "no NaN", "a NaN", "E2M1 has no NaN: remove it before encoding.")
    codes = torch.bucketize(wide.abs(), _boundaries(wide.dtype, wide.device), out_int32=True).to(torch.uint8)
    return codes | (torch.signbit(wide).to(torch.uint8) << 3)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the even element in the low nibble: uint8 [..., K] of values 0..15 to uint8 [..., K/2].

    Raises:
        InputError: `codes` is not uint8, or K is odd.
    """
    if codes.dtype != torch.uint8:
        raise InputError("pack", "codes", "uint8", codes.dtype, "Pass unpacked codes 0..15.")
    if codes.dim() == 0 or codes.shape[-1] % 2:
        raise InputError("pack", "codes", "an even last dimension", tuple(codes.shape), "Pad K to a multiple of 16.")
    return (codes[..., 0::2] & 15) | (codes[..., 1::2] << 4)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack`: uint8 (or float4_e2m1fn_x2) [..., K/2] to uint8 [..., K] of values 0..15."""
    data = as_bytes(packed)
    return torch.stack((data & 15, data >> 4), dim=-1).flatten(-2)


def has_nan_e4m3(scales: torch.Tensor) -> bool:
    """Whether any E4M3 byte (uint8 or float8_e4m3fn) is a NaN: 0x7F or 0xFF. Waits for a GPU."""
    return bool(((as_bytes(scales) & 0x7F) == 0x7F).any())


def decode_e4m3(scales: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The values of E4M3 scales (uint8 or float8_e4m3fn), exact; NaN stays NaN.

    Args:
        scales: any shape.
        dtype: float16, bfloat16, float32 or float64.
    """
    return as_bytes(scales).view(torch.float8_e4m3fn).to(dtype)


def encode_e4m3(values: torch.Tensor) -> torch.Tensor:
    """E4M3 (float8_e4m3fn) of `values`: to nearest, ties to even, saturating at 448 also from infinity.

    Saturation is explicit, because casts differ here: new versions of torch saturate, others give NaN.

    Raises:
        InputError: `values` is not floating point, or has a NaN.
    """
    if not values.is_floating_point():
        raise InputError("encode_e4m3", "values", "floating point", values.dtype, "Convert with .float().")
    if found(torch.isnan(values)):
        raise InputError("encode_e4m3", "values", "no NaN", "a NaN", "A NaN scale poisons its whole block: remove it.")
    wide = to_odd_float32(values) if values.dtype == torch.float64 else values.float()
    return wide.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def to_odd_float32(values: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    """float64 to float32, rounding to odd: toward zero, with the last bit set when that was inexact.

    A later rounding to any narrower type (two bits or more) then gives what rounding `values` once gives (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008). torch
    itself converts float64 to the 16-bit and 8-bit types by way of float32, rounding twice.

    Args:
        values: float64, any shape; NaN and infinity pass through.
        residual: What is to be added to `values`, less than half an ulp of it each: the sum is rounded, exactly.
    """
    near = values.float()
    back = near.double()
    error = values - back
    sticky = error if residual is None else torch.where(error == 0, residual, error)
    # Toward zero: one step back where rounding went away from zero.
    beyond = torch.where(back > 0, sticky < 0, sticky > 0) & (back != 0)
    bits = near.view(torch.int32)
    inexact = (sticky != 0) & torch.isfinite(near)
    bits = torch.where(beyond & torch.isfinite(values), bits - 1, bits) | (inexact | (beyond & torch.isfinite(values)))
    # What vanished to zero keeps its sign and becomes the smallest number.
    tiny = torch.where(sticky < 0, -(2**31) + 1, 1).to(torch.int32)
    return torch.where((back == 0) & (sticky != 0), tiny, bits.to(torch.int32)).view(torch.float32)


def round_once(values: torch.Tensor, dtype: torch.dtype, residual: torch.Tensor | None = None) -> torch.Tensor:
    """float64 `values` (plus `residual`) rounded once, to nearest even, to float16, bfloat16, float32 or float64.

    Args:
        values: float64, any shape. Overflow gives infinity, as IEEE 754 says.
        dtype: The type of the result.
        residual: float64, less than half an ulp of `values` each, as error-free transformations leave it.
    """
    if dtype == torch.float64:
        return values
    if dtype != torch.float32:
        return to_odd_float32(values, residual).to(dtype)
    if residual is None:
        return values.float()
    # Rounding to odd in float64 first leaves 53 bits for 24.
    bits = values.view(torch.int64)
    toward = torch.where(values > 0, residual < 0, residual > 0) & (values != 0)
    odd = torch.where(toward, bits - 1, bits) | (residual != 0)
    return torch.where((values == 0) | ~torch.isfinite(values), values, odd.view(torch.float64)).float()
