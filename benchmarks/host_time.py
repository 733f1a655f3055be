"""Host time of one call of each operation, from Python into the launch, in microseconds.

    python benchmarks/host_time.py                  # this machine's preferred backend for small problems
    python benchmarks/host_time.py --backend sm80
    python benchmarks/host_time.py --profile        # what each part of a call takes
    python benchmarks/host_time.py --null           # a backend that does nothing: the cost of the operations alone
    python benchmarks/host_time.py --stand-in sm_90a --backend sm90    # without a GPU: all but the driver's own time

Calls are made back to back and not waited for, on problems so small that the device keeps up; the best of several
batches in several rounds counts, because anything else on the machine only adds time. "direct" is how eager calls run;
"operator" is the operator of torch.ops, with plain tensors, as compiled code calls it; "dispatcher" is an eager call
that goes through it, for tools that watch operators; "prepared" is a backend's computation without the operation
around it, as back-to-back timing calls it.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nvfp4
from nvfp4 import backends, executors
from nvfp4.backends import operands as backend_operands
from nvfp4.backends.base import Operands, Plan, PreparingBackend
from nvfp4.bench import provenance
from nvfp4.check import inputs
from nvfp4.device import Capability, known
from nvfp4.executors import driver, libcuda, program, scratch
from nvfp4.ops import _dispatch, _prepare
from nvfp4.problem import Format, Op, Problem

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "host_time"
DOCUMENT = ROOT / "docs" / "launches.md"
BEGIN, END = "<!-- host-time -->", "<!-- /host-time -->"

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
    choice = backends.Choice(NullBackend(), NullPlan(), ())
    with mock.patch.object(backends, "choose", return_value=choice):
        yield


def nothing() -> Any:
    """A C function that returns 0, whatever four addresses it is passed."""
    return ctypes.CDLL(None)["pthread_mutexattr_destroy"]


@contextmanager
def stand_in(arch: str) -> Iterator[None]:
    """CPU tensors in the place of a GPU's memory, and a driver that does nothing."""
    library = types.SimpleNamespace(**{symbol: lambda *_: 0 for symbol in libcuda._SIGNATURES})
    library.cuLaunchKernelEx = nothing()
    with ExitStack() as stack:

        def put(where: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(where, name, value, create=True))

        put(libcuda, "library", lambda: library)
        put(driver, "load", lambda kernel, index: driver.Function(1, 0, 0))
        put(driver, "device_index", lambda launches: 0)
        put(torch.cuda, "get_device_capability", lambda index: known(arch).compute)
        put(_prepare, "capability", lambda device: known(arch))
        put(executors, "choose", lambda device: driver)
        put(scratch, "_of_queue", lambda sizes, *_: tuple(torch.zeros(n, dtype=torch.uint8) for n in sizes))
        # Builtins, because a Python function would take longer than what they stand for.
        put(torch._C, "_cuda_getDevice", int)
        put(torch._C, "_cuda_getCurrentRawStream", int)
        put(torch._C, "_cuda_isCurrentStreamCapturing", bool)
        yield


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


@dataclass(frozen=True)
class Kind:
    """A kind of call.

    Attributes:
        name: For people.
        problem: What is computed.
        operands: Its tensors.
        call: The operation, which takes `out` and `backend` as well.
    """

    name: str
    problem: Problem
    operands: Operands
    call: Callable[..., object]

    @property
    def out(self) -> torch.Tensor | list[torch.Tensor]:
        """What ``out=`` takes."""
        return list(self.operands.out) if self.problem.groups else self.operands.out[0]


def kinds(device: str) -> Iterator[Kind]:
    """Every operation and form."""
    nvfp4_tiled, fp16 = Format("nvfp4", "tiled", True), Format("fp16", "")

    def make(name: str, problem: Problem, operation: Callable[..., object]) -> Kind:
        made = inputs.make(problem, "integers", 0, device)
        lists = bool(problem.groups)
        count = len(made.a)
        sides = [made.a, *(made.b[i : i + count] for i in range(0, len(made.b), count))]
        arguments = [list(side) if lists else side[0] for side in sides]
        offsets = {} if made.offsets is None else {"offsets": made.offsets}
        if problem.op is Op.GEMV:  # one vector, and no dimension for it
            arguments = [made.a[0], made.b[0]]
        return Kind(name, problem, made, functools.partial(operation, *arguments, **offsets))

    for form, what in ((nvfp4_tiled, "nvfp4"), (fp16, "fp16")):
        yield make(f"gemv, {what} vector", Problem(Op.GEMV, 64, 1, 256, 1, nvfp4_tiled, form), nvfp4.gemv)
        yield make(f"gemm, {what} activations", Problem(Op.GEMM, 16, 64, 256, 1, form, nvfp4_tiled), nvfp4.gemm)
    both = (nvfp4_tiled, nvfp4_tiled)
    four = ((16, 64, 256),) * 4
    yield make("dual_gemm", Problem(Op.DUAL_GEMM, 16, 64, 256, 1, *both), nvfp4.dual_gemm)
    for op, function in ((Op.GROUP_GEMM, nvfp4.group_gemm), (Op.GROUP_DUAL_GEMM, nvfp4.group_dual_gemm)):
        stacked = Problem(op, 16, 64, 256, 1, fp16, nvfp4_tiled, stacked=4)
        yield make(f"{op}, stacked, 4 groups", stacked, function)
        yield make(f"{op}, lists, 4 groups", Problem(op, 64, 64, 256, 1, *both, groups=four), function)


