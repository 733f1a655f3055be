"""Control flow of a kernel: calls inlined, basic blocks, post-dominators, liveness, definite assignment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import PtxSyntaxError
from ..ptx.ast import (
    Bracket,
    Function,
    Imm,
    Instruction,
    Label,
    Negated,
    Operand,
    Pair,
    PtxModule,
    Reg,
    Sym,
    Variable,
    Vec,
)

__all__ = ["Block", "Flow", "build_flow", "operand_registers", "reads_writes"]

# Destination count by base opcode; everything not named here has one.
_NO_DESTINATION = {
    "st",
    "bra",
    "brx",
    "bar",
    "barrier",
    "ret",
    "exit",
    "trap",
    "brkpt",
    "membar",
    "fence",
    "red",
    "prefetch",
    "prefetchu",
    "cp",
    "nanosleep",
    "discard",
    "applypriority",
    "griddepcontrol",
    "setmaxnreg",
    "stmatrix",
    "call",
    "pmevent",
    "tensormap",
    "st_async",
}
# Operations that are basic blocks of their own, because they may wait, or because the host carries them out.
_CONVERGING = {"shfl", "vote", "match", "redux", "elect"}
_MAX_CALL_DEPTH = 16


@dataclass
class Block:
    """A basic block. ``kind``: plain, sync (native, may wait) or host (the host carries out its one instruction)."""

    index: int
    instructions: list[Instruction] = field(default_factory=list)
    kind: str = "plain"
    successors: list[int] = field(default_factory=list)
    fall: int = -1
    join: int = -1
    live_in: set[str] = field(default_factory=set)
    live_out: set[str] = field(default_factory=set)
    assigned_in: set[str] | None = None


@dataclass
class Flow:
    """A kernel ready for code generation."""

    name: str
    blocks: list[Block]
    registers: dict[str, str]
    variables: dict[str, Variable]
    labels: dict[str, int]
    branch_targets: dict[str, tuple[str, ...]]
    in_flight: set[str]
    param_slots: dict[str, Variable]


def operand_registers(operand: Operand) -> list[str]:
    """Names of the registers in an operand."""
    if isinstance(operand, Reg):
        return [operand.name]
    if isinstance(operand, Vec):
        return [name for item in operand.items for name in operand_registers(item)]
    if isinstance(operand, Bracket):
        return [*operand_registers(operand.base), *(n for item in operand.more for n in operand_registers(item))]
    if isinstance(operand, Negated):
        return operand_registers(operand.inner)
    if isinstance(operand, Pair):
        return [*operand_registers(operand.first), *operand_registers(operand.second)]
    return []


def destination_count(i: Instruction) -> int:
    """How many leading operands an instruction writes."""
    p = i.parts
    if i.base in ("mbarrier",):
        if p[1] in ("init", "inval", "expect_tx", "complete_tx"):
            return 0
        if p[1] in ("arrive", "arrive_drop"):
            return 0 if not i.operands or isinstance(i.operands[0], Bracket) else 1
        return 1
    if i.base == "tcgen05":
        return 1 if p[1] == "ld" and len(i.operands) and not isinstance(i.operands[0], Bracket) else 0
    if i.base == "wgmma":
        return 1 if p[1] == "mma_async" else 0
    if i.base in ("bar", "barrier"):
        return 1 if "red" in p else 0
    if i.base == "clusterlaunchcontrol":
        return 1 if p[1] == "query_cancel" else 0
    if i.base == "createpolicy":
        return 1
    if i.base == "cp" or i.base in _NO_DESTINATION:
        return 0
    return 1


_ADDS_CARRY = ("add", "sub", "addc", "subc", "mad", "madc")


def reads_writes(i: Instruction) -> tuple[list[str], list[str]]:
    """Registers that an instruction reads, and those that it writes (accumulators of wgmma are both)."""
    n = destination_count(i)
    writes: list[str] = []
    reads: list[str] = []
    for index, operand in enumerate(i.operands):
        if index < n:
            writes += operand_registers(operand)
        else:
            reads += operand_registers(operand)
    if i.base == "wgmma" and i.parts[1] == "mma_async":
        reads += writes
    if i.base == "call":
        writes += operand_registers(i.operands[0])
    if i.guard is not None:
        reads.append(i.guard)
    if i.base in _ADDS_CARRY and (i.base.endswith("c") or "cc" in i.parts):
        if i.base in ("addc", "subc", "madc"):
            reads.append("%cc")
        if "cc" in i.parts:
            writes.append("%cc")
    return [r for r in reads if not _is_special(r)], writes


def _is_special(name: str) -> bool:
    return name.startswith("%") and ("." in name or name in _SPECIALS)


_SPECIALS = {
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%smid",
    "%nsmid",
    "%gridid",
    "%is_explicit_cluster",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%lanemask_eq",
    "%lanemask_le",
    "%lanemask_lt",
    "%lanemask_ge",
    "%lanemask_gt",
    "%clock",
    "%clock_hi",
    "%clock64",
    "%globaltimer",
    "%globaltimer_lo",
    "%globaltimer_hi",
    "%total_smem_size",
    "%aggr_smem_size",
    "%dynamic_smem_size",
    "%current_graph_exec",
}


def _rename(operand: Operand, names: dict[str, Operand]) -> Operand:
    if isinstance(operand, Reg):
        return names.get(operand.name, operand)
    if isinstance(operand, Sym):
        found = names.get(operand.name)
        return replace(operand, name=found.name) if isinstance(found, Sym) else operand
    if isinstance(operand, Label):
        found = names.get("label:" + operand.name)
        return found if found is not None else operand
    if isinstance(operand, Vec):
        return Vec(tuple(_rename(o, names) for o in operand.items))
    if isinstance(operand, Bracket):
        return Bracket(_rename(operand.base, names), operand.offset, tuple(_rename(o, names) for o in operand.more))
    if isinstance(operand, Negated):
        return Negated(_rename(operand.inner, names))
    if isinstance(operand, Pair):
        return Pair(_rename(operand.first, names), _rename(operand.second, names))
    return operand


class _Inliner:
    def __init__(self, module: PtxModule, entry: Function) -> None:
        self.module = module
        self.registers = dict(entry.registers)
        self.variables = dict(entry.variables)
        self.branch_targets = dict(entry.branch_targets)
        self.slots: dict[str, Variable] = {v.name: v for v in entry.variables.values() if v.space == "param"}
        self.serial = 0
        self.body: list[Instruction | Label] = []
        self.expand(entry, {}, 0, None)

    def expand(self, function: Function, names: dict[str, Operand], depth: int, end: str | None) -> None:
        for item in function.body:
            if isinstance(item, Label):
                renamed = _rename(item, names)
                assert isinstance(renamed, Label)
                self.body.append(renamed)
                continue
            i = item
            if names:
                guard = names.get(i.guard) if i.guard else None
                i = replace(
                    i,
                    operands=tuple(_rename(o, names) for o in i.operands),
                    guard=guard.name if isinstance(guard, Reg) else i.guard,
                )
            if i.base == "call":
                self.call(i, depth)
            elif i.base == "ret" and end is not None:
                self.body.append(replace(i, opcode="bra", parts=("bra",), operands=(Label(end),)))
            else:
                self.body.append(i)

    def call(self, i: Instruction, depth: int) -> None:
        results, target, arguments = i.operands
        assert isinstance(results, Vec)
        assert isinstance(arguments, Vec)
        if not isinstance(target, Sym) or target.name not in self.module.functions:
            raise PtxSyntaxError("indirect calls are not supported", i.line, i.text)
        callee = self.module.functions[target.name]
        if not callee.has_body:
            self.body.append(i)
            return
        if depth >= _MAX_CALL_DEPTH:
            raise PtxSyntaxError(f"recursive calls are not supported ({target.name})", i.line, i.text)
        self.serial += 1
        prefix = f"$call{self.serial}$"
        names: dict[str, Operand] = {}
        for name, kind in callee.registers.items():
            self.registers[prefix + name] = kind
            names[name] = Reg(prefix + name)
        for name, variable in callee.variables.items():
            self.variables[prefix + name] = replace(variable, name=prefix + name)
            names[name] = Sym(prefix + name)
            if variable.space == "param":
                self.slots[prefix + name] = self.variables[prefix + name]
        for item in callee.body:
            if isinstance(item, Label):
                names["label:" + item.name] = Label(prefix + item.name)
        for name, targets in callee.branch_targets.items():
            self.branch_targets[prefix + name] = tuple(prefix + t for t in targets)
            names["label:" + name] = Label(prefix + name)
        end = prefix + "end"
        guard_end = None
        if i.guard is not None:
            guard_end = Label(prefix + "skip")
            self.body.append(
                replace(i, opcode="bra", parts=("bra",), operands=(guard_end,), guard_negated=not i.guard_negated)
            )
        copies: list[tuple[Variable, Operand]] = list(zip(callee.parameters, arguments.items, strict=False))
        for formal, actual in copies:
            if formal.space == "reg":
                self.body.append(_move(i, formal.type, Reg(prefix + formal.name), actual))
            elif isinstance(actual, Sym):
                names[formal.name] = actual
        for formal, actual in zip(callee.returns, results.items, strict=False):
            if formal.space == "reg":
                continue
            if isinstance(actual, Sym):
                names[formal.name] = actual
        self.expand(callee, names, depth + 1, end)
        self.body.append(Label(end))
        for formal, actual in zip(callee.returns, results.items, strict=False):
            if formal.space == "reg":
                self.body.append(_move(i, formal.type, actual, Reg(prefix + formal.name)))
        if guard_end is not None:
            self.body.append(guard_end)


def _move(i: Instruction, kind: str, to: Operand, source: Operand) -> Instruction:
    return Instruction(f"mov.{kind}", ("mov", kind), (to, source), i.line, i.loc, None, False, i.text)


# Integer operations that may see a literal where the program has a register that only ever holds it.
_TAKE_LITERALS = {
    *("shl", "shr", "shf", "prmt", "lop3", "bfe", "bfi", "and", "or", "xor"),
    *("shfl", "vote", "match", "redux", "elect", "bar", "barrier"),
}


def _fold_literals(body: Sequence[Instruction | Label]) -> list[Instruction | Label]:
    """Registers with one definition, a move of an integer literal, become that literal in integer operations.

    Member masks and shift counts of compiled code are such registers; known at compile time they save whole basic
    blocks.
    """
    definitions: dict[str, Operand | None] = {}
    for item in body:
        if isinstance(item, Instruction):
            for name in reads_writes(item)[1]:
                value = (
                    item.operands[1] if item.base == "mov" and item.guard is None and len(item.operands) > 1 else None
                )
                literal = isinstance(value, Imm) and not value.is_float and item.parts[-1][0] in "bus"
                definitions[name] = value if literal and name not in definitions else None
    literals = {name: value for name, value in definitions.items() if value is not None}
    out: list[Instruction | Label] = []
    for item in body:
        if isinstance(item, Instruction) and item.base in _TAKE_LITERALS:
            first = destination_count(item)
            operands = tuple(
                literals.get(o.name, o) if k >= first and isinstance(o, Reg) else o for k, o in enumerate(item.operands)
            )
            if operands != item.operands:
                item = replace(item, operands=operands)
        out.append(item)
    return out


def full_warp(i: Instruction) -> bool:
    """Whether a converging operation surely wants every lane of the warp."""
    if i.base in ("mma", "ldmatrix", "stmatrix", "movmatrix"):
        return True
    position = {"shfl": 4, "vote": 2, "match": 2, "redux": 2, "elect": 1}.get(i.base)
    if position is None or position >= len(i.operands) or i.guard is not None:
        return False
    members = i.operands[position]
    return isinstance(members, Imm) and int(members.value) & 0xFFFFFFFF == 0xFFFFFFFF


def build_flow(module: PtxModule, entry: Function, classify: Callable[[Instruction], str]) -> Flow:
    """Blocks and analyses of ``entry``. ``classify(instruction)`` says plain, sync, host, converge or exit."""
    from .delayed_moves import delay_moves  # which needs reads_writes of this module

    inlined = _Inliner(module, entry)
    blocks: list[Block] = [Block(0)]
    labels: dict[str, int] = {}

    def fresh() -> Block:
        if blocks[-1].instructions:
            blocks.append(Block(len(blocks)))
        return blocks[-1]

    serial = 0
    converged = -1  # the block that has already gathered the whole warp: it runs with one mask to its end
    for item in _fold_literals(delay_moves(inlined.body)):
        if isinstance(item, Label):
            labels[item.name] = fresh().index
            continue
        kind = classify(item)
        if kind in ("sync", "host"):
            if item.guard is not None:
                # A guarded operation that may wait is a branch around it.
                serial += 1
                skip = f"$skip{serial}"
                fresh() if blocks[-1].kind != "plain" else None
                blocks[-1].instructions.append(
                    replace(
                        item,
                        opcode="bra",
                        parts=("bra",),
                        operands=(Label(skip),),
                        guard_negated=not item.guard_negated,
                    )
                )
                blocks.append(Block(len(blocks)))
                blocks[-1].instructions.append(replace(item, guard=None, guard_negated=False))
                blocks[-1].kind = kind
                blocks.append(Block(len(blocks)))
                labels[skip] = blocks[-1].index
                continue
            block = fresh()
            block.instructions.append(item)
            block.kind = kind
            blocks.append(Block(len(blocks)))
            continue
        if kind == "converge":
            if not (full_warp(item) and converged == blocks[-1].index):
                fresh()
            if full_warp(item):
                converged = blocks[-1].index
        blocks[-1].instructions.append(item)
        if kind == "exit" or item.base in ("bra", "brx", "ret", "exit"):
            blocks.append(Block(len(blocks)))
    last = blocks[-1]
    end_line = inlined.body[-1].line if inlined.body and isinstance(inlined.body[-1], Instruction) else entry.line
    last.instructions.append(Instruction("ret", ("ret",), (), end_line, None))
    flow = Flow(
        entry.name, blocks, inlined.registers, inlined.variables, labels, inlined.branch_targets, set(), inlined.slots
    )
    _link(flow)
    _post_dominators(flow)
    _liveness(flow)
    _assignment(flow)
    return flow


def _link(flow: Flow) -> None:
    for block in flow.blocks:
        last = block.instructions[-1] if block.instructions else None
        block.fall = block.index + 1
        successors: list[int] = []
        if last is not None and last.base == "bra":
            target = last.operands[0]
            assert isinstance(target, (Label, Sym))
            if target.name not in flow.labels:
                raise PtxSyntaxError(f"branch to an undefined label {target.name}", last.line, last.text)
            successors.append(flow.labels[target.name])
            if last.guard is not None:
                successors.append(block.fall)
        elif last is not None and last.base == "brx":
            table = last.operands[1]
            assert isinstance(table, (Label, Sym))
            if table.name not in flow.branch_targets:
                raise PtxSyntaxError(f"brx.idx without .branchtargets {table.name}", last.line, last.text)
            successors += [flow.labels[t] for t in flow.branch_targets[table.name]]
        elif last is not None and last.base in ("ret", "exit"):
            if last.guard is not None:
                successors.append(block.fall)
        elif block.fall < len(flow.blocks):
            successors.append(block.fall)
        block.successors = list(dict.fromkeys(successors))


def _post_dominators(flow: Flow) -> None:
    """Cooper, Harvey and Kennedy's iteration on the reversed graph, with a virtual exit."""
    n = len(flow.blocks)
    exit_ = n
    predecessors: dict[int, list[int]] = defaultdict(list)
    successors = [list(b.successors) for b in flow.blocks]
    for index, block in enumerate(flow.blocks):
        last = block.instructions[-1] if block.instructions else None
        if not successors[index] or (last is not None and last.base in ("ret", "exit")):
            successors[index].append(exit_)
        for s in successors[index]:
            predecessors[s].append(index)
    order: list[int] = []
    seen = {exit_}
    stack: list[tuple[int, int]] = [(exit_, 0)]
    while stack:
        node, at = stack.pop()
        children = predecessors[node]
        if at < len(children):
            stack.append((node, at + 1))
            if children[at] not in seen:
                seen.add(children[at])
                stack.append((children[at], 0))
        else:
            order.append(node)
    number = {node: i for i, node in enumerate(order)}
    dominator: dict[int, int] = {exit_: exit_}
    changed = True
    while changed:
        changed = False
        for node in reversed(order):
            if node == exit_:
                continue
            new = -1
            for s in successors[node]:
                if s in dominator:
                    if new < 0:
                        new = s
                        continue
                    a, b = s, new
                    while a != b:
                        while number[a] < number[b]:
                            a = dominator[a]
                        while number[b] < number[a]:
                            b = dominator[b]
                    new = a
            if new >= 0 and dominator.get(node) != new:
                dominator[node] = new
                changed = True
    for block in flow.blocks:
        found = dominator.get(block.index, exit_)
        block.join = -1 if found == exit_ else found


