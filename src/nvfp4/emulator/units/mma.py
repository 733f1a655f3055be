"""mma.sync: matrix multiply-accumulate of a warp, with and without block scaling (PTX ISA 9.7.14.5, 9.7.14.3).

One rule covers the fragments of all shapes with N = 8 (figures 53 to 102). With E elements in a register, group g =
lane / 4 and
quad position t = lane % 4:

    A   register r: row g + 8 (r % (M / 8)),  k = 4 E (r / (M / 8)) + E t + e
    B   register r: column g,                 k = 4 E r + E t + e
    C   element  i: row g + 8 (i / 2),        column 2 t + i % 2

Arrays carry any leading batch axes (warps): uint32 [..., registers, 32], or uint64 for f64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units.accumulate import Alignment
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import F32, F64, FORMATS
from nvfp4.emulator.units.tcgen05_cp import E2M1_SHIFT

U32 = NDArray[np.uint32]

_F8F6F4 = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")
_SHAPES: dict[str, tuple[str, ...]] = {
    # a type -> shapes (PTX ISA 9.7.14.5.14)
    "f16": ("m16n8k8", "m16n8k16"),
    "bf16": ("m16n8k8", "m16n8k16"),
    "tf32": ("m16n8k4", "m16n8k8"),
    "e4m3": ("m16n8k16", "m16n8k32"),
    "e5m2": ("m16n8k16", "m16n8k32"),
    "e3m2": ("m16n8k32",),
    "e2m3": ("m16n8k32",),
    "e2m1": ("m16n8k32", "m16n8k64"),
    "s8": ("m8n8k16", "m16n8k16", "m16n8k32"),
    "u8": ("m8n8k16", "m16n8k16", "m16n8k32"),
    "s4": ("m8n8k32", "m16n8k32", "m16n8k64"),
    "u4": ("m8n8k32", "m16n8k32", "m16n8k64"),
    "f64": ("m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"),
}
_INTEGERS = ("s8", "u8", "s4", "u4")
_SCALES: dict[str, dict[int, tuple[str, ...]]] = {
    # kind -> {scale vector size: scale types} (PTX ISA table 36)
    "mxf8f6f4": {1: ("ue8m0",)},
    "mxf4": {2: ("ue8m0",)},
    "mxf4nvf4": {2: ("ue8m0",), 4: ("ue8m0", "ue4m3")},
}


@dataclass(frozen=True)
class MmaSpec:
    """One mma.sync instruction: shape "m16n8k16", PTX type names, kind ("" or "f8f6f4", "mxf8f6f4", "mxf4",
    "mxf4nvf4").

    scales: scale factors along K (0 without block scaling) of type `scale_type`; saturate: .satfinite of the integer
    forms.
    """

    shape: str
    d_type: str
    a_type: str
    b_type: str
    c_type: str
    kind: str = ""
    scales: int = 0
    scale_type: str = ""
    saturate: bool = False

    def __post_init__(self) -> None:
        name = f"mma.sync.{self.shape}.{self.d_type}.{self.a_type}.{self.b_type}.{self.c_type}"
        for matrix in (self.a_type, self.b_type):
            if matrix not in _SHAPES:
                raise UnitError(f"{name}: operand type .{matrix}", "it is not implemented (.b1) or does not exist")
            if self.shape not in _SHAPES[matrix]:
                hint = " (m8n8k4 with .f16 is not implemented)" if self.shape == "m8n8k4" else ""
                raise UnitError(
                    f"{name}: shape .{self.shape} with .{matrix}", f"shapes are {', '.join(_SHAPES[matrix])}{hint}"
                )
        wide = {"f16": ("f16", "f32"), "e4m3": ("f16", "f32"), "f64": ("f64",)}
        legal = (
            ("s32",)
            if self.a_type in _INTEGERS
            else wide.get("e4m3" if self.a_type in _F8F6F4 else self.a_type, ("f32",))
        )
        if self.d_type not in legal or self.c_type not in legal:
            raise UnitError(f"{name}: accumulators", f"C and D are {' or '.join('.' + t for t in legal)} here")
        if self.kind in _SCALES:
            if self.scales not in _SCALES[self.kind] or self.scale_type not in _SCALES[self.kind][self.scales]:
                raise UnitError(
                    f"{name}.kind::{self.kind} with scale_vec::{self.scales}X.{self.scale_type}",
                    f"combinations are {_SCALES[self.kind]} (PTX ISA table 36)",
                )
            if (self.kind == "mxf8f6f4") != (self.k == 32) or self.d_type != "f32":
                raise UnitError(
                    f"{name}.kind::{self.kind}", "mxf8f6f4 is m16n8k32, mxf4 and mxf4nvf4 are m16n8k64, all with .f32"
                )
        elif self.scales or self.kind not in ("", "f8f6f4"):
            raise UnitError(f"{name}.kind::{self.kind}", f"kinds are f8f6f4, {', '.join(_SCALES)}")

    @property
    def m(self) -> int:
        """Rows."""
        return 8 if self.shape.startswith("m8") else 16

    @property
    def k(self) -> int:
        """Elements along K."""
        return int(self.shape.rpartition("k")[2])

    @property
    def container(self) -> int:
        """Bits of one element in a register."""
        bits = 64 if self.a_type == "f64" else FORMATS[self.a_type].bits
        return 8 if self.k == 32 and self.a_type in _F8F6F4 else bits

    @property
    def registers(self) -> tuple[int, int, int, int]:
        """Registers (of 64 bits for f64) of A, B, C, D in each thread."""
        width = 64 if self.a_type == "f64" else 32
        a = self.m * self.k * self.container // (32 * width)
        return a, a * 8 // self.m, self._c(self.c_type), self._c(self.d_type)

    def _c(self, kind: str) -> int:
        return self.m // 8 * (1 if kind == "f16" else 2)


def fragment_a(regs: NDArray[Any], m: int) -> NDArray[Any]:
    """Registers of A [..., n, 32] as [..., m, K register groups, 4]: the last two axes in K order, each entry one
    register."""
    head = regs.shape[:-2]
    halves = m // 8
    split = regs.reshape(*head, -1, halves, 8, 4)  # k group, row half, g, t
    d = len(head)
    ordered: NDArray[Any] = split.transpose(*range(d), d + 1, d + 2, d, d + 3).reshape(*head, m, -1, 4)
    return ordered


def fragment_b(regs: NDArray[Any]) -> NDArray[Any]:
    """Registers of B [..., n, 32] as [..., 8 columns, K register groups, 4]."""
    head = regs.shape[:-2]
    split = regs.reshape(*head, -1, 8, 4)
    d = len(head)
    ordered: NDArray[Any] = split.transpose(*range(d), d + 1, d, d + 2).reshape(*head, 8, -1, 4)
    return ordered


def accumulators(regs: NDArray[Any], m: int) -> NDArray[Any]:
    """32- or 64-bit C registers [..., m / 4, 32] as a matrix [..., m, 8]."""
    head = regs.shape[:-2]
    split = regs.reshape(*head, m // 8, 2, 8, 4)
    d = len(head)
    matrix: NDArray[Any] = split.transpose(*range(d), d, d + 2, d + 3, d + 1).reshape(*head, m, 8)
    return matrix


def from_accumulators(matrix: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `accumulators`."""
    head = matrix.shape[:-2]
    m = matrix.shape[-2]
    split = matrix.reshape(*head, m // 8, 8, 4, 2)
    d = len(head)
    return np.ascontiguousarray(split.transpose(*range(d), d, d + 3, d + 1, d + 2)).reshape(*head, m // 4, 32)


def _values(words: NDArray[Any], fmt: str, container: int) -> F32:
    """Decode ordered registers [..., groups, 4] into float32 [..., K]."""
    element = FORMATS[fmt]
    flat = np.ascontiguousarray(words).reshape(*words.shape[:-2], -1)
    if element.bits == 32:
        return element.decode(flat)
    data = flat.view(np.uint8)
    if container == 8 and element.bits < 8:
        return element.decode(data >> E2M1_SHIFT if element.bits == 4 else data)
    return element.unpack(data)


def _scales(data: U32, rows: int, byte: int, thread: int, count: int) -> NDArray[np.uint8]:
    """Scale bytes [..., rows, count] out of scale-a-data (rows = 16 or 8) or scale-b-data: PTX ISA 9.7.14.3, figures
    43 to 45.

    A: lane 4 g + 2 thread holds row g, the next lane row g + 8. B: lane 4 g + thread holds column g.
    """
    quads = data.reshape(*data.shape[:-1], 8, 4)
    if rows == 16:
        pick = np.concatenate((quads[..., 2 * thread], quads[..., 2 * thread + 1]), axis=-1)
    else:
        pick = quads[..., thread]
    octets = np.ascontiguousarray(pick).view(np.uint8).reshape(*pick.shape, 4)
    return octets[..., byte : byte + count]


def _check_selector(byte: int, thread: int, count: int, limit: int, matrix: str) -> None:
    legal = {1: (0, 1, 2, 3), 2: (0, 2), 4: (0,)}[count]
    if byte not in legal or not 0 <= thread < limit:
        raise UnitError(
            f"mma block scaling: byte-id {byte}, thread-id {thread} of {matrix} with scale_vec::{count}X",
            f"byte-id is one of {legal} and thread-id below {limit} (PTX ISA table 37)",
        )


def mma_sync(
    spec: MmaSpec,
    operands: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    scale_data: tuple[U32, U32] | None = None,
    selectors: tuple[int, int, int, int] = (0, 0, 0, 0),
    model: Alignment | None = None,
) -> NDArray[Any]:
    """D registers of one mma.sync (or of a batch).

    operands: registers of A, B, C: uint32 (f64: uint64) [..., n, 32]. scale_data: the scale-a-data and scale-b-data
    registers, uint32
    [..., 32]; selectors: byte-id-a, thread-id-a, byte-id-b, thread-id-b. model: None for exact sums rounded once, or
    how silicon
    accumulates (a single warp).
    """
    a_regs, b_regs, c_regs = operands
    for regs, count, what in zip(operands, spec.registers, "ABC", strict=False):
        if regs.shape[-2:] != (count, 32):
            raise UnitError(f"mma.sync.{spec.shape}: {what} has {regs.shape[-2]} registers", f"it has {count}")
    if spec.a_type == "f64":
        return _mma_f64(spec, a_regs, b_regs, c_regs)
    a = _values(fragment_a(a_regs, spec.m), spec.a_type, spec.container)
    b = _values(fragment_b(b_regs), spec.b_type, spec.container)
    scales: tuple[F32, F32] | None = None
    if spec.scales:
        if scale_data is None:
            raise UnitError("block-scaled mma.sync without scale data", "pass scale-a-data and scale-b-data")
        _check_selector(selectors[0], selectors[1], spec.scales, 2, "A")
        _check_selector(selectors[2], selectors[3], spec.scales, 4, "B")
        fmt = FORMATS[spec.scale_type]
        scales = (
            fmt.decode(_scales(scale_data[0], 16, selectors[0], selectors[1], spec.scales)),
            fmt.decode(_scales(scale_data[1], 8, selectors[2], selectors[3], spec.scales)),
        )
    if spec.d_type == "s32":
        product = a @ b.swapaxes(-1, -2)  # |sum| <= 64 * 255 * 255 < 2**24: exact in float32
        integers = accumulators(c_regs, spec.m).view(np.int32)
        return from_accumulators(acc.add_s32(integers, product, spec.saturate)).view(np.uint32)
    c = _read_c(c_regs, spec)
    if model is not None:
        out = _modelled(spec, a, b, c, scales, replace(model, half=spec.d_type == "f16"))
        return (
            _half_registers(out.astype(np.float16)) if spec.d_type == "f16" else from_accumulators(out).view(np.uint32)
        )
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    if scales:
        wide_a, wide_b = _scale(wide_a, scales[0]), _scale(wide_b, scales[1])
    with np.errstate(invalid="ignore", over="ignore"):
        total: F64 = wide_a @ wide_b.swapaxes(-1, -2)
    if spec.d_type == "f32":
        return from_accumulators(acc.add_f32(c, total)).view(np.uint32)
    return _half_registers(acc.add_f16(c.astype(np.float16), total))


def _read_c(regs: U32, spec: MmaSpec) -> F32:
    if spec.c_type == "f32":
        return accumulators(regs, spec.m).view(np.float32)
    head = regs.shape[:-2]
    pairs = np.ascontiguousarray(regs).view(np.float16).reshape(*head, spec.m, 8)  # register = row half; lane = 4 g + t
    return pairs.astype(np.float32)


def _half_registers(matrix: NDArray[np.float16]) -> U32:
    head = matrix.shape[:-2]
    packed: U32 = np.ascontiguousarray(matrix).view(np.uint32).reshape(*head, matrix.shape[-2] // 8, 32)
    return packed


def _scale(x: F64, scale: F32) -> F64:
    blocks = x.reshape(*x.shape[:-1], scale.shape[-1], -1) * scale[..., None].astype(np.float64)
    return blocks.reshape(x.shape)


def _modelled(spec: MmaSpec, a: F32, b: F32, c: F32, scales: tuple[F32, F32] | None, model: Alignment) -> F32:
    if a.ndim != 2:
        raise UnitError("the silicon accumulation model on a batch of warps", "call it for one warp at a time")
    if scales and model.scaled_group:
        return acc.aligned_block_scaled(a, b, c, scales, model)
    if scales:
        wide = (_scale(a.astype(np.float64), scales[0]), _scale(b.astype(np.float64), scales[1]))
        return acc.aligned(wide[0].astype(np.float32), wide[1].astype(np.float32), c, ("f32", "f32"), model)
    return acc.aligned(a, b, c, (spec.a_type, spec.b_type), model)


# ------------------------------------------------------------------------------------------------------------------ f64


def _two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)


def fma_f64(a: F64, b: F64, c: F64) -> F64:
    """a * b + c with one rounding, for finite operands without overflow (Boldo and Melquiond's algorithm, by
    rounding to odd)."""
    factor = 134217729.0  # 2**27 + 1, Veltkamp's splitting
    high = a * b
    ca, cb = factor * a, factor * b
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    low = ((ah * bh - high) + ah * bl + al * bh) + al * bl
    t, t_low = _two_sum(c, low)
    v, v_low = _two_sum(high, t)
    z, error = _two_sum(t_low, v_low)
    bits = z.view(np.int64)
    even = (bits & 1) == 0
    stepped = np.nextafter(z, np.where(error > 0, np.inf, -np.inf))
    z = np.where((error != 0) & even, stepped, z)
    exact = np.isfinite(high) & (np.abs(high) < 1e290) & (np.abs(a) < 1e290) & (np.abs(b) < 1e290)
    return np.where(exact, v + z, high + c)


def _mma_f64(spec: MmaSpec, a_regs: NDArray[Any], b_regs: NDArray[Any], c_regs: NDArray[Any]) -> NDArray[Any]:
    """Double precision: a chain of fused multiply-adds along K (measured on Hopper by Xie et al., arXiv 2511.10909)."""
    a = np.ascontiguousarray(fragment_a(a_regs, spec.m)).view(np.float64)
    b = np.ascontiguousarray(fragment_b(b_regs)).view(np.float64)
    a, b = a.reshape(*a.shape[:-2], -1), b.reshape(*b.shape[:-2], -1)
    total = np.ascontiguousarray(accumulators(c_regs, spec.m)).view(np.float64)
    with np.errstate(all="ignore"):
        for k in range(spec.k):
            left = np.broadcast_to(a[..., :, None, k], total.shape)
            right = np.broadcast_to(b[..., None, :, k], total.shape)
            total = fma_f64(np.ascontiguousarray(left), np.ascontiguousarray(right), total)
    return from_accumulators(total).view(np.uint64)


@lru_cache(maxsize=512)
def parse_mma(opcode: str) -> MmaSpec:
    """The spec of an opcode such as "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32".

    Accepts the forms of PTX ISA 9.7.14.5.14 with .row.col; sparse forms (mma.sp) and single-bit forms are refused by
    name.
    """
    parts = opcode.split(".")
    if "sp" in parts or "sp::ordered_metadata" in parts:
        raise UnitError(f"{opcode}", "sparse MMA is not implemented")
    shape = next((p for p in parts if p[:1] == "m" and p[1:2].isdigit()), "")
    kind = next((p[len("kind::") :] for p in parts if p.startswith("kind::")), "")
    vector = next((int(p[len("scale_vec::") : -1]) for p in parts if p.startswith("scale_vec::")), 0)
    known = {*FORMATS, "f64", "s32", "b1"} - {"ue4m3", "ue8m0"}
    types = [p for p in parts if p in known]
    if not shape or len(types) != 4:
        raise UnitError(f"{opcode} is not a known form of mma", "expected mma.sync.aligned.SHAPE.row.col.D.A.B.C")
    if "row" not in parts or "col" not in parts:
        raise UnitError(f"{opcode}", "only A .row and B .col are implemented")
    block = "block_scale" in parts
    if block and not vector:
        vector = {"mxf8f6f4": 1, "mxf4": 2}.get(kind, 0)
    scale = next((p for p in parts if p in ("ue4m3", "ue8m0")), "")
    d, a, b, c = types
    return MmaSpec(shape, d, a, b, c, kind, vector if block else 0, scale, "satfinite" in parts)
