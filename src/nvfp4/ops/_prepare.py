"""What depends only on shapes, types and devices of a call: validation, backend, plan, where results lie."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from nvfp4 import backends
from nvfp4.backends.base import LaunchBackend, Operand, Operands, PreparingBackend, Repeating
from nvfp4.device import capability
from nvfp4.ops import _validate
from nvfp4.ops._call import Call
from nvfp4.ops._validate import Shape, list_problem
from nvfp4.problem import Problem
from nvfp4.tensor import ALIGNMENT, NVFP4Tensor

Run = Callable[[Operands], None]
"""Computes into ``operands.out``."""

Allocate = Callable[[], tuple[torch.Tensor, ...]]
"""New results of a call, not initialised."""


class New(NamedTuple):
    """What allocates one of them: a function, and the tuple that it takes without making another one."""

    allocate: Callable[..., torch.Tensor]
    arguments: tuple[Any, ...] = ()


_MISALIGNED = ALIGNMENT - 1

# What the code that torch.compile makes allocates and slices with: a third of the time of torch.empty, as neither goes
# through the dispatcher. Results on a GPU lie on the current one.
_guards: Any = torch._C._dynamo.guards
_EMPTY = {"cpu": _guards._empty_strided_cpu, "cuda": _guards._empty_strided_cuda}
_part = _guards._reinterpret_tensor


@dataclass(frozen=True, eq=False)
class Prepared:
    """A kind of call, ready to run.

    Attributes:
        problem: What is computed; None when a result is empty or K is 0, so that there is nothing to multiply.
        choice: Backend and plan.
        run: The computation.
        allocate: Its results.
        apart: Addresses of earlier calls in which no result overlapped anything.
        repeating: `run`, where that is a computation for the operands as they were passed; else None.
        new: The result, where there is one only; else None.
    """

    problem: Problem | None
    choice: backends.Choice | None
    run: Run
    allocate: Allocate
    apart: set[tuple[int, ...]] = field(default_factory=set)
    repeating: Repeating | None = None
    new: New | None = None


def prepare(call: Call) -> Prepared:
    """Validate a call, and choose for it and all others of its kind."""
    described = call.described()
    problem, op = described.problem, call.spec.op
    dtype = _validate.OUT_NAMES[problem.out_dtype]
    device = call.b[0].device
    outs = call.out or ()
    for i, (out, shape) in enumerate(zip(outs, described.shapes, strict=False)):
        _validate.out_fits(op, f"out[{i}]" if call.spec.lists else "out", out, shape, dtype, device)
    allocate = _allocator(described.shapes, dtype, device)
    backend = call.backend if call.backend is not None else backends.configured()
    live: tuple[int, ...] | None = None
    if problem.groups:
        live = tuple(i for i, group in enumerate(problem.groups) if all(group))
        groups = [problem.groups[i] for i in live]
        if groups and len(groups) < len(problem.groups):
            problem = list_problem(problem, groups)
        empty = not groups
        live = None if len(groups) == len(described.shapes) else live
    else:
        empty = not (problem.m and problem.n and problem.k and problem.l)
    if empty:
        if backend is not None:
            backends.get(backend)
        return Prepared(None, None, _nothing if problem.stacked else _zeros, allocate)
    choice = backends.choose(capability(device), problem, backend)
    run = computation = _runner(choice, problem)
    if described.single and not isinstance(choice.backend, LaunchBackend):
        run = functools.partial(_single, run)
    if live is not None:
        run = functools.partial(_only, run, live)
    repeating = computation if run is computation and isinstance(computation, Repeating) else None
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        run = functools.partial(_on_device, run, device)
    if any(isinstance(x, torch.Tensor) and x.data_ptr() & _MISALIGNED for x in (*call.a, *call.b, *outs)):
        run, repeating = functools.partial(_aligned, run), None
    new = _new(*described.shapes, dtype, device) if len(described.shapes) == 1 else None
    return Prepared(problem, choice, run, allocate, repeating=repeating, new=new)


def _allocator(shapes: tuple[Shape, ...], dtype: torch.dtype, device: torch.device) -> Allocate:
    """What allocates the results of a call; many are parts of one allocation, if each then begins at 16 bytes."""
    if len(shapes) == 1:
        one, like = _new(shapes[0], dtype, device)
        return lambda: (one(*like),)
    sizes = [math.prod(shape) for shape in shapes]
    if any(not size or size * dtype.itemsize % ALIGNMENT for size in sizes):
        every = [_new(shape, dtype, device) for shape in shapes]
        return lambda: tuple([new(*like) for new, like in every])
    if len({shape[1:] for shape in shapes}) == 1:  # rows of one matrix
        rows = [shape[0] for shape in shapes]
        whole, like = _new((sum(rows), *shapes[0][1:]), dtype, device)
        # "Unsafe" as it makes no views, so that changing one result in place says nothing of the others.
        return lambda: torch.unsafe_split_with_sizes(whole(*like), rows)
    begins = itertools.accumulate(sizes[:-1], initial=0)
    parts = list(zip(shapes, map(_strides, shapes), begins, strict=True))
    total, flat = _new((sum(sizes),), dtype, device)

    def allocate() -> tuple[torch.Tensor, ...]:
        memory = total(*flat)
        return tuple([_part(memory, shape, stride, begin) for shape, stride, begin in parts])

    return allocate


def _new(shape: Shape, dtype: torch.dtype, device: torch.device) -> New:
    """What allocates one tensor."""
    slow = functools.partial(torch.empty, shape, dtype=dtype, device=device)
    if device.type not in _EMPTY:
        return New(slow)
    fast, like = _EMPTY[device.type], (shape, _strides(shape), dtype)
    # Without a choice of devices there is none to look up.
    if device.type != "cuda" or torch.cuda.device_count() <= 1:
        return New(fast, like)
    return New(lambda: fast(*like) if torch._C._cuda_getDevice() == device.index else slow())


def _strides(shape: Shape) -> Shape:
    """Strides of a contiguous tensor; those of an empty one are as if its sizes of 0 were 1."""
    return tuple(math.prod([max(size, 1) for size in shape[i + 1 :]]) for i in range(len(shape)))


def _runner(choice: backends.Choice, problem: Problem) -> Run:
    """How the chosen backend runs a problem again and again."""
    if isinstance(choice.backend, PreparingBackend):
        return choice.backend.prepare(choice.plan, problem)
    return functools.partial(choice.backend.run, choice.plan, problem)


def _zeros(operands: Operands) -> None:
    """K is 0, or a result is empty: sums of nothing, and the bias."""
    for out in operands.out:
        if operands.bias is None:
            out.zero_()
        else:
            out.copy_(operands.bias)


def _nothing(operands: Operands) -> None:
    """The stacked form without anything to multiply: with K = 0 the rows of the groups are zero, others stay."""
    if operands.offsets is not None and operands.out[0].numel():
        out = operands.out[0]
        rows = torch.arange(out.shape[0], device=out.device)
        out.masked_fill_((rows < operands.offsets[-1]).unsqueeze(1), 0)


def _single(run: Run, operands: Operands) -> None:
    """Give gemv's vectors and results the dimension of rows that backends expect (launches only take addresses)."""
    (x,), (out,) = operands.b, operands.out
    if isinstance(x, torch.Tensor):
        rows: Operand = x.unsqueeze(-2)
    else:
        rows = NVFP4Tensor(x.codes.unsqueeze(-2), x.scales.unsqueeze(-2), x.tensor_scale, validate=False)
    run(Operands(operands.a, (rows,), (out.unsqueeze(-2),), bias=operands.bias))


