"""`NVFP4Tensor`: packed E2M1 codes, E4M3 block scales and an optional fp32 tensor scale, as one immutable value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from nvfp4 import formats, layouts
from nvfp4.errors import InputError
from nvfp4.problem import Format

if TYPE_CHECKING:
    from nvfp4.quantize import Mode

_OP = "NVFP4Tensor"

ALIGNMENT = 16
"""Bytes to which the codes and scales of every NVFP4Tensor are aligned (what vector loads and tensor maps need)."""

_FORMATS = {
    (layout, scaled): Format("nvfp4", layout, scaled) for layout in ("linear", "tiled") for scaled in (False, True)
}

_MEMORY = ("codes", "scales", "tensor_scale")

Index = int | slice | tuple[int | slice, ...]


_signatures: dict[tuple[object, ...], int] = {}
_numbers = itertools.count()
_SIGNATURES = 8192  # that are remembered; a kind of tensor that is forgotten gets another number


def _signature(x: NVFP4Tensor) -> int:
    """Of two tensors with equal signatures one can stand for the other in a prepared call.

    A number, because every call compares the signatures of its operands; no number is given twice. (The format is one
    of four constants: its address stands for its value, which would take longer to hash.)
    """
    scale = x.tensor_scale
    kind = x.shape, id(x.format), x.device, type(x.codes), scale is not None and scale.dim()
    try:
        found = _signatures.get(kind)
    except TypeError:
        return next(_numbers)  # a symbolic size, while a program is traced, has no hash
    if found is None:
        if len(_signatures) >= _SIGNATURES:
            _signatures.clear()
        found = _signatures[kind] = next(_numbers)
    return found


def _viewed(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`data` as another type of one byte."""
    if data.dtype == dtype:
        return data
    if data.is_inference():
        # Made outside of inference mode, the view would claim to know whether its memory has changed.
        with torch.inference_mode():
            return data.view(dtype)
    return data.view(dtype)


def _aligned(data: torch.Tensor) -> torch.Tensor:
    """`data`, or a copy of it when it does not start at a multiple of `ALIGNMENT` bytes."""
    if data.storage_offset() % ALIGNMENT == 0 and (_is_fake(data) or data.data_ptr() % ALIGNMENT == 0):
        return data
    return data.clone()


def _is_fake(data: torch.Tensor) -> bool:
    """Whether `data` has no memory (meta and fake tensors), so that neither address nor values can be looked at."""
    return data.device.type == "meta" or isinstance(data, torch._subclasses.FakeTensor)


