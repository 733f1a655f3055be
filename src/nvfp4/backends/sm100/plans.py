"""`ProductPlan`: how a GEMM, dual GEMM or grouped GEMM runs on Blackwell; everything that a tuner may vary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nvfp4.backends.sm100.constants import (
    CHUNK,
    LANES,
    OUT,
    OUT_BYTES,
    SCALE_TILE_BYTES,
    SHARED_LEAST,
    SHARED_SLACK,
    STAGED_ROWS,
    STEPS,
    TENSOR_COLUMNS,
    Cluster,
    ScaleMode,
    Schedule,
)
from nvfp4.executors.launch import Kernel
from nvfp4.problem import Format, Problem

TILE_NS = (64, 128, 192, 256)
_SCALE_WARPS = 4
_OTHER_WARPS = 6
# Static shared memory: barriers, the address of the tensor memory, a flag.
_STATIC_BYTES = 512


@dataclass(frozen=True)
class ProductPlan:
    """How a product runs. X and Y are what the instruction calls A and B: A and B, or B and A when `swapped`.

    Attributes:
        arch: Compilation target.
        products: Products of a tile: 2 for a dual GEMM.
        tile_n: Rows of Y of a tile: 64, 128, 192 or 256. A block has 128 rows of X, a pair 256, or 128
            with `Cluster.HALVES`.
        stages: Chunks of 256 elements along K in shared memory.
        buffers: Accumulators in tensor memory: with 2 the epilogue of a tile overlaps the products of the next.
        sets: Sets of scale columns in tensor memory that take turns; 1 leaves to the hardware that a copy of scales
            does not overtake the products before it (which CUTLASS relies on, and the PTX ISA does not say).
        cluster: What two blocks share.
        splits: Parts of K that are computed by different blocks and added in a fixed order.
        swapped: The weights B are X, the activations A are Y: for few rows of A.
        signed: Block scales may be negative. The tensor core takes no signs: scale warps look for them. False is right
            only where the caller knows that there are none.
        interleave: Scales of a step are copied to tensor memory just before its product, not a chunk's at once.
        collect: Dual GEMM: the second product of a step takes A from the collector buffer.
        hints: L2 keeps activations and lets weights go.
        prefetch: Chunks by which tiled scales are fetched into L2 before they are copied; 0 for never.
        share_scales: Scales that both blocks of a cluster need (of X with multicast, of Y with a pair) are loaded once,
            half by each block for both.
        staged: Results go to shared memory, and from there to C by tensor copies; for a C whose rows are multiples of
            16 bytes, else they are stored by threads.
        early: The weights are not written by the kernel before in the queue, and are fetched before it has ended.
        programmatic: Launched before the previous kernel has ended (programmatic dependent launch).
        band: Tiles of Y that follow one another for each tile of X.
        schedule: How tiles come to blocks.
        patched: Grouped GEMM, list form: loading threads make the tensor maps of a group when they come to it, rather
            than finding those of all groups in the parameters: room for four times as many groups in a launch.
        finish: Dual GEMM: in so many chunks at the end of a tile the products with B1 come before those with B2, so
            that SiLU runs beside these; 0 for none.
        sms: Multiprocessors of the device: the grid of a persistent kernel.
        waves: Tiles of the busiest multiprocessor, if the planner knows; for people only.
    """

    arch: str
    products: int = 1
    tile_n: int = 128
    stages: int = 4
    buffers: int = 2
    sets: int = 2
    cluster: Cluster = Cluster.NONE
    splits: int = 1
    swapped: bool = False
    signed: bool = True
    interleave: bool = False
    collect: bool = True
    hints: bool = True
    prefetch: int = 0
    share_scales: bool = False
    staged: bool = False
    early: bool = False
    programmatic: bool = True
    band: int = 16
    schedule: Schedule = Schedule.STATIC
    patched: bool = False
    finish: int = 0
    sms: int = 148
    waves: int = field(default=0, compare=False)

    @property
    def blocks(self) -> int:
        """Blocks of a cluster."""
        return 1 if self.cluster is Cluster.NONE else 2

    @property
    def tile_m(self) -> int:
        """Rows of X that one instruction multiplies."""
        return self.x_rows * (2 if self.cluster.pairs else 1)

    @property
    def x_rows(self) -> int:
        """Rows of X in the shared memory of a block."""
        return LANES // 2 if self.cluster is Cluster.HALVES else LANES

    @property
    def y_rows(self) -> int:
        """Rows of Y in the shared memory of a block."""
        return self.tile_n // (2 if self.cluster.pairs else 1)

    @property
    def d_columns(self) -> int:
        """Columns of tensor memory that the sums of a product take."""
        return self.tile_n // (2 if self.cluster is Cluster.HALVES else 1)

    @property
    def y_tiles(self) -> int:
        """Tiles of scales that rows of Y may touch."""
        return (self.tile_n + 64) // 128

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage."""
        codes = (self.x_rows + self.products * self.y_rows) * CHUNK // 2
        return codes + (1 + self.products * self.y_tiles) * STEPS * SCALE_TILE_BYTES

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block, if results take four bytes."""
        return self.shared_bytes_of("fp32")

    def shared_bytes_of(self, out_dtype: str) -> int:
        """Dynamic shared memory of a block with results of that type."""
        # Two squares for each warp.
        squares = LANES // STAGED_ROWS * 2 * STAGED_ROWS**2 * OUT_BYTES[out_dtype] if self.staged else 0
        return max(self.stages * self.stage_bytes + squares + SHARED_SLACK, SHARED_LEAST)

    @property
    def tensor_columns(self) -> int:
        """Columns of tensor memory in use: accumulators, then sets of scales."""
        y_tiles = 1 if self.cluster is Cluster.HALVES else self.y_tiles
        scales = 4 * STEPS * (1 + self.products * y_tiles)
        return self.buffers * self.products * self.d_columns + self.sets * scales

    def scale_modes(self, problem: Problem) -> tuple[ScaleMode, ScaleMode]:
        """How the scales of X and Y come to shared memory."""

        def mode(form: Format, ragged: bool) -> ScaleMode:
            if form.scale_layout == "linear":
                return ScaleMode.FROM_LINEAR
            return ScaleMode.FROM_TILED if ragged else ScaleMode.TENSOR_MAP

        # Rows of a group of the stacked form begin anywhere in A, those of the second of two halves within a tile.
        x, y = (problem.b, problem.a) if self.swapped else (problem.a, problem.b)
        ragged_x, ragged_y = problem.stacked > 0 and not self.swapped, problem.stacked > 0 and self.swapped
        return mode(x, ragged_x or self.cluster is Cluster.HALVES), mode(y, ragged_y)

    def patches(self, problem: Problem) -> bool:
        """Whether tensor maps are made on the device."""
        return self.patched and bool(problem.groups)

    def stages_results(self, problem: Problem) -> bool:
        """Whether results go through shared memory: tensor maps want rows of a multiple of 16 bytes."""
        ns = [n for m, n, _ in problem.groups if m and n] or [problem.n]
        return self.staged and all(n * OUT_BYTES[problem.out_dtype] % 16 == 0 for n in ns)

    def inspects(self, problem: Problem) -> bool:
        """Whether scale warps look at scales that are copied as they are."""
        ks = [k for _, _, k in problem.groups] or [problem.k]
        return self.signed or any(k % 64 for k in ks)

    def threads(self, problem: Problem) -> int:
        """Threads of a block."""
        prepares = self.inspects(problem) or any(mode is not ScaleMode.TENSOR_MAP for mode in self.scale_modes(problem))
        scales = min(_SCALE_WARPS, self.stages) if prepares else 0
        return 32 * (_OTHER_WARPS + scales + (1 if self.schedule is Schedule.TAKEOVER else 0))

    def wrong(self, shared_limit: int) -> tuple[str, ...]:
        """Why no kernel can have this plan; empty when one can."""
        reasons = []
        if self.products not in (1, 2) or (self.products == 2 and self.swapped):
            reasons.append("a dual GEMM has 2 products and is not swapped, others have 1")
        if self.tile_n not in TILE_NS:
            reasons.append(f"tile_n is {self.tile_n}, not one of {TILE_NS}")
        if self.stages < 2:
            reasons.append("fewer than 2 stages")
        if not 1 <= self.sets <= min(4, self.stages):
            reasons.append(f"{self.sets} sets of scales, not 1 to the smaller of 4 and the stages")
        if self.buffers not in (1, 2):
            reasons.append(f"{self.buffers} accumulators, not 1 or 2")
        if self.splits < 1:
            reasons.append(f"K in {self.splits} parts")
        if self.finish and not (self.products == 2 and self.splits == 1 and 0 < self.finish <= self.sets):
            reasons.append("finish is for a dual GEMM with K in one part, and at most the sets of scales")
        if self.cluster is Cluster.HALVES and self.tile_n != 256:
            reasons.append("each half of the lanes takes whole tiles of scales: 128 rows of Y")
        if self.share_scales and self.cluster is Cluster.NONE:
            reasons.append("scales are shared within a cluster")
        if self.staged and self.swapped:
            reasons.append("staged results are rows of C, not columns")
        if self.patched and (self.staged or self.early):
            reasons.append("patched maps are made when the kernel before has ended, and not for C")
        if self.shared_bytes + _STATIC_BYTES > shared_limit:
            reasons.append(f"{self.shared_bytes} bytes of shared memory")
        if self.tensor_columns > TENSOR_COLUMNS:
            reasons.append(f"{self.tensor_columns} columns of tensor memory, which has {TENSOR_COLUMNS}")
        return tuple(reasons)

    def kernel(self, problem: Problem, name: str, extra: dict[str, int] | None = None) -> Kernel:
        """``sm100_<name>.cu`` with the constants of this plan."""
        x_scales, y_scales = self.scale_modes(problem)
        constants = {
            "TILE_N": self.tile_n,
            "PRODUCTS": self.products,
            "STAGES": self.stages,
            "BUFFERS": self.buffers,
            "SETS": self.sets,
            "CLUSTER": int(self.cluster),
            "X_SCALES": int(x_scales),
            "Y_SCALES": int(y_scales),
            "INSPECT": int(self.inspects(problem)),
            "SPLITS": self.splits,
            "SWAPPED": int(self.swapped),
            "INTERLEAVE": int(self.interleave),
            "COLLECT": int(self.collect),
            "HINTS": int(self.hints),
            "EARLY": int(self.early),
            # Nobody knows when a prefetch has read its map.
            "PREFETCH": 0 if self.patches(problem) else self.prefetch,
            "SHARE_SCALES": int(self.share_scales),
            "STAGED": int(self.stages_results(problem)),
            "BAND": self.band,
            "TAKEOVER": int(self.schedule is Schedule.TAKEOVER),
            "FINISH": self.finish,
            "OUT": OUT[problem.out_dtype],
            "SCALE_UNIT": scale_unit(problem),
            **(extra or {}),
        }
        return Kernel(
            f"sm100_{name}.cu",
            f"nvfp4_sm100_{name}",
            tuple((f"PLAN_{key}", value) for key, value in constants.items()),
            self.arch,
        )

    def describe(self) -> str:
        """One line for people."""
        clusters = {Cluster.NONE: "", Cluster.MULTICAST: "X shared by two blocks", Cluster.PAIR: "pairs of blocks"}
        clusters[Cluster.HALVES] = "pairs of blocks with 64 rows each"
        schedules = {Schedule.SINGLE: "a tile a block", Schedule.STATIC: "", Schedule.TAKEOVER: "tiles taken over"}
        parts = [
            f"tcgen05.mma mxf4nvf4, {self.tile_m}x{self.tile_n} tiles",
            f"{self.stages} stages of {self.stage_bytes / 1024:g} KB",
            f"{self.tensor_columns} columns of tensor memory ({self.buffers} x {self.products * self.d_columns} sums)",
            clusters[self.cluster],
            f"K in {self.splits} parts" if self.splits > 1 else "",
            "operands swapped" if self.swapped else "",
            schedules[self.schedule],
            f"{self.waves} {'wave' if self.waves == 1 else 'waves'} on {self.sms} SMs" if self.waves else "",
        ]
        return ", ".join(part for part in parts if part) + f" [{self.arch}]"


def scale_unit(problem: Problem) -> int:
    """Bytes that a load of linear scales may take: a power of two that divides K/16 of every matrix, at most 16."""
    blocks = [k // 16 for _, _, k in problem.groups] or [problem.k // 16]
    return min(16, *(count & -count for count in blocks)) if all(blocks) else 16


def fitting(plan: ProductPlan, shared_limit: int) -> ProductPlan:
    """`plan` with as many stages, accumulators and sets as there is room for."""
    room = shared_limit - SHARED_SLACK - _STATIC_BYTES
    stages = max(2, min(8, room // plan.stage_bytes))
    for buffers in (2, 1):
        for sets in (4, 3, 2, 1):
            candidate = replace(plan, stages=stages, buffers=buffers, sets=min(sets, stages))
            if not candidate.wrong(shared_limit):
                return candidate
    return replace(plan, stages=stages, buffers=1, sets=1)
