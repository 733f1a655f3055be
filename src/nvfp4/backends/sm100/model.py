"""A static model of the time that a plan takes: bytes, products, epilogue, waves, fill and drain.

It ranks plans; no plan has been timed. Every constant names its source. docs/blackwell.md puts its predictions beside
published times, and says how far to trust it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.backends.sm100.constants import CHUNK, LANES, OUT_BYTES, SCALE_TILE_BYTES, STEPS, Cluster, Schedule, ceil_div
from nvfp4.backends.sm100.decode import DEPTH, DecodePlan
from nvfp4.backends.sm100.gemv import GemvPlan
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.problem import Problem


@dataclass(frozen=True)
class Machine:
    """What the model needs to know of a GPU.

    Attributes:
        sms: Multiprocessors.
        clock_ghz: Clock under load.
        memory_tbs: Bandwidth of device memory that kernels reach, in TB/s.
        macs: Multiply-adds of FP4 operands that a multiprocessor does in a cycle.
        shared_bytes: Bytes that it reads from shared memory in a cycle.
        l2_bytes: Bytes that it gets from L2 in a cycle.
        tensor_bytes: Bytes that it reads from tensor memory in a cycle.
        issues: Warp instructions that it issues in a cycle.
        launch_us: From the end of a kernel to the start of the next, without dependent launch.
        fill_us: From the start of a kernel to its first product: barriers, descriptors, one trip to memory.
        drain_us: From the last product to the end of the kernel, apart from the epilogue's throughput.
    """

    sms: int
    clock_ghz: float
    memory_tbs: float
    macs: int
    shared_bytes: int
    l2_bytes: int
    tensor_bytes: int
    issues: int
    launch_us: float
    fill_us: float
    drain_us: float


B200 = Machine(
    sms=148,
    # 9 PFLOP/s of dense FP4 (datasheet of the HGX B200, for one GPU) on 148 multiprocessors, 16384 multiply-adds each.
    clock_ghz=1.85,
    # Reported as the practical ceiling; the datasheet has 8.
    memory_tbs=5.9,
    macs=16384,
    # 32 banks of 4 bytes.
    shared_bytes=128,
    # Seen on earlier generations; not measured on this one.
    l2_bytes=64,
    # A warp reads 32 lanes x 4 bytes a cycle, in each of the four quarters of tensor memory.
    tensor_bytes=512,
    issues=4,
    # Measured on an H200: 16-byte loads took 2.8 us less with dependent launch.
    launch_us=2.8,
    # Not measured: a trip to device memory takes about 0.8 us, a descriptor fetch before it as much.
    fill_us=1.8,
    drain_us=0.8,
)


@dataclass(frozen=True)
class Prediction:
    """What the model says.

    Attributes:
        microseconds: The whole, one call after another.
        memory: Moving every operand once at the bandwidth of device memory.
        products: The longest time that a multiprocessor multiplies, or waits for L2.
        epilogue: Epilogue time that nothing hides.
        fixed: Launch, fill and drain.
        waves: Tiles that the busiest multiprocessor computes.
    """

    microseconds: float
    memory: float
    products: float
    epilogue: float
    fixed: float
    waves: int

    def __str__(self) -> str:
        return (
            f"{self.microseconds:.1f} us (memory {self.memory:.1f}, products {self.products:.1f}, "
            f"epilogue {self.epilogue:.1f}, fixed {self.fixed:.1f}, {self.waves} waves)"
        )


def instruction_cycles(plan: ProductPlan, machine: Machine) -> float:
    """Cycles of one step of 64 elements: `products` instructions, each bound by multipliers or by shared memory."""
    compute = plan.x_rows * plan.tile_n * 64 / machine.macs
    x, y = plan.x_rows * 32 / machine.shared_bytes, plan.y_rows * 32 / machine.shared_bytes
    first, later = x + y, (y if plan.collect else x + y)
    return max(compute, first) + (plan.products - 1) * max(compute, later)


def chunk_cycles(plan: ProductPlan, machine: Machine) -> float:
    """Cycles of a chunk of 256 elements in a multiprocessor: its instructions, or bringing the operands."""
    x = plan.x_rows // (2 if plan.cluster is Cluster.MULTICAST else 1)
    # What both blocks need, each brings half of.
    x_scales = 0.5 if plan.share_scales and plan.cluster is Cluster.MULTICAST else 1
    y_scales = 0.5 if plan.share_scales and plan.cluster.pairs else 1
    scales = (x_scales + plan.products * plan.y_tiles * y_scales) * STEPS * SCALE_TILE_BYTES
    loaded = (x + plan.products * plan.y_rows) * CHUNK // 2 + scales
    return max(STEPS * instruction_cycles(plan, machine), loaded / machine.l2_bytes)


def epilogue_cycles(plan: ProductPlan, problem: Problem, machine: Machine) -> float:
    """Cycles from accumulators in tensor memory to results in L2, of one tile in a multiprocessor."""
    values = plan.d_columns * LANES
    read = plan.products * values * 4 / machine.tensor_bytes
    written = values * OUT_BYTES[problem.out_dtype]
    # A row a thread: a store of a warp touches 32 rows, half a sector each.
    whole = plan.swapped or plan.stages_results(problem)
    write = written / (machine.l2_bytes if whole else machine.l2_bytes / 2)
    # Scaling, conversion and addresses: about six instructions an element of a thread, more with SiLU.
    # The gate of a dual GEMM is hidden, if its sums are finished early.
    work = plan.d_columns * 4 * (20 if plan.products == 2 and not plan.finish else 6) / machine.issues
    return read + max(write, work)


def _tiles(plan: ProductPlan, problem: Problem) -> list[tuple[int, int]]:
    """(tiles, K) of every matrix product."""
    at_once = 2 if plan.cluster is Cluster.MULTICAST else 1

    def count(m: int, n: int) -> int:
        x, y = (n, m) if plan.swapped else (m, n)
        return ceil_div(x, plan.tile_m) * ceil_div(y, plan.tile_n * at_once)

    if problem.groups:
        return [(count(m, n), k) for m, n, k in problem.groups if m and n]
    if problem.stacked:
        # Groups of equal size, which no plan can know.
        rows = ceil_div(problem.m, problem.stacked)
        return [(count(rows, problem.n) * problem.stacked, problem.k)]
    return [(count(problem.m, problem.n) * problem.l, problem.k)]


def product(plan: ProductPlan, problem: Problem, machine: Machine = B200) -> Prediction:
    """The time of a GEMM, dual GEMM or grouped GEMM."""
    to_us = 1e-3 / machine.clock_ghz
    clusters = machine.sms // plan.blocks
    per_chunk = chunk_cycles(plan, machine)
    epilogue = epilogue_cycles(plan, problem, machine)
    # A block of one tile has nothing to do beside its epilogue; others overlap it with two accumulators.
    overlaps = plan.buffers == 2 and plan.schedule is not Schedule.SINGLE
    items, cycles, longest = 0, 0.0, 0.0
    for tiles, k in _tiles(plan, problem):
        tile = ceil_div(k, CHUNK) * per_chunk / plan.splits
        # With one accumulator an epilogue stands between a tile and the next.
        tile = max(tile, epilogue) if overlaps else tile + epilogue
        items += tiles * plan.splits
        cycles += tiles * plan.splits * tile
        longest = max(longest, tile)
    waves = ceil_div(items, clusters)
    # Whole waves of the average tile, the last of which is the longest.
    busy = 0.0 if not items else (waves - 1) * cycles / items + longest
    drain = epilogue if overlaps else 0.0
    if plan.splits > 1:
        # Partial sums in fp32 go to L2 and come back, and a counter says who is last.
        drain += 2 * epilogue * (1 + plan.splits) / 2
    fixed = machine.fill_us + machine.drain_us + (0.0 if plan.programmatic else machine.launch_us)
    fixed += 1.0 if plan.splits > 1 else 0.0
    if plan.schedule is Schedule.SINGLE:
        fixed += max(0, waves - 1) * (machine.fill_us + machine.drain_us)  # blocks begin anew
    memory = problem.bytes / machine.memory_tbs * 1e-6
    total = fixed + max(memory, busy * to_us) + drain * to_us
    return Prediction(total, memory, busy * to_us, drain * to_us, fixed, waves)


# Warp instructions of a decoding warp for a chunk, four rows a lane: conversions, products with scales, loads and
# stores; for bf16 two more conversions and a packing of each pair.
_DECODE = {"fp16": 4 * (32 + 32 + 14), "bf16": 4 * (32 + 32 + 96 + 14)}


def decoded(plan: DecodePlan, problem: Problem, machine: Machine = B200) -> Prediction:
    """The time of a GEMM that decodes its weights."""
    to_us = 1e-3 / machine.clock_ghz
    compute = LANES * plan.tile_n * DEPTH / (machine.macs / 4)
    loaded = plan.tile_n * 2 * DEPTH + LANES * (DEPTH // 2 + DEPTH // 16)
    chunk = max(compute, loaded / machine.l2_bytes, _DECODE[problem.a.kind] / machine.issues)
    values = plan.tile_n * LANES
    epilogue = values * 4 / machine.tensor_bytes + values * OUT_BYTES[problem.out_dtype] / machine.l2_bytes
    tile = ceil_div(problem.k, DEPTH) * chunk / plan.splits
    tile = max(tile, epilogue) if plan.buffers == 2 else tile + epilogue
    items = plan.tiles(problem) * plan.splits
    waves = ceil_div(items, machine.sms)
    drain = epilogue if plan.buffers == 2 else 0.0
    fixed = machine.fill_us + machine.drain_us + (0.0 if plan.programmatic else machine.launch_us)
    if plan.splits > 1:
        drain += epilogue * (1 + plan.splits)
        fixed += 1.0
    memory = problem.bytes / machine.memory_tbs * 1e-6
    busy = waves * tile * to_us
    return Prediction(fixed + max(memory, busy) + drain * to_us, memory, busy, drain * to_us, fixed, waves)


# Warp instructions for 64 elements: of a row whatever the vectors, of a row and a vector, and of a vector for all rows
# of a warp. NVFP4 vectors: 32 conversions of codes and 32 packed multiply-adds, six for the scales of each block; of
# the vector as many conversions, and ten more. 16-bit vectors: codes are converted once, for bf16 to fp32; 64
# multiply-adds.
_GEMV_ONCE = {"nvfp4": 4, "fp16": 32 + 4, "bf16": 32 + 64 + 4}
_GEMV_ROW = {"nvfp4": 32 + 32 + 20, "fp16": 64 + 4, "bf16": 64 + 4}
_GEMV_VECTOR = {"nvfp4": 42, "fp16": 4, "bf16": 68}


def vector(plan: GemvPlan, problem: Problem, machine: Machine = B200) -> Prediction:
    """The time of a GEMV."""
    units = problem.m * problem.l * ceil_div(problem.k, 64) / 32
    kind = problem.b.kind
    each = _GEMV_ROW[kind] + _GEMV_VECTOR[kind] / plan.rows
    instructions = units * (_GEMV_ONCE[kind] + problem.n * each)
    blocks = plan.grid(problem)[0] * plan.grid(problem)[1]
    # Blocks are short and many share a multiprocessor: only grids smaller than the device leave some idle.
    used = min(machine.sms, blocks)
    busy = instructions / machine.issues / used * 1e-3 / machine.clock_ghz
    memory = problem.bytes / machine.memory_tbs * 1e-6
    fixed = machine.fill_us + (0.0 if plan.programmatic else machine.launch_us)
    return Prediction(fixed + max(memory, busy), memory, busy, 0.0, fixed, ceil_div(blocks, machine.sms))
