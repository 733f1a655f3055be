"""One module an instruction class; `programs` are those of all of them."""

from __future__ import annotations

import functools

from ..program import Program
from . import atomics, barriers, cluster, conversion, copies, floating, integer, matrix, memory, tensors, warp, wgmma

_MODULES = (integer, floating, conversion, memory, atomics, warp, barriers, matrix, copies, tensors, cluster, wgmma)


@functools.cache
def programs() -> tuple[Program, ...]:
    """All programs, in the order of the evidence table."""
    found = tuple(p for module in _MODULES for p in module.programs())
    assert len({p.name for p in found}) == len(found)
    return found