def _liveness(flow: Flow) -> None:
    """Which registers each block needs from its predecessors."""
    use: list[set[str]] = []
    kill: list[set[str]] = []
    for block in flow.blocks:
        used: set[str] = set()
        killed: set[str] = set()
        for i in block.instructions:
            reads, writes = reads_writes(i)
            used.update(r for r in reads if r not in killed)
            if i.guard is None:
                killed.update(writes)
            else:
                used.update(w for w in writes if w not in killed)
            if i.base in ("wgmma", "tcgen05"):
                flow.in_flight.update(writes)
        use.append(used)
        kill.append(killed)
    changed = True
    while changed:
        changed = False
        for block in reversed(flow.blocks):
            out: set[str] = set()
            for s in block.successors:
                out |= flow.blocks[s].live_in
            new = use[block.index] | (out - kill[block.index])
            if len(new) != len(block.live_in) or len(out) != len(block.live_out):
                block.live_in, block.live_out = new, out
                changed = True


def _assignment(flow: Flow) -> None:
    """Registers certainly written on every path to each block (moves of doubtful values stay doubtful)."""
    predecessors: dict[int, list[int]] = defaultdict(list)
    for block in flow.blocks:
        for s in block.successors:
            predecessors[s].append(block.index)
    out: list[set[str] | None] = [None] * len(flow.blocks)
    work = [0]
    flow.blocks[0].assigned_in = set()
    while work:
        index = work.pop()
        block = flow.blocks[index]
        assert block.assigned_in is not None
        now = set(block.assigned_in)
        for i in block.instructions:
            assign(i, now, flow.in_flight)
        if out[index] is not None and out[index] == now:
            continue
        out[index] = now
        for s in block.successors:
            target = flow.blocks[s]
            merged = now if target.assigned_in is None else target.assigned_in & now
            if target.assigned_in is None or len(merged) != len(target.assigned_in):
                target.assigned_in = set(merged)
                work.append(s)
            elif out[s] is None:
                work.append(s)


def assign(i: Instruction, now: set[str], in_flight: set[str]) -> None:
    """Update the set of certainly assigned registers across one instruction."""
    reads, writes = reads_writes(i)
    if i.guard is not None:
        return
    if i.base == "mov" and any(r not in now for r in reads):
        now.difference_update(writes)
        return
    for w in writes:
        if w in in_flight and i.base in ("wgmma", "tcgen05"):
            now.discard(w)
        else:
            now.add(w)
