"""What a host operation sees: its warp, its operands, shared memory with its shadow, the launch."""

from __future__ import annotations

import ctypes
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..compile.emitter import register_bits
from ..memory import Buffer
from ..ptx.ast import Bracket, Imm, Operand, Reg, Sink, Sym, Vec
from ..runtime.layout import CELL, GCELL, NONE, PIPES, SHARED_BASE, WARP, Check, Space
from ..units.access import Access
from ..units.errors import UnitError
from ..units.tcgen05 import TensorMemory
from .operation import operation, reader

if TYPE_CHECKING:
    from ..launch import Cluster, Launch

__all__ = ["Fatal", "HostCall", "Spans"]

Spans = NDArray[np.int64]
U64 = NDArray[np.uint64]
# Lanes that share a shadow cell of tensor memory.
TENSOR_LANES = 16
# Word lists whose addresses are remembered.
_POINTERS = 20_000
_WARP_WORDS = WARP.size // 4
_PC, _MASK, _ALIVE, _ID, _PIPE = (WARP.fields[name].offset // 4 for name in ("pc", "mask", "alive", "id", "pipe"))
# The clock vectors of a warp, in the order in which launch.py lays them out.
_VECTORS = ("vc", "avc", "tvc", "rvc")
_UNSIGNED: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
CPASYNC, WGMMA, BULK, TCGEN05, LOADS, STORES = range(PIPES)


@lru_cache(maxsize=4096)
def _lanes(mask: int) -> list[int]:
    return [lane for lane in range(32) if mask >> lane & 1]


class Fatal(Exception):
    """A host operation reported a fatal finding; the launch ends."""


_SPECIAL = {
    "%ctaid.x": "x",
    "%ctaid.y": "y",
    "%ctaid.z": "z",
    "%cluster_ctarank": "rank",
    "%cluster_nctarank": "cluster_size",
}


class HostCall:
    """One host operation of one warp."""

    def __init__(self, launch: Launch, cluster: Cluster, index: int) -> None:
        self.launch = launch
        self.cluster = cluster
        self.index = index
        self.fields = index * _WARP_WORDS
        words = launch.warp_words
        self.pc = words[self.fields + _PC]
        self.operation = operation(launch.kernel, self.pc)
        self.instruction = self.operation.instruction
        self.number = self.operation.number
        self.mask = words[self.fields + _MASK]
        self.lanes = _lanes(self.mask)
        local = index - cluster.first_warp
        self.rank = local // launch.warps
        self.cta_slot = cluster.first_cta + self.rank
        self.slot = launch.slots[cluster.slot]
        self.words, self.longs = self.slot.words, self.slot.longs
        # Where the warp's registers begin, in words.
        self.word = local * launch.register_bytes >> 2

    @cached_property
    def warp(self) -> Any:
        """The warp's record."""
        return self.launch.warp_array[self.index]

    @cached_property
    def cta(self) -> Any:
        """The CTA's record."""
        return self.launch.cta_array[self.cta_slot]

    @cached_property
    def file(self) -> NDArray[np.uint8]:
        """The warp's registers."""
        return self.slot.registers[self.word * 4 : self.word * 4 + self.launch.register_bytes]

    # -- control -------------------------------------------------------------------------------------------------

    @staticmethod
    def run(launch: Launch, cluster: Cluster, index: int) -> None:
        """Carry out the operation at which warp ``index`` stopped."""
        call = HostCall(launch, cluster, index)
        native = launch.native
        try:
            done = call.operation.handler(call)
        except UnitError as error:
            launch.findings.add(
                "illegal-instruction", f"{call.instruction.opcode}: {error.message}", error.remedy, call
            )
            launch.context["fatal"] = 1
            return
        except Fatal:
            launch.context["fatal"] = 1
            return
        address = launch.warp_address(index)
        if done:
            native.function("host_done")(launch.address, address, call.pc, call.operation.next)
        else:
            call.warp["wait_kind"], call.warp["wait_instr"] = 5, call.number
            call.warp["retry"] = 1
            native.function("step_aside")(launch.address, address)

    def fatal(self, kind: str, message: str, remedy: str, lane: int | None = None) -> None:
        """Report and end the launch."""
        self.launch.findings.add(kind, message, remedy, self, lane)
        raise Fatal

    def finding(self, kind: str, message: str, remedy: str, lane: int | None = None) -> None:
        """Report and go on."""
        self.launch.findings.add(kind, message, remedy, self, lane)

    def aligned(self) -> None:
        """.aligned: all live threads of the warp take part."""
        alive = self.launch.warp_words[self.fields + _ALIVE]
        if self.mask != alive:
            self.fatal(
                "divergence",
                f"{self.instruction.opcode} is .aligned, but only lanes {self.mask:#010x} of {alive:#010x} execute it",
                "let the whole warp reach it, or elect a thread only around what one thread may do",
            )

    @property
    def leader(self) -> int:
        """The first active lane."""
        return self.lanes[0]

    @property
    def warp_id(self) -> int:
        """Index of the warp in its CTA."""
        return self.launch.warp_words[self.fields + _ID]

    # -- operands ------------------------------------------------------------------------------------------------

    def register_view(self, name: str) -> NDArray[Any]:
        """A register's storage: 32 lanes (predicates: one packed word)."""
        bits = register_bits(self.launch.kernel.flow.registers[name])
        offset = self.launch.kernel.layout.slots[name]
        if bits == 1:
            return self.file[offset : offset + 4].view(np.uint32)
        if bits == 128:
            return self.file[offset : offset + 512].view(np.uint64).reshape(32, 2)
        return self.file[offset : offset + bits * 4].view(_UNSIGNED[bits])

    def values(self, operand: Operand) -> U64:
        """An operand in all lanes, zero-extended to 64 bits."""
        if isinstance(operand, Imm):
            value = int(operand.value) if not operand.is_float else int(np.float32(operand.value).view(np.uint32))
            return np.full(32, value & 0xFFFFFFFFFFFFFFFF, np.uint64)
        if isinstance(operand, Sym):
            return np.full(32, self.symbol(operand), np.uint64)
        if isinstance(operand, Bracket):
            base = self.values(operand.base)
            bits = 64
            if isinstance(operand.base, Reg) and operand.base.name in self.launch.kernel.flow.registers:
                bits = register_bits(self.launch.kernel.flow.registers[operand.base.name])
            total: U64 = base + np.uint64(operand.offset & 0xFFFFFFFFFFFFFFFF)
            return total & np.uint64(0xFFFFFFFF) if bits == 32 else total
        assert isinstance(operand, Reg), operand
        if operand.name not in self.launch.kernel.flow.registers:
            return np.full(32, int(self.cta[_SPECIAL[operand.name]]), np.uint64)
        view = self.register_view(operand.name)
        if register_bits(self.launch.kernel.flow.registers[operand.name]) == 1:
            packed = int(view[0])
            return np.array([packed >> l & 1 for l in range(32)], np.uint64)
        return view.astype(np.uint64)

    def value(self, operand: Operand, lane: int | None = None) -> int:
        """An operand of one lane (the first active one)."""
        return reader(self.launch.kernel, operand)(self, self.lanes[0] if lane is None else lane)

    def inputs(self, lane: int) -> tuple[int, ...]:
        """All operands of one lane that are not lists or symbols; lists count as their items."""
        return tuple([read(self, lane) for read in self.operation.inputs])

    def uniform(self, operand: Operand, what: str) -> int:
        """An operand that must agree in all active lanes."""
        if self.mask == 0xFFFFFFFF and isinstance(operand, Reg) and operand.name in self.launch.kernel.layout.slots:
            view = self.register_view(operand.name)
            if view.size == 32:
                held = view.tolist()
                if held.count(held[0]) == 32:
                    return int(held[0])
        found = self.values(operand)[self.lanes]
        if (found != found[0]).any():
            self.fatal(
                "divergence",
                f"{self.instruction.opcode}: {what} differs among lanes ({int(found[0]):#x}, "
                f"{int(found[found != found[0]][0]):#x})",
                f"all threads of the warp must pass the same {what}",
            )
        return int(found[0])

    def symbol(self, operand: Sym) -> int:
        """Address of a variable."""
        layout = self.launch.kernel.layout
        if operand.name in layout.shared:
            return (self.rank << 24) + layout.shared[operand.name] + operand.offset
        if operand.name in layout.params:
            return int(self.launch.param_buffer.va) + layout.params[operand.name][0] + operand.offset
        if operand.name in layout.globals:
            return layout.globals[operand.name] + operand.offset
        return layout.local.get(operand.name, 0) + operand.offset

    def items(self, operand: Operand) -> tuple[Operand, ...]:
        """The elements of a vector operand, or the operand itself."""
        return operand.items if isinstance(operand, Vec) else (operand,)

    def registers(self, operand: Operand) -> NDArray[np.uint32]:
        """A vector of 32-bit registers as uint32 [n, 32]."""
        bank = self._bank(operand)
        if bank is not None:
            found: NDArray[np.uint32] = self.file.view(np.uint32)[bank[0]]
            return found
        return np.stack([self.values(item).astype(np.uint32) for item in self.items(operand)])

    def _bank(self, operand: Operand) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
        """Where a vector of 32-bit registers lies in the register file, in words: [n, 32], and its initialisation
        words. None if it holds anything else."""
        banks: dict[int, Any] = self.launch.kernel.banks
        key = id(operand)
        if key not in banks:
            layout, kinds = self.launch.kernel.layout, self.launch.kernel.flow.registers
            names = [r.name for r in self.items(operand) if isinstance(r, Reg) and r.name in layout.slots]
            whole = len(names) == len(self.items(operand)) and all(register_bits(kinds[n]) == 32 for n in names)
            if whole:
                words = np.array([layout.slots[n] // 4 for n in names], np.intp)[:, None] + np.arange(32)
                doubtful = np.array([layout.init_slots[n] // 4 for n in names if n in layout.init_slots], np.intp)
                banks[key] = words, doubtful
            else:
                banks[key] = None
        found: tuple[NDArray[np.intp], NDArray[np.intp]] | None = banks[key]
        return found

    def write_all(self, operand: Operand, values: NDArray[np.uint32], mask: int | None = None) -> None:
        """Write a vector of registers, uint32 [n, 32], and mark it as written."""
        bank = self._bank(operand)
        lanes = self.mask if mask is None else mask
        if bank is None:
            for item, row in zip(self.items(operand), values, strict=True):
                self.write(item, row, lanes)
            return
        file = self.file.view(np.uint32)
        if lanes == 0xFFFFFFFF:
            file[bank[0]] = values
        else:
            chosen = [l for l in range(32) if lanes >> l & 1]
            file[bank[0][:, chosen]] = values[:, chosen]
        file[bank[1]] |= np.uint32(lanes)

    def mark_all(self, operand: Operand, known: bool) -> None:
        """Set or clear the initialisation bits of a vector of registers."""
        bank = self._bank(operand)
        if bank is None:
            for item in self.items(operand):
                if isinstance(item, Reg):
                    self.mark_init(item.name, self.mask, known)
        elif known:
            self.file.view(np.uint32)[bank[1]] |= np.uint32(self.mask)
        else:
            self.file.view(np.uint32)[bank[1]] &= np.uint32(~self.mask & 0xFFFFFFFF)

    def write(self, operand: Operand, values: NDArray[Any], lanes: int | None = None) -> None:
        """Write a destination register in the active lanes."""
        if isinstance(operand, Sink):
            return
        assert isinstance(operand, Reg)
        mask = self.mask if lanes is None else lanes
        view = self.register_view(operand.name)
        if register_bits(self.launch.kernel.flow.registers[operand.name]) == 1:
            packed = sum(int(bool(v)) << l for l, v in enumerate(values))
            view[0] = (int(view[0]) & ~mask) | (packed & mask)
        elif mask == 0xFFFFFFFF:
            view[:] = values
        else:
            chosen = [l for l in range(32) if mask >> l & 1]
            view[chosen] = np.asarray(values)[chosen].astype(view.dtype)
        self.mark_init(operand.name, mask, True)

    def mark_init(self, name: str, mask: int, known: bool) -> None:
        """Set or clear the initialisation bits of a doubtful register."""
        offset = self.launch.kernel.layout.init_slots.get(name)
        if offset is None:
            return
        word = self.file[offset : offset + 4].view(np.uint32)
        word[0] = (int(word[0]) | mask) if known else (int(word[0]) & ~mask & 0xFFFFFFFF)

    # -- shared memory -------------------------------------------------------------------------------------------

    def shared_address(self, address: int) -> int:
        """A shared address from a shared or generic one."""
        return address - SHARED_BASE if address >> 56 == 1 else address

    def slot_of(self, rank: int) -> int:
        """CTA slot of a rank of this cluster."""
        return self.cluster.first_cta + rank

    def smem(self, rank: int | None = None) -> NDArray[np.uint8]:
        """Shared memory of a CTA of the cluster, from address 0 of its window."""
        return self.slot.shared[self.rank if rank is None else rank]

    def locate(self, address: int, size: int, what: str, lane: int | None = None) -> tuple[int, int]:
        """(rank, offset) of a shared address; faults when it is outside the CTA or the cluster."""
        address = self.shared_address(address)
        rank, offset = address >> 24, address & 0xFFFFFF
        if rank >= self.launch.cluster_size or offset + size > self.launch.shared_size:
            self.fatal(
                "out-of-bounds",
                f"{self.instruction.opcode}: {what} at shared address {address:#x}, {size} bytes, is outside the CTA's "
                f"{self.launch.shared_size} bytes (cluster of {self.launch.cluster_size})",
                "check the address and the shared memory of the launch",
                lane,
            )
        if int(self.launch.cta_array[self.slot_of(rank)]["live_warps"]) == 0:
            self.fatal(
                "cluster-exit",
                f"{self.instruction.opcode}: {what} is in CTA rank {rank} of the cluster, which has exited",
                "keep CTAs alive with a cluster barrier until nobody uses their shared memory",
                lane,
            )
        return rank, offset

    def vector(self, name: str, index: int | None = None) -> NDArray[np.uint32]:
        """A clock vector of a warp: vc, avc or tvc."""
        found: NDArray[np.uint32] = self.slot.vectors[
            (self.index if index is None else index) - self.cluster.first_warp, _VECTORS.index(name)
        ]
        return found

    def pipe(self, kind: int) -> int:
        """Clock component of one of this warp's asynchronous pipes."""
        return self.launch.warp_words[self.fields + _PIPE] + kind

    def tick_pipe(self, kind: int) -> int:
        """The next date of a pipe."""
        dates = self.cluster.host.setdefault("pipes", {})
        component = self.pipe(kind)
        dates[component] = dates.get(component, 0) + 1
        return int(dates[component])

    def access(self, words: NDArray[np.intp], rank: int, what: str, component: int, date: int, write: bool) -> None:
        """An asynchronous engine will touch these words of a CTA's shared memory."""
        cells = self.slot.cells[rank]
        self.inside(words, cells.size, rank, what)
        self._check(cells, words, rank, what, component, date, int(write) | 2, NONE)

    def inside(self, words: NDArray[Any], size: int, rank: int, what: str) -> None:
        """Fault unless sorted words lie in the CTA's shared memory."""
        if words.size and (int(words[-1]) >= size or int(words[0]) < 0):
            self.fatal(
                "out-of-bounds",
                f"{self.instruction.opcode}: {what} reaches shared address "
                f"{(rank << 24) + int(words[-1]) * 4 + 3:#x}; the CTA has "
                f"{self.launch.shared_size} bytes",
                "check address, tile size and descriptor, or pass more shared_bytes",
            )

    @staticmethod
    def tensor_words(access: Access) -> NDArray[np.int64]:
        """The shadow cells of rectangles of tensor memory (remembered with the access, which equal plans share)."""
        found: NDArray[np.int64] | None = access.__dict__.get("_cells")
        if found is None:
            parts = []
            for l0, l1, c0, c1 in access.spans:
                rows = np.arange(int(l0) // TENSOR_LANES, (int(l1) - 1) // TENSOR_LANES + 1)
                parts.append((rows[:, None] * 512 + np.arange(int(c0), int(c1))[None, :]).reshape(-1))
            found = np.unique(np.concatenate(parts)).astype(np.int64) if parts else np.empty(0, np.int64)
            access.__dict__["_cells"] = found
        return found

    def _check(
        self,
        cells: NDArray[Any],
        words: NDArray[np.intp],
        rank: int,
        what: str,
        component: int,
        date: int,
        flags: int,
        own: int,
    ) -> None:
        launch = self.launch
        if not launch.checked:
            return
        # Plans are shared, and so are their word lists: their addresses are asked for once.
        held = launch.pointers.get(id(words))
        if held is None:
            if len(launch.pointers) > _POINTERS:
                launch.pointers.clear()
            same = words.dtype == np.int64 and words.flags.c_contiguous
            index = words if same else np.ascontiguousarray(words, np.int64)
            held = launch.pointers[id(words)] = words, index, int(index.ctypes.data)
        launch.async_access(
            launch.address,
            launch.warp_address(self.index),
            cells.ctypes.data,
            held[2],
            words.size,
            self.number,
            component,
            date,
            flags,
            own,
            launch.findings.name(what) | rank << 8,
        )

    # -- tensor memory -------------------------------------------------------------------------------------------

    def tmem(self, rank: int) -> TensorMemory:
        """Tensor memory of a CTA of the cluster."""
        held = self.slot.tmems
        if rank not in held:
            held[rank] = TensorMemory()
        return held[rank]

    def tensor_cells(self, rank: int) -> NDArray[Any]:
        """Shadow of a CTA's tensor memory, [lane // TENSOR_LANES, column]: the shapes of tcgen05 address 16 lanes or
        more at a time (4x256b alone fewer), and a cell a word would cost more than the products themselves."""
        held = self.slot.tensor_cells
        if rank not in held:
            held[rank] = np.zeros(128 // TENSOR_LANES * 512, CELL.dtype)
        return held[rank]

    # -- global memory -------------------------------------------------------------------------------------------

    def buffer(self, address: int, size: int, what: str, write: bool, lane: int | None = None) -> Buffer:
        """The buffer that holds a range of device addresses."""
        found = self.launch.space.find(address)
        if found is None or address + size > found.va + found.size:
            self.fatal(
                "out-of-bounds",
                f"{self.instruction.opcode}: {what} {'writes' if write else 'reads'} {size} bytes at {address:#x}: "
                f"{self.launch.space.describe(address)}",
                "make pointer, size and tensor map agree with the allocation",
                lane,
            )
        assert found is not None
        if write and found.read_only:
            self.fatal(
                "read-only",
                f"{self.instruction.opcode}: {what} writes to {found.name}, which is read-only",
                "write to a buffer",
                lane,
            )
        return found

    def watched(self, buffer: Buffer) -> bool:
        """Whether who reads a buffer must be checked: this launch has written to it, or not all of it has a value."""
        row = self.launch.table[buffer.index]
        return self.launch.checked and bool(int(row["flags"]) & 2 or row["init"])

    def global_read(self, spans: Spans, lane: int) -> None:
        """Check bytes, at least one, of a watched buffer that an asynchronous engine will read: they have values, and
        writes of this launch are ordered before, and fenced."""
        held = np.ascontiguousarray(spans, np.int64)
        warp = self.launch.warp_address(self.index)
        self.launch.global_async_read(self.launch.address, warp, held.ctypes.data, len(held), self.number, lane)

    def global_write(self, buffer: Buffer, spans: Spans) -> None:
        """Mark device bytes as written by this cluster."""
        row = self.launch.table[buffer.index]
        row["flags"] |= 2
        stamp = buffer.cells.view(GCELL.dtype) if buffer.cells is not None else None
        head = self.launch.cta_array[self.cluster.first_cta]
        for low, high in spans:
            a, b = int(low) - buffer.va, int(high) - buffer.va
            if buffer.init is not None:
                buffer.init[a:b] = 1
            row["written"] += np.uint64(b - a)
            if stamp is not None:
                part = stamp[a >> 2 : (b + 3) >> 2]
                part["wclock"], part["wactor"], part["wmask"], part["flags"] = 0, int(self.warp["self"]), 15, 2
                part["cluster"], part["gclock"], part["winstr"] = (
                    int(head["cluster_number"]) + 1,
                    int(head["gclock"]),
                    self.number + 1,
                )

    def memory(self, address: int, size: int, what: str, write: bool, lane: int | None = None) -> NDArray[np.uint8]:
        """Bytes at a generic address: shared or global."""
        if address >> 56 == 1:
            rank, offset = self.locate(address, size, what, lane)
            return self.smem(rank)[offset : offset + size]
        buffer = self.buffer(address, size, what, write, lane)
        start = address - buffer.va
        return buffer.bytes[start : start + size]

    def store32(self, address: int, value: int, space: Space) -> None:
        """A generic store by the first active lane, checked like any other."""
        scratch = _view(int(self.warp["scratch"]), 512)
        lane = self.leader
        scratch.view(np.uint64)[lane] = address
        scratch[256:].view(np.uint32)[lane] = value
        base = int(self.warp["scratch"])
        self.launch.native.function("store")(
            self.launch.address,
            self.launch.warp_address(self.index),
            1 << lane,
            self.number,
            4,
            1,
            int(space),
            base,
            base + 256,
        )

    # -- mbarriers -----------------------------------------------------------------------------------------------

    def mbarrier(self, address: int, lane: int | None = None) -> tuple[int, int, Any]:
        """(rank, offset, record) of a live mbarrier."""
        rank, offset = self.locate(address, 8, "the mbarrier", lane)
        slot = self.launch.slots[self.cluster.slot]
        index = int(slot.maps[rank][offset >> 3])
        if offset & 7 or not index or not int(slot.mbarriers[rank][index - 1]["live"]):
            self.fatal(
                "mbarrier",
                f"{self.instruction.opcode}: there is no initialised mbarrier at shared address "
                f"{(rank << 24) + offset:#x}",
                "initialise it with mbarrier.init, fence.mbarrier_init and a barrier before use",
                lane,
            )
        record = slot.mbarriers[rank][index - 1]
        cell = slot.cells[rank][offset >> 2]
        if int(self.launch.context["checks"][0]) & Check.RACES and int(self.vector("vc")[int(cell["wactor"])]) < int(
            cell["wclock"]
        ):
            self.launch.findings.race(
                self, "write", "the mbarrier's initialisation", (rank << 24) + offset, cell, False
            )
            cell["wclock"] = 0
        return rank, offset, record

    def teach(self, rank: int, offset: int, known: NDArray[np.uint32]) -> None:
        """Clocks (vc and avc, one after the other) that an arrival on a live mbarrier passes on to those who wait for
        its phase."""
        slot = self.launch.slots[self.cluster.slot]
        index = int(slot.maps[rank][offset >> 3])
        if index:
            acc = _view(int(slot.mbarriers[rank][index - 1]["acc"]), known.nbytes).view(np.uint32)
            np.maximum(acc, known, out=acc)

    def arrive(self, rank: int, offset: int, bytes_: int, arrivals: int, component: int = NONE, date: int = 0) -> None:
        """What an engine does when it is done: complete_tx, or arrive."""
        status = self.launch.native.function("mbarrier_complete")(
            self.launch.address, self.launch.cta_address(self.slot_of(rank)), offset, bytes_, arrivals, component, date
        )
        if status == 0 and not self.launch.checks.strict:
            return
        if status != 1:
            what = "is gone (invalidated or overwritten)" if status == 0 else "expects no further arrival in this phase"
            self.finding(
                "mbarrier",
                f"{self.instruction.opcode} completes on the mbarrier at {(rank << 24) + offset:#x}, which {what}",
                "keep the barrier alive until everything that signals it has landed, and count its arrivals",
            )
            if status == 2:
                self.launch.context["fatal"] = 1


def _view(address: int, size: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
