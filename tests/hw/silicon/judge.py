"""Compares what the emulator computed with what a GPU answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pools import pools
from .program import Array, Program, Row
from .table import Pool

_NARROW = {"f16": np.float16, "f32": np.float32}


@dataclass(frozen=True)
class Difference:
    """One instruction (or buffer) that does not agree."""

    what: str
    lanes: int
    total: int
    example: str

    def __str__(self) -> str:
        return f"{self.what}: {self.lanes} of {self.total} differ; {self.example}"


def _decode(out_type: str, bits: Array) -> Array:
    if out_type == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return bits.view(_NARROW[out_type]).astype(np.float64)


def _approximate(row: Row, got: Array, want: Array, known: dict[str, Pool]) -> Array:
    """Lanes that break the rule of an approximate function: beyond the bound, or another special value."""
    rule = row.rule
    assert rule is not None
    operands = []
    for name, bits in row.operands:
        decode = known[name.partition(":")[0]].decode
        assert decode is not None
        operands.append(decode(bits))
    mine, theirs = _decode(row.out_type, got), _decode(row.out_type, want)
    least = 2.0**-14 if row.out_type == "f16" else 2.0**-126
    with np.errstate(all="ignore"):
        exact = rule.exact(*operands)
        bound = rule.bound(operands[0], exact)
        ordinary = np.ones(exact.shape, bool)  # all operands are normal numbers
        domain = np.ones(exact.shape, bool)
        for x in operands:
            ordinary &= np.isfinite(x) & (np.abs(x) >= least)
            domain &= np.isfinite(x) if rule.domain is None else np.isfinite(x) & rule.domain(x)
        # Overflow and what becomes of results below the normal numbers are special values, not errors.
        domain &= np.isfinite(theirs) & ((np.abs(exact) >= least) | (exact == 0))
        close = np.abs(mine - exact) <= bound
        silicon = domain & ~(np.abs(theirs - exact) <= bound)
    assert not silicon.any(), f"{row.text}: the GPU itself exceeds the documented bound: the rule is wrong"
    same = (got == want) | (np.isnan(mine) & np.isnan(theirs))
    # Beyond the documented domain normal operands may give anything; special ones give what silicon gave.
    special = ~domain & (~ordinary | ~np.isfinite(theirs))
    return np.asarray((domain & ~close) | (special & ~same & ~close))


def _example(row: Row, lane: int, got: Array, want: Array) -> str:
    given = ", ".join(f"{name} {int(bits[lane]):#x}" for name, bits in row.operands)
    return f"lane {lane} ({given}): emulator {int(got[lane]):#x}, GPU {int(want[lane]):#x}"


def compare(program: Program, got: dict[str, Array], want: dict[str, Array]) -> list[Difference]:
    """Everything in which `got` is not what it must be, given the recording `want`."""
    found: list[Difference] = []
    rows: dict[str, set[int]] = {}
    known = pools() if any(r.rule for r in program.rows) else {}
    for row in program.rows:
        rows.setdefault(row.out, set()).add(row.index)
        mine, theirs = got[row.out][row.index], want[row.out][row.index]
        bad = _approximate(row, mine, theirs, known) if row.rule else mine != theirs
        if row.defined is not None:
            assert row.defined.sum() >= 32, f"{row.text}: hardly any lane has operands that the ISA allows"
            bad = bad & row.defined
        if bad.any():
            lane = int(np.argmax(bad))
            found.append(Difference(row.text, int(bad.sum()), bad.size, _example(row, lane, mine, theirs)))
    for name, theirs in want.items():
        if name in rows:
            assert rows[name] == set(range(len(theirs))), "every row is an instruction that is judged"
            continue
        bad = got[name].reshape(-1) != theirs.reshape(-1)
        if bad.any():
            at = int(np.argmax(bad))
            where = ", ".join(str(int(i)) for i in np.unravel_index(at, theirs.shape))
            values = (
                f"emulator {int(got[name].reshape(-1)[at]):#x}, GPU {int(theirs.reshape(-1)[at]):#x}"
                if theirs.dtype.kind in "ui"
                else ""
            )
            found.append(Difference(f"buffer {name}", int(bad.sum()), bad.size, f"[{where}] {values}"))
    return found
