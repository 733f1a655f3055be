"""Calls of device functions, replaced by their bodies."""

from __future__ import annotations

from dataclasses import replace

from ..errors import PtxSyntaxError
from ..ptx.ast import (
    Bracket,
    Function,
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

__all__ = ["Inliner"]


_MAX_CALL_DEPTH = 16


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


class Inliner:
    """A kernel's body with the bodies of the functions that it calls in their places."""

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
        """Append the body of ``function``, renamed; ``end`` is where its returns go."""
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
        """Append what a call does."""
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
