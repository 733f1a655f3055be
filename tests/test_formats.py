import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from nvfp4 import formats
from nvfp4.errors import InputError

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ALL_BYTES = torch.arange(256, dtype=torch.uint8)


def e2m1_oracle(codes: torch.Tensor) -> np.ndarray:
    return codes.numpy().view(ml_dtypes.float4_e2m1fn).astype(np.float64)


def all_finite_half() -> torch.Tensor:
    values = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    return values[torch.isfinite(values)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_byte_decodes_in_both_nibbles(dtype: torch.dtype) -> None:
    decoded = formats.decode_e2m1(ALL_BYTES, dtype)
    assert decoded.dtype == dtype
    low, high = decoded.double().numpy()[0::2], decoded.double().numpy()[1::2]
    for got, nibble in ((low, ALL_BYTES & 15), (high, ALL_BYTES >> 4)):
        want = e2m1_oracle(nibble)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 8), (2, 3, 8), (70000,), (1,)])
def test_decode_keeps_the_shape_across_chunks(shape: tuple[int, ...]) -> None:
    packed = torch.randint(0, 256, shape, dtype=torch.uint8)
    decoded = formats.decode_e2m1(packed)
    assert decoded.shape == (*shape[:-1], 2 * shape[-1])
    assert torch.equal(decoded[..., 0::2], formats.decode_e2m1(packed & 15)[..., 0::2])
    values = torch.tensor([*formats.E2M1_MAGNITUDES, *(-m for m in formats.E2M1_MAGNITUDES)])
    assert torch.equal(decoded, values[formats.unpack(packed).long()])


def test_decode_reads_strided_and_float4_tensors() -> None:
    packed = torch.randint(0, 256, (6, 8), dtype=torch.uint8)
    assert torch.equal(formats.decode_e2m1(packed.t()), formats.decode_e2m1(packed.t().contiguous()))
    assert torch.equal(formats.decode_e2m1(packed.view(torch.float4_e2m1fn_x2)), formats.decode_e2m1(packed))


