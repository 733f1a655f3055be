"""atom and red on every type (PTX ISA 9.7.13.5, 9.7.13.7): results that do not depend on the order of threads."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501
from __future__ import annotations

import numpy as np

from ..pools import pools
from ..program import PRELUDE, In, Out, Program
from ..table import LANES

_C = {16: ("h", "u16"), 32: ("r", "u32"), 64: ("l", "u64")}

# operation, type, pool, bits
_ATOMS = (
    [("add", t, f"i{t[1:]}") for t in ("u32", "s32", "u64")]
    + [(o, t, f"i{t[1:]}") for o in ("min", "max") for t in ("u32", "s32", "u64", "s64")]
    + [(o, t, f"i{t[1:]}") for o in ("and", "or", "xor") for t in ("b32", "b64")]
    + [("inc", "u32", "i32"), ("dec", "u32", "i32"), ("exch", "b32", "i32"), ("exch", "b64", "i64")]
    + [("add", "f32", "f32"), ("add", "f64", "f64"), ("add.noftz", "f16", "f16"), ("add.noftz", "f16x2", "f16x2")]
    + [("add.noftz", "bf16", "bf16"), ("add.noftz", "bf16x2", "bf16x2")]
)
_CAS = (("b16", 16), ("b32", 32), ("b64", 64))


def _private(space: str, returns: bool) -> Program:
    """Every thread works on a cell of its own: the old value and the new state are recorded."""
    all_pools = pools()
    names = sorted({p for _, _, p in _ATOMS} | {"i16", "i32", "i64"})
    data = np.zeros((len(names), 2, LANES), np.uint64)
    for i, name in enumerate(names):
        for j in range(2):
            data[i, j] = all_pools[name].columns[j].astype(np.uint64)
    text, row = "", 0
    base = "atom" if returns else "red"
    items = [(o, t, p, all_pools[p].bits) for o, t, p in _ATOMS if returns or o != "exch"]
    if returns:
        items += [("cas", t, f"i{w}", w) for t, w in _CAS]
    scopes = ("", ".relaxed.gpu", ".acq_rel.gpu", ".release.cta") if returns else ("", ".relaxed.gpu", ".release.gpu")
    for n, (o, t, p, w) in enumerate(items):
        scope = scopes[n % len(scopes)]
        constraint, ctype = _C[w]
        i = names.index(p)
        a, b = f"({ctype})in[{2 * i * LANES} + i]", f"({ctype})in[{(2 * i + 1) * LANES} + i]"
        extra = f', "{constraint}"(({ctype})(i * 3))' if o == "cas" else ""
        # A third of the comparisons succeed.
        value = f"(i % 3 ? {b} : {a})" if o == "cas" else b
        more = ", %3" if o == "cas" else ""
        more0 = ", %3" if o == "cas" else ""
        cell = f"(({ctype}*)(cells + i))" if space == "shared" else f"(({ctype}*)(state + {row * LANES} + i))"
        pointer = f'"r"(shared_address({cell}))' if space == "shared" else f'"l"((u64){cell})'
        text += f"    *{cell} = {a};\n"
        if returns:
            text += (
                f'    {{ {ctype} d; asm volatile("{base}{scope}.{space}.{o}.{t} %0, [%1], %2{more};" : "={constraint}"(d) : {pointer}, '
                f'"{constraint}"({value}){extra} : "memory"); old[{row * LANES} + i] = d; }}\n'
            )
        else:
            text += f'    asm volatile("{base}{scope}.{space}.{o}.{t} [%0], %1{more0};" :: {pointer}, "{constraint}"({value}) : "memory");\n'
        if space == "shared":
            text += f"    state[{row * LANES} + i] = (u64)*{cell};\n"
        elif w < 64:
            # The upper bytes of the 64-bit word were not touched by the atomic.
            text += f"    state[{row * LANES} + i] = (u64)*{cell};\n"
        row += 1
    outs = [Out("state", "uint64", (row, LANES))] + ([Out("old", "uint64", (row, LANES))] if returns else [])
    parameters = ", ".join(["const u64* in", *(f"u64* {o.name}" for o in outs)])
    shared = f"    __shared__ u64 cells[{LANES}];\n" if space == "shared" else ""
    source = (
        f'{PRELUDE}\nextern "C" __global__ void kernel({parameters}) {{\n    u32 i = threadIdx.x;\n{shared}{text}}}\n'
    )
    covers = tuple(f"{base}.{space}.{o}.{t}" for o, t, _, _ in items)
    return Program(
        f"atomics/{base} {space}",
        "atomics and reductions",
        covers,
        source,
        (In("in"), *outs),
        {"in": data},
        block=(LANES, 1, 1),
    )


def _contended() -> Program:
    """All threads of four blocks on the same cells: only the final state is defined."""
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(u32* cells, u64* wide, float* sums, u32* slots) {{
    __shared__ u32 here[8];
    u32 t = threadIdx.x, i = t + blockIdx.x * blockDim.x;
    if (t < 8) here[t] = t == 3 ? 0xFFFFFFFFu : 0;
    __syncthreads();
    u32 h = i * 2654435761u;
    atomicAdd(cells + 0, h); atomicMax(cells + 1, h); atomicMin(cells + 2, h); atomicXor(cells + 3, h);
    atomicOr(cells + 4, 1u << (i & 31)); atomicAnd(cells + 5, ~(1u << (h >> 28))); atomicInc(cells + 6, 100); atomicDec(cells + 7, 60);
    atomicMax((s32*)cells + 8, (s32)h); atomicMin((s32*)cells + 9, (s32)h);
    atomicAdd(wide, (u64)h << 20); atomicMax(wide + 1, (u64)h * h); atomicMin((s64*)wide + 2, (s64)h - (1ll << 40));
    atomicAdd(sums, (float)(h >> 20));  // sums of integers below 2^24: exact in any order
    atomicAdd(here + 0, h); atomicMax(here + 1, h); atomicXor(here + 2, h); atomicMin(here + 3, h); atomicInc(here + 4, 1000);
    slots[atomicAdd(cells + 10, 1)] = 7;  // each slot is drawn once
    for (u32 done = 0; !done;) {{  // a lock, taken by compare and swap
        if (atomicCAS(cells + 11, 0, 1) == 0) {{
            __threadfence();
            volatile u32* shared_sum = cells + 12;
            *shared_sum = *shared_sum + (h & 0xFF);
            __threadfence();
            atomicExch(cells + 11, 0);
            done = 1;
        }}
    }}
    __syncthreads();
    if (t < 5) cells[16 + blockIdx.x * 8 + t] = here[t];
}}
"""
    cells = np.zeros(48, np.uint32)
    cells[2] = cells[5] = 0xFFFFFFFF
    cells[9] = 0x7FFFFFFF
    inputs = {
        "cells": cells,
        "wide": np.zeros(3, np.uint64),
        "sums": np.zeros(1, np.float32),
        "slots": np.zeros(256, np.uint32),
    }
    return Program(
        "atomics/contended", "atomics and reductions", ("atom.cas", "atom.exch", "membar.gl"), source, tuple(In(n) for n in inputs), inputs,
        grid=(4, 1, 1), block=(64, 1, 1), recorded_inputs=tuple(inputs),
    )  # fmt: skip


