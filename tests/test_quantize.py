import math
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4 import formats, layouts
from nvfp4.errors import InputError
from nvfp4.quantize import Mode, quantize
from nvfp4.tensor import NVFP4Tensor
from quantize_vectors import VECTORS, sample

MODES = list(Mode)
TWO_LEVEL = [mode for mode in MODES if not mode.value.endswith("_block")]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mode", "dtype"), list(VECTORS))
def test_bit_exact_with_the_library_that_a_mode_names(mode: str, dtype: torch.dtype) -> None:
    scales, scale, codes = VECTORS[mode, dtype]
    got = quantize(sample(dtype), mode=mode)
    assert got.scales.view(torch.uint8).numpy().tobytes().hex() == scales
    assert got.codes.numpy().tobytes().hex() == codes
    if scale is None:
        assert got.tensor_scale is None
    else:
        assert got.tensor_scale is not None
        want = torch.tensor(float.fromhex(scale), dtype=torch.float32)
        assert torch.equal(got.tensor_scale, 1 / want if mode == "compressed_tensors" else want)


def test_the_recorded_vectors_tell_the_modes_apart() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert len({vector[0] for (_, known), vector in VECTORS.items() if known == dtype}) == 4


def test_torchao_itself_where_it_is_installed() -> None:
    library = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    x = gaussian(64, 256) * torch.exp(3 * gaussian(64, 1, seed=1))
    scale = library.per_tensor_amax_to_scale(x.abs().amax())
    scales, codes = library.nvfp4_quantize(x, 16, scale)
    got = quantize(x, mode="torchao")
    assert torch.equal(got.codes, codes.view_as(got.codes))
    assert torch.equal(got.scales.view(torch.uint8), scales.view(torch.uint8).view_as(got.codes[:, :16]))


def e4m3_grid() -> list[Fraction]:
    values = formats.decode_e4m3(torch.arange(0x7F, dtype=torch.uint8), torch.float64)
    return [Fraction(value) for value in values.tolist()]


def nearest(grid: list[Fraction], value: Fraction) -> int:
    """Index of the nearest element of an ascending grid, ties to the even index, saturating."""
    return min(range(len(grid)), key=lambda i: (abs(grid[i] - value), i % 2))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-10, 10, width=32), st.sampled_from([0.0, -0.0, 1e-8, -3e-5, 700.0])),
        min_size=32,
        max_size=32,
    ),
    st.booleans(),
)
def test_the_plain_modes_in_rational_arithmetic(values: list[float], two_level: bool) -> None:
    x = torch.tensor([values], dtype=torch.float32)
    got = quantize(x, mode="nvfp4" if two_level else "nvfp4_block")
    amax = max(abs(value) for value in values)
    scale = Fraction(1)
    if two_level:
        assert got.tensor_scale is not None
        want = (
            torch.tensor(amax, dtype=torch.float64).div(2688).float().clamp(min=2.0**-126) if amax else torch.ones(())
        )
        assert torch.equal(got.tensor_scale, want)
        scale = Fraction(float(want))
    codes = formats.unpack(got.codes)[0].tolist()
    grid, magnitudes = e4m3_grid(), [Fraction(m) for m in formats.E2M1_MAGNITUDES]
    for block in range(2):
        part = [Fraction(value) for value in values[16 * block : 16 * block + 16]]
        top = max(abs(value) for value in part)
        want_byte = max(nearest(grid, top / 6 / scale), 1) if top else 0
        assert int(got.scales.view(torch.uint8)[0, block]) == want_byte
        for i, value in enumerate(part):
            code = nearest(magnitudes, abs(value) / (grid[want_byte] * scale)) if top else 0
            sign = math.copysign(1, values[16 * block + i]) < 0
            assert codes[16 * block + i] == code + 8 * sign


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_error_is_within_half_a_step_of_each_block(mode: Mode, dtype: torch.dtype) -> None:
    x = (gaussian(40, 128) * 3).to(dtype)
    got = quantize(x, mode=mode)
    back = got.dequantize(torch.float64).view(40, 8, 16)
    blocks = x.double().view(40, 8, 16)
    # Half the widest gap of E2M1 is a sixth of the largest magnitude; the scale itself is off by at most 1/16.
    bound = blocks.abs().amax(dim=2, keepdim=True) / 6 * (1 + 1 / 16) + 2.0**-10
    assert bool(((back - blocks).abs() <= bound).all())


@pytest.mark.parametrize("mode", MODES)
def test_representable_values_survive(mode: Mode) -> None:
    """Values on the grid, with a 6 in each block and 2688 in the tensor: nothing rounds."""
    codes = torch.randint(0, 256, (16, 32), dtype=torch.uint8)
    codes[:, ::8] |= 7
    scales = torch.full((16, 4), 64.0)
    scales[0, 0] = 448.0
    x = NVFP4Tensor(codes, scales.to(torch.float8_e4m3fn)).dequantize()
    assert torch.equal(quantize(x, mode=mode).dequantize(), x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (0, 5, 16), (2, 0, 16), (2, 3, 0), (4, 32), (2, 3, 16)])
def test_zeros_and_empty_tensors(mode: Mode, shape: tuple[int, ...]) -> None:
    for per_matrix in (False, True) if len(shape) == 3 else (False,):
        got = quantize(torch.zeros(shape), mode=mode, per_matrix=per_matrix)
        assert got.shape == shape
        assert not formats.has_nan_e4m3(got.scales)
        assert torch.equal(got.dequantize(), torch.zeros(shape))
        assert not got.codes.any()


