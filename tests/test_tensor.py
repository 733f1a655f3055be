import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nvfp4 import formats, layouts
from nvfp4.errors import InputError
from nvfp4.problem import Format
from nvfp4.tensor import ALIGNMENT, NVFP4Tensor

SHAPES = [(5, 32), (300, 160), (128, 64), (3, 130, 48), (1, 7, 16), (0, 64), (4, 0), (0, 3, 32), (2, 0, 32)]


def parts(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes and linear scales (no NaN) of a logical shape."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (*shape[:-1], shape[-1] // 2), dtype=torch.uint8, generator=generator)
    scales = torch.randint(0, 0x7F, (*shape[:-1], shape[-1] // 16), dtype=torch.uint8, generator=generator)
    return codes, scales


def tensor(*shape: int, tensor_scale: torch.Tensor | float | None = None, layout: str = "linear") -> NVFP4Tensor:
    return NVFP4Tensor(*parts(*shape), tensor_scale).to_layout(layout)


def values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Element by element, from the definition."""
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    nibbles = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2).long()
    signed = torch.where(nibbles >= 8, -1.0, 1.0).double() * magnitudes[nibbles & 7]
    return signed * scales.view(torch.float8_e4m3fn).double().repeat_interleave(16, dim=-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_attributes_and_values(shape: tuple[int, ...], layout: str) -> None:
    codes, scales = parts(*shape)
    got = NVFP4Tensor(codes, scales).to_layout(layout)
    assert got.shape == shape
    assert (got.rows, got.k) == shape[-2:]
    assert (shape[0] if len(shape) == 3 else 1) == got.L
    assert got.ndim == len(shape)
    assert len(got) == shape[0]
    assert got.numel() == torch.Size(shape).numel()
    assert got.device == torch.device("cpu")
    assert got.codes.dtype == torch.uint8
    assert got.scales.dtype == torch.float8_e4m3fn
    assert got.format == Format("nvfp4", layout, False)
    assert got.nbytes == got.codes.numel() + got.scales.numel()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(got.dequantize(dtype), values(codes, scales).to(dtype))


def test_every_accepted_type_of_codes_and_scales() -> None:
    codes, scales = parts(8, 64)
    plain = NVFP4Tensor(codes, scales)
    for c in (codes, codes.view(torch.float4_e2m1fn_x2)):
        for s in (scales, scales.view(torch.float8_e4m3fn)):
            got = NVFP4Tensor(c, s)
            assert got.equal(plain)
            assert got.codes.data_ptr() == codes.data_ptr()
            assert got.scales.data_ptr() == scales.data_ptr()


@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_tensor_scales(layout: str) -> None:
    plain = tensor(3, 20, 32, layout=layout).dequantize(torch.float64)
    whole = [0.5, torch.tensor(0.5), torch.tensor([0.5])]
    for scale in whole:
        got = tensor(3, 20, 32, tensor_scale=scale, layout=layout)
        assert got.tensor_scale is not None
        assert got.tensor_scale.shape == ()
        assert got.format.tensor_scale
        assert torch.equal(got.dequantize(torch.float64), plain * 0.5)
    each = torch.tensor([0.5, 3.0, 0.0])
    got = tensor(3, 20, 32, tensor_scale=each, layout=layout)
    assert torch.equal(got.dequantize(torch.float64), plain * each.double().view(3, 1, 1))
    assert got.nbytes == tensor(3, 20, 32, layout=layout).nbytes + 12
    # One scale of a batch of one may be [1]; it stays one for each matrix.
    assert tensor(1, 20, 32, tensor_scale=torch.ones(1)).tensor_scale.shape == (1,)


def test_dequantize_to_half_rounds_the_whole_product_once() -> None:
    codes = torch.full((1, 8), 0x77, dtype=torch.uint8)
    scales = torch.tensor([[448.0]]).to(torch.float8_e4m3fn)
    # 6 * 448 * 1000 overflows float16 unless the tensor scale is applied before rounding.
    got = NVFP4Tensor(codes, scales, 1e-3).dequantize(torch.float16)
    assert torch.equal(got, torch.full((1, 16), 2.688, dtype=torch.float16))


def test_layout_conversion_round_trips_and_keeps_identity() -> None:
    linear = tensor(300, 160, tensor_scale=0.25)
    tiled = linear.to_layout("tiled")
    assert tiled.scales.shape == layouts.TILED.storage_shape(300, 10)
    assert tiled.to_layout("tiled") is tiled
    assert tiled.codes.data_ptr() == linear.codes.data_ptr()
    back = tiled.to_layout("linear")
    assert torch.equal(formats.as_bytes(back.scales), formats.as_bytes(linear.scales))
    assert tiled.equal(linear)
    with pytest.raises(InputError, match="tiled"):
        linear.to_layout("6d")


def test_equal_notices_every_part() -> None:
    base = tensor(4, 32, tensor_scale=2.0)
    codes, scales = parts(4, 32)
    other_codes, other_scales = codes.clone(), scales.clone()
    other_codes[3, 15] ^= 0x10
    other_scales[3, 1] ^= 1
    assert base.equal(NVFP4Tensor(codes, scales, 2.0))
    assert not base.equal(NVFP4Tensor(other_codes, scales, 2.0))
    assert not base.equal(NVFP4Tensor(codes, other_scales, 2.0))
    assert not base.equal(NVFP4Tensor(codes, scales, 2.5))
    assert not base.equal(NVFP4Tensor(codes, scales))
    assert not base.equal(NVFP4Tensor(codes[:3], scales[:3], 2.0))


@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_indexing(layout: str) -> None:
    batch = tensor(4, 300, 48, tensor_scale=torch.tensor([1.0, 2.0, 4.0, 8.0]), layout=layout)
    whole = batch.dequantize()
    for index in (0, 3, -1):
        assert batch[index].shape == (300, 48)
        assert torch.equal(batch[index].dequantize(), whole[index])
    for index in (slice(None), slice(1, 3), slice(-2, None), slice(2, 2), slice(3, 1)):
        assert torch.equal(batch[index].dequantize(), whole[index])
    for rows in (slice(128, 256), slice(0, 5), slice(128, None), slice(256, 300), slice(7, 7), slice(None)):
        assert torch.equal(batch[1, rows].dequantize(), whole[1, rows])
        assert torch.equal(batch[1:3, rows].dequantize(), whole[1:3, rows])
        assert torch.equal(batch[2][rows].dequantize(), whole[2, rows])
    assert torch.equal(batch[1, 128].dequantize(), whole[1, 128:129])
    assert torch.equal(batch[0, -44].dequantize(), whole[0, 256:257])


def test_linear_rows_are_sliced_anywhere() -> None:
    one = tensor(77, 48)
    whole = one.dequantize()
    for begin in (0, 1, 13, 76):
        for end in (begin, begin + 1, 77):
            got = one[begin:end]
            assert torch.equal(got.dequantize(), whole[begin:end])
            assert got.codes.data_ptr() % ALIGNMENT == 0
            assert got.scales.data_ptr() % ALIGNMENT == 0
    assert torch.equal(torch.cat([row.dequantize() for row in one]), whole)  # iteration ends by IndexError


def test_aligned_slices_share_memory() -> None:
    one = tensor(64, 256)
    assert one[8:16].codes.data_ptr() == one.codes.data_ptr() + 8 * 128
    assert one[8:16].scales.data_ptr() == one.scales.data_ptr() + 8 * 16


def test_bad_indices() -> None:
    one, batch = tensor(300, 48, layout="tiled"), tensor(2, 300, 48)
    with pytest.raises(InputError, match=r"multiple of 128.*to_layout"):
        one[5:10]
    with pytest.raises(InputError, match="multiple of 128"):
        one[129]
    with pytest.raises(IndexError, match="300 rows"):
        one[300]
    with pytest.raises(IndexError, match="2 matrices"):
        batch[-3]
    with pytest.raises(InputError, match="step 1"):
        batch[::2]
    with pytest.raises(InputError, match="step 1"):
        batch[0, ::-1]
    with pytest.raises(InputError, match="K is never indexed"):
        one[0, 0]
    with pytest.raises(InputError, match="K is never indexed"):
        batch[0, 0, 0]
    for index in (None, "rows", 1.5, True, torch.ones(300, dtype=torch.bool)):
        with pytest.raises((InputError, TypeError)):
            one[index]  # type: ignore[index]


def test_unaligned_memory_is_copied_once() -> None:
    codes, scales = parts(4, 64)
    shifted_codes = torch.cat([torch.zeros(3, dtype=torch.uint8), codes.flatten()])[3:].view(4, 32)
    shifted_scales = torch.cat([torch.zeros(1, dtype=torch.uint8), scales.flatten()])[1:].view(4, 4)
    got = NVFP4Tensor(shifted_codes, shifted_scales)
    assert got.codes.data_ptr() % ALIGNMENT == 0
    assert got.scales.data_ptr() % ALIGNMENT == 0
    assert got.equal(NVFP4Tensor(codes, scales))


def test_immutable() -> None:
    one = tensor(4, 32)
    for name in ("codes", "rows", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(one, name, None)
    with pytest.raises(AttributeError, match="immutable"):
        del one.codes
    assert not hasattr(one, "__dict__")


@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_save_and_load(layout: str, scale: float | None, tmp_path: Path) -> None:
    one = tensor(130, 48, tensor_scale=scale, layout=layout)
    path = tmp_path / "tensor.pt"
    torch.save({"weight": one}, path)
    for weights_only in (True, False):
        back = torch.load(path, weights_only=weights_only)["weight"]
        assert isinstance(back, NVFP4Tensor)
        assert back.scale_layout == layout
        assert back.equal(one)
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied.equal(one)
    assert copy.deepcopy(one).codes.data_ptr() != one.codes.data_ptr()


def test_load_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    torch.save(tensor(4, 32), path)
    program = f"import torch, nvfp4; nvfp4.NVFP4Tensor; print(torch.load({str(path)!r}).shape)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(4, 32)"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    one = tensor(4, 32)
    formats.as_bytes(one.scales)[1, 1] = 0xFF
    torch.save(one, tmp_path / "tensor.pt")
    with pytest.raises(InputError, match="NaN"):
        torch.load(tmp_path / "tensor.pt")


def test_repr_shows_what_one_wants_to_know() -> None:
    codes = torch.zeros(2, 8, dtype=torch.uint8)
    codes[0, 0] = 0xF2
    one = NVFP4Tensor(codes, torch.full((2, 1), 1.5).to(torch.float8_e4m3fn), 0.25)
    text = repr(one)
    assert "shape=(2, 16)" in text
    assert "linear" in text
    assert "0.25" in text
    assert "1.5 x [1 -6 0" in text
    assert "cpu" in text
    assert "no tensor scale" in repr(tensor(4, 32))
    assert "2 tensor scales" in repr(tensor(2, 4, 32, tensor_scale=torch.ones(2), layout="tiled"))
    for shape in SHAPES:
        assert str(shape) in repr(tensor(*shape, layout="tiled"))


def test_from_float() -> None:
    x = torch.randn(20, 64)
    got = NVFP4Tensor.from_float(x, mode="modelopt", scale_layout="tiled")
    assert got.scale_layout == "tiled"
    assert (got.dequantize() - x).abs().max() < x.abs().max() / 5
    assert NVFP4Tensor.from_float(x, tensor_scale=1.0).tensor_scale == 1.0


def contest_views(count: int, rows: int, k: int) -> tuple[NVFP4Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    codes, scales = parts(count, rows, k)
    tiled = layouts.CONTEST.pack(scales.view(torch.float8_e4m3fn))
    return NVFP4Tensor(codes, scales), codes.permute(1, 2, 0), scales.permute(1, 2, 0), tiled


@pytest.mark.parametrize(("count", "rows", "k"), [(1, 128, 64), (2, 256, 256), (3, 130, 48), (1, 1, 16)])
def test_contest_views(count: int, rows: int, k: int) -> None:
    plain, codes, linear, tiled = contest_views(count, rows, k)
    for view in (codes, codes.view(torch.uint8)):
        from_tiles = NVFP4Tensor.from_contest(view, tiled)
        assert from_tiles.scale_layout == "tiled"
        assert from_tiles.equal(plain)
        assert from_tiles.codes.data_ptr() == plain.codes.data_ptr()
        assert from_tiles.scales.data_ptr() == tiled.data_ptr()
        from_lines = NVFP4Tensor.from_contest(view, linear)
        assert from_lines.scale_layout == "linear"
        assert from_lines.equal(plain)
    float4 = plain.codes.view(torch.float4_e2m1fn_x2).permute(1, 2, 0)
    assert NVFP4Tensor.from_contest(float4, tiled).equal(plain)
    assert NVFP4Tensor.from_contest(codes.contiguous(), tiled.contiguous()).equal(plain)


def test_contest_vectors_are_cut_out_of_their_padding() -> None:
    plain, codes, linear, tiled = contest_views(4, 128, 64)
    for scales in (tiled, linear):
        got = NVFP4Tensor.from_contest(codes, scales, rows=1)
        assert got.shape == (4, 1, 64)
        assert torch.equal(got.dequantize(), plain.dequantize()[:, :1])
    with pytest.raises(InputError, match=r"0\.\.128"):
        NVFP4Tensor.from_contest(codes, tiled, rows=129)


def test_contest_shapes_are_checked() -> None:
    _, codes, _, tiled = contest_views(2, 128, 64)
    with pytest.raises(InputError, match="codes"):
        NVFP4Tensor.from_contest(codes[..., 0], tiled)
    with pytest.raises(InputError, match="6-D view"):
        NVFP4Tensor.from_contest(codes, tiled[..., 0])
    with pytest.raises(InputError, match="tiled scales of shape"):
        NVFP4Tensor.from_contest(codes, tiled[..., :1])


def bad(codes: torch.Tensor, scales: torch.Tensor, *rest: object, **named: object) -> str:
    """The message with which the constructor refuses; it names the operation, an argument and a remedy."""
    with pytest.raises(InputError) as caught:
        NVFP4Tensor(codes, scales, *rest, **named)  # type: ignore[arg-type]
    assert caught.value.op == "NVFP4Tensor"
    assert caught.value.expected
    assert caught.value.got
    assert caught.value.remedy
    return f"{caught.value.argument}: {caught.value}"


def test_wrong_types() -> None:
    codes, scales = parts(4, 32)
    assert bad(codes.float(), scales).startswith("codes")
    assert bad(codes.to(torch.int8), scales).startswith("codes")
    assert bad([1], scales).startswith("codes")  # type: ignore[arg-type]
    assert bad(codes, scales.float()).startswith("scales")
    assert bad(codes, scales.view(torch.float8_e5m2)).startswith("scales")
    assert bad(codes, None).startswith("scales")  # type: ignore[arg-type]
    assert bad(codes, scales, torch.tensor(1.0, dtype=torch.float16)).startswith("tensor_scale")
    with pytest.raises(InputError, match="'linear' or 'tiled'"):
        NVFP4Tensor(codes, scales, scale_layout="rowmajor")


def test_wrong_shapes() -> None:
    codes, scales = parts(4, 32)
    assert bad(codes[0], scales).startswith("codes")
    assert bad(codes[None, None], scales).startswith("codes")
    assert "K a multiple of 16" in bad(torch.zeros(4, 12, dtype=torch.uint8), scales)
    assert "(4, 2)" in bad(codes, scales[:, :1])
    assert bad(codes, scales[:3]).startswith("scales")
    assert bad(codes[None], scales).startswith("scales")
    assert bad(codes, scales, torch.ones(4)).startswith("tensor_scale")
    assert bad(codes[None], scales[None], torch.ones(2)).startswith("tensor_scale")
    assert bad(codes, scales, torch.ones(1, 1)).startswith("tensor_scale")


def test_layout_mismatches_say_which_layout_it_is() -> None:
    codes, scales = parts(128, 64)
    tiled = layouts.TILED.pack(scales)
    assert "scale_layout='tiled'" in bad(codes, tiled)
    assert "scale_layout='linear'" in bad(codes, scales, scale_layout="tiled")
    # A flat or blocked matrix of the right size, as torch's to_blocked makes.
    assert ".view(1, 1, 32, 4, 4)" in bad(codes, tiled.view(128, 4).flatten(), scale_layout="tiled")


def test_strides() -> None:
    codes, scales = parts(64, 64)
    assert "contiguous" in bad(parts(64, 64)[0].repeat(1, 2)[:, ::2], scales)
    assert "contiguous" in bad(torch.zeros(64, 64, dtype=torch.uint8)[:, :32], scales)
    assert "contiguous" in bad(codes, scales.t().contiguous().t())


def test_nan_scales_are_refused_with_their_place_unless_told_not_to_look() -> None:
    codes, scales = parts(4, 32)
    for byte in (0x7F, 0xFF):
        scales[2, 1] = byte
        message = bad(codes, scales)
        assert "1 NaN" in message
        assert "[2, 1]" in message
        assert NVFP4Tensor(codes, scales, validate=False).shape == (4, 32)
    tiled = layouts.TILED.pack(scales)
    assert bad(codes, tiled, scale_layout="tiled").startswith("scales")


def test_padding_of_tiles_may_hold_anything() -> None:
    codes, scales = parts(130, 48)
    tiled = layouts.TILED.pack(scales)
    used = layouts.TILED.pack(torch.ones_like(scales)).bool()
    tiled[~used] = 0x7F
    got = NVFP4Tensor(codes, tiled, scale_layout="tiled")
    assert got.equal(NVFP4Tensor(codes, scales))
    tiled[0, 0, 0, 0, 0] = 0x7F
    assert "NaN" in bad(codes, tiled, scale_layout="tiled")


def test_tensor_scale_must_be_finite() -> None:
    codes, scales = parts(4, 32)
    for value in (float("nan"), float("inf")):
        assert bad(codes, scales, value).startswith("tensor_scale")


def test_mixed_devices() -> None:
    codes, scales = parts(4, 32)
    assert bad(codes, scales.to("meta")).startswith("scales")
    assert bad(codes, scales, torch.ones((), device="meta")).startswith("tensor_scale")


def test_more_than_2_to_the_31_elements() -> None:
    """Shapes are Python integers: no count overflows. The meta device needs no memory."""
    rows, k = 70000, 65536
    codes = torch.empty(rows, k // 2, dtype=torch.uint8, device="meta")
    for layout in (layouts.LINEAR, layouts.TILED):
        scales = torch.empty(layout.storage_shape(rows, k // 16), dtype=torch.uint8, device="meta")
        got = NVFP4Tensor(codes, scales, scale_layout=layout.name)
        assert got.numel() == rows * k > 2**32
        assert "70000" in repr(got)
        assert got[128:].shape == (rows - 128, k)
    assert layouts.TILED.offset(rows - 1, k // 16 - 1, rows, k // 16) > 2**28


def test_a_to_the_same_device_is_the_same_object() -> None:
    one = tensor(4, 32)
    assert one.to("cpu") is one
    moved = tensor(4, 32, tensor_scale=1.0).to("meta")
    assert moved.device == torch.device("meta")
    assert moved.tensor_scale is not None
    assert moved.tensor_scale.device == torch.device("meta")


@pytest.mark.gpu
def test_to_a_gpu_and_back() -> None:
    for layout in ("linear", "tiled"):
        one = tensor(3, 130, 48, tensor_scale=torch.tensor([1.0, 2.0, 3.0]), layout=layout)
        there = one.to("cuda")
        assert there.device.type == "cuda"
        assert torch.equal(there.dequantize().cpu(), one.dequantize())
        assert there.to("cpu").equal(one)
        assert there.equal(one)
        with pytest.raises(InputError, match="cuda"):
            NVFP4Tensor(there.codes, one.scales, scale_layout=layout)


def test_inside_torch_compile() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def scaled(t: NVFP4Tensor, x: torch.Tensor) -> torch.Tensor:
        return x * t.rows + t.codes.sum() + t.scales.float().sum()

    one = tensor(4, 32)
    assert scaled(one, torch.ones(2)).shape == (2,)
