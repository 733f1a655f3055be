"""tcgen05.mma: matrix multiply-accumulate into tensor memory, dense, one or two CTAs (PTX ISA 9.7.16.10).

Which rows and columns of D lie where (9.7.16.10.5), per CTA:

    layout  M    group          rows of this CTA   lanes                       columns of D
    D       128  1              128                row                         n
    A       256  2              128                row                         n
    F       64   1              64                 32 (row / 16) + row % 16    n               (+ 0 or 16 from the
    address)
    B       128  2              64                 row + 64 (n / (N/2))        n % (N/2)
    E       64   1, .ws         64                 row + 64 (n / (N/2))        n % (N/2)
    G       32   1, .ws         32                 row + 32 (n / (N/4))        n % (N/4)

Layouts B, E and G split N over groups of lanes ("datapaths"); each group multiplies with the copy of A and of the
scale factors that lies
in its own lanes, so those must be duplicated (UMMA::TmemAllocMode::Duplicated in cute/atom/mma_traits_sm100_frag.hpp).

With two CTAs each CTA's shared memory holds its own rows of A and its half of the N rows of B; both tensor memories
hold D, and with
block scaling the scale factors of the CTA's own rows of A and of all N columns of B, at the same addresses.

Scale factors (9.7.16.10.7): a word of tensor memory holds up to four of one row; row r of 128 is in lane r % 32 of
column r / 32, and
every 32-lane quarter holds a copy, of which quarter q uses its own. In layout B the two quarters of each datapath hold
the factors of the N/2 columns of B that it multiplies with, from the same address on (the text of the ISA does not
say; UMMA::TmemAllocMode::ScaleFactorDuplicated2by2 in cute/atom/mma_traits_sm100_frag.hpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units.access import Access, Spans, rectangles
from nvfp4.emulator.units.accumulate import Alignment
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.instruction import SCALED_KINDS, Instruction, parse_instruction
from nvfp4.emulator.units.native_product import NativeProduct, prepare, work_space
from nvfp4.emulator.units.numerics import F32, F64, FORMATS
from nvfp4.emulator.units.operand import Operand, operand, parse_sm100
from nvfp4.emulator.units.tcgen05_cp import E2M1_SHIFT
from nvfp4.emulator.units.tmem import TensorMemory, check_rectangles, split_address

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
A_COLUMNS = 8  # every kind reads 32 bytes of A along K


@dataclass(frozen=True)
class MmaOp:
    """The operands and qualifiers of one tcgen05.mma.

    kind: without "kind::"; group: cta_group; d: address of D; a_desc or a_tmem: A in shared or tensor memory;
    b_desc; idesc.
    scale_a, scale_b: addresses of the scale factors; vector: the .scale_vectorsize qualifier without dot, or "".
    disabled_lanes: disable-output-lane as a bit mask (bit i: lane i; with two CTAs bits 128 and up: the odd CTA).
    scale_d: scale-input-d. ws, ashift: the qualifiers. collector: e.g. "a::fill", or "".
    """

    kind: str
    group: int
    d: int
    b_desc: int
    idesc: int
    a_desc: int | None = None
    a_tmem: int | None = None
    scale_a: int | None = None
    scale_b: int | None = None
    vector: str = ""
    disabled_lanes: int = 0
    scale_d: int = 0
    ws: bool = False
    ashift: bool = False
    collector: str = ""


@dataclass(frozen=True)
class Datapath:
    """Lanes that compute one slice of D: `lanes` of the CTA's rows, columns `n0` to `n1` of the product."""

    lanes: tuple[tuple[int, int], ...]  # consecutive runs (first lane, count) in row order
    n0: int
    n1: int


