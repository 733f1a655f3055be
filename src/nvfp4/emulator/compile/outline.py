"""Long arithmetic as functions of a kernel: LLVM selects instructions once for each kind, not at every use.

A permutation of bytes, or a product of bfloat16 pairs, is dozens of operations on vectors of hundreds of bytes, and
unrolled kernels have hundreds of them: nearly all the time of a compilation went there. A call costs a few moves of
registers when it runs.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ptx.ast import Imm, Instruction, Reg
from . import bits, convert, floating, integer
from .emitter import Emitter, KernelLayout, vec

__all__ = ["Outlines"]

# What depends on its operands alone and has one result.
_PURE = {*floating.HANDLERS, *convert.HANDLERS, *integer.HANDLERS, *bits.HANDLERS}
# Shorter sequences take LLVM no longer than a call of them.
_LEAST = 10


class Outlines:
    """The functions of one kernel."""

    def __init__(self) -> None:
        self._short: set[str] = set()

    def call(self, e: Emitter, i: Instruction, handler: Callable[[Emitter, Instruction], None]) -> bool:
        """Emit `i` as a call of a function that holds what `handler` emits; False where it had better be in line."""
        if i.base not in _PURE or "cc" in i.parts or i.base in ("addc", "subc", "madc") or not i.operands:
            return False
        target, *sources = i.operands
        if not isinstance(target, Reg) or target.name not in e.flow.registers:
            return False
        names: list[str] = []
        shape = [f"{e.bits_of(target.name)}"]
        for source in sources:
            if isinstance(source, Reg) and source.name in e.flow.registers:
                if source.name not in names:
                    names.append(source.name)
                shape.append(f"{names.index(source.name)}:{e.bits_of(source.name)}")
            elif isinstance(source, Imm):
                shape.append(f"={source.value!r}")
            else:
                return False
        function = f'"{i.opcode} {" ".join(shape)}"'
        if function in self._short:
            return False

        def build(inner: Emitter, given: list[str]) -> str:
            # All is in the arguments: no register file, and nothing that could be unwritten, as the caller has looked.
            inner.layout = KernelLayout()
            inner.known = set(names)
            inner.values = dict(zip(names, given, strict=True))
            handler(inner, i)
            return inner.values[target.name]

        kinds = [vec(e.bits_of(name)) for name in names]
        result = vec(e.bits_of(target.name))
        e.helper(function, result, kinds, build)
        if e.helpers[function].count("\n") < _LEAST + 2:
            del e.helpers[function]
            self._short.add(function)
            return False
        e.set(target.name, e.call_helper(function, result, list(zip(kinds, map(e.get, names), strict=True)), build))
        return True