class NVFP4Tensor:
    """A matrix [rows, K], or a batch of them [L, rows, K], in NVFP4.

    A value is ``code * block_scale * tensor_scale``. The object is immutable: its attributes cannot be set again. It
    shares the memory of the tensors that it is made of, except that data which does not start at a multiple of 16
    bytes is copied once, so that kernels may rely on it.

    Args:
        codes: [..., rows, K/2] uint8 or float4_e2m1fn_x2, contiguous, the even element in the low nibble.
        scales: float8_e4m3fn or its bytes as uint8, contiguous; one scale for 16 elements along K. Linear:
            [..., rows, K/16]; tiled: [..., ceil(rows/128), ceil(K/64), 32, 4, 4] (see `nvfp4.layouts`).
        tensor_scale: None; a number or an fp32 tensor [] (or [1]) for the whole tensor; or fp32 [L], one for each
            matrix of the batch.
        scale_layout: ``"linear"`` or ``"tiled"``.
        validate: Whether to look at the values too: no NaN in `scales`, a finite `tensor_scale`. On a GPU that waits
            for the device; types, shapes and devices are always checked.

    Attributes:
        codes: uint8 [..., rows, K/2], contiguous, 16-byte aligned.
        scales: float8_e4m3fn, contiguous, 16-byte aligned.
        tensor_scale: None, or fp32 [] or [L] on the same device.
        scale_layout: ``"linear"`` or ``"tiled"``.
        shape: Logical shape, (rows, K) or (L, rows, K).
        L: Matrices of the batch; 1 for a single matrix.
        rows: Rows of one matrix.
        k: Elements of a row, a multiple of 16.
        device: Where everything lies.
        format: The `Format` that describes this operand in a `Problem`.
        signature: A number for all that choosing and preparing a call may depend on.

    Raises:
        InputError: Something does not fit; the message names it.
    """

    __slots__ = (
        "L",
        "__weakref__",
        "codes",
        "device",
        "format",
        "k",
        "rows",
        "scale_layout",
        "scales",
        "shape",
        "signature",
        "tensor_scale",
    )

    codes: torch.Tensor
    scales: torch.Tensor
    tensor_scale: torch.Tensor | None
    scale_layout: str
    shape: tuple[int, ...]
    L: int
    rows: int
    k: int
    device: torch.device
    format: Format
    signature: int

    def __init__(
        self,
        codes: torch.Tensor,
        scales: torch.Tensor,
        tensor_scale: torch.Tensor | float | None = None,
        *,
        scale_layout: str = "linear",
        validate: bool = True,
    ) -> None:
        layout = layouts.by_name(scale_layout)
        codes = _checked_codes(codes)
        *batch, rows, half = codes.shape
        k = 2 * half
        scales = _checked_scales(scales, codes, layout)
        scale = _checked_tensor_scale(tensor_scale, codes)
        if validate:
            _check_values(scales, scale, layout, rows, k // formats.BLOCK)
        put = object.__setattr__
        put(self, "codes", _aligned(codes))
        put(self, "scales", _aligned(scales))
        put(self, "tensor_scale", scale)
        put(self, "scale_layout", layout.name)
        put(self, "shape", (*batch, rows, k))
        put(self, "L", batch[0] if batch else 1)
        put(self, "rows", rows)
        put(self, "k", k)
        put(self, "device", codes.device)
        put(self, "format", _FORMATS[layout.name, scale is not None])
        put(self, "signature", _signature(self))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"NVFP4Tensor is immutable: `{name}` cannot be set; build a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"NVFP4Tensor is immutable: `{name}` cannot be deleted")

    @classmethod
    def from_float(
        cls,
        x: torch.Tensor,
        *,
        mode: Mode | str = "nvfp4",
        scale_layout: str = "linear",
        tensor_scale: torch.Tensor | float | None = None,
    ) -> NVFP4Tensor:
        """Quantize `x`: `nvfp4.quantize` under another name."""
        from nvfp4.quantize import quantize

        return quantize(x, mode=mode, scale_layout=scale_layout, tensor_scale=tensor_scale)

    @classmethod
    def from_contest(
        cls,
        codes: torch.Tensor,
        scales: torch.Tensor,
        tensor_scale: torch.Tensor | float | None = None,
        *,
        rows: int | None = None,
        validate: bool = True,
    ) -> NVFP4Tensor:
        """The tensors of the GPU MODE contest, as a batch [L, rows, K]. Views as the contest makes them are not copied.

        Args:
            codes: [rows, K/2, L], the permuted view of storage [L, rows, K/2]; uint8 or float4_e2m1fn_x2.
            scales: The 6-D view [32, 4, rest_m, 4, rest_k, L] of tiled storage, or linear [rows, K/16, L].
            tensor_scale: As in the constructor; the contest has none.
            rows: Take only the first rows (the contest pads the vector of gemv to 128 rows); None for all.
            validate: As in the constructor.
        """
        if codes.dim() != 3:
            raise InputError(
                "NVFP4Tensor.from_contest", "codes", "[rows, K/2, L]", tuple(codes.shape), "Pass the permuted view."
            )
        storage = formats.as_bytes(codes).permute(2, 0, 1).contiguous()
        if scales.dim() == 6:
            layout, data = "tiled", layouts.CONTEST.tiled(scales)
        elif scales.dim() == 3:
            layout, data = "linear", scales.permute(2, 0, 1)
        else:
            expected = "the 6-D view [32, 4, rest_m, 4, rest_k, L] or [rows, K/16, L]"
            raise InputError(
                "NVFP4Tensor.from_contest", "scales", expected, tuple(scales.shape), "Pass one of the contest's views."
            )
        whole = cls(storage, data.contiguous(), tensor_scale, scale_layout=layout, validate=validate)
        return whole if rows is None else whole._head(rows)

    def _head(self, rows: int) -> NVFP4Tensor:
        """The first `rows` rows, in either layout."""
        if not 0 <= rows <= self.rows:
            raise InputError(_OP, "rows", f"0..{self.rows}", rows, "Ask for rows that exist.")
        if self.scale_layout == "linear":
            scales = self.scales[..., :rows, :]
        else:
            scales = formats.as_bytes(self.scales)[..., : -(-rows // layouts.TILE_ROWS), :, :, :, :]
        return self._like(self.codes[..., :rows, :], scales, self.tensor_scale)

    def _like(self, codes: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor | None) -> NVFP4Tensor:
        """A tensor of the same layout from parts that were validated before."""
        return NVFP4Tensor(
            codes.contiguous(),
            formats.as_bytes(scales).contiguous(),
            tensor_scale,
            scale_layout=self.scale_layout,
            validate=False,
        )

    @property
    def ndim(self) -> int:
        """2 for a matrix, 3 for a batch."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales (with their padding) and tensor scale."""
        scale = self.tensor_scale.nbytes if self.tensor_scale is not None else 0
        return self.codes.nbytes + self.scales.nbytes + scale

    def numel(self) -> int:
        """Logical elements."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def linear_scales(self) -> torch.Tensor:
        """The block scales as float8_e4m3fn [..., rows, K/16], whatever the layout."""
        return layouts.by_name(self.scale_layout).unpack(self.scales, self.rows, self.k // formats.BLOCK)

    def take_rows(self, index: torch.Tensor) -> NVFP4Tensor:
        """Rows of a matrix, copied, in the same layout.

        Args:
            index: int32 or int64 [count]: which rows, in order; each from 0 to `rows` - 1.
        """
        # As bytes: few operators exist for float8.
        scales = self.linear_scales().view(torch.uint8).index_select(0, index).view(torch.float8_e4m3fn)
        packed = layouts.by_name(self.scale_layout).pack(scales)
        codes = self.codes.index_select(0, index)
        return NVFP4Tensor(codes, packed, self.tensor_scale, scale_layout=self.scale_layout, validate=False)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The values, [..., rows, K] of `dtype`.

        The product of code, block scale and tensor scale is formed in float32 (float64 for float64) and rounded to
        `dtype`. Without a tensor scale the result is exact in every type, float16 and bfloat16 included.
        """
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        values = formats.decode_e2m1(self.codes, wide)
        scales = formats.decode_e4m3(self.linear_scales(), wide)
        values.view(*scales.shape, formats.BLOCK).mul_(scales.unsqueeze(-1))
        if self.tensor_scale is not None:
            values.mul_(self.tensor_scale.to(wide).view(-1, 1, 1) if self.tensor_scale.dim() else self.tensor_scale)
        return values.to(dtype)

    def to(self, device: torch.device | str) -> NVFP4Tensor:
        """The same tensor on `device`; itself when it is there already."""
        device = torch.device(device)
        if device == self.device or (device.index is None and device.type == self.device.type == "cpu"):
            return self
        scale = self.tensor_scale.to(device) if self.tensor_scale is not None else None
        return self._like(self.codes.to(device), formats.as_bytes(self.scales).to(device), scale)

    def to_layout(self, scale_layout: str) -> NVFP4Tensor:
        """The same tensor with its scales in ``"linear"`` or ``"tiled"``; itself when they are."""
        layout = layouts.by_name(scale_layout)
        if layout.name == self.scale_layout:
            return self
        scales = layout.pack(self.linear_scales())
        return NVFP4Tensor(self.codes, scales, self.tensor_scale, scale_layout=layout.name, validate=False)

    def __getitem__(self, index: Index) -> NVFP4Tensor:
        """Matrices and rows: ``t[i]``, ``t[i:j]``, and for a batch ``t[l, i:j]``, ``t[:, i:j]``.

        The first index of a batch selects matrices: an integer drops that dimension. The index of rows is a slice of
        step 1, or an integer, which keeps the dimension (a tensor has at least two): ``t[5]`` of a matrix has shape
        (1, K). With tiled scales rows can be taken from a multiple of 128 on. Memory is shared where the result is
        contiguous and aligned, and copied elsewhere.

        Raises:
            InputError: An index that is out of range or of another kind, a step, or tiled rows inside a tile.
        """
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) > self.ndim - 1:
            raise InputError(
                _OP, "index", f"at most {self.ndim - 1} indices for shape {self.shape}", index, "K is never indexed."
            )
        codes, scales, scale = self.codes, formats.as_bytes(self.scales), self.tensor_scale
        if self.ndim == 3:
            which = _batch_index(parts[0], self.L)
            codes, scales = codes[which], scales[which]
            if scale is not None and scale.dim():
                scale = scale[which]
            parts = parts[1:]
        if parts:
            begin, end = _row_range(parts[0], self.rows)
            codes = codes[..., begin:end, :]
            if self.scale_layout == "linear":
                scales = scales[..., begin:end, :]
            else:
                first, last = _tile_range(begin, end)
                scales = scales[..., first:last, :, :, :, :]
        return self._like(codes, scales, scale)

    def equal(self, other: NVFP4Tensor) -> bool:
        """Whether both hold the same codes, scale bytes and tensor scale in the same shape, whatever the layouts."""
        if self.shape != other.shape or (self.tensor_scale is None) != (other.tensor_scale is None):
            return False
        if self.tensor_scale is not None and other.tensor_scale is not None:
            if self.tensor_scale.shape != other.tensor_scale.shape:
                return False
            if not torch.equal(self.tensor_scale, other.tensor_scale.to(self.device)):
                return False
        mine, theirs = formats.as_bytes(self.linear_scales()), formats.as_bytes(other.linear_scales())
        return torch.equal(self.codes, other.codes.to(self.device)) and torch.equal(mine, theirs.to(self.device))

    def __reduce__(self) -> tuple[Any, ...]:
        # Bytes, because torch 2.13 cannot unpickle a float8 storage outside torch.save.
        return _rebuild, (self.codes, formats.as_bytes(self.scales), self.tensor_scale, self.scale_layout)

    def __repr__(self) -> str:
        if self.tensor_scale is None:
            scale = "no tensor scale"
        elif _is_fake(self.tensor_scale):
            scale = "tensor scale"
        elif self.tensor_scale.dim():
            scale = f"{self.tensor_scale.numel()} tensor scales"
        else:
            scale = f"tensor scale {float(self.tensor_scale):.6g}"
        text = f"NVFP4Tensor(shape={self.shape}, {self.scale_layout} scales, {scale}, device='{self.device}')"
        if _is_fake(self.codes) or not self.codes.numel():
            return text
        first = self[0] if self.ndim == 3 else self
        block = formats.decode_e2m1(first.codes[0, : formats.BLOCK // 2])
        codes = " ".join(f"{value:g}" for value in block.tolist())
        return f"{text}\n  first block: {float(first.scales.flatten()[0]):g} x [{codes}]"


def maker(like: NVFP4Tensor) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], NVFP4Tensor]:
    """What puts tensors of the kind of `like` together from codes, scales (bytes) and tensor scale, without a look.

    For callers that know these to be what the constructor would keep: of the shapes, types, device and alignment that
    those of `like` have. Holds none of its memory.
    """
    new, put = NVFP4Tensor.__new__, object.__setattr__
    rest = [(name, getattr(like, name)) for name in NVFP4Tensor.__annotations__ if name not in _MEMORY]

    def make(codes: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor | None) -> NVFP4Tensor:
        made = new(NVFP4Tensor)
        put(made, "codes", codes)
        put(made, "scales", scales.view(torch.float8_e4m3fn))
        put(made, "tensor_scale", tensor_scale)
        for name, value in rest:
            put(made, name, value)
        return made

    return make


def _rebuild(
    codes: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor | None, scale_layout: str
) -> NVFP4Tensor:
    """What `torch.load` calls: the constructor with every check, because files may be damaged."""
    return NVFP4Tensor(codes, scales, tensor_scale, scale_layout=scale_layout)


# So that torch.load with weights_only=True, its default, reads NVFP4Tensors once this module is imported (which any use
# of `nvfp4.NVFP4Tensor` does). Nothing else is called on loading than the checked constructor.
torch.serialization.add_safe_globals([NVFP4Tensor, _rebuild])


def _checked_codes(codes: torch.Tensor) -> torch.Tensor:
    if not isinstance(codes, torch.Tensor):
        raise InputError(_OP, "codes", "a torch.Tensor", type(codes).__name__, "Pass packed codes.")
    if codes.dtype not in (torch.uint8, torch.float4_e2m1fn_x2):
        raise InputError(
            _OP, "codes", "uint8 or float4_e2m1fn_x2", codes.dtype, "Pass packed codes, or quantize a float tensor."
        )
    if codes.dim() not in (2, 3):
        expected = "[rows, K/2] or [L, rows, K/2]"
        raise InputError(_OP, "codes", expected, tuple(codes.shape), "Reshape to a matrix or a batch of matrices.")
    k = 2 * codes.shape[-1]
    if k % formats.BLOCK:
        raise InputError(_OP, "codes", f"K a multiple of {formats.BLOCK}", f"K = {k}", "Pad K with zero codes.")
    if not codes.is_contiguous():
        raise InputError(
            _OP,
            "codes",
            "contiguous memory, K fastest",
            f"strides {tuple(codes.stride())} for shape {tuple(codes.shape)}",
            "Call .contiguous(), or NVFP4Tensor.from_contest for the contest's permuted views.",
        )
    return _viewed(codes, torch.uint8)


def _checked_scales(scales: torch.Tensor, codes: torch.Tensor, layout: layouts.Linear | layouts.Tiled) -> torch.Tensor:
    if not isinstance(scales, torch.Tensor):
        raise InputError(_OP, "scales", "a torch.Tensor", type(scales).__name__, "Pass the block scales.")
    if scales.dtype not in (torch.uint8, torch.float8_e4m3fn):
        raise InputError(
            _OP, "scales", "float8_e4m3fn or its bytes as uint8", scales.dtype, "Convert with .to(torch.float8_e4m3fn)."
        )
    if scales.device != codes.device:
        raise InputError(_OP, "scales", f"device {codes.device}, where the codes are", scales.device, "Move it there.")
    *batch, rows, half = codes.shape
    blocks = 2 * half // formats.BLOCK
    expected = layout.storage_shape(rows, blocks, batch)
    if tuple(scales.shape) != expected:
        other = layouts.TILED if layout.name == "linear" else layouts.LINEAR
        remedy = "Pass one scale for 16 elements along K."
        if tuple(scales.shape) == other.storage_shape(rows, blocks, batch):
            remedy = f"These are {other.name} scales: pass scale_layout='{other.name}'."
        elif scales.numel() == math.prod(expected) and layout.name == "tiled":
            remedy = f"If these bytes are 128x4 tiles, pass them as .view{expected}."
        raise InputError(_OP, "scales", f"{layout.name} scales of shape {expected}", tuple(scales.shape), remedy)
    if not scales.is_contiguous():
        got = f"strides {tuple(scales.stride())} for shape {tuple(scales.shape)}"
        raise InputError(_OP, "scales", "contiguous memory", got, "Call .contiguous().")
    return _viewed(scales, torch.float8_e4m3fn)


def _checked_tensor_scale(scale: torch.Tensor | float | None, codes: torch.Tensor) -> torch.Tensor | None:
    if scale is None:
        return None
    if not isinstance(scale, torch.Tensor):
        return torch.tensor(float(scale), dtype=torch.float32, device=codes.device)
    if scale.dtype != torch.float32:
        raise InputError(_OP, "tensor_scale", "float32", scale.dtype, "Convert with .float().")
    if scale.device != codes.device:
        raise InputError(
            _OP, "tensor_scale", f"device {codes.device}, where the codes are", scale.device, "Move it there."
        )
    if codes.dim() == 3 and tuple(scale.shape) == (codes.shape[0],):
        return scale.contiguous()
    if scale.numel() == 1 and scale.dim() <= 1:
        return scale.reshape(())
    expected = "[]" + (f" or [{codes.shape[0]}]" if codes.dim() == 3 else "")
    raise InputError(
        _OP, "tensor_scale", f"shape {expected}", list(scale.shape), "Pass one scale, or one for each matrix."
    )


def _check_values(
    scales: torch.Tensor,
    tensor_scale: torch.Tensor | None,
    layout: layouts.Linear | layouts.Tiled,
    rows: int,
    blocks: int,
) -> None:
    if _is_fake(scales):
        return
    if formats.has_nan_e4m3(scales):
        # Padding may hold anything: only logical elements count, and only they have a place to name.
        nan = (layout.unpack(formats.as_bytes(scales), rows, blocks) & 0x7F) == 0x7F
        if bool(nan.any()):
            got = f"{int(nan.sum())} NaN (byte 0x7F or 0xFF), the first for block {nan.nonzero()[0].tolist()}"
            remedy = "Scales may be uninitialised: load or compute them again."
            raise InputError(_OP, "scales", "no NaN", got, remedy)
    if tensor_scale is not None and not bool(torch.isfinite(tensor_scale).all()):
        raise InputError(
            _OP, "tensor_scale", "finite values", tensor_scale.tolist(), "Check the division that made the scale."
        )


def _batch_index(index: int | slice, count: int) -> int | slice:
    if isinstance(index, slice):
        if index.step not in (None, 1):
            raise InputError(_OP, "index", "a slice of step 1", index, "Index one matrix at a time.")
        return index
    return _integer(index, count, "matrices")


def _row_range(index: int | slice, rows: int) -> tuple[int, int]:
    if isinstance(index, slice):
        begin, end, step = index.indices(rows)
        if step != 1:
            raise InputError(_OP, "index", "a slice of step 1", index, "Take consecutive rows.")
        return begin, max(begin, end)
    row = _integer(index, rows, "rows")
    return row, row + 1


def _integer(index: int, count: int, what: str) -> int:
    if isinstance(index, bool) or not hasattr(index, "__index__"):
        raise InputError(_OP, "index", "an integer or a slice", type(index).__name__, "Index with numbers or ranges.")
    value = index.__index__()
    if not -count <= value < count:
        # IndexError, not InputError: Python's iteration protocol ends with it.
        raise IndexError(f"{_OP}: index {value} is out of range for {count} {what}")
    return value % count


def _tile_range(begin: int, end: int) -> tuple[int, int]:
    if begin % layouts.TILE_ROWS and begin != end:
        raise InputError(
            _OP,
            "index",
            f"tiled rows from a multiple of {layouts.TILE_ROWS} on",
            f"rows {begin}..{end}",
            "Call .to_layout('linear') first.",
        )
    first = begin // layouts.TILE_ROWS
    return first, first + -(-(end - begin) // layouts.TILE_ROWS)
