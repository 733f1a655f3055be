"""Turns faults into findings: what happened, where, with which values, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..report import Finding
from ..runtime.layout import PIPES, Fault, Space, State

if TYPE_CHECKING:
    from ..host.state import HostCall
    from ..launch import Cluster, Launch

__all__ = ["Findings"]

_FENCE_REMEDY = (
    "order the two: a barrier or mbarrier wait between them on every path (for asynchronous copies: "
    "wait for the mbarrier phase or the "
    "group before use, and signal the buffer empty only after the last use)"
)


class Findings:
    """Collects the findings of one launch."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.seen: dict[tuple[str, int, str], int] = {}
        self.what: list[str] = []

    def name(self, what: str) -> int:
        """Number of a word for what an asynchronous operation touches, as native code passes it on."""
        if what not in self.what:
            self.what.append(what)
        return self.what.index(what)

    # -- adding --------------------------------------------------------------------------------------------------

    def add(self, kind: str, message: str, remedy: str, call: HostCall | None = None, lane: int | None = None) -> None:
        """A finding of a host operation."""
        number = call.number if call is not None else None
        cta = int(call.cta["number"]) if call is not None else None
        warp = call.warp_id if call is not None else None
        self._put(kind, message, remedy, number, cta, warp, lane)

    def _put(
        self,
        kind: str,
        message: str,
        remedy: str,
        number: int | None,
        cta: int | None = None,
        warp: int | None = None,
        lane: int | None = None,
        count: int = 1,
    ) -> None:
        key = (kind, -1 if number is None else number, message.split(" at ")[0][:60])
        found = self.launch.report.findings
        if key in self.seen:
            index = self.seen[key]
            old = found[index]
            found[index] = Finding(
                old.kind,
                old.message,
                old.remedy,
                old.kernel,
                old.line,
                old.source,
                old.cta,
                old.warp,
                old.lane,
                old.count + count,
            )
            return
        if len(found) >= 100:
            return
        self.seen[key] = len(found)
        line, source = self.position(number)
        found.append(
            Finding(kind, message, remedy, self.launch.kernel.entry.name, line, source, cta, warp, lane, count)
        )

    def position(self, number: int | None) -> tuple[int, str]:
        """PTX line and source position of an instruction."""
        instructions = self.launch.kernel.instructions
        if number is None or not 0 <= number < len(instructions):
            return 0, ""
        i = instructions[number]
        return self.launch.where(i.line, i.loc)

    def describe(self, number: int) -> str:
        """An instruction with its place, for the other side of a race."""
        instructions = self.launch.kernel.instructions
        if not 0 <= number < len(instructions):
            return "an earlier access"
        i = instructions[number]
        line, source = self.launch.where(i.line, i.loc)
        return f"{i.opcode} (PTX line {line}{', ' + source if source else ''})"

    def opcode(self, number: int) -> str:
        """The opcode of an instruction."""
        instructions = self.launch.kernel.instructions
        return instructions[number].opcode if 0 <= number < len(instructions) else "?"

    def actor(self, component: int) -> str:
        """Who a clock component stands for."""
        launch = self.launch
        rank, rest = divmod(component, launch.per_cta)
        where = f" of CTA rank {rank}" if launch.cluster_size > 1 else ""
        if rest < launch.warps:
            return f"warp {rest}{where}"
        rest -= launch.warps
        if rest < launch.warps * PIPES:
            warp, pipe = divmod(rest, PIPES)
            name = ("cp.async", "wgmma", "bulk copies", "tcgen05 operations", "tcgen05.ld", "tcgen05.st")[pipe]
            return f"{name} issued by warp {warp}{where}"
        return f"an asynchronous copy that completes on an mbarrier{where}"

    # -- native faults -------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Read the faults that native code recorded."""
        c = self.launch.context
        count = int(c["fault_count"][0])
        for f in self.launch.fault_array[:count]:
            kind, message, remedy = self._text(f)
            number = int(f["instruction"])
            self._put(kind, message, remedy, number, int(f["cta"]), int(f["warp"]), int(f["lane"]), int(f["count"]))
        c["fault_count"] = 0

    def _text(self, f: Any) -> tuple[str, str, str]:
        kind = Fault(int(f["kind"]))
        number = int(f["instruction"])
        name = self.opcode(number)
        a, b, c, d = (int(f[x]) for x in "abcd")
        other = int(f["other"]) - 1
        if d & 64:
            return self._async(kind, name, a, b, c, d, other)
        if kind == Fault.OUT_OF_BOUNDS:
            return self._bounds(name, a, b, Space(c), bool(d))
        if kind == Fault.MISALIGNED:
            return (
                "misaligned",
                f"{name} {'writes' if d else 'reads'} {b} bytes at {a:#x}, which is not a multiple of {b}",
                "align the pointer, or use a narrower access",
            )
        if kind == Fault.UNINITIALISED_REGISTER:
            names = self.launch.kernel.names
            register = names[a] if a < len(names) else "?"
            return (
                "uninitialised-register",
                f"{name} reads register {register}, which nothing has written in lanes {b:#010x} (or "
                f"an asynchronous operation still writes it)",
                "assign it on every path; after wgmma wait (wgmma.wait_group) before reading results",
            )
        if kind == Fault.UNINITIALISED_SHARED:
            return (
                "uninitialised-shared",
                f"{name} reads {c} bytes of shared memory at {a:#x}, which nothing has written",
                "write it first, or wait for the copy that does; check index and tile size",
            )
        if kind == Fault.UNINITIALISED_LOCAL:
            return (
                "uninitialised-local",
                f"{name} reads local memory at {a:#x}, which nothing has written",
                "initialise the array",
            )
        if kind == Fault.UNINITIALISED_GLOBAL:
            return (
                "uninitialised-global",
                f"{name} reads {self.launch.space.describe(a)}, an output that nothing has written",
                "write before reading, or do not mark the argument as Output",
            )
        if kind in (Fault.RACE_READ_AFTER_WRITE, Fault.RACE_WRITE_AFTER_WRITE, Fault.RACE_WRITE_AFTER_READ):
            verb = {
                Fault.RACE_READ_AFTER_WRITE: ("reads", "write"),
                Fault.RACE_WRITE_AFTER_WRITE: ("writes", "write"),
                Fault.RACE_WRITE_AFTER_READ: ("writes", "read"),
            }[kind]
            place = f"global memory, {self.launch.space.describe(a)}" if d == 2 else f"shared memory at {a:#x}"
            return (
                "race",
                f"{name} {verb[0]} {place}, unordered with the {verb[1]} by {self.actor(b)}, {self.describe(other)}",
                _FENCE_REMEDY,
            )
        if kind == Fault.GLOBAL_RACE:
            return (
                "race",
                f"{name} {'writes' if c else 'reads'} global memory, {self.launch.space.describe(a)}, "
                f"which cluster {b} wrote with "
                f"{self.describe(other)}, and nothing orders the two",
                "release in the writer (__threadfence() and an atomic, or .release) and acquire in "
                "the reader, or use another launch",
            )
        if kind == Fault.GLOBAL_PROXY_FENCE:
            return (
                "missing-proxy-fence",
                f"{name} goes through the async proxy to global memory, {self.launch.space.describe(a)}, which cluster "
                f"{b} wrote through the generic proxy, {self.describe(other)}, without a fence.proxy.async since",
                "fence.proxy.async.global after the writes, before they are released, or in the reader, after it has "
                "acquired them",
            )
        return self._rest(kind, name, a, b, c, d, other)

    def _async(self, kind: Fault, name: str, a: int, b: int, c: int, d: int, other: int) -> tuple[str, str, str]:
        """Faults of asynchronous engines: c names the operand and the CTA."""
        what, rank = self.what[c & 255], c >> 8
        if d & 4:
            place = (
                f"tensor memory at lane {a // 4 // 512 * 16} (to {a // 4 // 512 * 16 + 15}), column {a // 4 % 512}"
                + (f" of CTA rank {rank}" if rank else "")
            )
        else:
            place = f"shared memory at {(rank << 24) + a:#x}"
        if kind == Fault.UNINITIALISED_SHARED:
            return (
                "uninitialised-tensor-memory" if d & 4 else "uninitialised-shared",
                f"{name}: {what} includes {place}, which nothing has written",
                "write the whole tile before it is used; check tile size, descriptor and address",
            )
        if kind == Fault.PROXY_FENCE:
            return (
                "missing-proxy-fence",
                f"{name}: {what} goes through the async proxy to {place}, which {self.actor(b)} wrote "
                f"through the generic proxy, "
                f"{self.describe(other)}, without a fence.proxy.async since",
                "fence.proxy.async.shared::cta after the writes, in the writing threads, before the "
                "barrier that precedes this operation",
            )
        if kind == Fault.TCGEN05_FENCE:
            return (
                "missing-tcgen05-fence",
                f"{name}: {what} in {place} is ordered after {self.actor(b)}, {self.describe(other)}, "
                f"only by thread synchronisation",
                "tcgen05.fence::after_thread_sync between the wait and this operation (PTX ISA 9.7.16.6.4)",
            )
        verb = {
            Fault.RACE_READ_AFTER_WRITE: ("reads", "write"),
            Fault.RACE_WRITE_AFTER_WRITE: ("writes", "write"),
            Fault.RACE_WRITE_AFTER_READ: ("writes", "read"),
        }[kind]
        actor = self.actor(b)
        waits = {"tcgen05.ld": "tcgen05.wait::ld", "tcgen05.st": "tcgen05.wait::st"}
        wait = waits.get(actor.split(" ")[0])
        return (
            "race",
            f"{name}: {what} {verb[0]} {place}, unordered with the {verb[1]} by {actor}, {self.describe(other)}",
            f"{wait} behind it, in the same warp, before anything else uses the place (PTX ISA 9.7.16.6.2); for other "
            "warps a barrier besides"
            if wait
            else _FENCE_REMEDY,
        )

    def _bounds(self, name: str, a: int, b: int, space: Space, write: bool) -> tuple[str, str, str]:
        verb = "writes" if write else "reads"
        if space in (Space.SHARED, Space.SHARED_CLUSTER):
            launch = self.launch
            text = (
                f"{name} {verb} {b} bytes at shared address {a:#x}; the CTA has {launch.shared_size} bytes (static "
                f"{launch.kernel.layout.shared_static}, dynamic {launch.config.shared_bytes}), the "
                f"cluster {launch.cluster_size} CTA(s)"
            )
            return "out-of-bounds", text, "check the index, or pass more shared_bytes"
        if space == Space.LOCAL:
            text = (
                f"{name} {verb} {b} bytes at local address {a:#x}; a thread has {self.launch.kernel.layout.local_size}"
            )
            return "out-of-bounds", text, "check the index"
        return (
            "out-of-bounds",
            f"{name} {verb} {b} bytes at {a:#x}: {self.launch.space.describe(a)}",
            "check the index and the guard against the tensor's size",
        )

    def _rest(self, kind: Fault, name: str, a: int, b: int, c: int, d: int, other: int) -> tuple[str, str, str]:
        if kind == Fault.PARTIAL_ALIGNED:
            return (
                "divergence",
                f"{name} is .aligned, but only lanes {a:#010x} of {b:#010x} execute it",
                "let all threads of the warp reach the same instruction, or use the form without .aligned",
            )
        if kind == Fault.LANE_RACE:
            verb, done = {0: ("reads", "wrote"), 1: ("writes", "wrote"), 2: ("writes", "read")}[c]
            by = "several lanes" if b == 254 else f"lane {b}"
            return (
                "race",
                f"{name} {verb} shared memory at {a:#x}, which {by} of the same warp {done} with "
                f"{self.describe(other)} since the "
                "warp last synchronised",
                "__syncwarp() (bar.warp.sync) between the two: lanes of a warp need not run in step",
            )
        if kind == Fault.READ_ONLY:
            return (
                "read-only",
                f"{name} writes to {self.launch.space.describe(a)}, which is read-only",
                "write to a buffer instead",
            )
        if kind == Fault.NOT_AN_MBARRIER:
            state = "was invalidated" if b else "was never initialised"
            return (
                "mbarrier",
                f"{name} at shared address {a:#x}: there is no mbarrier ({state})",
                "mbarrier.init it, make that visible (fence.mbarrier_init, a barrier), and keep it until the last use",
            )
        if kind == Fault.MBARRIER_OVERFLOW:
            text = {
                0: f"{name} at {a:#x} arrives {b} times, but this phase expects only {d} more arrival(s)",
                1: f"{name} at {a:#x}: the transaction count leaves its range ({b - (b >> 63 << 64)} bytes)",
                2: f"{name} at {a:#x} with a count of {b}",
                3: f"{name} at {a:#x}: the CTA has {b} mbarriers already, more than the emulator keeps",
            }[c]
            return (
                "mbarrier",
                text,
                "mbarrier.init must get the number of arrivals of every phase (1 to 1048575), and "
                "who arrives for the next phase must have waited for this one",
            )
        if kind == Fault.MBARRIER_OVERWRITTEN:
            return (
                "mbarrier",
                f"{name} writes over the live mbarrier at {a:#x}",
                "keep data and barriers apart, or mbarrier.inval it first",
            )
        if kind == Fault.MBARRIER_REINIT:
            return (
                "mbarrier",
                f"{name} initialises the mbarrier at {a:#x} again while it is live (phase {b})",
                "mbarrier.inval it first",
            )
        if kind == Fault.MBARRIER_UNORDERED:
            return (
                "race",
                f"{name} uses the mbarrier at {a:#x}, unordered with its initialisation by "
                f"{self.actor(b)}, {self.describe(other)}",
                "after mbarrier.init: fence.mbarrier_init.release.cluster, then bar.sync (or a "
                "cluster barrier) before anyone uses it",
            )
        if kind == Fault.BAD_BARRIER:
            text = {
                0: f"{name} on barrier {a}, but there are 16 (0 to 15)",
                1: f"{name} on barrier {a} for {b} threads, not a multiple of the warp size",
                2: f"{name} on barrier {a}: {b} threads arrive where {d} are expected",
            }[c]
            return "barrier", text, "give every user of a barrier the same count, a multiple of 32"
        if kind == Fault.BARRIER_MISMATCH:
            return (
                "barrier",
                f"{name} on barrier {a} expects {b} threads, but {self.describe(d)} expects {c}",
                "give every user of a barrier the same count, or use different barriers",
            )
        if kind == Fault.TRAP:
            if c == 1:
                return "trap", f"brx.idx with index {a}, but there are {b} targets", "keep the index in range"
            return "trap", f"{name} was executed by lanes {a:#010x}", "an assertion of the kernel failed"
        if kind == Fault.REMOTE_EXITED:
            return (
                "cluster-exit",
                f"{name} {'writes' if c else 'reads'} shared memory at {a:#x} of CTA rank {b}, which has exited",
                "end the kernel with a cluster barrier (arrive.release, wait.acquire), so that no CTA leaves early",
            )
        if kind == Fault.REMOTE_AS_OWN:
            return (
                "out-of-bounds",
                f"{name} addresses {a:#x}, shared memory of CTA rank {b}, through .shared::cta in rank {c}",
                "use .shared::cluster (or a generic address) for the shared memory of other CTAs",
            )
        if kind == Fault.JOIN_OVERFLOW:
            return "divergence", "control flow diverges in more than 32 nested places", "simplify the control flow"
        if kind == Fault.CLUSTER_BARRIER:
            what = (
                "barrier.cluster.wait without arrive before it"
                if a
                else "barrier.cluster.arrive twice without wait between"
            )
            return "barrier", what, "every arrive needs exactly one wait"
        return kind.name.lower().replace("_", "-"), f"{name}: {a:#x} {b:#x} {c:#x} {d:#x}", "see the PTX line"

    # -- host faults ---------------------------------------------------------------------------------------------

    def race(self, call: HostCall, other: str, what: str, address: int, cell: Any, write: bool) -> None:
        """A host operation touches shared memory unordered with somebody else."""
        actor, number = ("ractor", "rinstr") if other == "read" else ("wactor", "winstr")
        self.add(
            "race",
            f"{call.instruction.opcode}: {what} {'writes' if write else 'reads'} shared memory at "
            f"{address:#x}, unordered with the "
            f"{other} by {self.actor(int(cell[actor]))}, {self.describe(int(cell[number]) - 1)}",
            _FENCE_REMEDY,
            call,
        )

    # -- ends ----------------------------------------------------------------------------------------------------

    def cluster_exit(self, cluster: Cluster) -> None:
        """Work that nobody waited for, memory that nobody freed."""
        if not self.launch.checks.leaks:
            return
        for rank, tmem in self.launch.slots[cluster.slot].tmems.items():
            if tmem.sizes:
                held = ", ".join(f"{n} columns at {c:#x}" for c, n in sorted(tmem.sizes.items()))
                number = int(self.launch.cta_array[cluster.first_cta + rank]["number"])
                self._put(
                    "tensor-memory-leak",
                    f"CTA {number} exits with tensor memory allocated: {held}",
                    "tcgen05.dealloc all of it before the kernel ends",
                    None,
                    number,
                )
        left = [op for op in cluster.pending if not op.queue.startswith("commit")]
        # Stores that nobody waited for count even if, in this interleaving, they came to their end in time.
        for state in cluster.host.values():
            if isinstance(state, dict) and "groups" in state:
                left += [op for group in (*state["groups"], state["open"]) for op, _ in group if op not in left]
        for op in left:
            if "shared" in op.what:
                self._put(
                    "exit-in-flight",
                    f"the CTA exits while {op.what} is in flight (PTX line {op.line})",
                    "wait for the copy (mbarrier, or cp.async.bulk.wait_group.read) before the kernel ends",
                    None,
                )

    def at_end(self) -> None:
        """Checks of the whole launch."""
        if self.launch.report.findings or not self.launch.checks.outputs:
            return
        for buffer in self.launch.space.buffers:
            if buffer.output and buffer.init is not None and not buffer.init.all():
                missing = int((buffer.init == 0).sum())
                first = int((buffer.init == 0).argmax())
                self._put(
                    "output-not-written",
                    f"{missing} of {buffer.size} bytes of {buffer.name} were never written; the first is byte {first}",
                    "check grid, tile bounds and predicates of the stores",
                    None,
                )

    def step_limit(self, steps: int) -> None:
        """The launch takes too long."""
        self.collect()
        self._put(
            "step-limit",
            f"the launch has not ended after {steps:,} warp instructions; " + self._where_everyone_is(),
            "a loop does not end, or raise Checks.step_limit",
            None,
        )

    def livelock(self, steps: int) -> None:
        """Warps spin, and nothing changes."""
        self.collect()
        self._put(
            "livelock",
            f"no store, barrier or copy in {steps:,} warp instructions; " + self._where_everyone_is(),
            "warps spin on something that nobody will change",
            None,
        )

    def _where_everyone_is(self) -> str:
        lines = []
        for cluster in list(self.launch.active)[:2]:
            for k in range(min(8, self.launch.warps * self.launch.cluster_size)):
                w = self.launch.warp_array[cluster.first_warp + k]
                if int(w["state"]) != State.DONE:
                    block = self.launch.kernel.flow.blocks[int(w["pc"])]
                    line = block.instructions[0].line if block.instructions else 0
                    lines.append(f"warp {int(w['id'])} of CTA {self._cta_of(cluster, k)} at PTX line {line}")
        return "; ".join(lines)

    def _cta_of(self, cluster: Cluster, k: int) -> int:
        return int(self.launch.cta_array[cluster.first_cta + k // self.launch.warps]["number"])

    def deadlock(self, cluster: Cluster) -> None:
        """Every warp waits, and nothing is in flight."""
        self.collect()
        launch = self.launch
        rows: list[str] = []
        number: int | None = None
        for k in range(launch.warps * launch.cluster_size):
            w = launch.warp_array[cluster.first_warp + k]
            if int(w["state"]) == State.DONE:
                continue
            number = int(w["wait_instr"])
            rows.append("      " + self._blocked(cluster, k, w))
        exited = launch.warps * launch.cluster_size - len(rows)
        tail = f"\n      {exited} warp(s) have exited" if exited else ""
        if not launch.checks.deadlock:
            rows = [f"      {len(rows)} warp(s), which Checks.deadlock would explain"]
        shown = rows if len(rows) <= 40 else [*rows[:40], f"      ... and {len(rows) - 40} more"]
        self._put(
            "deadlock",
            "every warp waits and nothing is in flight:\n" + "\n".join(shown) + tail,
            "compare each barrier's expected arrivals and bytes with what the other warps (and "
            "copies) deliver in that phase",
            number,
            self._cta_of(cluster, 0),
        )

    def _blocked(self, cluster: Cluster, k: int, w: Any) -> str:
        launch = self.launch
        kind, address, instr = int(w["wait_kind"]), int(w["wait_address"]), int(w["wait_instr"])
        who = f"CTA {self._cta_of(cluster, k)} warp {int(w['id'])}"
        at = self.describe(instr)
        slot = launch.slots[cluster.slot]
        rank = k // launch.warps
        if kind == 1:
            bar = slot.bars[rank][address & 15]
            return f"{who}: barrier {address}, {int(bar['arrived'])} of {int(bar['expected'])} threads arrived, at {at}"
        if kind == 2:
            rank, offset = address >> 24, address & 0xFFFFFF
            index = int(slot.maps[rank][offset >> 3])
            if not index:
                return f"{who}: mbarrier {address:#x} at {at}"
            bar = slot.mbarriers[rank][index - 1]
            return (
                f"{who}: mbarrier {address:#x}, phase {int(bar['phase'])} (parity "
                f"{int(bar['phase']) & 1}), {int(bar['pending'])} of "
                f"{int(bar['expected'])} arrivals and {int(bar['tx'])} bytes pending, at {at}"
            )
        if kind == 3:
            head = launch.cta_array[cluster.first_cta]
            return f"{who}: cluster barrier, {int(head['cb_arrived'])} of {int(head['cb_live'])} warps arrived, at {at}"
        if kind == 4:
            return f"{who}: lanes {address:#010x} to reach {at}; they are elsewhere"
        return f"{who}: {at}"
