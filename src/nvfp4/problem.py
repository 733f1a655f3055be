"""`Problem`: what is to be computed, without device or tensors. Hashable, printable, the key of every choice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Op(str, Enum):
    """The operations."""

    GEMV = "gemv"
    GEMM = "gemm"
    DUAL_GEMM = "dual_gemm"
    GROUP_GEMM = "group_gemm"
    GROUP_DUAL_GEMM = "group_dual_gemm"

    @property
    def dual(self) -> bool:
        """Whether two products with one A are joined by SiLU and a multiplication."""
        return self in (Op.DUAL_GEMM, Op.GROUP_DUAL_GEMM)

    @property
    def grouped(self) -> bool:
        """Whether there are groups, as a list or stacked."""
        return self in (Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM)

    @property
    def matrices(self) -> int:
        """Matrices B that each A is multiplied with."""
        return 2 if self.dual else 1

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Format:
    """How one operand is stored.

    Attributes:
        kind: ``"nvfp4"``, ``"fp16"`` or ``"bf16"``.
        scale_layout: ``"linear"`` or ``"tiled"`` (128x4 tiles) for nvfp4, else ``""``.
        tensor_scale: Whether an fp32 scale for the whole tensor (or one for each group) is present.
    """

    kind: str = "nvfp4"
    scale_layout: str = "linear"
    tensor_scale: bool = False

    def __str__(self) -> str:
        if self.kind != "nvfp4":
            return self.kind
        return f"nvfp4[{self.scale_layout}{', tensor scale' if self.tensor_scale else ''}]"


@dataclass(frozen=True)
class Problem:
    """One operation with its sizes and formats.

    The products are always A [M, K] times B [N, K] transposed, with K contiguous on both sides:

    - gemv: the matrix is ``a`` [L, M, K]; ``b`` holds the N (1..16) vectors [L, N, K]; the result is [L, N, M].
    - gemm: [L, M, K] x [L, N, K] -> [L, M, N].
    - dual_gemm: silu(A B1^T) * (A B2^T); ``b`` describes both B1 and B2 [N, K].
    - group_gemm, list form: `groups` holds (M, N, K) of each group; m is their sum, n and k their maxima.
    - group_gemm, stacked form: `stacked` groups; A [m, K] holds the rows of all groups one after another, B is
      [stacked, N, K], and the ends of the groups are known on the device only. With an index, row i of that A is the
      row of the operand, [tokens, K], that element i of the index names.
    - group_dual_gemm: for every group what dual_gemm computes, in the same two forms; ``b`` describes both B1 and B2.

    Attributes:
        op: The operation.
        m, n, k, l: Sizes in elements; k is a multiple of 16.
        a, b: Formats of the operands.
        out_dtype: ``"fp16"``, ``"bf16"`` or ``"fp32"``.
        groups: (M, N, K) of each group in the list form of group_gemm and group_dual_gemm.
        stacked: Number of groups in their stacked form.
        bias: gemv only: ``"fp16"``, ``"bf16"`` or ``"fp32"`` for a bias [M] that is added to every fp32 sum before it
            is rounded; empty for none.
        tokens: Stacked form with an index: rows of the operand that it chooses from; 0 without one.
    """

    op: Op
    m: int
    n: int
    k: int
    l: int = 1
    a: Format = Format()
    b: Format = Format()
    out_dtype: str = "fp16"
    groups: tuple[tuple[int, int, int], ...] = ()
    stacked: int = 0
    bias: str = ""
    tokens: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations of the products (a multiply and an add count as two)."""
        if self.groups:
            return sum(2 * m * n * k for m, n, k in self.groups) * self.op.matrices
        return 2 * self.m * self.n * self.k * self.l * self.op.matrices

    @property
    def bytes(self) -> int:
        """Bytes that must cross device memory at least once: every operand read once, the result written once."""
        return self.bytes_of(self.stacked)

    def bytes_of(self, active: int) -> int:
        """`bytes` when only `active` of the stacked groups have rows: nobody needs the weights of the others."""
        size = {"fp16": 2, "bf16": 2, "fp32": 4}

        def operand(rows: int, k: int, form: Format) -> int:
            return rows * k // 2 + rows * k // 16 if form.kind == "nvfp4" else rows * k * size[form.kind]

        out, count = size[self.out_dtype], self.op.matrices
        if self.groups:
            return sum(operand(m, k, self.a) + count * operand(n, k, self.b) + m * n * out for m, n, k in self.groups)
        weights = count * operand(self.n, self.k, self.b) * (active if self.stacked else 1)
        # Of an operand with an index, as many rows as can be different ones, and the index.
        left = operand(min(self.m, self.tokens or self.m), self.k, self.a) + (4 * self.m if self.tokens else 0)
        return (left + weights + self.m * self.n * out) * self.l

    def __str__(self) -> str:
        if self.groups:
            sizes = " + ".join("x".join(map(str, group)) for group in self.groups)
        else:
            sizes = f"{self.m}x{self.n}x{self.k}"
            sizes += f" L{self.l}" if self.l != 1 else ""
            sizes += f" in {self.stacked} groups" if self.stacked else ""
            sizes += f", rows of {self.tokens} by index" if self.tokens else ""
        bias = f" + {self.bias} bias" if self.bias else ""
        return f"{self.op} {sizes} {self.a} x {self.b}{bias} -> {self.out_dtype}"
