"""Triton kernels as a corpus for the emulator: compiled for GPUs that are not there, launched as Triton's own
launcher does.

The compiler needs no GPU (``triton.compile`` with an explicit target). What its launcher adds to the arguments is
done here:
tensor descriptors become a tensor map, sizes and strides; two scratch pointers close the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nvfp4.emulator import Checks, Module, Report, TensorMap


@triton.jit
def fp16_gemm(a, b, c, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c [M, N] = a [M, K] @ b [N, K]^T, fp16 with fp32 sums, by pointers."""
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a + rm[:, None] * K + (k + rk)[None, :])
        y = tl.load(b + rn[None, :] * K + (k + rk)[:, None])
        acc = tl.dot(x, y, acc)
    tl.store(c + rm[:, None] * N + rn[None, :], acc.to(tl.float16))


@triton.jit
def fp16_gemm_tma(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPECIALIZE: tl.constexpr):
    """The same through tensor descriptors; optionally with the compiler's warp specialisation."""
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K // BK, warp_specialize=SPECIALIZE):
        acc = tl.dot(a.load([m, k * BK]), b.load([n, k * BK]).T, acc)
    c.store([m, n], acc.to(tl.float16))


@triton.jit
def nvfp4_gemm(a, sa, b, sb, c, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c [M, N] fp32 = NVFP4 a [M, K] times NVFP4 b [N, K]^T; scales linear, [rows, K / 16] e4m3."""
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rb = tl.arange(0, BK // 2)
    rs = tl.arange(0, BK // 16)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a + rm[:, None] * (K // 2) + (k // 2 + rb)[None, :])
        y = tl.load(b + rn[None, :] * (K // 2) + (k // 2 + rb)[:, None])
        u = tl.load(sa + rm[:, None] * (K // 16) + (k // 16 + rs)[None, :])
        v = tl.load(sb + rn[:, None] * (K // 16) + (k // 16 + rs)[None, :])
        acc = tl.dot_scaled(x, u, "e2m1", y, v, "e2m1", acc)
    tl.store(c + rm[:, None] * N + rn[None, :], acc)


@triton.jit
def nvfp4_gemm_tma(a, sa, b, sb, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPECIALIZE: tl.constexpr):
    """The same with everything by tensor descriptors: scales [1, rows / 128, K / 64, 2, 256] in 128 x 4 tiles."""
    m, n = tl.program_id(0), tl.program_id(1)
    TM: tl.constexpr = BM // 128
    TN: tl.constexpr = BN // 128
    TK: tl.constexpr = BK // 64
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K // BK, warp_specialize=SPECIALIZE):
        x = a.load([m * BM, k * (BK // 2)])
        y = b.load([n * BN, k * (BK // 2)])
        u = sa.load([0, m * TM, k * TK, 0, 0]).reshape(TM, TK, 32, 4, 4).trans(0, 3, 2, 1, 4).reshape(BM, BK // 16)
        v = sb.load([0, n * TN, k * TK, 0, 0]).reshape(TN, TK, 32, 4, 4).trans(0, 3, 2, 1, 4).reshape(BN, BK // 16)
        acc = tl.dot_scaled(x, u, "e2m1", y.T, v, "e2m1", acc)
    c.store([m * BM, n * BN], acc)


@triton.jit
def mixed_gemm(a, b, sb, c, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c [M, N] fp32 = bf16 a [M, K] times MXFP4 b [N, K]^T (ue8m0 scales of 32): decoded in registers before
    Blackwell."""
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    rb = tl.arange(0, BK // 2)
    rs = tl.arange(0, BK // 32)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a + rm[:, None] * K + (k + rk)[None, :])
        y = tl.load(b + rn[None, :] * (K // 2) + (k // 2 + rb)[:, None])
        v = tl.load(sb + rn[:, None] * (K // 32) + (k // 32 + rs)[None, :])
        acc = tl.dot_scaled(x, None, "bf16", y, v, "e2m1", acc)
    tl.store(c + rm[:, None] * N + rn[None, :], acc)


@triton.jit
def softmax(x, y, N, BN: tl.constexpr):
    """y [row] = softmax of x [row]; one program a row, columns beyond N masked."""
    row = tl.program_id(0)
    columns = tl.arange(0, BN)
    values = tl.load(x + row * N + columns, mask=columns < N, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * N + columns, powers / tl.sum(powers, 0), mask=columns < N)


@triton.jit
def split_sum(x, parts, counters, y, N, BN: tl.constexpr, SPLITS: tl.constexpr):
    """y [row] = sum of x [row]: SPLITS programs leave partial sums, and the last to come adds them up (a semaphore)."""
    row, part = tl.program_id(0), tl.program_id(1)
    columns = part * BN + tl.arange(0, BN)
    tl.store(parts + row * SPLITS + part, tl.sum(tl.load(x + row * N + columns, mask=columns < N, other=0.0), 0))
    # The partial sum is one thread's, the semaphore another's.
    tl.debug_barrier()
    if tl.atomic_add(counters + row, 1, sem="acq_rel") == SPLITS - 1:
        tl.store(y + row, tl.sum(tl.load(parts + row * SPLITS + tl.arange(0, SPLITS)), 0))


@dataclass(frozen=True)
class Descriptor:
    """A tensor descriptor argument: the array, the block of one access, and how Triton types it."""

    array: Any
    dtype: str
    block: tuple[int, ...]

    @property
    def type(self) -> str:
        """Triton's name of the type."""
        return f"tensordesc<{self.dtype}[{', '.join(map(str, self.block))}]>"


_POINTERS = {"float16": "*fp16", "float32": "*fp32", "uint8": "*u8", "uint16": "*bf16", "int32": "*i32"}
_ELEMENTS = {"fp16": "f16", "fp32": "f32", "u8": "u8", "bf16": "bf16", "fp8e4nv": "u8"}


@dataclass(frozen=True)
class Compiled:
    """A Triton kernel as PTX, with what its launch needs."""

    ptx: str
    name: str
    warps: int
    shared: int
    scratch: tuple[int, int]
    descriptors: tuple[Mapping[str, Any], ...]


def compile_kernel(
    kernel: Any, args: Mapping[str, Any], constants: Mapping[str, Any], capability: int, **options: int
) -> Compiled:
    """Compile `kernel` for the arguments `args` (arrays, integers, descriptors, or (array, pointer type))."""
    signature: dict[str, str] = {}
    aligned: dict[tuple[int], list[list[Any]]] = {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif isinstance(args[name], Descriptor):
            signature[name] = args[name].type
        elif isinstance(args[name], int):
            signature[name] = "i32"
            if args[name] % 16 == 0:
                aligned[(i,)] = [["tt.divisibility", 16]]
        else:
            value = args[name]
            signature[name] = value[1] if isinstance(value, tuple) else _POINTERS[str(value.dtype)]
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    meta = built.metadata
    # Warp specialisation launches more warps than the kernel's num_warps: the PTX says how many threads it wants.
    warps = meta.num_warps
    for line in built.asm["ptx"].splitlines():
        if line.strip().startswith(".reqntid"):
            warps = int(line.split()[1].rstrip(",")) // 32
    scratch = (meta.global_scratch_size, meta.profile_scratch_size)
    return Compiled(built.asm["ptx"], meta.name, warps, meta.shared, scratch, tuple(meta.tensordesc_meta))


def _tensor_map(d: Descriptor, meta: Mapping[str, Any]) -> list[Any]:
    """What Triton's launcher passes for a descriptor: the tensor map, the sizes and the strides (in elements)."""
    shape = list(d.array.shape)
    size = d.array.itemsize
    strides = [s // size for s in d.array.strides]
    box = list(meta["block_size"])
    inner = list(reversed(shape))
    assert not meta["fp4_padded"]
    tensor_map = TensorMap(
        d.array,
        _ELEMENTS[d.dtype],
        tuple(inner),
        tuple(s * size for s in reversed(strides[:-1])),
        tuple(reversed(box)),
        swizzle=(0, 32, 64, 128)[meta["swizzle"]],
    )
    return [tensor_map, *shape, *strides]


def run(
    compiled: Compiled,
    args: Mapping[str, Any],
    grid: tuple[int, int, int],
    *,
    seed: int = 0,
    checks: Checks | None = None,
    module: Module | None = None,
) -> Report:
    """Launch in the emulator; arrays are worked on in place.

    Raises:
        nvfp4.emulator.EmulatorError: The kernel is refused or has findings.
    """
    values: list[Any] = []
    descriptors = iter(compiled.descriptors)
    for value in args.values():
        if isinstance(value, Descriptor):
            values += _tensor_map(value, next(descriptors))
        else:
            values.append(value[0] if isinstance(value, tuple) else value)
    blocks = grid[0] * grid[1] * grid[2]
    for size in compiled.scratch:
        values.append(np.zeros(size * blocks, np.uint8) if size else 0)
    launched = module or Module(compiled.ptx)
    return launched.launch(
        compiled.name, grid, compiled.warps * 32, values, shared_bytes=compiled.shared, seed=seed, checks=checks
    )