@pytest.mark.parametrize("mode", TWO_LEVEL)
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e30, 3e38])
def test_extreme_magnitudes_stay_finite(mode: Mode, scale: float) -> None:
    x = torch.tensor([[scale] * 8 + [-scale / 2] * 8])
    got = quantize(x, mode=mode)
    values = got.dequantize(torch.float64)
    assert bool(torch.isfinite(values).all())
    if scale >= 1e-30:
        # The scale has four bits, and the tensor scale may be one to float32 rounding.
        torch.testing.assert_close(values, x.double(), rtol=0.07, atol=0)


def test_per_matrix_scales_equal_separate_quantization() -> None:
    x = gaussian(3, 20, 64) * torch.tensor([1.0, 100.0, 0.01]).view(3, 1, 1)
    for mode in TWO_LEVEL:
        whole = quantize(x, mode=mode, per_matrix=True)
        assert whole.tensor_scale is not None
        assert whole.tensor_scale.shape == (3,)
        for i in range(3):
            assert whole[i].equal(quantize(x[i], mode=mode))


def test_one_scale_for_a_batch_is_that_of_the_flattened_tensor() -> None:
    x = gaussian(3, 20, 64)
    for mode in MODES:
        whole, flat = quantize(x, mode=mode), quantize(x.view(60, 64), mode=mode)
        assert torch.equal(whole.codes.view(60, 32), flat.codes)
        assert (whole.tensor_scale is None) == (flat.tensor_scale is None)
        if whole.tensor_scale is not None:
            assert whole.tensor_scale.shape == ()


def test_a_given_tensor_scale_is_used_and_saturates() -> None:
    x = gaussian(4, 32)
    for mode in TWO_LEVEL:
        own = quantize(x, mode=mode)
        assert own.tensor_scale is not None
        again = quantize(x, mode=mode, tensor_scale=own.tensor_scale)
        if mode is not Mode.COMPRESSED_TENSORS:  # its divisor is not always the reciprocal of its own reciprocal
            assert own.equal(again)
        assert torch.equal(again.tensor_scale, own.tensor_scale)
        assert quantize(x, mode=mode, tensor_scale=0.5).tensor_scale == 0.5
    huge = quantize(torch.full((1, 16), 5000.0), tensor_scale=1.0)
    assert huge.dequantize().tolist() == [[2688.0] * 16]
    batch = quantize(torch.full((2, 1, 16), 6.0), tensor_scale=torch.tensor([0.5, 0.25]))
    assert torch.equal(batch.dequantize(), torch.full((2, 1, 16), 6.0))
    assert batch.scales.float().flatten().tolist() == [2.0, 4.0]
    assert batch.tensor_scale is not None
    assert batch.tensor_scale.tolist() == [0.5, 0.25]


def test_layouts_and_strides() -> None:
    x = gaussian(200, 160)
    linear, tiled = quantize(x), quantize(x, scale_layout="tiled")
    assert tiled.scale_layout == "tiled"
    assert tiled.equal(linear)
    assert torch.equal(layouts.TILED.unpack(tiled.scales, 200, 10), linear.scales)
    assert quantize(x.t().contiguous().t()).equal(linear)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(2, 70, 64)
    whole = quantize(x)
    monkeypatch.setattr(sys.modules["nvfp4.quantize"], "_CPU_CHUNK", 1000)
    assert quantize(x).equal(whole)


def test_signs_of_zero() -> None:
    x = torch.tensor([[-0.0, 0.0, -1e-6, 1.0] * 4])
    by_mode = {mode: formats.unpack(quantize(x, mode=mode).codes)[0, :3].tolist() for mode in MODES}
    assert by_mode[Mode.NVFP4] == by_mode[Mode.TORCHAO] == [8, 0, 8]
    assert by_mode[Mode.MODELOPT] == by_mode[Mode.COMPRESSED_TENSORS] == [0, 0, 8]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", MODES)
def test_nan_and_infinity_are_refused(mode: Mode, bad: float) -> None:
    x = gaussian(4, 32)
    x[2, 7] = bad
    with pytest.raises(InputError, match="finite"):
        quantize(x, mode=mode)


def test_wrong_arguments_are_refused() -> None:
    x = gaussian(4, 32)
    with pytest.raises(InputError, match="mode"):
        quantize(x, mode="int4")
    with pytest.raises(InputError, match="multiple of 16"):
        quantize(gaussian(4, 24))
    with pytest.raises(InputError, match="rows, K"):
        quantize(gaussian(32))
    with pytest.raises(InputError, match="float16"):
        quantize(x.int())
    with pytest.raises(InputError, match=r"torch\.Tensor"):
        quantize([[1.0] * 16])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="linear"):
        quantize(x, scale_layout="rows")
    with pytest.raises(InputError, match="per_matrix"):
        quantize(x, per_matrix=True)
    with pytest.raises(InputError, match="positive"):
        quantize(x, tensor_scale=0.0)
    with pytest.raises(InputError, match="positive"):
        quantize(x, tensor_scale=math.nan)
    with pytest.raises(InputError, match="float32"):
        quantize(x, tensor_scale=torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(InputError, match=r"\[\] or \[L\]"):
        quantize(x, tensor_scale=torch.ones(4))
    with pytest.raises(InputError, match="None in mode"):
        quantize(x, mode="nvfp4_block", tensor_scale=1.0)
    with pytest.raises(InputError, match="Scale x down"):
        quantize(torch.full((1, 16), 1e300, dtype=torch.float64))
