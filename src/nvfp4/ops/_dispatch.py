"""From a call to a launch, with everything that depends only on shapes, types and devices done once.

A call forms a key of what it was passed, and looks up what was prepared for it: validated, with backend and plan
chosen. The hot path is one look-up, the allocation of the result and the launch.

Calls take one of two ways into the same code. An eager call with plain tensors comes here directly, because going
through torch's dispatcher from Python costs as much again as all else (benchmarks/host_time.py measures both ways).
All other calls (torch.compile, fake tensors, dispatch and function modes, functorch, tracing, profiling) go through the
registered operators, whose implementation ends here. Operators that are called from Python skip the dispatcher on the
same condition (`_shortcut.py`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import addresses, flatten
from nvfp4.ops import _validate
from nvfp4.ops._call import Call
from nvfp4.ops._prepare import Prepared, prepare

_LIMIT = 8192
"""Prepared calls that are kept; with more than that many distinct shapes all are forgotten, and prepared again."""

_APART = 1024
"""Sets of addresses that a prepared call remembers to be apart."""

_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state
_profiler = torch.autograd.profiler

_prepared: dict[Hashable, Prepared] = {}
Kept = TypeVar("Kept")


def direct() -> bool:
    """Whether nothing in this thread wants to see calls as operators."""
    return not (
        torch.compiler.is_compiling()
        or _dispatch_modes()
        or _function_modes()
        or _profiler._is_profiler_enabled
        or _functorch() is not None
        or _tracing() is not None
    )


def keep(known: dict[Hashable, Kept], key: Hashable, value: Kept) -> Kept:
    """Remember `value` in `known`."""
    if len(known) >= _LIMIT:
        known.clear()
    known[key] = value
    return value


caches: list[dict[Hashable, Any]] = [_prepared]
"""Everything that is remembered of calls: here of those that come directly, beside it of each operator."""


def clear() -> None:
    """Forget every prepared call (tests, or a backend whose plans were retuned)."""
    for cache in caches:
        cache.clear()


def directly(call: Call) -> tuple[torch.Tensor, ...] | None:
    """The results of a call; None when it has to go through torch's dispatcher."""
    if not direct():
        return None
    key = call.key()
    prepared = _prepared.get(key)
    if prepared is None:
        if not call.plain():
            return None
        prepared = keep(_prepared, key, prepare(call))
    return compute(prepared, call)


def compute(prepared: Prepared, call: Call) -> tuple[torch.Tensor, ...]:
    """The results of a call that `prepared` was made for."""
    _, a, b, offsets, _, out, _, _, bias, rows = call
    if out is None:
        operands = Operands(a, b, prepared.allocate(), offsets, bias, rows)
    else:
        operands = Operands(a, b, out, offsets, bias, rows)
        operands = Operands(a, b, out, offsets, bias, rows, _separate(prepared, call.spec.op, operands))
    prepared.run(operands)
    return operands.out


def _separate(prepared: Prepared, op: str, operands: Operands) -> list[int]:
    """Raise if memory of a result is also that of an input or of another result. Returns the addresses.

    That follows from addresses alone, as sizes belong to the kind of call: those found to be apart are remembered.
    """
    begins = addresses(operands)
    where = tuple(begins)
    if where not in prepared.apart:
        if not _apart(begins, [0 if x is None else x.nbytes for x in flatten(operands)], operands):
            _validate.no_alias(op, operands)
        if len(prepared.apart) >= _APART:
            prepared.apart.clear()
        prepared.apart.add(where)
    return begins


def _apart(begins: list[int], sizes: list[int], operands: Operands) -> bool:
    """Whether no result overlaps anything, found in one pass over all memory in order."""
    reached = reached_by_result = 0
    after = (operands.offsets, operands.bias, operands.rows)
    last = len(begins) - sum([x is not None for x in after])
    results = range(last - len(operands.out), last)
    for begin, i in sorted(zip(begins, range(len(begins)), strict=True)):
        if begin < (reached if i in results else reached_by_result):
            return False
        end = begin + sizes[i]
        reached = max(reached, end)
        if i in results:
            reached_by_result = max(reached_by_result, end)
    return True