def _only(run: Run, live: tuple[int, ...], operands: Operands) -> None:
    """Run the groups that are not empty; the others have no element, or (K = 0) only zeros."""
    for i, out in enumerate(operands.out):
        if i not in live:
            out.zero_()
    count = len(operands.a)
    b = tuple(operands.b[i + j] for j in range(0, len(operands.b), count) for i in live)
    run(Operands(tuple(operands.a[i] for i in live), b, tuple(operands.out[i] for i in live)))


def _on_device(run: Run, device: torch.device, operands: Operands) -> None:
    """Run with `device` current, which launches and the current stream depend on."""
    if torch._C._cuda_getDevice() == device.index:
        run(operands)
        return
    with torch.cuda.device(device):
        run(operands)


def _aligned(run: Run, operands: Operands) -> None:
    """Copy activations and results that start inside a 16-byte unit: kernels read and write whole units."""

    def copied(x: Operand) -> Operand:
        return x.clone() if isinstance(x, torch.Tensor) and x.data_ptr() & _MISALIGNED else x

    # clone() also for results: the stacked form leaves rows beyond the last group as they were.
    results = tuple(out.clone() if out.data_ptr() & _MISALIGNED else out for out in operands.out)
    sides = tuple(map(copied, operands.a)), tuple(map(copied, operands.b))
    run(Operands(*sides, results, operands.offsets, operands.bias, operands.rows))
    for out, result in zip(operands.out, results, strict=True):
        if result is not out:
            out.copy_(result)
