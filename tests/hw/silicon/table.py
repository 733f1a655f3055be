"""Kernels of many instructions over common operands: each row of the output is one instruction, each column a
thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .program import PRELUDE, Approximate, Array, In, Out, Program, Row

LANES = 320

# Constraint of an inline-PTX operand, C type, NumPy type, by width. Registers are untyped bits, so floats pass as
# integers.
_WIDTHS = {16: ("h", "u16", np.uint16), 32: ("r", "u32", np.uint32), 64: ("l", "u64", np.uint64)}


@dataclass(frozen=True)
class Op:
    """One instruction. `text` has %0 for the result and %1.. for the operands, which are drawn from the named pools.

    An operand is ``"pool"`` (column 0, 1, 2 by its position) or ``"pool:column"``. `out` is the width of the result
    in bits;
    ``"p"`` a predicate: then `text` sets the predicate ``p`` of a scope of its own.
    """

    text: str
    out: int | str
    operands: tuple[str, ...]
    rule: Approximate | None = None
    out_type: str = ""
    defined: Callable[..., Array] | None = None


def op(
    text: str,
    out: int | str,
    *operands: str,
    rule: Approximate | None = None,
    out_type: str = "",
    defined: Callable[..., Array] | None = None,
) -> Op:
    """An `Op`; `defined` says for which operands the ISA gives it a result."""
    return Op(text, out, operands, rule, out_type, defined)


def unary(name: str, width: int, pool: str, out: int | None = None) -> Op:
    return Op(f"{name} %0, %1;", out or width, (pool,))


def binary(name: str, width: int, pool: str, out: int | None = None) -> Op:
    return Op(f"{name} %0, %1, %2;", out or width, (pool, pool))


def ternary(name: str, width: int, pool: str, out: int | None = None) -> Op:
    return Op(f"{name} %0, %1, %2, %3;", out or width, (pool, pool, pool))


@dataclass(frozen=True)
class Pool:
    """Operands of one type: `bits` wide, three columns of `LANES` values; `decode` gives them as float64 for
    judging."""

    bits: int
    columns: tuple[Array, Array, Array]
    decode: Callable[[Array], Array] | None = None


def table(name: str, klass: str, ops: list[Op], pools: Mapping[str, Pool]) -> Program:
    """The program that runs all of `ops`, one block, one thread a lane."""
    used = sorted({o.partition(":")[0] for p in ops for o in p.operands})
    data = np.zeros((len(used), 3, LANES), np.uint64)
    lines = []
    for i, pool in enumerate(used):
        _, ctype, _ = _WIDTHS[pools[pool].bits]
        for j in range(3):
            data[i, j] = pools[pool].columns[j].astype(np.uint64)
            lines.append(f"    {ctype} {pool}_{j} = ({ctype})in[{(i * 3 + j) * LANES} + i];")
    rows: list[Row] = []
    counts = {16: 0, 32: 0, 64: 0}
    for p in ops:
        width = 32 if p.out == "p" else int(p.out)
        constraint, ctype, _ = _WIDTHS[width]
        operands = []
        values = []
        for j, operand in enumerate(p.operands):
            pool, _, column = operand.partition(":")
            c = int(column) if column else j
            operands.append(f'"{_WIDTHS[pools[pool].bits][0]}"({pool}_{c})')
            array = pools[pool].columns[c].astype(_WIDTHS[pools[pool].bits][2])
            values.append((operand, array))
        text = "{ .reg .pred p, q; " + p.text + " selp.u32 %0, 1, 0, p; }" if p.out == "p" else "{ " + p.text + " }"
        index = counts[width]
        counts[width] += 1
        lines.append(
            f'    {{ {ctype} d; asm volatile("{text}" : "={constraint}"(d) : {", ".join(operands)});'
            f" out{width}[{index * LANES} + i] = d; }}"
        )
        mask = None if p.defined is None else p.defined(*(bits for _, bits in values))
        rows.append(Row(p.text, f"out{width}", index, tuple(values), p.rule, p.out_type, mask))
    outs = [Out(f"out{w}", f"uint{w}", (n, LANES)) for w, n in counts.items() if n]
    parameters = ", ".join(["const u64* in", *(f"u{o.name[3:]}* {o.name}" for o in outs)])
    body = "\n".join(lines)
    source = f'{PRELUDE}\nextern "C" __global__ void kernel({parameters}) {{\n    u32 i = threadIdx.x;\n{body}\n}}\n'
    return Program(
        f"{klass}/{name}",
        klass,
        tuple(dict.fromkeys(p.text.split()[0].rstrip(";") for p in ops)),
        source,
        (In("in"), *outs),
        {"in": data},
        block=(LANES, 1, 1),
        rows=tuple(rows),
    )
