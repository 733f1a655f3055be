"""From a validated call to a launch, with everything that depends only on shapes, types and devices done once.

An operation forms a key of what it was passed, and looks up a `Prepared` call: validated, with backend and plan chosen.
The hot path is one look-up, the allocation of the result and the launch.

Calls take one of two ways into the same code. An eager call with plain tensors comes here directly, because going
through torch's dispatcher from Python costs as much again as all else (benchmarks/host_time.py measures both ways).
All other calls (torch.compile, fake tensors, dispatch and function modes, functorch, tracing, profiling) go through the
registered operators, whose implementation ends here.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from nvfp4 import backends
from nvfp4.backends.base import LaunchBackend, Operand, Operands, PreparingBackend
from nvfp4.device import capability
from nvfp4.ops import _validate
from nvfp4.ops._validate import Described, list_problem
from nvfp4.problem import Problem
from nvfp4.tensor import ALIGNMENT, NVFP4Tensor

Run = Callable[[Operands], None]
"""Computes into ``operands.out``."""

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_LIMIT = 8192
"""Prepared calls that are kept; with more than that many distinct shapes all are forgotten, and prepared again."""

_MISALIGNED = ALIGNMENT - 1
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state
_profiler = torch.autograd.profiler
_unflatten = torch._C._nn.unflatten_dense_tensors


@dataclass(frozen=True, eq=False)
class Prepared:
    """A kind of call, ready to run.

    Attributes:
        problem: What is computed; None when a result is empty or K is 0, so that there is nothing to multiply.
        choice: Backend and plan.
        shapes: Shape of each result.
        dtype: Type of the results.
        device: Where everything lies.
        run: The computation.
    """

    problem: Problem | None
    choice: backends.Choice | None
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    device: torch.device
    run: Run

    def allocate(self) -> torch.Tensor:
        """A new result, not initialised."""
        return torch.empty(self.shapes[0], dtype=self.dtype, device=self.device)

    def allocate_all(self) -> tuple[torch.Tensor, ...]:
        """All results, not initialised: parts of one allocation where each then starts at a multiple of 16 bytes."""
        if self.templates:
            flat = torch.empty(self.elements, dtype=self.dtype, device=self.device)
            return tuple(_unflatten(flat, self.templates))
        return tuple(torch.empty(shape, dtype=self.dtype, device=self.device) for shape in self.shapes)

    @functools.cached_property
    def elements(self) -> int:
        """Of all results together."""
        return sum(map(math.prod, self.shapes))

    @functools.cached_property
    def templates(self) -> list[torch.Tensor]:
        """A tensor without memory in the shape of each result; empty where results cannot lie one behind another."""
        sizes = [math.prod(shape) * self.dtype.itemsize for shape in self.shapes]
        if len(sizes) < 2 or any(size % ALIGNMENT or not size for size in sizes):
            return []
        return [torch.empty(shape, dtype=self.dtype, device="meta") for shape in self.shapes]


_prepared: dict[Hashable, Prepared] = {}


def _direct() -> bool:
    """Whether nothing in this thread wants to see calls as operators."""
    return not (
        torch.compiler.is_compiling()
        or _dispatch_modes()
        or _function_modes()
        or _profiler._is_profiler_enabled
        or _functorch() is not None
        or _tracing() is not None
    )


def signature(x: object) -> Hashable:
    """What a prepared call may depend on in one argument. Never raises: wrong arguments are found by validation."""
    if type(x) is NVFP4Tensor:
        return x.signature
    if isinstance(x, torch.Tensor):
        aligned = not x.data_ptr() & _MISALIGNED if type(x) in _PLAIN else True
        grad = x.requires_grad and torch.is_grad_enabled()
        return x.shape, type(x), x.dtype, x.device, x.is_contiguous(), aligned, grad
    return (type(x),)


def plain(operands: Sequence[object]) -> bool:
    """Whether all tensors are of torch's own types: subclasses (fake tensors, users' own) need the dispatcher."""
    for x in operands:
        kind = type(x.codes) if isinstance(x, NVFP4Tensor) else type(x)
        if kind not in _PLAIN and issubclass(kind, torch.Tensor):
            return False
    return True


def find(key: Hashable) -> Prepared | None:
    """The prepared call of `key`."""
    return _prepared.get(key)


def keep(key: Hashable, prepared: Prepared) -> Prepared:
    """Remember `prepared`."""
    if len(_prepared) >= _LIMIT:
        _prepared.clear()
    _prepared[key] = prepared
    return prepared


def clear() -> None:
    """Forget every prepared call (tests, or a backend whose plans were retuned)."""
    _prepared.clear()


def prepare(op: str, described: Described, operands: Operands, outs: Sequence[object], backend: str | None) -> Prepared:
    """Choose for a validated call.

    Args:
        op: Name of the operation, for messages.
        described: What validation found.
        operands: As the first call has them; results that are not there yet may be missing.
        outs: The ``out=`` tensors of the call; empty when they are to be allocated.
        backend: The backend that the caller asks for.
    """
    problem = described.problem
    dtype = _validate.OUT_NAMES[problem.out_dtype]
    first = operands.b[0]
    device = first.device
    for i, (out, shape) in enumerate(zip(outs, described.shapes, strict=False)):
        _validate.out_fits(op, "out" if len(outs) == 1 else f"out[{i}]", out, shape, dtype, device)
    backend = backend if backend is not None else backends.configured()
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
        return Prepared(None, None, described.shapes, dtype, device, _nothing if problem.stacked else _zeros)
    choice = backends.choose(capability(device), problem, backend)
    run = _runner(choice, problem)
    if described.single and not isinstance(choice.backend, LaunchBackend):
        run = functools.partial(_single, run)
    if live is not None:
        run = functools.partial(_only, run, live)
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        run = functools.partial(_on_device, run, device)
    dense = [x for x in (*operands.a, *operands.b) if isinstance(x, torch.Tensor)]
    tensors = [*dense, *(out for out in outs if isinstance(out, torch.Tensor))]
    if any(x.data_ptr() & _MISALIGNED for x in tensors):
        run = functools.partial(_aligned, run)
    return Prepared(problem, choice, described.shapes, dtype, device, run)


def _runner(choice: backends.Choice, problem: Problem) -> Run:
    """How the chosen backend runs a problem again and again."""
    if isinstance(choice.backend, PreparingBackend):
        return choice.backend.prepare(choice.plan, problem)
    return functools.partial(choice.backend.run, choice.plan, problem)


def _zeros(operands: Operands) -> None:
    """K is 0, or a result is empty: sums of nothing."""
    for out in operands.out:
        out.zero_()


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
    run(Operands(operands.a, (rows,), (out.unsqueeze(-2),)))


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
    with torch.cuda.device(device):
        run(operands)


def _aligned(run: Run, operands: Operands) -> None:
    """Copy activations and results that start inside a 16-byte unit: kernels read and write whole units."""

    def copied(x: Operand) -> Operand:
        return x.clone() if isinstance(x, torch.Tensor) and x.data_ptr() & _MISALIGNED else x

    # clone() also for results: the stacked form leaves rows beyond the last group as they were.
    results = tuple(out.clone() if out.data_ptr() & _MISALIGNED else out for out in operands.out)
    run(Operands(tuple(map(copied, operands.a)), tuple(map(copied, operands.b)), results, operands.offsets))
    for out, result in zip(operands.out, results, strict=True):
        if result is not out:
            out.copy_(result)


@dataclass(frozen=True, eq=False)
class Spec:
    """What the code below needs to know of an operation.

    Attributes:
        op: Its name in messages.
        name: Its name as an operator of torch.
        describe: Its validation: (*a, *b, *offsets, out_dtype) to `Described`.
    """

    op: str
    name: str
    describe: Callable[..., Described]


def call(
    spec: Spec,
    a: tuple[Operand, ...],
    b: tuple[Operand, ...],
    offsets: torch.Tensor | None,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    backend: str | None,
) -> torch.Tensor | None:
    """Run an operation with one result directly; None when this call has to go through torch's dispatcher.

    Args:
        spec: The operation.
        a, b: Operands.
        offsets: Stacked groups only.
        out_dtype: Type of the result.
        out: Where the result goes; None to allocate it.
        backend: The backend that the caller asks for.
    """
    if not _direct():
        return None
    key = _key(spec, a, b, offsets, out_dtype, out, backend)
    prepared = _prepared.get(key)
    if prepared is None:
        if not plain((*a, *b, offsets, out)):
            return None
        prepared = keep(key, prepare_one(spec, a, b, offsets, out_dtype, out, backend))
    return run(spec, prepared, Operands(a, b, () if out is None else (out,), offsets))


def _key(
    spec: Spec,
    a: tuple[Operand, ...],
    b: tuple[Operand, ...],
    offsets: torch.Tensor | None,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    backend: str | None,
) -> Hashable:
    return (
        spec.name,
        *[signature(x) for x in a],
        *[signature(x) for x in b],
        None if offsets is None else signature(offsets),
        None if out is None else signature(out),
        out_dtype,
        backend,
    )


def prepare_one(
    spec: Spec,
    a: tuple[Operand, ...],
    b: tuple[Operand, ...],
    offsets: torch.Tensor | None,
    out_dtype: torch.dtype,
    out: torch.Tensor | None,
    backend: str | None,
) -> Prepared:
    """Validate a call, and prepare it. Arguments as of `call`."""
    described = spec.describe(*a, *b, *(() if offsets is None else (offsets,)), out_dtype)
    return prepare(spec.op, described, Operands(a, b, (), offsets), () if out is None else (out,), backend)


def run(spec: Spec, prepared: Prepared, operands: Operands) -> torch.Tensor:
    """Run a prepared call; allocates the result where ``operands.out`` is empty."""
    if operands.out:
        _separate(spec, operands)
    else:
        operands = Operands(operands.a, operands.b, (prepared.allocate(),), operands.offsets)
    prepared.run(operands)
    return operands.out[0]


Lists = tuple[tuple[Operand, ...], ...]
"""The operands of a list form: A of each group, B (or B1) of each group, B2 of each group where there is one."""


def call_lists(
    spec: Spec,
    lists: Lists,
    out_dtype: torch.dtype,
    out: Sequence[torch.Tensor] | None,
    backend: str | None,
) -> list[torch.Tensor] | None:
    """Run a list form directly; None when this call has to go through torch's dispatcher.

    Arguments as of `call`; `out` has one tensor for each group.
    """
    if not (_direct() and plain((*itertools.chain(*lists), *(out or ())))):
        return None
    return implement_lists(spec, lists, out_dtype, out, backend)


def implement_lists(
    spec: Spec,
    lists: Lists,
    out_dtype: torch.dtype,
    out: Sequence[torch.Tensor] | None,
    backend: str | None,
) -> list[torch.Tensor]:
    """What the registered operator of the list form does."""
    outs = None if out is None else tuple(out)
    a, b = lists[0], lists[1] if len(lists) == 2 else lists[1] + lists[2]
    key = (
        spec.name,
        len(a),
        len(lists[1]),
        *[signature(x) for x in a],
        *[signature(x) for x in b],
        None if outs is None else tuple(map(signature, outs)),
        out_dtype,
        backend,
    )
    prepared = _prepared.get(key)
    if prepared is None:
        described = spec.describe(*lists, out_dtype)
        if outs is not None:
            _validate.out_count(spec.op, outs, len(a))
        prepared = prepare(spec.op, described, Operands(a, b, ()), outs or (), backend)
        if plain((*a, *b)):
            keep(key, prepared)
    if outs is None:
        operands = Operands(a, b, prepared.allocate_all())
    else:
        operands = Operands(a, b, outs)
        _separate(spec, operands)
    prepared.run(operands)
    return list(operands.out)


def _separate(spec: Spec, operands: Operands) -> None:
    """Raise if memory of a result is also that of an input or of another result."""
    ranges = []
    for x in operands.a + operands.b:
        for part in (x,) if isinstance(x, torch.Tensor) else (x.codes, x.scales):
            begin = part.data_ptr()
            ranges.append((begin, begin + part.nbytes))
    for out in operands.out:
        begin = out.data_ptr()
        end = begin + out.nbytes
        for other, other_end in ranges:
            if other < end and begin < other_end:
                _validate.no_alias(spec.op, operands)
        ranges.append((begin, end))
