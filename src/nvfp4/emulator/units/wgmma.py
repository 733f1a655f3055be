"""wgmma.mma_async: matrix multiply-accumulate of a warpgroup, B (and A) in shared memory (PTX ISA 9.7.15)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units.access import Access
from nvfp4.emulator.units.accumulate import Alignment
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import F32, FORMATS
from nvfp4.emulator.units.operand import Operand, operand, parse_sm90

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

_PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # a type -> (b types, d types); PTX ISA 9.7.15.5.2
    "f16": (("f16",), ("f16", "f32")),
    "bf16": (("bf16",), ("f32",)),
    "tf32": (("tf32",), ("f32",)),
    "e4m3": (("e4m3", "e5m2"), ("f16", "f32")),
    "e5m2": (("e4m3", "e5m2"), ("f16", "f32")),
    "s8": (("s8", "u8"), ("s32",)),
    "u8": (("s8", "u8"), ("s32",)),
}


@dataclass(frozen=True)
class WgmmaSpec:
    """One wgmma.mma_async.sync.aligned.m64nNkK instruction.

    n: columns; d_type, a_type, b_type: PTX names; trans_a, trans_b: the imm-trans operands; negate_a, negate_b:
    imm-scale of -1;
    saturate: .satfinite.
    """

    n: int
    d_type: str
    a_type: str
    b_type: str
    trans_a: bool = False
    trans_b: bool = False
    negate_a: bool = False
    negate_b: bool = False
    saturate: bool = False

    def __post_init__(self) -> None:
        if self.a_type not in _PAIRS:
            raise UnitError(
                f"wgmma with A of type .{self.a_type}", f"types are {', '.join(_PAIRS)} (.b1 is not implemented)"
            )
        b_types, d_types = _PAIRS[self.a_type]
        if self.b_type not in b_types or self.d_type not in d_types:
            raise UnitError(
                f"wgmma .{self.d_type}.{self.a_type}.{self.b_type}",
                f"with A .{self.a_type}, B is one of {b_types} and D one of {d_types}",
            )
        integer = self.d_type == "s32"
        if self.n % 8 or not 8 <= self.n <= 256 or (integer and self.n > 32 and self.n % 16):
            raise UnitError(
                f"wgmma with N = {self.n}", "N is a multiple of 8 up to 256" + (", above 32 of 16" if integer else "")
            )
        if (self.trans_a or self.trans_b) and self.a_type not in ("f16", "bf16"):
            raise UnitError(
                f"transposed .{self.a_type} operand of wgmma", "only .f16 and .bf16 operands can be transposed"
            )
        if integer and (self.negate_a or self.negate_b):
            raise UnitError("negated integer operand of wgmma", "imm-scale exists for floating point only")

    @property
    def k(self) -> int:
        """Elements along K of one instruction: 32 bytes of them."""
        return 256 // FORMATS[self.a_type].bits

    @property
    def d_registers(self) -> int:
        """32-bit registers of D in each thread."""
        return self.n // 4 if self.d_type == "f16" else self.n // 2

    a_registers = 4


def accumulator_matrix(regs: NDArray[Any], n: int) -> NDArray[Any]:
    """D fragments [4, n // 2, 32] of 32-bit elements as a matrix view [64, n] (PTX ISA figure 149)."""
    matrix: NDArray[Any] = regs.reshape(4, n // 8, 2, 2, 8, 4).transpose(0, 2, 4, 1, 5, 3).reshape(64, n)
    return matrix


def accumulator_registers(matrix: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `accumulator_matrix`: [64, n] -> [4, n // 2, 32]."""
    n = matrix.shape[1]
    regs: NDArray[Any] = matrix.reshape(4, 2, 8, n // 8, 4, 2).transpose(0, 3, 1, 5, 2, 4).reshape(4, n // 2, 32)
    return regs


def half_matrix(regs: U32, n: int) -> NDArray[np.float16]:
    """f16 D fragments [4, n // 4, 32] as a matrix [64, n]; a register holds two neighbouring columns."""
    pairs = np.ascontiguousarray(regs).view(np.float16).reshape(4, n // 8, 2, 8, 4, 2)
    matrix: NDArray[np.float16] = pairs.transpose(0, 2, 3, 1, 4, 5).reshape(64, n)
    return matrix


def half_registers(matrix: NDArray[np.float16]) -> U32:
    """The inverse of `half_matrix`: float16 [64, n] -> uint32 [4, n // 4, 32]."""
    n = matrix.shape[1]
    pairs = np.ascontiguousarray(matrix.reshape(4, 2, 8, n // 8, 4, 2).transpose(0, 3, 1, 2, 4, 5))
    return pairs.view(np.uint32).reshape(4, n // 4, 32)


def a_fragment(regs: U32, fmt: str) -> F32:
    """A fragments [4, 4, 32] as float32 [64, k] (PTX ISA figures 148, 150, 152).

    Register r of a thread holds row (lane / 4) + 8 * (r % 2) and the K elements of quad position lane % 4 in K half
    r / 2.
    """
    words = np.ascontiguousarray(
        regs.reshape(4, 2, 2, 8, 4).transpose(0, 2, 3, 1, 4)
    )  # warp, row half, row, k half, quad
    element = FORMATS[fmt]
    if element.bits == 32:
        return element.decode(words).reshape(64, -1)
    return element.unpack(words.view(np.uint8).reshape(64, 32))


@dataclass(frozen=True, eq=False)
class WgmmaPlan:
    """One issued wgmma. `a` is None when A comes from registers."""

    spec: WgmmaSpec
    a: Operand | None
    b: Operand

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """Shared-memory reads of A (if it is there) and B."""
        reads = [] if self.a is None else [Access("shared", 0, False, "matrix A", self.a.spans)]
        return (*reads, Access("shared", 0, False, "matrix B", self.b.spans))

    @property
    def flops(self) -> int:
        """Two for each multiply-add."""
        return 2 * 64 * self.spec.n * self.spec.k

    def run(self, smem: U8, d: U32, a_regs: U32 | None, scale_d: bool, model: Alignment | None = None) -> U32:
        """The new D registers.

        smem: shared memory of the CTA; d: uint32 [4, d_registers, 32] old accumulators (ignored unless `scale_d`);
        a_regs: uint32
        [4, 4, 32] when A is in registers; model: None for exact sums, or how silicon accumulates (f32 only).
        """
        s = self.spec
        if self.a is not None:
            a = self.a.values(smem)
        else:
            if a_regs is None:
                raise UnitError("wgmma with A in registers was given no registers", "pass uint32 [4, 4, 32]")
            a = a_fragment(a_regs, s.a_type)
        b = self.b.values(smem)
        if s.negate_a != s.negate_b:
            a = -a
        if s.d_type == "s32":
            old = accumulator_matrix(d, s.n).view(np.int32) if scale_d else None
            product = acc.gemm(a, b, 0.0)  # |sum| <= 32 * 255 * 255 < 2**24: always exact
            return accumulator_registers(acc.add_s32(old, product, s.saturate)).view(np.uint32)
        if model is not None:
            return self._modelled(a, b, d, scale_d, model)
        if s.d_type == "f16":
            half = half_matrix(d, s.n) if scale_d else None
            return half_registers(acc.add_f16(half, acc.gemm(a, b)))
        # Permute the product rather than the accumulators: one pass over the fragment instead of two.
        product = np.ascontiguousarray(accumulator_registers(acc.gemm(a, b)))
        single = np.ascontiguousarray(d).view(np.float32).reshape(product.shape) if scale_d else None
        return acc.add_f32(single, product).view(np.uint32)

    def _modelled(self, a: F32, b: F32, d: U32, scale_d: bool, model: Alignment) -> U32:
        s = self.spec
        half = s.d_type == "f16"
        if not scale_d:
            c = np.zeros((64, s.n), np.float32)
        elif half:
            c = half_matrix(d, s.n).astype(np.float32)
        else:
            c = np.ascontiguousarray(accumulator_matrix(d, s.n)).view(np.float32)
        out = acc.aligned(a, b, c, (s.a_type, s.b_type), replace(model, half=half))
        if half:
            return half_registers(out.astype(np.float16))
        return np.ascontiguousarray(accumulator_registers(out)).view(np.uint32)


@lru_cache(maxsize=4096)
def plan_wgmma(spec: WgmmaSpec, a_desc: int | None, b_desc: int) -> WgmmaPlan:
    """Plan one instruction; a_desc None: A in registers. `UnitError` for malformed descriptors."""
    if a_desc is None and spec.trans_a:
        raise UnitError("wgmma with A in registers and imm-trans-a", "only operands in shared memory can be transposed")
    a = None if a_desc is None else _operand(a_desc, 64, spec, spec.a_type, spec.trans_a)
    return WgmmaPlan(spec, a, _operand(b_desc, spec.n, spec, spec.b_type, spec.trans_b))


def _operand(desc: int, rows: int, spec: WgmmaSpec, fmt: str, transposed: bool) -> Operand:
    return operand(parse_sm90(desc & ((1 << 64) - 1)), rows, spec.k, fmt, transposed)