@dataclass(frozen=True)
class Row:
    """Microseconds of one kind of call.

    Attributes:
        call: `Kind.name`.
        backend: Which one ran it.
        direct: As callers call it.
        out: The same with ``out=``.
        operator: The operator of torch.ops.
        dispatcher: The operation, through torch's dispatcher.
        prepared: The backend's computation alone; None where it has none to prepare.
    """

    call: str
    backend: str
    direct: float
    out: float
    operator: float
    dispatcher: float
    prepared: float | None


class _Capture(TorchDispatchMode):
    """Remembers the operators that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        if func.namespace == "nvfp4":
            self.calls.append(functools.partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def operator(call: Callable[[], object]) -> Callable[[], object]:
    """The call of an operator that an operation makes when it goes through torch's dispatcher."""
    with _Capture() as capture:
        call()
    found: Callable[[], object]
    (found,) = capture.calls
    return found


def measure(device: str, backend: str | None, repeat: int) -> Iterator[Row]:
    """One row for each kind of call that the backend runs."""
    for kind in kinds(device):
        _dispatch.clear()
        plain = functools.partial(kind.call, backend=backend)
        try:
            plain()
        except nvfp4.UnsupportedError:
            continue
        (made,) = _dispatch._prepared.values()
        assert made.choice is not None
        times = []
        into = functools.partial(plain, out=kind.out)
        for function, direct in ((plain, True), (into, True), (operator(plain), True), (plain, False)):
            with mock.patch.object(_dispatch, "direct", _dispatch.direct if direct else lambda: False):
                for _ in range(4):  # the first are not like the others: preparing, late weights, early ones
                    function()
                times.append(microseconds(function, device, repeat))
        prepared = None
        if isinstance(made.choice.backend, PreparingBackend):
            run = functools.partial(made.choice.backend.prepare(made.choice.plan, kind.problem), kind.operands)
            run()
            prepared = microseconds(run, device, repeat)
        eager, out, through, dispatched = times
        yield Row(kind.name, made.choice.backend.name, eager, out, through, dispatched, prepared)


def best(rounds: list[list[Row]]) -> list[Row]:
    """The best of each time over several rounds: a busy neighbour slows all of one round down."""
    found = []
    for rows in zip(*rounds, strict=True):
        times = zip(*((row.direct, row.out, row.operator, row.dispatcher, row.prepared) for row in rows), strict=True)
        least = [min((time for time in each if time is not None), default=None) for each in times]
        found.append(Row(rows[0].call, rows[0].backend, *least))  # type: ignore[arg-type]
    return found


PARTS = ("driver", "parameters", "queue", "addresses", "backend", "results", "operation")
"""What a call consists of, from the innermost on."""


def profile(kind: Kind, device: str, backend: str | None, repeat: int) -> dict[str, float]:
    """Microseconds of each of `PARTS`: one after another is replaced by nothing, and what that saves is its time."""
    call = functools.partial(kind.call, backend=backend)
    with ExitStack() as stack:

        def time_anew() -> float:
            _dispatch.clear()
            call()
            call()
            return microseconds(call, device, repeat)

        def strip(where: object, name: str, value: object) -> float:
            stack.enter_context(mock.patch.object(where, name, value))
            return time_anew()

        allocate = _prepare._allocator

        def once(*args: Any) -> Callable[[], object]:
            made = allocate(*args)()
            return lambda: made

        def remembered(take: Callable[[Operands], object]) -> Callable[[Operands], object]:
            found: list[object] = []

            def first(operands: Operands) -> object:
                if not found:
                    found.append(take(operands))
                return found[0]

            return first

        addresses, written = backend_operands.addresses, backend_operands._written
        times = [time_anew()]
        times.append(strip(libcuda.library(), "cuLaunchKernelEx", nothing()))
        times.append(strip(driver, "_runner", lambda *_: lambda addresses, queue=None: None))
        times.append(strip(program, "_runner", lambda *_: lambda addresses: None))
        stack.enter_context(mock.patch.object(backend_operands, "addresses", remembered(addresses)))
        times.append(strip(backend_operands, "_written", lambda *formats: remembered(written(*formats))))
        times.append(strip(_prepare, "_runner", lambda choice, problem: lambda operands: None))
        times.append(strip(_prepare, "_allocator", once))
    _dispatch.clear()
    return {part: before - after for part, before, after in zip(PARTS, times, [*times[1:], 0.0], strict=True)}


