"""A kernel entry to machine code: storage layout, one LLVM function per basic block, the scheduler's table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import PtxSyntaxError
from ..native.jit import NativeModule, compile_ir
from ..ptx.ast import Function, Instruction, Label, PtxModule, Sym
from ..runtime.layout import SHARED_RESERVED
from ..runtime.native import runtime
from . import access, bits, convert, floating, integer, matrix, moves, warp
from .emitter import CodegenError, Emitter, KernelLayout, Unsupported
from .flow import Block, Flow, build_flow, operand_registers
from .outline import Outlines

__all__ = ["CompiledKernel", "classify", "compile_kernel", "unsupported_opcodes"]

# Carried out by the host between two blocks: see host/.
_HOST_BASES = {"tcgen05", "wgmma", "clusterlaunchcontrol", "tensormap", "griddepcontrol", "setmaxnreg", "call"}
_HOST_PREFIXES = (
    "cp.async.bulk", "cp.reduce.async.bulk", "red.async", "st.async", "st.bulk", "fence.proxy.tensormap::generic",
)  # fmt: skip


def _is_host(i: Instruction) -> bool:
    if i.base == "mma":
        return not matrix.mma_is_native(i)
    return i.base in _HOST_BASES or i.opcode.startswith(_HOST_PREFIXES)


def classify(i: Instruction) -> str:
    """plain, sync, host, converge or exit: how the instruction takes part in control flow."""
    if _is_host(i):
        return "host"
    if i.base in ("bar", "barrier"):
        return "sync"
    if i.base == "mbarrier" and i.parts[1] in ("test_wait", "try_wait"):
        return "sync"
    if i.base in ("vote", "match", "redux", "elect") or (i.base == "shfl" and i.parts[1] == "sync"):
        return "converge"
    if i.base in ("exit", "ret"):
        return "exit"
    if i.base in ("mma", "ldmatrix", "stmatrix", "movmatrix"):
        return "converge"
    return "plain"


def _handler(i: Instruction) -> Callable[[Emitter, Instruction], None] | None:
    base = i.base
    if base in floating.HANDLERS and floating.is_float(i) and base not in ("mov", "setp", "set", "selp"):
        return floating.HANDLERS[base]
    for table in (
        convert.HANDLERS,
        access.HANDLERS,
        warp.HANDLERS,
        matrix.HANDLERS,
        integer.HANDLERS,
        bits.HANDLERS,
        moves.HANDLERS,
    ):
        if base in table:
            return table[base]
    return None


@dataclass
class CompiledKernel:
    """Machine code of one entry and what the host needs to run it."""

    entry: Function
    flow: Flow
    layout: KernelLayout
    code: NativeModule
    table: NDArray[np.uint64]
    steps: NDArray[np.uint32]
    instructions: list[Instruction]
    host: dict[int, Instruction]
    uses: set[str] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0
    banks: dict[int, object] = field(default_factory=dict)
    readers: dict[int, object] = field(default_factory=dict)
    operations: dict[int, object] = field(default_factory=dict)


def _layout(module: PtxModule, flow: Flow, entry: Function, globals_: dict[str, int]) -> KernelLayout:
    layout = KernelLayout()
    layout.globals = globals_
    constant = [v for v in (*module.variables.values(), *flow.variables.values()) if v.space == "const"]
    layout.constants = [(globals_[v.name], globals_[v.name] + v.size) for v in constant if v.name in globals_]
    used: set[str] = set()
    for block in flow.blocks:
        for i in block.instructions:
            for operand in i.operands:
                used.update(_symbols(operand))
    offset = SHARED_RESERVED if module.arch >= 90 else 0
    dynamic: list[str] = []
    shared = [
        v for v in (*module.variables.values(), *flow.variables.values()) if v.space == "shared" and v.name in used
    ]
    for variable in shared:
        if variable.size == 0:
            dynamic.append(variable.name)
            continue
        offset = -(-offset // variable.align) * variable.align
        layout.shared[variable.name] = offset
        offset += variable.size
    layout.shared_static = offset
    alignment = max([v.align for v in shared if v.size == 0] + [16])
    start = -(-offset // alignment) * alignment
    for name in dynamic:
        layout.shared[name] = start
    if dynamic:
        layout.shared_static = start
    local = 0
    for variable in flow.variables.values():
        if variable.space in ("local", "param"):
            local = -(-local // variable.align) * variable.align
            layout.local[variable.name] = local
            local += variable.size
    layout.local_size = -(-local // 16) * 16
    at = 0
    for parameter in entry.parameters:
        at = -(-at // parameter.align) * parameter.align
        layout.params[parameter.name] = (at, parameter)
        at += parameter.size
    return layout


def _symbols(operand: object) -> list[str]:
    if isinstance(operand, Sym):
        return [operand.name]
    found: list[str] = []
    for name in ("items", "more"):
        for item in getattr(operand, name, ()) or ():
            found += _symbols(item)
    for name in ("base", "inner", "first", "second"):
        item = getattr(operand, name, None)
        if item is not None:
            found += _symbols(item)
    return found


def _doubtful(flow: Flow) -> list[str]:
    """Registers that some read may see unwritten: only these carry initialisation masks at run time."""
    from .flow import assign, reads_writes

    found: dict[str, None] = {}
    for block in flow.blocks:
        if block.assigned_in is None:
            continue
        now = set(block.assigned_in)
        for i in block.instructions:
            for r in reads_writes(i)[0]:
                if r not in now and r in flow.registers:
                    found[r] = None
            assign(i, now, flow)
    for r in sorted(flow.in_flight):
        found[r] = None
    return list(found)


class _Kernel:
    def __init__(self, module: PtxModule, entry: Function, globals_: dict[str, int]) -> None:
        self.module = module
        self.entry = entry
        self.flow = build_flow(module, entry, classify)
        self.layout = _layout(module, self.flow, entry, globals_)
        self.helpers: dict[str, str] = {}
        self.outlines = Outlines()
        self.declared: set[str] = set()
        self.functions: list[str] = []
        self.instructions: list[Instruction] = []
        self.host: dict[int, Instruction] = {}
        self.host_numbers: dict[int, int] = {}
        self.tables: list[str] = []
        for register in _doubtful(self.flow):
            self.layout.init_slots[register] = self.layout.size
            self.layout.size += 4
        self.layout.size = -(-self.layout.size // 64) * 64

    def build(self) -> CompiledKernel:
        import time

        begin = time.perf_counter()
        steps = np.ones(len(self.flow.blocks), np.uint32)
        for block in self.flow.blocks:
            steps[block.index] = len(block.instructions)
            if block.kind == "host":
                self.host[block.index] = block.instructions[0]
                self.host_numbers[block.index] = len(self.instructions)
                self.instructions.append(block.instructions[0])
                self.reserve(block.instructions[0])
                self.functions.append("")
            else:
                self.functions.append(self.block(block))
        declarations = [runtime().declaration(name) for name in runtime().names()]
        # One look-up for all blocks: asking the engine for each address takes longer than compiling small kernels.
        pointers = ", ".join(f"ptr @b{i}" if f else "ptr null" for i, f in enumerate(self.functions))
        text = "\n".join(
            [
                *declarations,
                *sorted(self.declared - set(declarations)),
                *self.tables,
                f"@block_table = constant [{len(self.functions)} x ptr] [{pointers}]",
                *self.helpers.values(),
                *filter(None, self.functions),
            ]
        )
        lines = text.count("\n")
        # Block-local values are already in registers and constants folded, so the middle end has little to add; code
        # generation without optimisation is slower to run and hardly faster to compile (measured in
        # benchmarks/emulator.py).
        level = 0 if lines > 6000 else (1 if lines > 1500 else 2)
        code = compile_ir(text, level, False, runtime().addresses() | matrix.product_addresses())
        table = code.words("block_table", len(self.functions))
        uses = {i.base for i in self.instructions}
        if any(self.synchronises(i) for i in self.instructions):
            uses.add("$global_sync")
        return CompiledKernel(
            self.entry,
            self.flow,
            self.layout,
            code,
            table,
            steps,
            self.instructions,
            self.host,
            uses,
            self.layout.register_names,
            time.perf_counter() - begin,
        )

    @staticmethod
    def synchronises(i: Instruction) -> bool:
        """Whether the instruction can order this cluster with another through global memory."""
        if i.base in ("atom", "red"):
            return not any(p.startswith("shared") for p in i.parts)
        return i.base in ("ld", "st") and any(p in i.parts for p in ("acquire", "release", "relaxed", "volatile"))

    def reserve(self, i: Instruction) -> None:
        """Operands of host instructions live in the register file."""
        emitter = Emitter(self.flow, self.layout, {}, set())
        for operand in i.operands:
            for register in operand_registers(operand):
                if register in self.flow.registers:
                    emitter.slot(register)

    def block(self, block: Block) -> str:
        e = Emitter(self.flow, self.layout, self.helpers, self.declared)
        e.begin(block)
        finished = False
        for i in block.instructions:
            number = len(self.instructions)
            self.instructions.append(i)
            try:
                finished = self.emit(e, block, i, number)
            except CodegenError as error:
                raise PtxSyntaxError(f"{i.opcode}: {error}", i.line, i.text) from None
            except Unsupported:
                raise PtxSyntaxError(f"{i.opcode} is not supported", i.line, i.text) from None
        if not finished:
            e.guard = None
            e.flush(block.live_out)
            e.do(f"ret i32 {block.fall}")
        body = "\n".join(e.lines)
        return f"define i32 @b{block.index}(ptr %ctx, ptr %w, i32 %m) nounwind {{\nentry:\n{body}\n}}"

    def emit(self, e: Emitter, block: Block, i: Instruction, number: int) -> bool:
        """One instruction; True when it ended the block."""
        if i.base == "bra":
            self.branch(e, block, i, number)
            return True
        if i.base == "brx":
            self.indexed(e, block, i, number)
            return True
        e.begin_instruction(i, number)
        if i.base in ("ret", "exit"):
            lanes = e.active()
            e.guard = None
            e.flush(block.live_out)
            status = e.op(f"call i32 @exit_lanes(ptr %ctx, ptr %w, i32 {lanes})")
            stay = e.op(f"icmp eq i32 {status}, 0")
            e.do(f"ret i32 {e.op(f'select i1 {stay}, i32 {block.fall}, i32 {status}')}")
            return True
        if block.kind == "sync":
            status = warp.SYNC_HANDLERS[i.base](e, i)
            e.guard = None
            e.flush(block.live_out)
            done = e.op(f"icmp eq i32 {status}, 0")
            e.do(f"ret i32 {e.op(f'select i1 {done}, i32 {block.fall}, i32 {status}')}")
            return True
        handler = _handler(i)
        if handler is None:
            raise Unsupported
        if not self.outlines.call(e, i, handler):
            handler(e, i)
        e.end_instruction()
        return False

    def branch(self, e: Emitter, block: Block, i: Instruction, number: int) -> None:
        target = i.operands[0]
        assert isinstance(target, (Label, Sym))
        to = self.flow.labels[target.name]
        if i.guard is None:
            e.flush(block.live_out)
            e.do(f"ret i32 {to}")
            return
        e.begin_instruction(i, number)
        taken = e.active()
        e.guard = None
        e.flush(block.live_out)
        none = e.op(f"icmp eq i32 {taken}, 0")
        everyone = e.op(f"icmp eq i32 {taken}, %m")
        uniform = e.op(f"or i1 {none}, {everyone}")
        e.do(f"br i1 {uniform}, label %same, label %split")
        e.lines.append("same:")
        e.do(f"ret i32 {e.op(f'select i1 {everyone}, i32 {to}, i32 {block.fall}')}")
        e.lines.append("split:")
        join = block.join if block.join >= 0 else 0xFFFFFFFF
        arguments = f"ptr %ctx, ptr %w, i32 {taken}, i32 {to}, i32 {block.fall}, i32 {join}"
        e.do(f"ret i32 {e.op(f'call i32 @diverge({arguments})')}")

    def indexed(self, e: Emitter, block: Block, i: Instruction, number: int) -> None:
        e.begin_instruction(i, number)
        index = e.read(i.operands[0], 32)
        table = i.operands[1]
        assert isinstance(table, (Label, Sym))
        targets = [self.flow.labels[t] for t in self.flow.branch_targets[table.name]]
        name = f"targets{len(self.tables)}"
        listed = ", ".join(f"i32 {t}" for t in targets)
        self.tables.append(f"@{name} = internal constant [{len(targets)} x i32] [{listed}]")
        where = e.store_scratch(0, index, 32)
        e.flush(block.live_out)
        join = block.join if block.join >= 0 else 0xFFFFFFFF
        arguments = f"ptr %ctx, ptr %w, i32 %m, ptr {where}, ptr @{name}, i32 {len(targets)}, i32 {join}"
        e.do(f"ret i32 {e.op(f'call i32 @branch_index({arguments})')}")


_lock = threading.Lock()


def compile_kernel(module: PtxModule, entry: Function, globals_: dict[str, int]) -> CompiledKernel:
    """Compile one entry. ``globals_`` maps module-scope .global and .const variables to their device addresses."""
    with _lock:
        return _Kernel(module, entry, globals_).build()


# Functions without a body that the host knows (host/control.py).
_LIBRARY = {"vprintf", "__assertfail"}


def unsupported_opcodes(module: PtxModule) -> dict[str, int]:
    """Opcodes that nothing here runs, with their first line. Every instruction is tried for real, on its own."""
    from ..host import supports

    missing: dict[str, int] = {}
    tried: dict[str, bool] = {}
    functions = [*module.entries.values(), *(f for f in module.functions.values() if f.has_body)]
    for function in functions:
        for item in function.body:
            if isinstance(item, Instruction):
                if item.base == "call":
                    name = getattr(item.operands[1], "name", "")
                    known = module.functions.get(name)
                    if (known is None or not known.has_body) and name not in _LIBRARY:
                        missing.setdefault(f"call {name or '(indirect)'}", item.line)
                    continue
                if item.opcode not in tried:
                    tried[item.opcode] = _try(module, function, item, supports)
                if not tried[item.opcode]:
                    missing.setdefault(item.opcode, item.line)
    return missing


def _try(module: PtxModule, function: Function, i: Instruction, supports: Callable[[Instruction], bool]) -> bool:
    if i.base in ("bra", "brx", "ret", "exit"):
        return True
    if _is_host(i):
        return supports(i)
    flow = Flow(function.name, [], function.registers, function.variables, {}, {}, set(), {})
    layout = KernelLayout()
    for variable in (*module.variables.values(), *function.variables.values()):
        table = (
            layout.shared
            if variable.space == "shared"
            else (layout.local if variable.space in ("local", "param") else layout.globals)
        )
        table[variable.name] = 0
    for parameter in (*function.parameters, *function.returns):
        layout.params[parameter.name] = (0, parameter)
    e = Emitter(flow, layout, {}, set())
    e.begin_instruction(i, 0)
    try:
        if classify(i) == "sync":
            warp.SYNC_HANDLERS[i.base](e, i)
            return True
        handler = _handler(i)
        if handler is None:
            return False
        handler(e, i)
    except Unsupported:
        return False
    except CodegenError as error:
        raise PtxSyntaxError(f"{i.opcode}: {error}", i.line, i.text) from None
    except (StopIteration, KeyError, ValueError, IndexError, AssertionError, AttributeError, TypeError) as error:
        raise PtxSyntaxError(f"{i.opcode}: malformed operands or modifiers ({error})", i.line, i.text) from None
    return True