@lru_cache(maxsize=256)
def datapaths(m: int, n: int, group: int, ws: bool, lane: int) -> tuple[Datapath, ...]:
    """The datapaths of one CTA for a D at lane `lane` of its address."""
    if (m, group) in ((128, 1), (256, 2)):
        return (Datapath(((lane, 128),), 0, n),)
    if m == 64 and not ws:
        return (Datapath(tuple((32 * q + lane, 16) for q in range(4)), 0, n),)
    parts = 4 if m == 32 else 2
    rows = 128 // parts
    return tuple(Datapath(((lane + rows * i, rows),), n // parts * i, n // parts * (i + 1)) for i in range(parts))


def _read(array: NDArray[np.uint32], path: Datapath, c0: int, c1: int) -> U32:
    if len(path.lanes) == 1:
        lane, count = path.lanes[0]
        return array[lane : lane + count, c0:c1]
    return np.concatenate([array[lane : lane + count, c0:c1] for lane, count in path.lanes])


@dataclass(frozen=True, eq=False)
class MmaPlan:
    """One issued tcgen05.mma. `b` has one operand a CTA: with two CTAs the halves of N."""

    op: MmaOp
    instruction: Instruction
    a: Operand | None
    b: Operand

    @property
    def flops(self) -> int:
        """Two for each multiply-add, both CTAs together."""
        i = self.instruction
        return 2 * i.m * i.n * i.k

    @property
    def rows(self) -> int:
        """Rows of A and D of one CTA."""
        return self.instruction.m // self.op.group

    @cached_property
    def paths(self) -> tuple[Datapath, ...]:
        """Datapaths of one CTA."""
        i = self.instruction
        return datapaths(i.m, i.n, self.op.group, self.op.ws, split_address(self.op.d)[0])

    # --------------------------------------------------------------------------------------------------------- accesses

    @cached_property
    def d_spans(self) -> Spans:
        """Rectangles of D in each CTA."""
        column = split_address(self.op.d)[1]
        return rectangles(
            (lane, lane + count, column, column + path.n1 - path.n0)
            for path in self.paths
            for lane, count in path.lanes
        )

    @cached_property
    def a_spans(self) -> Spans:
        """Rectangles of A in tensor memory in each CTA (empty when A is in shared memory)."""
        if self.op.a_tmem is None:
            return rectangles(())
        column = split_address(self.op.a_tmem)[1]
        return rectangles(
            (lane, lane + count, column, column + A_COLUMNS) for path in self.paths for lane, count in path.lanes
        )

    def scale_spans(self, matrix: str) -> Spans:
        """Rectangles of the scale factors of "A" or "B" in each CTA: all four copies."""
        address = self.op.scale_a if matrix == "A" else self.op.scale_b
        if address is None:
            return rectangles(())
        column = split_address(address & 0x3FFFFFFF)[1]
        count = self.rows if matrix == "A" else self.instruction.n // len(self.paths)
        last = count % 32 or 32
        full = count // 32
        out = [(0, 128, column, column + full)] if full else []
        if count % 32:
            out += [(32 * q, 32 * q + last, column + full, column + full + 1) for q in range(4)]
        return rectangles(out)

    def accesses_of(self, accumulate: bool) -> tuple[Access, ...]:
        """What the instruction reads and writes in each CTA of the group; D is read only when `accumulate`."""
        return (
            self._accumulating
            if accumulate
            else tuple(a for a in self._accumulating if a.write or a.what != "accumulator D")
        )

    @property
    def accesses(self) -> tuple[Access, ...]:
        """`accesses_of(True)`."""
        return self._accumulating

    @cached_property
    def _accumulating(self) -> tuple[Access, ...]:
        out: list[Access] = []
        for cta in range(self.op.group):
            if self.a is not None:
                out.append(Access("shared", cta, False, "matrix A", self.a.spans))
            else:
                out.append(Access("tensor", cta, False, "matrix A", self.a_spans))
            out.append(Access("shared", cta, False, "matrix B", self.b.spans))
            if self.instruction.scales:
                out.append(Access("tensor", cta, False, "scale factors of A", self.scale_spans("A")))
                out.append(Access("tensor", cta, False, "scale factors of B", self.scale_spans("B")))
            out.append(Access("tensor", cta, False, "accumulator D", self.d_spans))
            out.append(Access("tensor", cta, True, "accumulator D", self.d_spans))
        return tuple(out)

    # -------------------------------------------------------------------------------------------------------------- run

    def run(
        self, smems: Sequence[U8], tmems: Sequence[TensorMemory], accumulate: bool, model: Alignment | None = None
    ) -> None:
        """Compute D (= or +=) A B in every CTA of the group.

        smems, tmems: memories of the even and the odd CTA (or of the only one); accumulate: the enable-input-d
        operand; model: None for
        exact sums, or how silicon accumulates (float32 results only).
        """
        if model is None and self.native is not None:
            self.native.bind(smems, tmems, work_space())(accumulate)
        else:
            self.run_numpy(smems, tmems, accumulate, model)

    @cached_property
    def native(self) -> NativeProduct | None:
        """This product in native code, if it has a form there."""
        return prepare(self)

    def run_numpy(
        self, smems: Sequence[U8], tmems: Sequence[TensorMemory], accumulate: bool, model: Alignment | None = None
    ) -> None:
        """`run`, always in NumPy."""
        i = self.instruction
        b = self.b.values(smems[0])
        if self.op.group == 2:
            b = np.concatenate((b, self.b.values(smems[1])))
        if i.negate_a != i.negate_b:
            b = -b
        for cta, (smem, tmem) in enumerate(zip(smems, tmems, strict=True)):
            disabled = (self.op.disabled_lanes >> (128 * cta)) & ((1 << 128) - 1)
            a = None if self.a is None else self.a.values(smem)
            for path in self.paths:
                rows = a if a is not None else self._a_from_tmem(tmem, path)
                part = b[path.n0 : path.n1] if len(self.paths) > 1 else b
                self._path(tmem, path, rows, part, accumulate, disabled, model)

    def _a_from_tmem(self, tmem: TensorMemory, path: Datapath) -> F32:
        assert self.op.a_tmem is not None
        column = split_address(self.op.a_tmem)[1]
        i = self.instruction
        words = np.ascontiguousarray(_read(tmem.words, path, column, column + A_COLUMNS))
        element = FORMATS[i.a_type]
        if element.bits == 32:
            values: F32 = element.decode(words)
        elif i.padded and element.bits < 8:
            codes = words.view(np.uint8)
            values = element.decode(codes >> E2M1_SHIFT if element.bits == 4 else codes)
        else:
            values = element.unpack(words.view(np.uint8))
        if self.op.ashift:  # row r takes row r + 1; the last row stays
            values = np.concatenate((values[1:], values[-1:]))
        return values

    def _path(
        self,
        tmem: TensorMemory,
        path: Datapath,
        a: F32,
        b: F32,
        accumulate: bool,
        disabled: int,
        model: Alignment | None,
    ) -> None:
        i = self.instruction
        column = split_address(self.op.d)[1]
        c0, c1 = column, column + path.n1 - path.n0
        old = _read(tmem.words, path, c0, c1) if accumulate else None
        if i.scales:
            new = self._scaled(tmem, path, a, b, old, model)
        else:
            new = self._plain(a, b, old, model)
        row = 0
        for lane, count in path.lanes:
            keep = (disabled >> lane) & ((1 << count) - 1)
            if keep:
                lanes = np.array([j for j in range(count) if not (keep >> j) & 1], dtype=np.intp)
                tmem.words[lane + lanes, c0:c1] = new[row + lanes]
                tmem.init[lane + lanes, c0:c1] = True
            else:
                tmem.words[lane : lane + count, c0:c1] = new[row : row + count]
                tmem.init[lane : lane + count, c0:c1] = True
            row += count

    def _plain(self, a: F32, b: F32, old: U32 | None, model: Alignment | None) -> U32:
        i = self.instruction
        if i.d_type == "s32":
            total = None if old is None else np.ascontiguousarray(old).view(np.int32)
            return acc.add_s32(total, acc.gemm(a, b, 0.0), i.saturate).view(np.uint32)
        if i.d_type == "f16":
            half = None if old is None else (old & np.uint32(0xFFFF)).astype(np.uint16).view(np.float16)
            if half is not None and self.op.scale_d:
                half = (half.astype(np.float32) * np.float32(2.0**-self.op.scale_d)).astype(np.float16)
            return acc.add_f16(half, acc.gemm(a, b)).view(np.uint16).astype(np.uint32)
        single = None if old is None else old.view(np.float32)
        if single is not None and self.op.scale_d:
            single = single * np.float32(2.0**-self.op.scale_d)
        if model is not None:
            start = np.zeros((a.shape[0], b.shape[0]), np.float32) if single is None else single
            return acc.aligned(a, b, start, (i.a_type, i.b_type), model).view(np.uint32)
        return acc.add_f32(single, acc.gemm(a, b)).view(np.uint32)

    # ---------------------------------------------------------------------------------------------------- block scaling

    def _codes(self, tmem: TensorMemory, address: int, ident: int, rows: int) -> U8:
        """Scale bytes of every quarter: uint8 [4, rows, scales]."""
        count = self.instruction.scales
        column = split_address(address & 0x3FFFFFFF)[1]
        words = tmem.words[:, column : column - (-rows // 32)]
        data = np.ascontiguousarray(words.reshape(4, 32, -1).transpose(0, 2, 1)).view(np.uint8)
        return data.reshape(4, -1, 4)[:, :rows, ident : ident + count]

    def _scaled(
        self, tmem: TensorMemory, path: Datapath, a: F32, b: F32, old: U32 | None, model: Alignment | None
    ) -> U32:
        i = self.instruction
        assert self.op.scale_a is not None
        assert self.op.scale_b is not None
        of_a = self._codes(tmem, self.op.scale_a, i.a_scale_id, self.rows)
        of_b = self._codes(tmem, self.op.scale_b, i.b_scale_id, b.shape[0])
        # Row r of D is computed in quarter r // 32 of the datapath, which takes the scale factors from its own lanes.
        first = path.lanes[0][0] // 32
        quarter = first + np.arange(self.rows) // 32
        codes_a = of_a[quarter, np.arange(self.rows)]
        single = None if old is None else old.view(np.float32)
        of_b = of_b[first : first + self.rows // 32]
        if (of_b[1:] == of_b[0]).all():
            return self._scaled_product((a, codes_a), (b, of_b[0]), single, model).view(np.uint32)
        out = []
        for q in range(len(of_b)):
            rows = slice(32 * q, 32 * q + 32)
            c = None if single is None else single[rows]
            out.append(self._scaled_product((a[rows], codes_a[rows]), (b, of_b[q]), c, model))
        return np.concatenate(out).view(np.uint32)

    def _scaled_product(self, a: tuple[F32, U8], b: tuple[F32, U8], c: F32 | None, model: Alignment | None) -> F32:
        """Accumulator plus the product of two (values, scale codes) operands."""
        i = self.instruction
        fmt = FORMATS[i.scale_type]
        scale_a, scale_b = fmt.decode(a[1]), fmt.decode(b[1])
        if model is not None:
            start = np.zeros((a[0].shape[0], b[0].shape[0]), np.float32) if c is None else np.ascontiguousarray(c)
            if model.scaled_group:
                return acc.aligned_block_scaled(a[0], b[0], start, (scale_a, scale_b), model)
            wide_a, wide_b = _apply(a[0], scale_a), _apply(b[0], scale_b)
            return acc.aligned(wide_a.astype(np.float32), wide_b.astype(np.float32), start, ("f32", "f32"), model)
        bound = i.k * _spread(i.a_type, i.scale_type, a[1]) * _spread(i.b_type, i.scale_type, b[1])
        dtype = np.float32 if bound <= acc.EXACT_F32 else np.float64
        with np.errstate(invalid="ignore", over="ignore"):
            product = acc.product(_apply(a[0], scale_a, dtype), _apply_transposed(b[0], scale_b, dtype))
        return acc.add_f32(c, product)


def _apply(x: F32, scale: F32, dtype: Any = np.float64) -> NDArray[Any]:
    """Block-scaled values [rows, k]; in float64 they are exact also for the extreme UE8M0 scales."""
    rows, count = scale.shape
    return np.multiply(x.reshape(rows, count, -1), scale[:, :, None], dtype=dtype).reshape(rows, -1)


def _apply_transposed(x: F32, scale: F32, dtype: Any) -> NDArray[Any]:
    """The same as a contiguous [k, rows] array, written in one pass."""
    rows, count = scale.shape
    out = np.empty((x.size // rows, rows), dtype)
    np.multiply(
        x.reshape(rows, count, -1), scale[:, :, None], out=out.reshape(count, -1, rows).transpose(2, 0, 1), dtype=dtype
    )
    return out


@lru_cache(maxsize=64)
def _element_range(name: str) -> tuple[float, float]:
    """(granularity, largest magnitude) of a format's finite values."""
    table = np.abs(FORMATS[name].table.astype(np.float64))
    finite = table[np.isfinite(table) & (table > 0)]
    return float(finite.min()), float(finite.max())


@lru_cache(maxsize=8)
def _scale_grains(name: str) -> tuple[F64, F64]:
    """(granularity, magnitude) of every code of a scale format: float64 tables; zero has infinite granularity, NaN
    zero."""
    values = FORMATS[name].table.astype(np.float64)
    significand, exponent = np.frexp(np.where(np.isfinite(values), values, 1.0))
    integers = np.ldexp(significand, 24).astype(np.int64)
    grains = np.ldexp((integers & -integers).astype(np.float64), exponent - 24)
    grains = np.where(values == 0, np.inf, np.where(np.isnan(values), 0.0, grains))
    # A byte whose unused top bit is set has the value of the code below.
    repeat = 256 // values.size
    return np.tile(grains, repeat), np.tile(np.nan_to_num(values, nan=np.inf), repeat)


def _spread(element: str, scale: str, codes: U8) -> float:
    """Upper bound of |element * scale| over the granularity of all such products, for the scale codes in use."""
    grains, values = _scale_grains(scale)
    least, most = _element_range(element)
    high = float(np.take(values, codes).max(initial=0.0))
    grain = float(np.take(grains, codes).min(initial=np.inf))
    if grain == 0.0 or not (grain > 2.0**-40 and high < 2.0**40):
        return np.inf  # a NaN, or so far out that float32 products could over- or underflow
    return (most / least) * (high / grain)


# ---------------------------------------------------------------------------------------------------------------
# planning

_COLLECTOR_OPS = ("fill", "use", "lastuse", "discard")


def _check_collector(op: MmaOp) -> None:
    if not op.collector:
        return
    buffer, _, action = op.collector.partition("::")
    legal = ("b0", "b1", "b2", "b3") if op.ws else ("a",)
    if buffer not in legal or action not in _COLLECTOR_OPS:
        raise UnitError(
            f"tcgen05.mma .collector::{op.collector}",
            f"use .collector::{{{','.join(legal)}}}::{{{','.join(_COLLECTOR_OPS)}}}",
        )
    if op.ashift and action in ("use", "fill"):
        raise UnitError(
            f"tcgen05.mma .ashift with .collector::{op.collector}", "use or fill are illegal together with .ashift"
        )


@lru_cache(maxsize=8192)
def plan_mma(op: MmaOp) -> MmaPlan:
    """Plan one instruction. `UnitError` for malformed descriptors, illegal shapes, addresses outside tensor memory."""
    i = parse_instruction(op.idesc & 0xFFFFFFFF, op.kind, op.group, op.ws, op.vector)
    what = f"tcgen05.mma.cta_group::{op.group}.kind::{op.kind}"
    if (op.a_desc is None) == (op.a_tmem is None):
        raise UnitError(
            f"{what} with A {'in neither' if op.a_desc is None else 'in both'} memory", "give a_desc or a_tmem"
        )
    scaled = op.kind in SCALED_KINDS
    if scaled and (op.scale_a is None or op.scale_b is None):
        raise UnitError(f"{what} without scale factors", "pass the addresses of both scale matrices")
    if scaled and op.group == 2 and i.m == 128 and i.n % 64:
        raise UnitError(
            f"{what}.block_scale with M = 128 and N = {i.n}",
            "the layout of the scale factors of B on split datapaths is known for multiples of 64 only; use M = 256",
        )
    if op.scale_d and (op.kind not in ("f16", "tf32") or not 0 <= op.scale_d <= 15):
        raise UnitError(f"{what} with scale-input-d {op.scale_d}", "it is 0 to 15, for kind::f16 and kind::tf32 only")
    if op.ashift and (op.a_tmem is None or i.m not in (128, 256)):
        raise UnitError(f"{what}.ashift with M = {i.m}", ".ashift needs A in tensor memory and M = 128 or 256")
    if op.a_tmem is not None and i.transpose_a:
        raise UnitError(
            f"{what} with A in tensor memory and the transpose bit of A", "A in tensor memory is K-major; clear bit 15"
        )
    _check_collector(op)
    lane = split_address(op.d)[0]
    allowed = (0, 16) if i.m == 64 and not op.ws else (0,)
    if lane not in allowed:
        raise UnitError(
            f"{what} with M = {i.m} and D at lane {lane}",
            f"the lane of D is {' or '.join(map(str, allowed))} (PTX ISA 9.7.16.10.5)",
        )
    if op.a_tmem is not None and split_address(op.a_tmem)[0] != lane:
        raise UnitError(
            f"{what} with A at lane {split_address(op.a_tmem)[0]} and D at lane {lane}",
            "A and D need the same lane alignment",
        )
    mask = (1 << 64) - 1
    rows = i.m // op.group
    a = None
    if op.a_desc is not None:
        a = operand(parse_sm100(op.a_desc & mask), rows, i.k, i.a_type, i.transpose_a, i.padded)
    b = operand(parse_sm100(op.b_desc & mask), i.n // op.group, i.k, i.b_type, i.transpose_b, i.padded)
    plan = MmaPlan(op, i, a, b)
    check_rectangles(plan.d_spans, f"{what}: D at {op.d:#x}")
    check_rectangles(plan.a_spans, f"{what}: A")
    for matrix in ("A", "B"):
        check_rectangles(plan.scale_spans(matrix), f"{what}: scale factors of {matrix}")
    return plan
