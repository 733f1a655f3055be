"""Host time of one call of each operation, from Python into the launch, in microseconds.

    python benchmarks/host_time.py                  # this machine's preferred backend for small problems
    python benchmarks/host_time.py --backend sm80
    python benchmarks/host_time.py --null           # a backend that does nothing: the cost of the operations alone

Calls are made back to back and not waited for, on problems so small that the device keeps up; the best of several
batches counts, because anything else on the machine only adds time. "direct" is how eager calls run; "dispatcher" is
the registered operator, which torch.compile and tools use.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch

import nvfp4
from nvfp4 import backends
from nvfp4.backends.base import Operands, Plan
from nvfp4.check import inputs
from nvfp4.device import Capability
from nvfp4.ops import _dispatch
from nvfp4.problem import Format, Op, Problem

BATCH = 256
"""Calls between two waits: fewer than the launches that a device's queue holds."""


class NullPlan:
    """The plan to do nothing."""

    def describe(self) -> str:
        """One line for people."""
        return "nothing"


class NullBackend:
    """Does nothing, so that what remains is the cost of the operations themselves."""

    name = "null"

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Never."""
        return ()

    def plan(self, capability: Capability, problem: Problem) -> NullPlan:
        """Nothing."""
        return NullPlan()

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Nothing."""


@contextmanager
def null_backend() -> Iterator[None]:
    """Put the null backend in the place of all others."""
    backend = NullBackend()
    choice = backends.Choice(backend, NullPlan(), ())
    _dispatch.clear()
    with mock.patch.object(backends, "choose", return_value=choice):
        yield
    _dispatch.clear()


@dataclass(frozen=True)
class Row:
    """Microseconds of one kind of call: allocating its result, with ``out=``, and through torch's dispatcher."""

    call: str
    direct: float
    out: float
    dispatcher: float


def microseconds(call: Callable[[], object], device: str, repeat: int) -> float:
    """The best time of a call over `repeat` batches."""
    best = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        for _ in range(BATCH):
            call()
        best = min(best, time.perf_counter() - begin)
        if device == "cuda":
            torch.cuda.synchronize()
    return best / BATCH * 1e6


def calls(device: str) -> Iterator[tuple[str, Callable[..., object], torch.Tensor | list[torch.Tensor]]]:
    """(name, function that takes `out` and `backend`, out) of every kind of call."""
    nvfp4_tiled, fp16 = Format("nvfp4", "tiled", True), Format("fp16", "")
    for a, b, what in ((nvfp4_tiled, nvfp4_tiled, "nvfp4"), (fp16, nvfp4_tiled, "fp16")):
        gemv = inputs.make(Problem(Op.GEMV, 64, 1, 256, 1, b, a), "integers", 0, device)
        yield f"gemv, {what} vector", functools.partial(nvfp4.gemv, gemv.a[0], gemv.b[0]), gemv.out[0]
        gemm = inputs.make(Problem(Op.GEMM, 16, 64, 256, 1, a, b), "integers", 0, device)
        yield f"gemm, {what} activations", functools.partial(nvfp4.gemm, *gemm.a, *gemm.b), gemm.out[0]
    dual = inputs.make(Problem(Op.DUAL_GEMM, 16, 64, 256, 1, nvfp4_tiled, nvfp4_tiled), "integers", 0, device)
    yield "dual_gemm", functools.partial(nvfp4.dual_gemm, *dual.a, *dual.b), dual.out[0]
    stacked = inputs.make(Problem(Op.GROUP_GEMM, 16, 64, 256, 1, fp16, nvfp4_tiled, stacked=4), "integers", 0, device)
    grouped = functools.partial(nvfp4.group_gemm, *stacked.a, *stacked.b, offsets=stacked.offsets)
    yield "group_gemm, stacked, 4 groups", grouped, stacked.out[0]
    groups = ((16, 64, 256),) * 4
    problem = Problem(Op.GROUP_GEMM, 64, 64, 256, 1, nvfp4_tiled, nvfp4_tiled, groups=groups)
    lists = inputs.make(problem, "integers", 0, device)
    yield "group_gemm, lists, 4 groups", functools.partial(nvfp4.group_gemm, lists.a, lists.b), list(lists.out)


def measure(device: str, backend: str | None, repeat: int) -> list[Row]:
    """One row for each kind of call."""
    rows = []
    for name, call, out in calls(device):
        chosen = functools.partial(call, backend=backend)
        into = functools.partial(chosen, out=out)
        times = []
        for function, direct in ((chosen, True), (into, True), (chosen, False)):
            with mock.patch.object(_dispatch, "_direct", _dispatch._direct if direct else lambda: False):
                function()
                times.append(microseconds(function, device, repeat))
        rows.append(Row(name, *times))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", help="the backend to use; the preferred one when not given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--null", action="store_true", help="use a backend that does nothing")
    parser.add_argument("--repeat", type=int, default=30, help="batches of 256 calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    arguments = parser.parse_args()
    if arguments.null:
        with null_backend():
            rows = measure(arguments.device, None, arguments.repeat)
    else:
        rows = measure(arguments.device, arguments.backend, arguments.repeat)
    if arguments.json:
        for row in rows:
            print(json.dumps(vars(row)))
        return
    print(f"{'us a call':32} {'direct':>8} {'out=':>8} {'dispatcher':>10}")
    for row in rows:
        print(f"{row.call:32} {row.direct:8.1f} {row.out:8.1f} {row.dispatcher:10.1f}")


if __name__ == "__main__":
    main()