def print_rows(rows: list[Row]) -> None:
    """A table for people."""
    titles = f"{'direct':>8} {'out=':>8} {'operator':>8} {'dispatcher':>10} {'prepared':>8}"
    print(f"{'us a call':32} {'backend':>9} {titles}")
    for row in rows:
        prepared = f"{row.prepared:8.1f}" if row.prepared is not None else ""
        times = f"{row.direct:8.1f} {row.out:8.1f} {row.operator:8.1f} {row.dispatcher:10.1f} {prepared}"
        print(f"{row.call:32} {row.backend:>9} {times}")


def print_profiles(device: str, backend: str | None, repeat: int) -> None:
    """What the parts of each kind of call take."""
    print(f"{'us a call':32} " + " ".join(f"{part:>10}" for part in (*PARTS, "all")))
    for kind in kinds(device):
        try:
            parts = profile(kind, device, backend, repeat)
        except nvfp4.UnsupportedError:
            continue
        print(f"{kind.name:32} " + " ".join(f"{value:10.2f}" for value in (*parts.values(), sum(parts.values()))))


def append(path: Path, rows: list[Row], device: str, commit: str) -> None:
    """Add a record of `rows` to a file of JSON lines."""
    record = {
        "time": provenance.now(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "no GPU, a driver that does nothing",
        "versions": provenance.versions(),
        "commit": commit,
        "rows": [asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def table(records: list[dict[str, Any]]) -> str:
    """The newest record of each backend on the GPU of the last one, as Markdown."""
    device = records[-1]["device"]
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        if record["device"] == device:
            newest.update({(row["backend"], row["call"]): row for row in record["rows"]})
    lines = [
        f"Microseconds of the host, {device}:",
        "",
        "| call | backend | direct | with `out=` | `torch.ops` | direct, through the dispatcher | prepared |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (backend, call), row in newest.items():
        times = (row["direct"], row["out"], row.get("operator"), row["dispatcher"], row["prepared"])
        cells = " | ".join(f"{value:.1f}" if value else "" for value in times)
        lines.append(f"| {call} | {backend} | {cells} |")
    return "\n".join(lines)


def render(text: str, records: list[dict[str, Any]]) -> str:
    """A document with the table between its markers made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(records)}\n{END}{after}"


def load() -> list[dict[str, Any]]:
    """All records, oldest first."""
    lines = [line for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["time"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", help="the backend to use; the preferred one when not given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--null", action="store_true", help="use a backend that does nothing")
    parser.add_argument("--stand-in", metavar="ARCH", help="run without a GPU, with a driver that does nothing")
    parser.add_argument("--profile", action="store_true", help="print what each part of a call takes")
    parser.add_argument("--repeat", type=int, default=10, help="batches of 256 calls in a round")
    parser.add_argument("--rounds", type=int, default=3, help="passes over all calls")
    parser.add_argument("--out", type=Path, help="a file of JSON lines that the rows are added to")
    parser.add_argument("--commit", default=None, help="what the record says that was measured")
    parser.add_argument("--render", action="store_true", help="only make the table of docs/launches.md anew")
    arguments = parser.parse_args()
    if arguments.render:
        DOCUMENT.write_text(render(DOCUMENT.read_text(), load()))
        return
    with ExitStack() as stack:
        if arguments.stand_in:
            stack.enter_context(stand_in(arguments.stand_in))
        if arguments.null:
            stack.enter_context(null_backend())
        if arguments.profile:
            print_profiles(arguments.device, arguments.backend, arguments.repeat)
            return
        rounds = [list(measure(arguments.device, arguments.backend, arguments.repeat)) for _ in range(arguments.rounds)]
        rows = best(rounds)
    print_rows(rows)
    if arguments.out:
        append(arguments.out, rows, arguments.device, arguments.commit or provenance.commit())


if __name__ == "__main__":
    main()
