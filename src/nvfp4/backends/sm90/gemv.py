"""GEMV for Hopper: plans and launches of ``csrc/kernels/sm90_gemv.cu``, ``sm90_gemv_queue.cu``, ``sm90_gemv_mma.cu``.

One NVFP4 vector for each matrix meets A in dp4a, which comes through registers or, where it is large, through shared
memory; up to 16 vectors of any kind go through tensor cores. All start on the weights before the previous kernel of
the queue has finished, where that is known to be safe: see `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nvfp4.backends.base import Operands, Repeating
from nvfp4.backends.operands import parts, repeated
from nvfp4.backends.sm80.constants import BIAS, OUT, SCALES, ceil_div
from nvfp4.backends.sm90.settled import when_settled
from nvfp4.device import Capability
from nvfp4.executors.launch import Kernel, Launch, Pointer, Scalar
from nvfp4.problem import Problem

MAX_VECTORS = 16

_CHUNK = 1024  # elements of a row that a warp of the stream kernel takes at a time
_MAX_STREAM_K = 32 * _CHUNK
_WARPS = 16  # on a multiprocessor: 128 registers a thread
_MAX_BATCHES = 16  # more are not unrolled, but become another wave of blocks
_QUEUE_ELEMENTS = 640 * 1024  # for a multiprocessor: from here on, queues beat registers

_RESERVED_SHARED = 1024  # of every block, by the driver
_X_KIND = {"fp16": 0, "bf16": 1, "nvfp4": 2}


@dataclass(frozen=True)
class StreamPlan:
    """How one NVFP4 vector for each matrix runs when A goes straight into registers (``sm90_gemv.cu``).

    Attributes:
        arch: Compilation target.
        warps_k, warps_r: Warps of a block, along K and along rows.
        chunks: Chunks of 1024 elements of a row that a warp takes.
        rows: Rows of a batch; a power of two.
        batches: Batches of a warp.
        preload: Batches that are under way before the previous kernel has finished.
        blocks: Blocks that must fit on a multiprocessor together.
        ahead: Batches that are decoded by then (with a `preload` of 2 or more); they wait in shared memory.
        x_first: Whether the vector is brought into L2 before A is asked for.
    """

    arch: str
    warps_k: int
    warps_r: int
    chunks: int
    rows: int
    batches: int
    preload: int
    blocks: int
    ahead: int = 0
    x_first: bool = True

    def grid(self, problem: Problem) -> int:
        """Blocks for each matrix, which share its rows equally: as few as take them."""
        return ceil_div(problem.m, self.rows * self.batches * self.warps_r)

    def describe(self) -> str:
        """One line for people."""
        warps = f"{self.warps_k}x{self.warps_r} warps of {self.batches}x{self.rows} rows x {self.chunks} chunks"
        early = f"{self.preload} preloaded, {self.ahead} decoded" if self.ahead else f"{self.preload} preloaded"
        return f"dp4a from registers, {warps}, {early}, {self.blocks} blocks an SM [{self.arch}]"

    def shared_bytes(self, problem: Problem) -> int:
        """Dynamic shared memory of a block: what is decoded, 16 bytes for each block of codes, and its scales."""
        return self.warps_k * self.warps_r * self.ahead * self.rows * self.chunks * 32 * 34


@dataclass(frozen=True)
class QueuePlan:
    """How one NVFP4 vector for each matrix runs when A passes through shared memory (``sm90_gemv_queue.cu``).

    Attributes:
        arch: Compilation target.
        warps_k, warps_r: Warps of a block, along K and along rows.
        chunks: Chunks of 1024 elements of a row that a warp takes.
        rows: Rows of a segment, which a warp takes at a time; a power of two.
        depth: Segments that each warp has in flight.
        grid: Blocks for each matrix, to which its segments are dealt in turn.
        blocks: Blocks that must fit on a multiprocessor together.
    """

    arch: str
    warps_k: int
    warps_r: int
    chunks: int
    rows: int
    depth: int
    grid: int
    blocks: int

    def describe(self) -> str:
        """One line for people."""
        warps = f"{self.warps_k}x{self.warps_r} warps, {self.depth} segments of {self.rows} rows x {self.chunks} chunks"
        return f"dp4a from queues, {self.grid} blocks of {warps}, {self.blocks} an SM [{self.arch}]"

    def shared_bytes(self, problem: Problem) -> int:
        """Dynamic shared memory of a block: queues and partial sums."""
        scales = 2 if problem.a.scale_layout == "linear" and problem.k % 256 == 0 else 4  # bytes of a lane
        segment = self.rows * self.chunks * 32 * (16 + scales)
        unit = self.rows * self.warps_r
        sums = ceil_div(problem.m, unit * self.grid) * unit * 4
        return self.warps_k * (self.warps_r * self.depth * segment + sums)


@dataclass(frozen=True)
class MmaPlan:
    """How up to 16 vectors run (``sm90_gemv_mma.cu``).

    Attributes:
        arch: Compilation target.
        warps_k, warps_r: Warps of a block that share a tile of 16 rows along K, and tiles that run side by side.
        split: Blocks of a cluster, which share K.
        depth: Segments of 16 rows that each warp has in flight.
        rows: Rows of A that a cluster takes; with tiled scales a multiple of 16.
        blocks: Blocks that must fit on a multiprocessor together.
        flush: Tiles after which the warps that share them add their sums.
        steps: Steps of 128 elements of K in a segment (2 or 4).
    """

    arch: str
    warps_k: int
    warps_r: int
    split: int
    depth: int
    rows: int
    blocks: int
    flush: int = 1
    steps: int = 2

    @property
    def turns(self) -> int:
        """Places for partial sums: two where several runs of `flush` tiles follow each other and there is room."""
        return 1 if self.flush * self.warps_r * 16 >= self.rows or self.warps_k * self.warps_r > 16 else 2

    def describe(self) -> str:
        """One line for people."""
        warps = f"{self.warps_k}x{self.warps_r} warps, {self.depth} segments each"
        return f"mma.sync from queues, {self.rows} rows a cluster of {self.split}, {warps} [{self.arch}]"

    def shared_bytes(self, problem: Problem) -> int:
        """Dynamic shared memory of a block: vectors, queues, partial sums, and sums that the cluster exchanges."""
        warps = self.warps_k * self.warps_r
        segments = ceil_div(ceil_div(problem.k, 128 * self.steps), self.split * self.warps_k) * self.warps_k
        zeros = 256 if problem.n == 1 and problem.b.kind != "bf16" else 0
        tile = 16 * problem.n * 4
        sums = ceil_div(self.rows, 16) * tile if self.split > 1 else 0
        queues = warps * self.depth * 16 * self.steps * 72
        partial = 0 if self.split > 1 and self.warps_k == 1 else self.turns * self.flush * warps * tile
        return segments * self.steps * 256 * problem.n + zeros + queues + partial + sums


GemvPlan = StreamPlan | QueuePlan | MmaPlan

# Measured on an H200 (docs/optimisation-log.md), for 132 multiprocessors. Plans without `arch`:
# one NVFP4 vector, by (M, K, L) ...
_VECTOR_TABLE: dict[tuple[int, int, int], StreamPlan | QueuePlan] = {
    (7168, 16384, 1): QueuePlan("", 16, 1, 1, 4, 2, 256, 2),
    (4096, 7168, 8): QueuePlan("", 7, 2, 1, 4, 2, 64, 2),
    (7168, 2048, 4): StreamPlan("", 2, 4, 1, 4, 7, 3, 2, 1, x_first=False),
}
# ... and 16-bit vectors of one matrix with linear scales, by (M, K, N).
_MMA_TABLE: dict[tuple[int, int, int], tuple[int, ...]] = {
    (7168, 16384, 1): (4, 4, 1, 2, 55, 1, 1, 4),
    (28672, 4096, 1): (2, 8, 1, 2, 218, 1, 2),
    (4096, 14336, 1): (8, 1, 1, 2, 16, 2),
    (8192, 7168, 1): (4, 2, 1, 2, 32, 2),
    (4096, 7168, 1): (7, 1, 1, 2, 16, 2),
    (7168, 2048, 1): (4, 2, 1, 2, 28, 2),
    (7168, 16384, 2): (4, 4, 2, 2, 109, 1, 2),
    (28672, 4096, 2): (8, 1, 1, 2, 109, 2, 7, 4),
    (4096, 14336, 2): (8, 2, 1, 2, 32, 1),
    (8192, 7168, 2): (4, 2, 1, 2, 32, 2),
    (4096, 7168, 2): (7, 1, 1, 2, 16, 2),
    (7168, 2048, 2): (4, 2, 1, 2, 28, 2),
    (7168, 16384, 4): (4, 4, 2, 2, 109, 1, 2),
    (28672, 4096, 4): (2, 8, 1, 2, 218, 1),
    (4096, 14336, 4): (8, 2, 1, 2, 32, 1),
    (8192, 7168, 4): (4, 4, 1, 2, 63, 1),
    (4096, 7168, 4): (7, 2, 1, 2, 32, 1),
    (7168, 2048, 4): (4, 2, 1, 2, 28, 2),
    (7168, 16384, 8): (2, 8, 8, 2, 480, 1, 4),
    (28672, 4096, 8): (2, 8, 1, 2, 218, 1, 2),
    (4096, 14336, 8): (4, 4, 2, 2, 63, 1),
    (8192, 7168, 8): (4, 4, 1, 2, 63, 1),
    (4096, 7168, 8): (2, 4, 2, 3, 63, 1),
    (7168, 2048, 8): (4, 4, 1, 2, 55, 1),
    (7168, 16384, 16): (2, 8, 8, 1, 480, 1, 1, 4),
    (28672, 4096, 16): (1, 16, 2, 2, 448, 1),
    (4096, 14336, 16): (1, 18, 8, 2, 288, 1),
    (8192, 7168, 16): (2, 8, 2, 2, 125, 1),
    (4096, 7168, 16): (1, 18, 8, 1, 288, 1),
    (7168, 2048, 16): (4, 4, 1, 2, 55, 1),
}


def refuse(problem: Problem) -> tuple[str, ...]:
    """Reasons why these kernels do not run `problem`; empty when they do."""
    reasons = []
    if problem.a.kind != "nvfp4":
        reasons.append(f"A must be NVFP4, not {problem.a.kind}")
    if not 0 <= problem.n <= MAX_VECTORS:
        reasons.append(f"takes 1..{MAX_VECTORS} vectors, not {problem.n}; use gemm")
    if problem.k % 16:
        reasons.append(f"K must be a multiple of 16, not {problem.k}")
    if problem.m > 2**31 - 2**20 or problem.l > 65535:
        reasons.append(f"takes at most 65535 matrices of 2^31 - 2^20 rows, not {problem.l} of {problem.m}")
    if not reasons and not _streams(problem) and _smallest(problem) > 227 * 1024:
        reasons.append(f"{problem.n} vectors of {problem.k} elements do not fit into the shared memory of a cluster")
    return tuple(reasons)


def _streams(problem: Problem) -> bool:
    return problem.b.kind == "nvfp4" and problem.n == 1 and problem.k <= _MAX_STREAM_K


def _smallest(problem: Problem) -> int:
    """Bytes of shared memory that the tensor-core kernel cannot do without."""
    return MmaPlan("", 1, 1, 8, 1, 16, 1).shared_bytes(problem)


def plan(capability: Capability, problem: Problem) -> GemvPlan:
    """The plan for `problem` there."""
    measured = capability.sms == 132
    if _streams(problem):
        vector = _VECTOR_TABLE.get((problem.m, problem.k, problem.l)) if measured else None
        if vector is not None:
            tuned = replace(vector, arch=capability.arch)
            return _fitting(capability, problem, tuned) if isinstance(tuned, QueuePlan) else tuned
        large = problem.m * problem.l * problem.k > capability.sms * _QUEUE_ELEMENTS
        return (_plan_queue if large else _plan_stream)(capability, problem)
    if measured and problem.l == 1 and problem.b.kind != "nvfp4" and problem.a.scale_layout == "linear":
        values = _MMA_TABLE.get((problem.m, problem.k, problem.n))
        if values is not None:
            return MmaPlan(capability.arch, *values)
    return _plan_mma(capability, problem)


def _plan_queue(capability: Capability, problem: Problem) -> QueuePlan:
    """Two blocks a multiprocessor, of which each leaves its place to one of the next launch; some 16 warps for each."""
    all_chunks = ceil_div(problem.k, _CHUNK)
    chunks = ceil_div(all_chunks, _WARPS)
    warps_k = ceil_div(all_chunks, chunks)
    warps_r = max(1, (_WARPS if chunks == 1 else 8) // warps_k)
    grid = max(1, min(2 * capability.sms // problem.l, ceil_div(problem.m, 4 * warps_r)))
    found = QueuePlan(capability.arch, warps_k, warps_r, chunks, 4, 2, grid, 2 if warps_k <= 8 or chunks == 1 else 1)
    return _fitting(capability, problem, found)


def _fitting(capability: Capability, problem: Problem, found: QueuePlan) -> QueuePlan:
    """`found`, with shorter queues and smaller blocks until it fits.

    Tiled scales take more room than those in rows, and the sums of a block wait in shared memory for its end.
    """
    limit = (capability.shared_bytes + _RESERVED_SHARED) // found.blocks - _RESERVED_SHARED
    while found.shared_bytes(problem) > limit:
        found = replace(found, depth=found.depth - 1) if found.depth > 2 else replace(found, grid=2 * found.grid)
    return found


def _plan_stream(capability: Capability, problem: Problem) -> StreamPlan:
    """Warps for all of a row; rows and batches such that all blocks are resident at once, each with the same work."""
    all_chunks = max(ceil_div(problem.k, _CHUNK), 1)

    def resident(chunks: int) -> int:
        warps = ceil_div(all_chunks, chunks)
        return _WARPS // warps * warps

    # Two for a warp where rows are too long otherwise, or of a length that leaves too few warps.
    chunks = 1 if all_chunks <= 8 or resident(1) >= resident(2) else 2
    warps_k = ceil_div(all_chunks, chunks)
    warps_r = max(1, min(4, 8 // warps_k))
    blocks = max(1, _WARPS // (warps_k * warps_r))
    slots = capability.sms * blocks
    rows = 4 // chunks
    # Fewer rows at a time where there are not enough for every block.
    while rows > 1 and (rows > problem.m or ceil_div(problem.m, rows * warps_r) * problem.l < slots):
        rows //= 2
    if rows == 1:
        warps_r = max(1, min(warps_r, ceil_div(problem.m * problem.l, slots)))
    needed = ceil_div(problem.m * problem.l, slots * rows * warps_r)
    waves = ceil_div(needed, _MAX_BATCHES)
    batches = max(1, ceil_div(needed, waves))
    return StreamPlan(
        capability.arch, warps_k, warps_r, chunks, rows, batches, preload=min(3, batches), blocks=blocks, ahead=1
    )


# Clusters of 1, 2, 4 and 8 blocks that an H200 holds at a time, one block on each multiprocessor: its multiprocessors
# come in groups whose sizes are not multiples of the cluster. One cluster more would be a second wave.
_CLUSTERS = {1: 132, 2: 66, 4: 30, 8: 15}

_MAX_FLUSH = 8


def _plan_mma(capability: Capability, problem: Problem) -> MmaPlan:
    """Of the plans that fit, with as many warps as possible, the one of least time."""
    warps = _WARPS
    while warps:
        plans = list(_mma_plans(capability, problem, warps))
        if plans:
            return min(plans, key=lambda pair: _mma_time(pair[1], problem) * pair[0])[1]
        warps //= 2
    raise AssertionError("refuse() keeps out what does not fit")


def _mma_time(plan: MmaPlan, problem: Problem) -> float:
    """Microseconds, but for what does not depend on the plan: a line through 1200 measurements of 70 products.

    17 ns for each KB of vectors that a block brings in; 0.147 us for each step of one of its 16 warps, 5 % less with
    long segments, which take longer to begin; clusters and warps that share a tile meet, the more of them the longer
    (docs/optimisation-log.md).
    """
    share = ceil_div(problem.k, 128 * plan.steps * plan.split * plan.warps_k) * plan.steps  # of a warp, in a tile
    rounds = ceil_div(ceil_div(plan.rows, 16), plan.warps_r)
    vectors = 0.017 * share * plan.warps_k * problem.n / 4
    steps = 0.147 * rounds * share if plan.steps == 2 else 0.14 * rounds * share + 0.8
    clusters = {1: 0.0, 2: 0.7, 4: 1.6, 8: 1.6}[plan.split]
    again = 0.05 if problem.n <= 8 else 0.74
    meeting = (0.5 + again * (rounds - 1)) * plan.warps_k / 16 if plan.warps_k > 1 else 0.0
    return vectors + steps + clusters + meeting


def _mma_plans(capability: Capability, problem: Problem, warps: int) -> Iterator[tuple[int, MmaPlan]]:
    """Plans with `warps` warps a block, or as many as there is work for; and the waves of blocks that they take."""
    for split, clusters in _CLUSTERS.items():
        segments = ceil_div(max(1, ceil_div(problem.k, 256)), split)
        if split > 1 and segments * (split - 1) * 256 >= problem.k:
            break  # a block without work
        together = max(1, clusters * capability.sms // (132 * problem.l))
        waves, rows, found = 1, 0, False
        # The sums that a cluster exchanges grow with its rows: rather more clusters, one after the other.
        while not found and rows != 16:
            rows = max(16, ceil_div(problem.m, together * waves))
            # A large cluster had better not end inside a tile (measured), and with tiled scales none can.
            if split > 2 or problem.a.scale_layout == "tiled":
                rows = ceil_div(rows, 16) * 16
            warps_k = 1
            while warps_k <= min(warps, segments):
                for steps in (2, 4):
                    plan = _fitting_mma_plan(capability, problem, (warps_k, warps // warps_k), split, rows, steps)
                    if plan is not None:
                        found = True
                        yield waves, plan
                warps_k *= 2
            waves *= 2


def _fitting_mma_plan(
    capability: Capability, problem: Problem, warps: tuple[int, int], split: int, rows: int, steps: int
) -> MmaPlan | None:
    """The longest queues, and sums added as rarely, as there is room for; None if there is none at all."""
    tiles = ceil_div(rows, 16)
    warps_k, warps_r = warps[0], min(warps[1], tiles)
    longest = min(ceil_div(tiles, warps_r), _MAX_FLUSH) if warps_k > 1 else 1
    plans = (
        MmaPlan(capability.arch, warps_k, warps_r, split, depth, rows, 1, flush, steps)
        for depth in (2, 1)
        for flush in range(longest, 0, -1)
    )
    return next((plan for plan in plans if plan.shared_bytes(problem) <= capability.shared_bytes), None)


def _constants(plan: GemvPlan, problem: Problem, early: bool) -> dict[str, int]:
    shared = {
        "K": problem.k,
        "WARPS_K": plan.warps_k,
        "WARPS_R": plan.warps_r,
        "MIN_BLOCKS": plan.blocks,
        "EARLY": int(early),
        "A_LAYOUT": SCALES[problem.a.scale_layout],
        "X_LAYOUT": SCALES[problem.b.scale_layout],
        "OUT": OUT[problem.out_dtype],
        "BIAS": BIAS[problem.bias],
    }
    if isinstance(plan, StreamPlan):
        own = {"CHUNKS": plan.chunks, "ROWS": plan.rows, "BATCHES": plan.batches, "PRELOAD": plan.preload}
        own |= {"AHEAD": plan.ahead, "X_FIRST": int(plan.x_first)}
    elif isinstance(plan, QueuePlan):
        own = {"CHUNKS": plan.chunks, "ROWS": plan.rows, "DEPTH": plan.depth}
    else:
        own = {
            "N": problem.n,
            "X_KIND": _X_KIND[problem.b.kind],
            "SPLIT": plan.split,
            "DEPTH": plan.depth,
            "FLUSH": plan.flush,
            "TURNS": plan.turns,
            "SEGMENT": plan.steps,
            "TILES": ceil_div(plan.rows, 16),
        }
    return {**shared, **own}


_KERNELS = {StreamPlan: "sm90_gemv", QueuePlan: "sm90_gemv_queue", MmaPlan: "sm90_gemv_mma"}


def launches(plan: GemvPlan, problem: Problem, operands: Operands, *, early: bool = False) -> tuple[Launch, ...]:
    """One launch; none for an empty result.

    Args:
        plan: From `plan`.
        problem: What is computed.
        operands: A, the vectors, the result.
        early: Whether A is loaded while the previous kernel of the queue may still run: then that must not write A.
    """
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    name = _KERNELS[type(plan)]
    values = tuple((f"CONFIG_{key}", value) for key, value in _constants(plan, problem, early).items())
    a, x = parts(operands.a[0]), parts(operands.b[0])
    args = (
        *a.pointers(),
        Scalar("i32", a.tensor_stride),
        *x.pointers(),
        Scalar("i32", x.tensor_stride),
        Pointer(operands.out[0]),
        Pointer(operands.bias),
        Scalar("i32", problem.m),
    )
    kernel = Kernel(f"{name}.cu", f"nvfp4_{name}", values, plan.arch)
    block = (32 * plan.warps_k * plan.warps_r, 1, 1)
    if not isinstance(plan, MmaPlan):
        blocks = plan.grid if isinstance(plan, QueuePlan) else plan.grid(problem)
        # Blocks of the stream kernel have neighbouring rows: so many, and one more each for the first ones.
        shares = () if isinstance(plan, QueuePlan) else tuple(Scalar("i32", n) for n in divmod(problem.m, blocks))
        launch = Launch(
            kernel,
            (blocks, problem.l, 1),
            block,
            (*args, *shares),
            shared_bytes=plan.shared_bytes(problem),
            programmatic=True,
        )
        return (launch,)
    rows = problem.m if problem.a.scale_layout == "linear" else ceil_div(problem.m, 128) * 128
    launch = Launch(
        kernel,
        (ceil_div(rows, plan.rows), problem.l, plan.split),
        block,
        (*args, Scalar("i32", plan.rows)),
        cluster=(1, 1, plan.split),
        shared_bytes=plan.shared_bytes(problem),
        programmatic=True,
    )
    return (launch,)


def prepare(plan: GemvPlan, problem: Problem) -> Repeating:
    """The computation for many calls (see `Sm90Backend.prepare`). A weight that has settled is loaded early."""
    late = repeated(lambda operands, extra: launches(plan, problem, operands))
    soon = repeated(lambda operands, extra: launches(plan, problem, operands, early=True))
    return when_settled("a", late, soon)
