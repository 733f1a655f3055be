"""A host instruction made ready once: its handler, where it continues, and how its operands are read.

Every execution of a host instruction goes through Python, so whatever does not change from one to the next is settled
here. Readers take the value of one lane from the register file, as words of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compile.emitter import register_bits
from ..ptx.ast import Bracket, Imm, Instruction, Operand, Reg, Vec
from .registry import Handler, find

if TYPE_CHECKING:
    from ..compile.kernel import CompiledKernel
    from .state import HostCall

__all__ = ["Operation", "Reader", "operation", "reader"]

Reader = Callable[["HostCall", int], int]
_MASK64 = 0xFFFFFFFFFFFFFFFF


@dataclass(slots=True, eq=False)
class Operation:
    """One host instruction of a compiled kernel. memo: what its handler wants to remember about it."""

    instruction: Instruction
    handler: Handler
    pc: int
    next: int
    number: int
    inputs: tuple[Reader, ...]
    memo: dict[Any, Any] = field(default_factory=dict)


def reader(kernel: CompiledKernel, operand: Operand) -> Reader:
    """How one lane's value of an operand is read, zero-extended."""
    found = kernel.readers.get(id(operand))
    if found is None:
        found = kernel.readers[id(operand)] = _build(kernel, operand)
    made: Reader = found  # type: ignore[assignment]
    return made


def _build(kernel: CompiledKernel, operand: Operand) -> Reader:
    if isinstance(operand, Imm):
        number = int(np.float32(operand.value).view(np.uint32)) if operand.is_float else int(operand.value) & _MASK64
        return lambda call, lane: number
    if isinstance(operand, Bracket):
        inner, offset = reader(kernel, operand.base), operand.offset
        kind = kernel.flow.registers.get(operand.base.name) if isinstance(operand.base, Reg) else None
        limit = (1 << register_bits(kind)) - 1 if kind is not None else _MASK64
        return lambda call, lane: (inner(call, lane) + offset) & limit
    if isinstance(operand, Reg) and operand.name in kernel.layout.slots:
        bits = register_bits(kernel.flow.registers[operand.name])
        at = kernel.layout.slots[operand.name]
        if bits == 32:
            word = at // 4
            return lambda call, lane: call.words[call.word + word + lane]
        if bits == 64:
            long = at // 8
            return lambda call, lane: call.longs[(call.word >> 1) + long + lane]
        if bits == 1:
            packed = at // 4
            return lambda call, lane: call.words[call.word + packed] >> lane & 1
    return lambda call, lane: int(call.values(operand)[lane])


def _inputs(operand: Operand) -> list[Operand]:
    """The operands that hold a value, of one that may be a list."""
    return [x for item in operand.items for x in _inputs(item)] if isinstance(operand, Vec) else [operand]


def operation(kernel: CompiledKernel, pc: int) -> Operation:
    """The host instruction of block ``pc``."""
    found = kernel.operations.get(pc)
    if found is None:
        i = kernel.host[pc]
        handler = find(i)
        assert handler is not None, i.opcode
        number = next(n for n, other in enumerate(kernel.instructions) if other is i)
        inputs = tuple(
            reader(kernel, item)
            for operand in i.operands
            for item in _inputs(operand)
            if isinstance(item, (Reg, Imm, Bracket))
        )
        found = Operation(i, handler, pc, kernel.flow.blocks[pc].fall, number, inputs)
        kernel.operations[pc] = found
    made: Operation = found  # type: ignore[assignment]
    return made
