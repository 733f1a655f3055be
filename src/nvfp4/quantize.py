"""Quantizers: float tensors to NVFP4, with one named mode for each convention in the wild.

All modes share the scheme. With amax the largest magnitude of the tensor and amax_b that of a block of 16::

    ts  =  amax / (6 * 448)                     tensor scale: the largest block scale becomes 448
    s   =  e4m3( amax_b / 6 / ts )              block scale: the largest code of the block becomes 6
    q   =  e2m1( x / (s * ts) )                 codes; both roundings to nearest even, saturating

They differ in the order and width of these operations, in the smallest block scale, in what becomes of zeros, and in
how the tensor scale is stored; `Mode` has the formulas. Codes and scales are bit-exact with the library that a mode
names, except where that library makes NaN (compared with nvidia-modelopt 0.47, torchao 0.18, compressed-tensors 0.20).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch

from nvfp4 import formats, layouts
from nvfp4.errors import InputError
from nvfp4.tensor import NVFP4Tensor

_OP = "quantize"
_TOP = formats.E2M1_MAX * formats.E4M3_MAX
_FLOAT32_TINY = 2.0**-126

# Elements quantized at a time, which bounds the float64 temporaries.
_CPU_CHUNK = 1 << 20
_GPU_CHUNK = 1 << 26


class Mode(str, Enum):
    """A convention. `f32(...)` is a float32 operation, rounded; plain arithmetic is float64.

    NVFP4: ``ts = f32(amax / 2688)``, at least 2^-126, and 1 for a tensor of zeros; ``s = e4m3(amax_b / (6 * ts))``,
        at least 2^-9 unless the block is all zeros, whose scale is 0; ``q = e2m1(x / (s * ts))``; zero keeps its sign.
    NVFP4_BLOCK: The same with ts = 1 and without a tensor scale. Blocks above 2688 saturate.
    MODELOPT: ``ts = f32(amax / 2688)``; ``s = f32(amax_b / f32(6 * ts))``, where 0 becomes 1.0, then clamped to
        [2^-9, 448] and rounded to E4M3; ``q = e2m1(f32(x / f32(s * ts)))``; -0 becomes +0. Stored as
        ``weight_scale_2 = ts``.
    TORCHAO: ``ts = f32(amax / 2688)``; ``s = f32(f32(amax_b / 6) / ts)`` clamped to [2^-6, 448] and rounded to E4M3;
        ``q = e2m1(f32(x * f32(f32(1 / ts) / s)))``; the sign of zero is kept. Stored as ``per_tensor_scale = ts``.
    TORCHAO_BLOCK: TORCHAO without a per-tensor scale: ``s = f32(amax_b / 6)`` clamped and rounded likewise,
        ``q = e2m1(f32(x * f32(1 / s)))``.
    COMPRESSED_TENSORS: ``g = 2688 / amax`` and ``t = amax_b / 6``, both rounded to the type of x (bfloat16 weights have
        bfloat16 rounding here), where amax is at least the smallest normal of that type and an infinite g becomes 1;
        ``s = f32(g * t)`` clamped to 448 and rounded to E4M3, where 0 becomes 0.125;
        ``q = e2m1(f32(x / f32(s / g)))``; -0 becomes +0. Stored as ``weight_global_scale = g``, a divisor: the
        tensor scale here is ``f32(1 / g)``.
    """

    NVFP4 = "nvfp4"
    NVFP4_BLOCK = "nvfp4_block"
    MODELOPT = "modelopt"
    TORCHAO = "torchao"
    TORCHAO_BLOCK = "torchao_block"
    COMPRESSED_TENSORS = "compressed_tensors"

    def __str__(self) -> str:
        return self.value


# (x [rows, blocks, 16], amax_b [rows, blocks], scale []) -> (e4m3 [rows, blocks], ratios [rows, blocks, 16])
_Blocks = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class _Convention:
    """What one mode does.

    Attributes:
        global_scale: amax (in the type of x) to what `blocks` takes as its scale; None without a tensor scale.
        blocks: Block scales and the ratios that become codes.
        divisor: Whether the global scale divides, so that the tensor scale is its reciprocal.
        exact: Whether to work in float64 rather than in the type of x.
    """

    global_scale: Callable[[torch.Tensor], torch.Tensor] | None
    blocks: _Blocks
    divisor: bool = False
    exact: bool = False


def _amax_scale(amax: torch.Tensor) -> torch.Tensor:
    return amax.float() / _TOP


def _plain_scale(amax: torch.Tensor) -> torch.Tensor:
    scale = (amax.double() / _TOP).float()
    if formats.found(torch.isinf(scale)):
        got = f"a largest magnitude of {float(amax.max()):g}"
        raise InputError(_OP, "x", "values whose tensor scale fits float32", got, "Scale x down.")
    return torch.where(amax == 0, torch.ones_like(scale), scale.clamp(min=_FLOAT32_TINY))


def _plain_blocks(x: torch.Tensor, amax: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = scale.double()
    scales = formats.encode_e4m3(torch.where(amax == 0, amax, (amax / (6.0 * wide)).clamp(min=2.0**-9)))
    step = scales.double() * wide
    return scales, torch.where((amax == 0).unsqueeze(-1), x, x / step.unsqueeze(-1))


def _modelopt_blocks(x: torch.Tensor, amax: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ratio = (amax.float() / (6.0 * scale)).nan_to_num(nan=0.0, posinf=formats.E4M3_MAX)
    scales = formats.encode_e4m3(torch.where(ratio == 0, 1.0, ratio).clamp(min=formats.E4M3_MIN_SUBNORMAL))
    return scales, _positive_zero(x.float() / (scales.float() * scale).unsqueeze(-1))


def _torchao_blocks(x: torch.Tensor, amax: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ratio = ((amax.float() / 6.0) / scale).nan_to_num(nan=0.0, posinf=formats.E4M3_MAX)
    scales = formats.encode_e4m3(ratio.clamp(min=formats.E4M3_MIN_NORMAL))
    return scales, x.float() * ((1.0 / scale) / scales.float()).unsqueeze(-1)


def _divisor(amax: torch.Tensor) -> torch.Tensor:
    ratio = _TOP / amax.clamp(min=torch.finfo(amax.dtype).tiny)
    return ratio.nan_to_num(nan=1.0, posinf=1.0).float()


def _compressed_blocks(x: torch.Tensor, amax: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = formats.encode_e4m3(scale * (amax / 6.0).float())
    scales = torch.where(scales.float() == 0, 0.125, scales.float()).to(torch.float8_e4m3fn)
    return scales, _positive_zero(x.float() / (scales.float() / scale).unsqueeze(-1))


def _positive_zero(ratio: torch.Tensor) -> torch.Tensor:
    """`ratio` with -0 made +0; a small negative number keeps its sign, and becomes code 8."""
    return torch.where(ratio == 0, 0.0, ratio)


_CONVENTIONS: dict[Mode, _Convention] = {
    Mode.NVFP4: _Convention(_plain_scale, _plain_blocks, exact=True),
    Mode.NVFP4_BLOCK: _Convention(None, _plain_blocks, exact=True),
    Mode.MODELOPT: _Convention(_amax_scale, _modelopt_blocks),
    Mode.TORCHAO: _Convention(_amax_scale, _torchao_blocks),
    Mode.TORCHAO_BLOCK: _Convention(None, _torchao_blocks),
    Mode.COMPRESSED_TENSORS: _Convention(_divisor, _compressed_blocks, divisor=True),
}


def quantize(
    x: torch.Tensor,
    *,
    mode: Mode | str = Mode.NVFP4,
    scale_layout: str = "linear",
    tensor_scale: torch.Tensor | float | None = None,
    per_matrix: bool = False,
) -> NVFP4Tensor:
    """Quantize a float tensor to NVFP4, to nearest even and saturating.

    It waits for a GPU, to refuse what has no NVFP4 form. Not so while a CUDA graph is captured: a replay quantizes
    whatever it finds, and NaN and infinity get some codes. Call it once before capturing, which makes its tables.

    Args:
        x: [rows, K] or [L, rows, K], float16, bfloat16, float32 or float64 (which every mode but the plain ones first
            rounds to float32); K a multiple of 16; any strides. NaN and infinity are refused.
        mode: A `Mode` or its name: ``"nvfp4"`` (default), ``"nvfp4_block"`` (no tensor scale), ``"modelopt"``,
            ``"torchao"``, ``"torchao_block"`` or ``"compressed_tensors"``.
        scale_layout: ``"linear"`` or ``"tiled"``.
        tensor_scale: A factor to use instead of the one from the data (as for calibrated activations): a positive
            number or fp32 tensor [] or [1], or [L] for a batch. Larger values saturate.
        per_matrix: For a batch, compute one tensor scale for each matrix instead of one for all.

    Raises:
        InputError: `x` or another argument does not fit; the message names it.
    """
    layout = layouts.by_name(scale_layout)
    try:
        mode = Mode(mode)
    except ValueError:
        names = ", ".join(repr(known.value) for known in Mode)
        raise InputError(_OP, "mode", f"one of {names}", repr(mode), "Name one of these.") from None
    convention = _CONVENTIONS[mode]
    _check_input(x)
    if per_matrix and x.dim() != 3:
        raise InputError(_OP, "per_matrix", "a batch [L, rows, K]", f"shape {tuple(x.shape)}", "Leave it False.")
    if x.dtype == torch.float64 and not convention.exact:
        x = x.float()
    count = x.shape[0] if x.dim() == 3 and per_matrix else 1
    given = _given_scale(tensor_scale, x, mode)
    if given is not None:
        used, stored = (1.0 / given if convention.divisor else given), given
    elif convention.global_scale is not None:
        used = convention.global_scale(_amax(x, per_matrix))
        stored = (1.0 / used if convention.divisor else used).reshape((count,) if per_matrix else ())
    else:
        used, stored = torch.ones((), device=x.device), None
    codes, scales = _encode(x, used, convention)
    return NVFP4Tensor(codes, layout.pack(scales), stored, scale_layout=layout.name, validate=False)


def _check_input(x: torch.Tensor) -> None:
    if not isinstance(x, torch.Tensor):
        raise InputError(_OP, "x", "a torch.Tensor", type(x).__name__, "Convert with torch.as_tensor.")
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise InputError(_OP, "x", "float16, bfloat16, float32 or float64", x.dtype, "Convert with .float().")
    if x.dim() not in (2, 3):
        raise InputError(_OP, "x", "[rows, K] or [L, rows, K]", tuple(x.shape), "Reshape to a matrix or a batch.")
    if x.shape[-1] % formats.BLOCK:
        raise InputError(
            _OP, "x", f"K a multiple of {formats.BLOCK}", f"K = {x.shape[-1]}", "Pad K with zeros, as F.pad does."
        )
    if x.numel() and formats.found(~torch.isfinite(x.abs().amax())):
        got = f"{int(torch.isnan(x).sum())} NaN and {int(torch.isinf(x).sum())} infinite values"
        raise InputError(_OP, "x", "finite values", got, "E2M1 has neither: clean the tensor first.")


def _given_scale(scale: torch.Tensor | float | None, x: torch.Tensor, mode: Mode) -> torch.Tensor | None:
    """The caller's tensor scale as fp32 [] or [L]; None when there is none."""
    if scale is None:
        return None
    if _CONVENTIONS[mode].global_scale is None:
        raise InputError(_OP, "tensor_scale", f"None in mode {mode.value!r}", scale, "Choose a mode with tensor scale.")
    if not isinstance(scale, torch.Tensor):
        scale = torch.tensor(float(scale), dtype=torch.float32, device=x.device)
    if scale.dtype != torch.float32 or scale.device != x.device:
        expected, got = f"float32 on {x.device}", f"{scale.dtype} on {scale.device}"
        raise InputError(_OP, "tensor_scale", expected, got, "Convert and move it.")
    if not (scale.dim() <= 1 and (scale.numel() == 1 or (x.dim() == 3 and scale.numel() == x.shape[0]))):
        raise InputError(_OP, "tensor_scale", "shape [] or [L]", list(scale.shape), "Pass one, or one for each matrix.")
    if formats.found(~((scale > 0) & torch.isfinite(scale))):
        raise InputError(_OP, "tensor_scale", "positive finite values", scale.tolist(), "Compute it as amax / 2688.")
    return scale if x.dim() == 3 and scale.dim() == 1 else scale.reshape(())