def test_decode_refuses_other_types() -> None:
    with pytest.raises(InputError, match="packed"):
        formats.decode_e2m1(torch.zeros(4))
    with pytest.raises(InputError, match="dtype"):
        formats.decode_e2m1(ALL_BYTES, torch.int32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_encode_matches_ml_dtypes_on_every_finite_half(dtype: torch.dtype) -> None:
    values = all_finite_half().to(dtype)
    want = values.double().numpy().astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    np.testing.assert_array_equal(formats.encode_e2m1(values).numpy(), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_encode_at_and_beside_every_midpoint(dtype: torch.dtype) -> None:
    grid = formats.E2M1_MAGNITUDES
    for code in range(7):
        middle = torch.tensor((grid[code] + grid[code + 1]) / 2, dtype=dtype)
        below = torch.nextafter(middle, torch.zeros_like(middle))
        above = torch.nextafter(middle, torch.full_like(middle, 10))
        even = code if code % 2 == 0 else code + 1
        points = torch.stack([below, middle, above])
        assert formats.encode_e2m1(points).tolist() == [code, even, code + 1]
        assert formats.encode_e2m1(-points).tolist() == [8 + code, 8 + even, 9 + code]


def test_encode_saturates_keeps_the_sign_of_zero_and_refuses_nan() -> None:
    extremes = torch.tensor([math.inf, -math.inf, 1e30, -6.1, 0.0, -0.0])
    assert formats.encode_e2m1(extremes).tolist() == [7, 15, 7, 15, 0, 8]
    with pytest.raises(InputError, match="NaN"):
        formats.encode_e2m1(torch.tensor([1.0, math.nan]))
    with pytest.raises(InputError, match="floating point"):
        formats.encode_e2m1(torch.tensor([1]))


def test_codes_survive_decoding_and_encoding() -> None:
    codes = formats.unpack(ALL_BYTES)
    assert torch.equal(formats.encode_e2m1(formats.decode_e2m1(ALL_BYTES)), codes)
    assert torch.equal(formats.pack(codes), ALL_BYTES)


def test_the_even_element_is_in_the_low_nibble() -> None:
    assert formats.pack(torch.tensor([1, 2, 3, 4], dtype=torch.uint8)).tolist() == [0x21, 0x43]
    assert formats.unpack(torch.tensor([0x21, 0x43], dtype=torch.uint8)).tolist() == [1, 2, 3, 4]


def test_pack_refuses_odd_lengths_and_other_types() -> None:
    with pytest.raises(InputError, match="even"):
        formats.pack(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(InputError, match="uint8"):
        formats.pack(torch.zeros(4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_scale_byte_decodes(dtype: torch.dtype) -> None:
    got = formats.decode_e4m3(ALL_BYTES, dtype).double().numpy()
    want = ALL_BYTES.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(got, want)
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[finite]), np.signbit(want[finite]))


def test_exactly_two_scale_bytes_are_nan() -> None:
    nan = [byte for byte in range(256) if formats.has_nan_e4m3(torch.tensor([byte], dtype=torch.uint8))]
    assert nan == [0x7F, 0xFF]
    assert formats.has_nan_e4m3(ALL_BYTES.view(torch.float8_e4m3fn))


def test_encode_e4m3_matches_ml_dtypes_where_that_is_finite_and_saturates_beyond() -> None:
    values = all_finite_half().float()
    clamped = values.clamp(-448, 448).numpy()
    want = clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(formats.encode_e4m3(values).view(torch.uint8).numpy(), want)
    extremes = formats.encode_e4m3(torch.tensor([464.0, 465.0, math.inf, -math.inf, 1e300], dtype=torch.float64))
    assert extremes.float().tolist() == [448, 448, 448, -448, 448]
    with pytest.raises(InputError, match="NaN"):
        formats.encode_e4m3(torch.tensor([math.nan]))


def test_float64_scales_are_rounded_once() -> None:
    # float32 would lose the 2^-40, leaving a tie that goes to the even 1.0.
    assert formats.encode_e4m3(torch.tensor(1.0625 + 2.0**-40, dtype=torch.float64)).float().item() == 1.125
    assert formats.encode_e4m3(torch.tensor(1.0625, dtype=torch.float64)).float().item() == 1.0


# Precision, smallest exponent of the last bit, largest finite value.
SHAPES = {
    torch.float16: (11, -24, Fraction(65504)),
    torch.bfloat16: (8, -133, Fraction(255 * 2**120)),
    torch.float32: (24, -149, Fraction((2**24 - 1) * 2**104)),
}


def nearest_even(exact: Fraction, dtype: torch.dtype) -> float:
    """IEEE rounding by rational arithmetic."""
    precision, smallest, largest = SHAPES[dtype]
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - precision + 1, smallest)
    rounded = round(size / unit) * unit  # Fraction rounds ties to even
    if rounded > largest:
        return math.copysign(math.inf, exact)
    return math.copysign(float(rounded), exact)


@st.composite
def near_ties(draw: st.DrawFn) -> tuple[float, float]:
    """float64 near the ties of the narrow types, with a residual below half an ulp."""
    bits = draw(st.integers(0, 2**26))
    exponent = draw(st.integers(-150, 110))
    offset = draw(st.sampled_from([0, 1, -1, 3, 2**20]))
    value = float(Fraction(2 * bits + 1) * Fraction(2) ** exponent + Fraction(offset) * Fraction(2) ** (exponent - 26))
    residual = draw(st.sampled_from([0.0, 2.0**-54, -(2.0**-54), 2.0**-70, -(2.0**-70)])) * abs(value) / 2
    sign = draw(st.sampled_from([1, -1]))
    return sign * value, residual


@pytest.mark.parametrize("dtype", list(SHAPES))
@given(pair=near_ties())
@example(pair=(2.0**-25, 0.0))
@example(pair=(2.0**-25, 2.0**-80))
@example(pair=(65520.0, -(2.0**-60)))
@example(pair=(65520.0, 0.0))
@example(pair=(2.0**-160, 0.0))
@example(pair=(1e300, 0.0))
@example(pair=(-(2.0**-150), -(2.0**-210)))
@example(pair=(float(np.finfo(np.float32).max), 2.0**60))
@example(pair=(0.0, 0.0))
def test_round_once(pair: tuple[float, float], dtype: torch.dtype) -> None:
    value, residual = pair
    exact = Fraction(value) + Fraction(residual)
    got = formats.round_once(
        torch.tensor([value], dtype=torch.float64), dtype, torch.tensor([residual], dtype=torch.float64)
    )
    assert got.dtype == dtype
    assert got.double().item() == nearest_even(exact, dtype)
    if residual == 0:
        assert formats.round_once(torch.tensor([value], dtype=torch.float64), dtype).double().item() == nearest_even(
            exact, dtype
        )


def test_round_once_differs_from_torch_where_torch_rounds_twice() -> None:
    value = torch.tensor([1 + 2.0**-11 + 2.0**-40], dtype=torch.float64)
    assert formats.round_once(value, torch.float16).item() == 1 + 2.0**-10
    assert value.float().half().item() == 1.0


def test_round_once_passes_nan_and_infinity() -> None:
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0], dtype=torch.float64)
    for dtype in SHAPES:
        got = formats.round_once(special, dtype, torch.zeros_like(special)).double()
        assert got[0].isnan()
        assert got[1:].tolist() == [math.inf, -math.inf, 0.0]
        assert got[3].signbit()