def _vector() -> Program:
    """Reductions on vectors (sm_90), and 128-bit exchange and compare-and-swap."""
    text = ""
    forms = [("v2.f32", 2, "r", "u32"), ("v4.f32", 4, "r", "u32"), ("noftz.v2.f16x2", 2, "r", "u32"), ("noftz.v4.bf16x2", 4, "r", "u32"),
             ("noftz.v8.f16", 8, "h", "u16"), ("noftz.v4.bf16", 4, "h", "u16")]  # fmt: skip
    for row, (form, n, c, ctype) in enumerate(forms):
        name, kind = form.rsplit(".", 1)
        noftz = "noftz." if "noftz" in name else ""
        vector = name.replace("noftz.", "")
        values = ", ".join(f"%{k + 1}" for k in range(n))
        ins = ", ".join(f'"{c}"((({ctype}*)(in + i * 4))[{k}])' for k in range(n))
        text += (
            f'    asm volatile("red.relaxed.gpu.global.add.{noftz}{vector}.{kind} [%0], {{{values}}};" :: '
            f'"l"((u64)(state + {row * 128} + i * 4)), {ins} : "memory");\n'
        )
    source = f'{PRELUDE}\nextern "C" __global__ void kernel(const u32* in, u32* state) {{\n    u32 i = threadIdx.x;\n{text}}}\n'
    p = pools()
    f16, f32 = p["f16x2"].columns, p["f32"].columns
    start = np.concatenate(
        [
            f32[0][:128],
            f32[0][100:228],
            f16[0][:128],
            p["bf16x2"].columns[0][:128],
            f16[0][64:192],
            p["bf16x2"].columns[0][64:192],
        ]
    )
    values = np.where(np.arange(128) % 4 < 2, f32[1][64:192], f16[1][64:192]).astype(np.uint32)
    inputs = {"in": values, "state": start.astype(np.uint32)}
    return Program(
        "atomics/vector red", "atomics and reductions", ("red.global.add.v4.f32", "red.global.add.noftz.v8.f16"), source,
        (In("in"), In("state")), inputs, recorded_inputs=("state",),
    )  # fmt: skip


def programs() -> list[Program]:
    return [
        _private("global", True),
        _private("shared", True),
        _private("global", False),
        _private("shared", False),
        _contended(),
        _vector(),
    ]
