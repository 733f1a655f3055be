"""The rungs of each ladder as data: the kernel, what changed, why, and what was expected before it was measured.

The kernels are ``csrc/kernels/ladder/*.cu``, complete and short. All take NVFP4 with scales in rows (the Blackwell ones
in 128x4 tiles, which its tensor cores want) and write fp16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nvfp4.errors import InputError
from nvfp4.executors.launch import Argument, Kernel, Launch, Pointer, Scalar, TensorMap
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

SMS = 132
"""Multiprocessors of an H200: the grid of a persistent kernel."""
BLACKWELL_SMS = 148
"""Those of a B200."""


@dataclass(frozen=True, eq=False)
class Data:
    """The operands of one call: a [M, K] and b [K] or [N, K]; c is [M] or [M, N] in fp16."""

    problem: Problem
    a: NVFP4Tensor
    b: NVFP4Tensor
    c: torch.Tensor


Build = Callable[[Data, str], Launch]


@dataclass(frozen=True)
class Rung:
    """One kernel of a ladder.

    Attributes:
        name: Of its source (``csrc/kernels/ladder/NAME.cu``) and entry.
        title: The step in a few words.
        why: What it changes, and what that is good for.
        predicted: What was expected of it before it was measured.
        build: Its launch for operands and an architecture.
        tile: M, N and K must be multiples of these.
    """

    name: str
    title: str
    why: str
    predicted: str
    build: Build
    tile: tuple[int, int, int]

    def check(self, problem: Problem) -> None:
        """Whether its sizes fit.

        Raises:
            InputError: They do not.
        """
        sizes = (problem.m, problem.n, problem.k)
        if any(size % part for size, part in zip(sizes, self.tile, strict=True)):
            expected = " x ".join(f"a multiple of {part}" for part in self.tile)
            remedy = "The rungs are short because they leave out ragged sizes: choose others."
            raise InputError(f"ladder {self.name}", "shape", expected, " x ".join(map(str, sizes)), remedy)


@dataclass(frozen=True)
class Ladder:
    """A ladder.

    Attributes:
        name: ``"gemv"``, ``"matmul-hopper"`` or ``"matmul-blackwell"``.
        about: What it computes.
        arch: The architecture it is for.
        rungs: From naive to final.
        shape: (M, N, K) that is timed.
        small: (M, N, K) for the emulator.
        package: The backend of the package that the last rung leads to.
        calls: Calls of a sample, on distinct inputs.
    """

    name: str
    about: str
    arch: str
    rungs: tuple[Rung, ...]
    shape: tuple[int, int, int]
    small: tuple[int, int, int]
    package: str
    calls: int = 8

    def problem(self, shape: tuple[int, int, int]) -> Problem:
        """The problem of some sizes."""
        m, n, k = shape
        layout = "tiled" if self.arch == "sm_100a" else "linear"
        form = Format("nvfp4", layout)
        return Problem(Op.GEMV if self.name == "gemv" else Op.GEMM, m, n, k, a=form, b=form)


def _pointers(data: Data) -> tuple[Argument, ...]:
    tensors = (data.a.codes, data.a.scales, data.b.codes, data.b.scales, data.c)
    return tuple(Pointer(tensor) for tensor in tensors)


def _sizes(data: Data, names: str) -> tuple[Argument, ...]:
    return tuple(Scalar("i32", getattr(data.problem, name)) for name in names)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _gemv(name: str, threads: int, rows: Callable[[int], int], *, shared_row: bool = False) -> Build:
    """A GEMV kernel: `rows` of a block by the threads that it has; with `shared_row` its warps share a row."""

    def build(data: Data, arch: str) -> Launch:
        problem = data.problem
        warps = min(8, problem.k // 1024) if shared_row else threads // 32
        constants = (("CONFIG_K", problem.k), ("CONFIG_WARPS", warps))
        grid = (_ceil(problem.m, rows(warps)), 1, 1)
        kernel = Kernel(f"ladder/{name}.cu", name, constants, arch)
        return Launch(kernel, grid, (32 * warps, 1, 1), (*_pointers(data), *_sizes(data, "mk")))

    return build


def _naive(data: Data, arch: str) -> Launch:
    """The product by a thread for each result, scales as they come."""
    problem = data.problem
    constants = (("CONFIG_SCALES", ("linear", "tiled").index(problem.a.scale_layout)),)
    kernel = Kernel("ladder/matmul_0.cu", "matmul_0", constants, arch)
    grid = (_ceil(problem.n, 16), _ceil(problem.m, 16), 1)
    return Launch(kernel, grid, (16, 16, 1), (*_pointers(data), *_sizes(data, "mnk")))


def _matmul(name: str, tile: tuple[int, int], threads: int, shared: int = 0, *, blocks: int = 0) -> Build:
    """A product of `tile` results a block; with `blocks` the grid has as many at most, and tiles are dealt out."""

    def build(data: Data, arch: str) -> Launch:
        problem = data.problem
        across, down = _ceil(problem.n, tile[1]), _ceil(problem.m, tile[0])
        grid = (min(across * down, blocks), 1, 1) if blocks else (across, down, 1)
        kernel = Kernel(f"ladder/{name}.cu", name, (), arch)
        return Launch(kernel, grid, (threads, 1, 1), (*_pointers(data), *_sizes(data, "mnk")), shared_bytes=shared)

    return build


def _code_map(operand: NVFP4Tensor, rows: int, k: int, box_rows: int) -> TensorMap:
    """Boxes of `box_rows` rows x 128 bytes of codes, in the 128-byte swizzle."""
    pitch = k // 2
    return TensorMap(operand.codes, "u8", (pitch, rows, 1), (pitch, pitch * rows), (128, box_rows, 1), swizzle=128)


def _scale_map(operand: NVFP4Tensor, rows: int, k: int) -> TensorMap:
    """Boxes of the four tiles of 128 rows x 256 elements."""
    across, down = k // 64, rows // 128
    return TensorMap(operand.scales, "u32", (128, across, down), (512, 512 * across), (128, 4, 1))


def _tensor_cores(name: str, shared: int, *, pair: bool = False, pairs: int = 0, threads: int = 128) -> Build:
    """A Blackwell product of 128 x 128 results a block, or 256 x 128 a pair; the grid has `pairs` at most, if any."""

    def build(data: Data, arch: str) -> Launch:
        problem = data.problem
        m, n, k = problem.m, problem.n, problem.k
        rows, columns = m // 128, n // 128
        kernel = Kernel(f"ladder/{name}.cu", name, (), arch)
        if name == "blackwell_1":
            return Launch(kernel, (columns, rows, 1), (128, 1, 1), (*_pointers(data), *_sizes(data, "mnk")))
        box = 64 if pair else 128
        maps = (_code_map(data.a, m, k, 128), _code_map(data.b, n, k, box))
        scales = (_scale_map(data.a, m, k), _scale_map(data.b, n, k))
        args = (*maps, *scales, Pointer(data.c), *_sizes(data, "nkm" if pairs else "nk"))
        if pairs:
            grid = (2 * min(pairs, rows // 2 * columns), 1, 1)
        else:
            grid = (rows, columns, 1) if pair else (columns, rows, 1)
        cluster = (2, 1, 1) if pair else (1, 1, 1)
        return Launch(kernel, grid, (threads, 1, 1), args, cluster=cluster, shared_bytes=shared)

    return build


GEMV = Ladder(
    name="gemv",
    about="y = A x, one NVFP4 vector",
    arch="sm_90a",
    shape=(7168, 1, 16384),
    small=(60, 1, 4096),
    package="sm90",
    calls=50,
    rungs=(
        Rung(
            "gemv_0", "naive: a thread for each row",
            "Byte after byte of a row, decoded and multiplied in fp32. Neighbouring threads read a whole row apart.",
            "2000 us: 7168 threads cannot keep the memory busy, and each 32-byte sector comes for one byte",
            _gemv("gemv_0", 128, lambda warps: 32 * warps), (1, 1, 16),
        ),
        Rung(
            "gemv_1", "a warp for each row, 16 bytes a lane",
            "The lanes of a warp read side by side, and 32 times as many threads are at work. Now arithmetic is what "
            "takes the time.",
            "120 us: about 25 instructions for each of 117 million elements, at 30 T lane-instructions a second",
            _gemv("gemv_1", 256, lambda warps: warps), (1, 1, 32),
        ),
        Rung(
            "gemv_2", "two products an instruction, x decoded once",
            "Codes become pairs of fp16 by a shift and a mask; a block of 16 is summed exactly by fp16 FMAs. x is "
            "decoded into shared memory once for 32 rows.",
            "28 us: 50 instructions for 16 elements",
            _gemv("gemv_2", 256, lambda warps: 4 * warps), (1, 1, 32),
        ),
        Rung(
            "gemv_3", "x in registers, dp4a",
            "The warps of a block share a row, so that a lane meets the same elements of x in every row and keeps "
            "them. prmt looks four codes up at once, dp4a multiplies four.",
            "25 us: 33 instructions for 16 elements, but one row at a time keeps too little on its way",
            _gemv("gemv_3", 256, lambda warps: 14, shared_row=True), (1, 1, 1024),
        ),
        Rung(
            "gemv_4", "several rows at a time, the next ones on their way",
            "Four rows are loaded before four others are computed, and summed over the lanes together.",
            "18 us: enough bytes are on their way; what is left is start, end and the read-only floor of 14.3",
            _gemv("gemv_4", 256, lambda warps: 28, shared_row=True), (1, 1, 1024),
        ),
    ),
)  # fmt: skip

_LINE = 128
_HOPPER_5 = 4 * 2 * 128 * _LINE + 6 * 256 * 36 + 64
_HOPPER_6 = 3 * 384 * _LINE + 5 * 384 * 36 + 48

NAIVE = Rung(
    "matmul_0", "naive: a thread for each result",
    "Every thread decodes a row of A and a row of B, byte after byte.",
    "40 ms: 60 G products of about 20 instructions",
    _naive, (1, 1, 16),
)  # fmt: skip

HOPPER = Ladder(
    name="matmul-hopper",
    about="C = A B^T, NVFP4 decoded to fp16 for Hopper's matrix units",
    arch="sm_90a",
    shape=(2048, 4096, 7168),
    small=(256, 128, 512),
    package="sm90",
    rungs=(
        NAIVE,
        Rung(
            "hopper_1", "tiles in shared memory, mma.sync",
            "A block decodes 128 rows of A and of B once for 128 x 128 results. Rows lie 128 bytes apart in shared "
            "memory: accesses to eight rows meet in the same banks.",
            "2000 us: 8200 cycles of shared memory for 64 elements of K, eight times what they need",
            _matmul("hopper_1", (128, 128), 256), (128, 128, 64),
        ),
        Rung(
            "hopper_2", "the 128-byte swizzle",
            "Piece p of row r lies at piece p ^ (r % 8). No two of the eight rows meet in a bank. Two expressions "
            "change.",
            "450 us: 1024 cycles of shared memory, and the rest of a chunk one after another",
            _matmul("hopper_2", (128, 128), 256), (128, 128, 64),
        ),
        Rung(
            "hopper_3", "WGMMA",
            "A whole warpgroup's instruction reads both factors from shared memory by itself, and runs at the full "
            "rate of the matrix unit.",
            "320 us: 512 cycles of product, no ldmatrix; loading, decoding and multiplying still take turns",
            _matmul("hopper_3", (128, 128), 256), (128, 128, 64),
        ),
        Rung(
            "hopper_4", "pipelining",
            "Codes are fetched three chunks ahead, and a chunk is decoded while the one before is multiplied.",
            "200 us: 700 cycles a chunk, of which decoding issues 400",
            _matmul("hopper_4", (128, 128), 256, 2 * 2 * 128 * _LINE + 4 * 256 * 36), (128, 128, 64),
        ),
        Rung(
            "hopper_5", "warp specialisation",
            "Two warpgroups decode, two multiply, and a ring of tiles lies between them. Products are queued one "
            "behind the other.",
            "175 us: 620 cycles a chunk",
            _matmul("hopper_5", (128, 128), 512, _HOPPER_5), (128, 128, 64),
        ),
        Rung(
            "hopper_6", "larger tiles, registers where they are needed",
            "256 x 128 results of 384 rows: decoding takes three quarters of what it took for a product. setmaxnreg "
            "moves registers to the threads that multiply.",
            "150 us: 1150 cycles for twice the work",
            _matmul("hopper_6", (256, 128), 640, _HOPPER_6), (256, 128, 64),
        ),
        Rung(
            "hopper_7", "persistence",
            "One block a multiprocessor, tile after tile: the ring fills for the next tile while results are written.",
            "145 us: two waves without the gap between them",
            _matmul("hopper_7", (256, 128), 640, _HOPPER_6, blocks=SMS), (256, 128, 64),
        ),
    ),
)  # fmt: skip

_STAGE = 2 * 128 * _LINE + 2 * 2048
_PAIR_STAGE = (128 + 64) * _LINE + 2 * 2048

BLACKWELL = Ladder(
    name="matmul-blackwell",
    about="C = A B^T on Blackwell's tensor cores, which take NVFP4 as it is",
    arch="sm_100a",
    shape=(2048, 4096, 7168),
    small=(256, 256, 1792),
    package="sm100",
    rungs=(
        replace(NAIVE, predicted="17 instructions for each product, as on Hopper", tile=(1, 1, 64)),
        Rung(
            "blackwell_1", "tcgen05.mma, tiles copied by the threads",
            "Nothing is decoded any more: codes go to shared memory, scales to tensor memory, and one thread starts "
            "the product. Without a swizzle eight lanes write to the same banks.",
            "eight times the wavefronts that the bytes need; the tensor core waits for every chunk",
            _tensor_cores("blackwell_1", 0), (128, 128, 256),
        ),
        Rung(
            "blackwell_2", "the copy engine and the 128-byte swizzle",
            "One thread asks for four boxes; the copy engine writes them swizzled. No registers, no loop, no fence.",
            "a tenth of the instructions, no wavefronts of stores; still a round trip to memory for every chunk",
            _tensor_cores("blackwell_2", 0), (128, 128, 256),
        ),
        Rung(
            "blackwell_3", "pipelining",
            "A ring of four chunks: loads are three chunks ahead of products.",
            "the same instructions; the latency of memory is hidden behind three products",
            _tensor_cores("blackwell_3", 4 * _STAGE), (128, 128, 256),
        ),
        Rung(
            "blackwell_4", "warp specialisation",
            "A thread that loads, a thread that multiplies, four warps that store: none waits for another's barrier.",
            "the same work; fewer waits in the loading thread",
            _tensor_cores("blackwell_4", 4 * _STAGE, threads=192), (128, 128, 256),
        ),
        Rung(
            "blackwell_5", "two multiprocessors, one instruction",
            "A pair of blocks computes 256 x 128 results, and each holds only half of B: fewer bytes, more stages.",
            "three quarters of the bytes of codes; half of the products to start",
            _tensor_cores("blackwell_5", 6 * _PAIR_STAGE, pair=True, threads=192), (256, 128, 256),
        ),
        Rung(
            "blackwell_6", "persistence, with two accumulators",
            "Pairs stay, tile after tile: results leave one accumulator while the other is multiplied into.",
            "the same bytes; start and end of a tile overlap with the next",
            _tensor_cores("blackwell_6", 6 * _PAIR_STAGE, pair=True, pairs=BLACKWELL_SMS // 2, threads=192),
            (256, 128, 256),
        ),
    ),
)  # fmt: skip

LADDERS: tuple[Ladder, ...] = (GEMV, HOPPER, BLACKWELL)


def ladder(what: str, arch: str | None = None) -> Ladder:
    """The ladder of an operation.

    Args:
        what: ``"gemv"`` or ``"matmul"``, or a ladder's own name.
        arch: Of the matmul: ``"sm_90a"`` (the default) or ``"sm_100a"``.

    Raises:
        InputError: There is none.
    """
    for found in LADDERS:
        if found.name == what or (found.name.partition("-")[0] == what and found.arch == (arch or "sm_90a")):
            return found
    known = ", ".join(f"{found.name.partition('-')[0]} for {found.arch}" for found in LADDERS)
    raise InputError("nvfp4 ladder", "ladder", f"one of {known}", f"{what} for {arch or 'sm_90a'}", "Name one of them.")
