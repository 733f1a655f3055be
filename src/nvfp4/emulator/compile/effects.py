"""Which registers an instruction reads and writes."""

from __future__ import annotations

from ..ptx.ast import (
    Bracket,
    Instruction,
    Negated,
    Operand,
    Pair,
    Reg,
    Vec,
)

__all__ = ["destination_count", "operand_registers", "passes_on", "reads_writes", "shuffled"]


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
    if i.effects is None:
        i.effects = _effects(i)
    return i.effects


def _effects(i: Instruction) -> tuple[list[str], list[str]]:
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


# What may follow a shuffle in a reduction over lanes.
_REDUCING = {
    *("add", "sub", "mul", "mad", "fma", "min", "max", "and", "or", "xor", "not", "neg", "abs", "cvt", "selp"),
    *("shl", "shr", "lop3", "prmt"),
}


def passes_on(i: Instruction, through: set[str]) -> bool:
    """Whether an operand that nothing has written makes the result unwritten, and is no fault yet.

    So for moves and shuffles, and for arithmetic on what was shuffled (``through``, see `shuffled`): reductions of
    compilers run over whole warps though only some lanes have loaded a value, and use the result in one lane.
    """
    if i.base in ("mov", "shfl"):
        return True
    return i.base in _REDUCING and any(r in through for r in reads_writes(i)[0])


def shuffled(instructions: list[Instruction]) -> set[str]:
    """Registers that hold the result of a shuffle, or arithmetic on one."""
    found: set[str] = set()
    size = -1
    while len(found) != size:
        size = len(found)
        for i in instructions:
            if i.base == "shfl" or (i.base in _REDUCING and any(r in found for r in reads_writes(i)[0])):
                found.update(reads_writes(i)[1])
    return found


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
