"""Control flow of a kernel: basic blocks, post-dominators, liveness, definite assignment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import PtxSyntaxError
from ..ptx.ast import (
    Function,
    Imm,
    Instruction,
    Label,
    Operand,
    PtxModule,
    Reg,
    Sym,
    Variable,
)
from .effects import destination_count, operand_registers, passes_on, reads_writes, shuffled
from .inline import Inliner

__all__ = ["Block", "Flow", "assign", "build_flow", "full_warp", "operand_registers", "reads_writes"]


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
    shuffled: set[str] = field(default_factory=set)


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
    inlined = Inliner(module, entry)
    blocks: list[Block] = [Block(0)]
    labels: dict[str, int] = {}

    def fresh() -> Block:
        if blocks[-1].instructions:
            blocks.append(Block(len(blocks)))
        return blocks[-1]

    serial = 0
    converged = -1  # the block that has already gathered the whole warp: it runs with one mask to its end
    for item in _fold_literals(inlined.body):
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
    flow.shuffled = shuffled([i for block in blocks for i in block.instructions])
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
            if i.base == "wgmma":
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
            assign(i, now, flow)
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


def assign(i: Instruction, now: set[str], flow: Flow) -> None:
    """Update the set of certainly assigned registers across one instruction."""
    reads, writes = reads_writes(i)
    if i.guard is not None:
        return
    if any(r not in now for r in reads) and passes_on(i, flow.shuffled):
        now.difference_update(writes)
        return
    for w in writes:
        if w in flow.in_flight and i.base == "wgmma":
            now.discard(w)
        else:
            now.add(w)