def _amax(x: torch.Tensor, per_matrix: bool) -> torch.Tensor:
    """Largest magnitude, [] or [L], in the type of x; 0 where there are no elements."""
    if per_matrix:
        return x.abs().amax(dim=(1, 2)) if x[0:1].numel() else x.new_zeros(x.shape[0])
    return x.abs().amax() if x.numel() else x.new_zeros(())


def _encode(x: torch.Tensor, scale: torch.Tensor, convention: _Convention) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed codes [..., K/2] and linear E4M3 scales [..., K/16], a chunk of rows at a time."""
    k = x.shape[-1]
    codes = torch.empty((*x.shape[:-1], k // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((*x.shape[:-1], k // formats.BLOCK), dtype=torch.float8_e4m3fn, device=x.device)
    step = max(1, (_CPU_CHUNK if x.device.type == "cpu" else _GPU_CHUNK) // max(k, 1))
    # A matrix is a batch of one; the loops only choose rows.
    batches = [(x, codes, scales, scale)]
    if x.dim() == 3:
        own = scale.expand(x.shape[0]) if scale.dim() == 0 else scale
        batches = [(x[i], codes[i], scales[i], own[i]) for i in range(x.shape[0])]
    for values, code_rows, scale_rows, one in batches:
        for begin in range(0, values.shape[0] if k else 0, step):
            rows = slice(begin, begin + step)
            part = values[rows].double() if convention.exact else values[rows]
            blocks = part.unflatten(-1, (-1, formats.BLOCK))  # type: ignore[no-untyped-call]
            block_scales, ratios = convention.blocks(blocks, blocks.abs().amax(dim=-1), one)
            # Zero times an infinite reciprocal, and 0 / 0, come from zeros: codes of zero.
            ratios = ratios.nan_to_num(nan=0.0, posinf=formats.E2M1_MAX, neginf=-formats.E2M1_MAX)
            code_rows[rows] = formats.pack(formats.encode_e2m1(ratios).flatten(-2))
            scale_rows.view(torch.uint8)[rows] = block_scales.view(torch.uint8)
    return codes, scales
