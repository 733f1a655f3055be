"""One launch: CTAs and clusters come to life, run, wait, and leave; asynchronous work completes at seeded times."""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks.findings import Findings
from .checks.policy import Checks
from .compile.emitter import SCRATCH_SIZE
from .compile.kernel import CompiledKernel
from .errors import KernelFault
from .host.state import HostCall
from .memory import AddressSpace
from .pending import AsyncOp, Pending
from .report import COUNTER_NAMES, LineProfile, Report, Wait
from .runtime.layout import (
    BARRIER,
    CELL,
    CONTEXT,
    CTA,
    FAULT,
    MBARRIER,
    NONE,
    PIPES,
    QUEUE,
    SYNC_LOCAL,
    SYNC_OBJECTS,
    TRACE,
    WARP,
    Counter,
    State,
    Status,
)
from .runtime.native import runtime
from .units.tcgen05 import TensorMemory

__all__ = ["Config", "Launch"]

_QUANTUM = 20_000
_MAX_MBARRIERS = 512
_COMPONENT_BARRIERS = 96
_STALL_LIMIT = 60_000_000
# Fields of the context as indices of 4-byte and of 8-byte words.
_HOST_WARP, _FATAL = (CONTEXT.fields[name].offset // 4 for name in ("host_warp", "fatal"))
_EVENT, _STEPS, _PROGRESS, _COUNTERS = (
    CONTEXT.fields[name].offset // 8 for name in ("event_at", "steps", "progress", "counters")
)
_HOST = int(Status.HOST)


@dataclass(frozen=True)
class Config:
    """Geometry and policy of a launch."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int]
    explicit_cluster: bool
    shared_bytes: int
    checks: Checks
    seed: int
    sm_count: int


@dataclass
class Cluster:
    """A resident cluster: slots of its CTAs and warps, its asynchronous work, and what the host keeps for it."""

    slot: int
    number: int
    first_cta: int
    first_warp: int
    pending: Pending = field(default_factory=Pending)
    host: dict[Any, Any] = field(default_factory=dict)


@dataclass
class _Slot:
    """Memory of a resident cluster, reused by one cluster after another."""

    shared: list[NDArray[np.uint8]]
    cells: list[NDArray[Any]]
    readers: list[NDArray[np.uint32]]
    maps: list[NDArray[np.uint16]]
    mbarriers: list[NDArray[Any]]
    clocks: NDArray[np.uint32]
    bar_clocks: NDArray[np.uint32]
    bars: list[NDArray[Any]]
    registers: NDArray[np.uint8]
    local: NDArray[np.uint8]
    scratch: NDArray[np.uint8]
    queue: NDArray[Any] | None
    ctas: NDArray[Any]
    warps: NDArray[Any]
    known: NDArray[np.uint32] | None
    # The register file in words, and the clock vectors [warp, vc avc tvc rvc, component].
    words: memoryview
    longs: memoryview
    vectors: NDArray[np.uint32]
    # By rank: tensor memory and its shadow, made when first used; and operations made ready for this memory.
    tmems: dict[int, TensorMemory] = field(default_factory=dict)
    tensor_cells: dict[int, NDArray[Any]] = field(default_factory=dict)
    prepared: dict[Any, Any] = field(default_factory=dict)


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes that start on a 64-byte boundary."""
    raw = np.zeros(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size]


class Launch:
    """Runs one kernel once."""

    def __init__(
        self, kernel: CompiledKernel, space: AddressSpace, config: Config, params: bytes, names: dict[str, Any]
    ) -> None:
        self.kernel = kernel
        self.space = space
        self.config = config
        self.checks = config.checks
        self.files: dict[int, str] = names.get("files", {})
        self.source: list[str] = names.get("source", [])
        self.arch: int = names.get("arch", 90)
        self.random = random.Random(config.seed)
        self.native = runtime()
        self.work: NDArray[np.float64] | None = None
        self.checked = config.checks.initialisation or config.checks.races
        self.async_access: Any = self.native.function("async_access")
        self.async_accesses: Any = self.native.function("async_accesses")
        self.global_async_read: Any = self.native.function("global_async_read")
        self.pointers: dict[int, tuple[Any, Any, int]] = {}
        self.report = Report(kernel.entry.name, compile_seconds=kernel.seconds)
        self.findings = Findings(self)
        gx, gy, gz = config.grid
        cx, cy, cz = config.cluster
        self.cluster_grid = (gx // cx, gy // cy, gz // cz)
        self.cluster_count = self.cluster_grid[0] * self.cluster_grid[1] * self.cluster_grid[2]
        self.cluster_size = cx * cy * cz
        self.threads = config.block[0] * config.block[1] * config.block[2]
        self.warps = -(-self.threads // 32)
        self.shared_size = -(-(kernel.layout.shared_static + config.shared_bytes) // 16) * 16
        # What a kernel cannot need is not there: small launches would spend their time on clearing it, and clocks of
        # barriers that do not exist would be merged at every synchronisation.
        self.max_mbarriers = _MAX_MBARRIERS if "mbarrier" in kernel.uses else 1
        per_cta = self.warps * (1 + PIPES) + (_COMPONENT_BARRIERS if self.max_mbarriers > 1 else 1)
        self.per_cta = per_cta
        self.components = -(-(per_cta * self.cluster_size) // 16) * 16
        self.capacity = min(self.cluster_count, max(1, config.sm_count * self._per_sm() // self.cluster_size))
        self.params = np.frombuffer(params.ljust(64, b"\0"), np.uint8).copy()
        self._context()
        self.slots: dict[int, _Slot] = {}
        self.free_slots: list[int] = []
        self.active: deque[Cluster] = deque()
        self.order = self._start_order()
        self.next = 0
        self._timed_out: dict[int, int] = {}

    def _per_sm(self) -> int:
        """CTAs that share an SM: by threads, and by shared memory."""
        by_threads = max(1, 2048 // max(32, self.warps * 32))
        by_shared = max(1, 233_472 // max(1, self.shared_size + 1024))
        return min(by_threads, by_shared, 32)

    def _start_order(self) -> range:
        return range(self.cluster_count)

    def _context(self) -> None:
        config = self.config
        self.table = self.space.native(self.checks.races, self.checks.initialisation)
        capacity = self.capacity
        self.cta_array = np.zeros(capacity * self.cluster_size, CTA.dtype)
        self.warp_array = np.zeros(capacity * self.cluster_size * self.warps, WARP.dtype)
        self.cta_base, self.warp_base = int(self.cta_array.ctypes.data), int(self.warp_array.ctypes.data)
        self.fault_array = np.zeros(256, FAULT.dtype)
        self.trace_array = np.empty(65536 if self.checks.timeline else 1, TRACE.dtype)
        blocks = len(self.kernel.flow.blocks)
        self.hits, self.hit_lanes = np.zeros(blocks, np.uint64), np.zeros(blocks, np.uint64)
        self.context = np.zeros(1, CONTEXT.dtype)
        c = self.context[0]
        c["fault_capacity"], c["checks"], c["faults"] = (
            len(self.fault_array),
            self.checks.bits,
            self.fault_array.ctypes.data,
        )
        c["pages"], c["page_count"] = self.space.pages.ctypes.data, self.space.pages.size
        c["buffers"], c["warps"], c["ctas"] = (
            self.table.ctypes.data,
            self.warp_array.ctypes.data,
            self.cta_array.ctypes.data,
        )
        c["blocks"], c["block_steps"] = self.kernel.table.ctypes.data, self.kernel.steps.ctypes.data
        c["block_hits"], c["block_lanes"] = self.hits.ctypes.data, self.hit_lanes.ctypes.data
        c["event_at"] = (1 << 63) - 1
        c["rng"] = (self.random.getrandbits(63) << 1) | 1
        c["trace"], c["trace_capacity"] = (
            self.trace_array.ctypes.data,
            len(self.trace_array) if self.checks.timeline else 0,
        )
        c["queue_capacity"], c["max_mbarriers"] = 4096, self.max_mbarriers
        for axis, n in zip("xyz", config.block, strict=True):
            c["ntid_" + axis] = n
        for axis, n in zip("xyz", config.grid, strict=True):
            c["nctaid_" + axis] = n
        for axis, n in zip("xyz", self.cluster_grid, strict=True):
            c["ncluster_" + axis] = n
        for axis, n in zip("xyz", config.cluster, strict=True):
            c["ncta_" + axis] = n
        c["warp_count"], c["sm_count"] = self.warps, config.sm_count
        c["dynamic_smem"], c["total_smem"] = config.shared_bytes, self.shared_size
        c["explicit_cluster"] = int(config.explicit_cluster)
        c["shared_window"] = 1024 if self.arch >= 90 else 0
        c["constants"] = self.params.ctypes.data
        self.param_buffer = self.space.map_range(
            self.params.ctypes.data, self.params.size, self.params, "kernel parameters", True
        )
        self._refresh_buffers()
        c["param"] = self.param_buffer.va
        self.sync: NDArray[np.uint32] | None = None
        padded = -(-self.cluster_count // 16) * 16
        if "$global_sync" in self.kernel.uses and self.checks.races and self.cluster_count > 1:
            self.sync = np.zeros(SYNC_OBJECTS * 2 * padded, np.uint32)
            c["sync"] = self.sync.ctypes.data
        c["cluster_count"] = padded
        self.padded_clusters = padded
        self.address = int(self.context.ctypes.data)
        # Plain words are read many times faster than fields of NumPy records.
        self.context_words = self.context.view(np.uint8).data.cast("I")
        self.context_longs = self.context.view(np.uint8).data.cast("Q")
        self.warp_words = self.warp_array.view(np.uint8).data.cast("I")

    def _refresh_buffers(self) -> None:
        """The parameter block is a buffer too; its row joins the table."""
        self.table = self.space.native(self.checks.races, self.checks.initialisation)
        c = self.context[0]
        c["buffers"], c["pages"], c["page_count"] = (
            self.table.ctypes.data,
            self.space.pages.ctypes.data,
            self.space.pages.size,
        )

    # -- clusters ------------------------------------------------------------------------------------------------

    def _make_slot(self, index: int) -> _Slot:
        n, w, size = self.cluster_size, self.warps, self.shared_size
        total = n * w
        layout = self.kernel.layout
        registers = _aligned(total * max(64, -(-layout.size // 64) * 64))
        local = _aligned(max(1, total * layout.local_size * 64))
        clocks = np.zeros(total * 4 * self.components, np.uint32)
        # Named barriers: 16 a CTA, two vectors each of two halves; the cluster barrier likewise.
        bar_clocks = np.zeros(((n * 16 + 1) * 4 + SYNC_LOCAL * 2) * self.components, np.uint32)
        mbarriers = [np.zeros(self.max_mbarriers, MBARRIER.dtype) for _ in range(n)]
        uses_cp_async = "cp" in self.kernel.uses
        slot = _Slot(
            shared=[_aligned(size + 64) for _ in range(n)],
            cells=[np.zeros(-(-size // 4) + 1, CELL.dtype) for _ in range(n)],
            # A row counts only from the moment at which its cell says so: never cleared, and mostly never touched.
            readers=[np.empty((-(-size // 4) + 1) * -(-w // 8) * 8, np.uint32) for _ in range(n)],
            maps=[np.zeros(size // 8 + 1, np.uint16) for _ in range(n)],
            mbarriers=mbarriers,
            clocks=clocks,
            bar_clocks=bar_clocks,
            bars=[np.zeros(16, BARRIER.dtype) for _ in range(n)],
            registers=registers,
            local=local,
            scratch=_aligned(total * SCRATCH_SIZE),
            queue=np.zeros((total, 4096), QUEUE.dtype) if uses_cp_async else None,
            ctas=np.zeros(n, CTA.dtype),
            warps=np.zeros(total, WARP.dtype),
            known=np.zeros(2 * self.padded_clusters, np.uint32) if self.sync is not None else None,
            words=registers.data.cast("I"),
            longs=registers.data.cast("Q"),
            vectors=clocks.reshape(total, 4, self.components),
        )
        self._template(slot, index)
        return slot

    def _template(self, slot: _Slot, index: int) -> None:
        """Everything about a slot's CTAs and warps that does not change from one cluster to the next."""
        n, w = self.cluster_size, self.warps
        first_cta, first_warp = index * n, index * n * w
        register_bytes = slot.registers.size // max(1, n * w)
        self.register_bytes = register_bytes
        vector = self.components * 4
        cx, cy, _ = self.config.cluster
        if self.checks.races:
            self.mbarrier_clocks = getattr(self, "mbarrier_clocks", {})
        bar_base = int(slot.bar_clocks.ctypes.data)
        for r in range(n):
            cta = slot.ctas[r]
            cta["slot"], cta["rank"], cta["cluster_size"], cta["cluster_first"] = first_cta + r, r, n, first_cta
            cta["in_x"], cta["in_y"], cta["in_z"] = r % cx, r // cx % cy, r // (cx * cy)
            cta["first_warp"], cta["warps"], cta["live_warps"] = first_warp + r * w, w, w
            cta["shared_size"], cta["threads"], cta["components"] = self.shared_size, self.threads, self.components
            cta["component_base"] = r * self.per_cta
            cta["cb_live"] = n * w
            cta["shared"], cta["cells"] = slot.shared[r].ctypes.data, slot.cells[r].ctypes.data
            cta["readers"] = slot.readers[r].ctypes.data
            cta["mbarrier_map"], cta["mbarriers"], cta["bars"] = (
                slot.maps[r].ctypes.data,
                slot.mbarriers[r].ctypes.data,
                slot.bars[r].ctypes.data,
            )
            cta["gclock"] = 1
            if slot.known is not None:
                cta["known"] = slot.known.ctypes.data
            for b in range(16):
                where = bar_base + (r * 16 + b) * 4 * vector
                slot.bars[r][b]["acc"], slot.bars[r][b]["done"] = where, where + 2 * vector
            own = w * (1 + PIPES)
            base = r * self.per_cta + own
            clocks = np.zeros((self.max_mbarriers, 4 * self.components), np.uint32)
            slot_clocks = self.__dict__.setdefault("_barrier_clocks", {})
            slot_clocks[(index, r)] = clocks
            slot.mbarriers[r]["component"] = base + np.arange(self.max_mbarriers) % (self.per_cta - own)
            at = clocks.ctypes.data + np.arange(self.max_mbarriers, dtype=np.uint64) * np.uint64(4 * vector)
            slot.mbarriers[r]["acc"], slot.mbarriers[r]["done"] = at, at + np.uint64(2 * vector)
        last = bar_base + n * 16 * 4 * vector
        slot.ctas[0]["cb_acc"], slot.ctas[0]["cb_done"], slot.ctas[0]["sync"] = (
            last,
            last + 2 * vector,
            last + 4 * vector,
        )
        lanes = np.arange(32)
        bx, by, _ = self.config.block
        local_bytes = self.kernel.layout.local_size
        for r in range(n):
            for i in range(w):
                k = r * w + i
                warp = slot.warps[k]
                thread = i * 32 + lanes
                warp["tid_x"], warp["tid_y"], warp["tid_z"] = thread % bx, thread // bx % by, thread // (bx * by)
                alive = int((np.uint64(1) << np.uint64(max(0, min(32, self.threads - i * 32)))) - np.uint64(1))
                warp["alive"] = warp["mask"] = alive
                warp["index"], warp["id"], warp["join"] = first_warp + k, i, NONE
                warp["self"] = r * self.per_cta + i
                warp["pipe"] = r * self.per_cta + w + i * PIPES
                warp["registers"] = slot.registers.ctypes.data + k * register_bytes
                warp["local"] = slot.local.ctypes.data + k * local_bytes * 64
                warp["local_size"] = local_bytes
                warp["scratch"] = slot.scratch.ctypes.data + k * SCRATCH_SIZE
                warp["cta"] = self.cta_array.ctypes.data + (first_cta + r) * CTA.size
                base = slot.clocks.ctypes.data + k * 4 * vector
                warp["vc"], warp["avc"], warp["tvc"], warp["rvc"] = (
                    base,
                    base + vector,
                    base + 2 * vector,
                    base + 3 * vector,
                )
                if slot.queue is not None:
                    warp["queue"] = slot.queue[k].ctypes.data
        self.mbarrier_template = slot.mbarriers[0].copy() if n else None

    def _start(self, number: int) -> Cluster:
        index = self.free_slots.pop() if self.free_slots else len(self.slots)
        fresh = index not in self.slots
        if fresh:
            self.slots[index] = self._make_slot(index)
        slot = self.slots[index]
        n, w = self.cluster_size, self.warps
        if not fresh:
            self._wipe(slot, index)
        gx, gy, _ = self.cluster_grid
        x, y, z = number % gx, number // gx % gy, number // (gx * gy)
        cx, cy, cz = self.config.cluster
        ctas = slot.ctas
        ctas["cluster_number"], ctas["cluster_x"], ctas["cluster_y"], ctas["cluster_z"] = number, x, y, z
        ctas["x"], ctas["y"], ctas["z"] = x * cx + ctas["in_x"], y * cy + ctas["in_y"], z * cz + ctas["in_z"]
        ctas["number"] = ctas["x"] + self.config.grid[0] * (ctas["y"] + self.config.grid[1] * ctas["z"])
        self.cta_array[index * n : (index + 1) * n] = ctas
        self.warp_array[index * n * w : (index + 1) * n * w] = slot.warps
        if self.checks.races:
            own = slot.clocks.reshape(n * w, 4, self.components)
            own[np.arange(n * w), 0, slot.warps["self"]] = 1
        return Cluster(index, number, index * n, index * n * w)

    def _wipe(self, slot: _Slot, index: int) -> None:
        """Back to the state of a fresh slot. Shared memory keeps its garbage, as on a chip."""
        n = self.cluster_size
        for r in range(n):
            slot.cells[r].view(np.uint8).fill(0)
            used = int(self.cta_array[index * n + r]["mbarrier_count"])
            if used:
                slot.maps[r].fill(0)
                for name in ("live", "expected", "pending", "tx", "phase", "tick"):
                    slot.mbarriers[r][name][:used] = 0
                self.__dict__["_barrier_clocks"][(index, r)][:used] = 0
            for name in ("expected", "arrived", "phase"):
                slot.bars[r][name] = 0
        slot.clocks.fill(0)
        slot.bar_clocks.fill(0)
        if self.kernel.layout.init_slots:
            slot.registers.fill(0)
        if self.kernel.layout.local_size:
            slot.local.fill(0)
        if slot.known is not None:
            slot.known.fill(0)
        for tmem in slot.tmems.values():
            tmem.reset()
        for cells in slot.tensor_cells.values():
            cells.view(np.uint8).fill(0)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Run to the end, or to the first fatal finding."""
        begin = time.perf_counter()
        try:
            self._loop()
            self.findings.at_end()
        finally:
            self.space.unmap(self.param_buffer)
        self.report.seconds = time.perf_counter() - begin
        self._summarise()
        if self.report.findings and self.checks.stop_on_finding:
            raise KernelFault(self.report)
        return self.report

    def _loop(self) -> None:
        words, longs = self.context_words, self.context_longs
        run_cluster = self.native.function("run_cluster")
        window = 1 if not self.checks.unkind else 1 + self.random.randrange(4)
        idle = 0
        last_progress, last_steps = -1, 0
        warps = self.cluster_size * self.warps
        while self.active or self.next < self.cluster_count:
            while len(self.active) < min(window, self.capacity) and self.next < self.cluster_count:
                self.active.append(self._start(self.order[self.next]))
                self.next += 1
            cluster = self.active[0]
            longs[_EVENT] = cluster.pending.due
            status = run_cluster(self.address, cluster.first_warp, warps, _QUANTUM)
            if status == _HOST:
                HostCall.run(self, cluster, words[_HOST_WARP])
                idle = 0
            elif status == Status.EXITED:
                self._leave(cluster)
                self.active.popleft()
                idle = 0
            elif status == Status.ALL_BLOCKED:
                if self._force(cluster) or self._unstick(cluster) or self._time_out(cluster):
                    idle = 0
                    continue
                self.findings.deadlock(cluster)
                return
            elif status == Status.EVENT and self._complete_due(cluster):
                idle = 0
            elif status in (Status.BUDGET, Status.EVENT):
                self.active.rotate(-1)
                idle += 1
                # Nobody finished for a round: others may be what they wait for, so let more in.
                if idle > len(self.active) and window < self.capacity:
                    window = min(self.capacity, max(window + 1, window * 2))
                    idle = 0
            if words[_FATAL]:
                self.findings.collect()
                return
            if status == Status.BUDGET and not self._still_sensible():
                return
            progress, steps = longs[_PROGRESS], longs[_STEPS]
            if progress != last_progress:
                last_progress, last_steps = progress, steps
            elif status in (Status.BUDGET, Status.EVENT) and self._force(cluster):
                pass  # some of its warps spin, on another cluster perhaps, while others wait for what is in flight
            elif steps - last_steps > _STALL_LIMIT:
                self.findings.livelock(steps - last_steps)
                return
        self.findings.collect()

    def _still_sensible(self) -> bool:
        steps = int(self.context["steps"][0])
        if steps > self.checks.step_limit:
            self.findings.step_limit(steps)
            return False
        return True

    # -- asynchronous work ---------------------------------------------------------------------------------------

    def count(self, counter: Counter, amount: int) -> None:
        """Add to a counter of the report."""
        self.context_longs[_COUNTERS + int(counter)] += amount

    def steps_now(self) -> int:
        """The launch's clock: warp instructions so far."""
        return self.context_longs[_STEPS]

    def delay(self) -> int:
        """A seeded completion time: at once, soon, or only when something waits for it."""
        if not self.checks.unkind:
            return 0
        roll = self.random.random()
        if roll < 0.25:
            return 0
        if roll < 0.6:
            return 1 + int(self.random.random() * 2999)
        return 1 << 60

    def schedule(self, cluster: Cluster, op: AsyncOp) -> None:
        """Put work in flight."""
        cluster.pending.add(op)

    def _complete_due(self, cluster: Cluster) -> bool:
        """Whether anything landed: an operation that is due may be behind one that is not."""
        now, landed = self.steps_now(), False
        while True:
            ready = [op for op in cluster.pending.ready() if op.due <= now]
            if not ready:
                cluster.pending.postpone(now, 500)
                return landed
            self.complete(cluster, self.random.choice(ready))
            landed = True

    def _unstick(self, cluster: Cluster) -> bool:
        """Lanes that wait for others of their warp to converge go on without them."""
        count = self.warps * self.cluster_size
        return bool(self.native.function("unstick")(self.address, cluster.first_warp, count))

    def _time_out(self, cluster: Cluster) -> bool:
        """Nothing can move: every ``mbarrier.try_wait`` gives up, once. Code that loops comes back, and then it is a
        deadlock."""
        progress = int(self.context["progress"][0])
        if self._timed_out.get(cluster.number) == progress:
            return False
        self._timed_out[cluster.number] = progress
        found = False
        for k in range(self.warps * self.cluster_size):
            w = self.warp_array[cluster.first_warp + k]
            if int(w["state"]) == State.BLOCKED and int(w["wait_kind"]) == 2:
                retries = w["g_retry"][: int(w["groups"])]
                retries[retries != 0] = 2
                w["state"] = State.RUN
                found = True
        return found

    def _force(self, cluster: Cluster) -> bool:
        """Everything waits: something in flight has to land."""
        ready = cluster.pending.ready()
        if not ready:
            return False
        self.complete(cluster, self.random.choice(ready) if self.checks.unkind else ready[0])
        return True

    def complete(self, cluster: Cluster, op: AsyncOp) -> None:
        """Let one operation take effect."""
        cluster.pending.remove(op)
        op.run()

    def complete_all(self, cluster: Cluster, queue: str) -> None:
        """Complete everything in one named queue, in order."""
        for op in cluster.pending.queued(queue):
            self.complete(cluster, op)

    def _leave(self, cluster: Cluster) -> None:
        """All warps have exited."""
        self.findings.cluster_exit(cluster)
        while cluster.pending:
            self.complete(cluster, cluster.pending.ready()[0])
        self.free_slots.append(cluster.slot)

    def cancel(self) -> tuple[int, int, int] | None:
        """clusterlaunchcontrol: give the next cluster away. Its first CTA, or None when all have started."""
        if self.next >= self.cluster_count:
            return None
        number = self.order[self.next]
        self.next += 1
        gx, gy, _ = self.cluster_grid
        cx, cy, cz = self.config.cluster
        return number % gx * cx, number // gx % gy * cy, number // (gx * gy) * cz

    # -- views for the host --------------------------------------------------------------------------------------

    def cta_address(self, slot: int) -> int:
        """Native address of a CTA's struct."""
        return self.cta_base + slot * CTA.size

    def warp_address(self, index: int) -> int:
        """Native address of a warp's struct."""
        return self.warp_base + index * WARP.size

    # -- summary -------------------------------------------------------------------------------------------------

    def _summarise(self) -> None:
        r, c = self.report, self.context[0]
        r.steps = int(c["steps"])
        counters = c["counters"]
        r.counts = {name: int(counters[i]) for name, i in COUNTER_NAMES.items()} | dict(r.counts)
        r.instructions = {}
        lines: dict[str, int] = {}
        lanes: dict[str, int] = {}
        for block in self.kernel.flow.blocks:
            hits, total = int(self.hits[block.index]), int(self.hit_lanes[block.index])
            if not hits:
                continue
            for i in block.instructions:
                r.instructions[i.base] = r.instructions.get(i.base, 0) + hits
                where = self.where(i.line, i.loc)[1] or f"PTX line {i.line}"
                lines[where] = lines.get(where, 0) + hits
                lanes[where] = lanes.get(where, 0) + total
        r.lines = [LineProfile(s, n, lanes[s]) for s, n in lines.items()]
        trace = self.trace_array[: int(c["trace_count"])].copy()
        lines_of = [i.line for i in self.kernel.instructions]
        r.wait_source = lambda: _waits(trace, lines_of)

    def where(self, line: int, loc: Any) -> tuple[int, str]:
        """PTX line and CUDA source position."""
        if loc is None:
            return line, ""
        name = self.files.get(loc.file, f"file {loc.file}").rsplit("/", 1)[-1]
        return line, f"{name}:{loc.line}:{loc.column}"


def _waits(trace: NDArray[Any], lines: list[int]) -> list[Wait]:
    """The recorded waits as objects."""
    found = []
    for begin, end, cta, warp, address, number in trace.tolist():
        name = (
            "cluster barrier" if address == NONE else (f"bar {address}" if address < 16 else f"mbarrier {address:#x}")
        )
        found.append(Wait(begin, end, cta, warp, name, lines[number] if number < len(lines) else 0))
    return found
