"""Bundles: one self-contained ``submission.py`` made of a backend's Launches.

What a backend says about every case of a task, as data, becomes tables; the sources of its kernels are copied into the
file; `runtime` compiles and launches them. Any `LaunchBackend` works: its launches may use tensor maps, clusters,
programmatic launches, and scratch memory (which starts as zeros, and is kept between calls).
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from nvfp4.backends.base import LaunchBackend, Operands
from nvfp4.bench.provenance import commit
from nvfp4.check.run import choose_launches
from nvfp4.contest import inputs
from nvfp4.contest.tasks import Case, Task
from nvfp4.errors import InputError, Refusal, UnsupportedError
from nvfp4.executors.launch import (
    Argument,
    Kernel,
    Launch,
    Pointer,
    PointerArray,
    Scalar,
    ScalarArray,
    TensorMap,
    TensorMapArray,
)
from nvfp4.jit import source
from nvfp4.problem import Format, Op

MAX_BYTES = 1_000_000
"""Size limit of a submission."""

FORBIDDEN = "stream"
"""The word that the contest rejects, wherever it stands."""
_REPLACEMENT = "strand"

_FIELDS = {
    Op.GEMV: (0, 1, 4, 5, 6),
    Op.GEMM: (0, 1, 4, 5, 6),
    Op.DUAL_GEMM: (0, 1, 2, 6, 7, 8, 9),
    Op.GROUP_GEMM: (),
}
"""Which tensors of `data` a bundle uses: codes, tiled scales, result."""

_FIELDS_WITH_ROWS = (0, 1, 2, 5, 6)
"""Those of a GEMV that takes the matrix' scales in rows."""
_ROWS_OF_A = ("sm90",)
"""Backends whose GEMV is faster with the matrix' scales in rows, because their loads go along a row (on an H200,
4096 x 7168 x 8 in 41 us instead of 56)."""


@dataclass(frozen=True)
class Bundle:
    """A submission.

    Attributes:
        task: For this task.
        arch: Compiled for this architecture.
        plans: (case, backend, plan) for people.
        launches: Kernels that one call launches, at most.
        text: The file.
    """

    task: Task
    arch: str
    plans: tuple[tuple[Case, str, str], ...]
    launches: int
    text: str


@dataclass(eq=False)
class _Memory:
    """Where the addresses of launches come from: tensors of the call, then scratch memory."""

    tensors: list[torch.Tensor]
    scratch: list[torch.Tensor] = field(default_factory=list)

    def place(self, tensor: torch.Tensor | None) -> tuple[int, int] | None:
        """(number, byte offset) of the memory of `tensor`; memory that is not the call's becomes scratch."""
        if tensor is None:
            return None
        address = tensor.data_ptr()
        for number, known in enumerate((*self.tensors, *self.scratch)):
            size = known.untyped_storage().nbytes()
            offset = address - known.data_ptr()
            if 0 <= offset < max(size, 1):
                return number, offset
        self.scratch.append(tensor)
        return len(self.tensors) + len(self.scratch) - 1, 0


def blank(task: Task, case: Case) -> inputs.Data:
    """Inputs of the right shapes whose values do not matter: most of their memory is never touched."""

    def draw(_: torch.Generator, batch: int, rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty(batch, rows, k // 2, dtype=torch.uint8), torch.empty(batch, rows, k // 16, dtype=torch.uint8)

    return inputs.generate(task, case, distribution=draw)


def _used(task: Task, data: inputs.Data, fields: tuple[int, ...]) -> list[torch.Tensor]:
    """The tensors of a call in the order of their numbers, as ``runtime._tensors`` gives them."""
    if task.op is not Op.GROUP_GEMM:
        dense = cast(inputs.Dense, data)
        return [dense[i] for i in fields]
    abc, _, tiled, _ = cast(inputs.Grouped, data)
    return [x for group in (*abc, *tiled) for x in group]


def _key(task: Task, data: inputs.Data) -> Any:
    if task.op is Op.GROUP_GEMM:
        return tuple(cast(inputs.Grouped, data)[3])
    dense = cast(inputs.Dense, data)
    return tuple(dense[0].shape), tuple(dense[1].shape)


def _map(map: TensorMap, memory: _Memory) -> tuple[Any, ...]:
    place = memory.place(map.tensor)
    assert place is not None
    where = (place[0], place[1] + map.offset)
    layout = (map.dtype, map.shape, map.strides, map.box, map.element_strides)
    return (where, *layout, map.swizzle, map.l2_promotion, map.nan_fill)


def _argument(argument: Argument, memory: _Memory) -> tuple[Any, ...]:
    if isinstance(argument, Pointer):
        return "p", memory.place(argument.tensor)
    if isinstance(argument, PointerArray):
        return "ps", argument.capacity, tuple(memory.place(tensor) for tensor in argument.tensors)
    if isinstance(argument, Scalar):
        return "s", argument.ctype, (argument.value,), 1
    if isinstance(argument, ScalarArray):
        return "s", argument.ctype, argument.values, argument.capacity
    if isinstance(argument, TensorMap):
        return "maps", 1, (_map(argument, memory),)
    assert isinstance(argument, TensorMapArray)
    return "maps", argument.capacity, tuple(_map(map, memory) for map in argument.maps)


class _Kernels:
    """Kernels by short names."""

    def __init__(self) -> None:
        self.names: dict[Kernel, str] = {}

    def name(self, kernel: Kernel) -> str:
        """A name that says the entry, and counts its variants."""
        if kernel not in self.names:
            base = kernel.entry.removeprefix("nvfp4_")
            count = sum(known.entry == kernel.entry for known in self.names)
            self.names[kernel] = f"{base}_{count}"
        return self.names[kernel]


_PITCHES = ("CONFIG_X_PITCH", "PLAN_X_PITCH")
"""Macros by which a GEMV kernel is told how far apart the vectors of a batch lie."""


def _pitch(kernel: Kernel) -> str | None:
    """The macro that `kernel` has for it."""
    text = "".join(source.closure(f"kernels/{kernel.source}").values())
    return next((name for name in _PITCHES if re.search(rf"#\s*ifn?def\s+{name}\b", text)), None)


def _in_place(task: Task, launches: Sequence[Launch], operands: Operands, data: inputs.Data) -> tuple[Launch, ...]:
    """The launches with the vectors of a batched GEMV where the contest has them: row 0 of matrices of 128 rows.

    Raises:
        UnsupportedError: The kernel takes them one after another only.
    """
    codes = cast(Any, operands.b[0]).codes
    if task.op is not Op.GEMV or codes.shape[0] == 1:
        return tuple(launches)
    padded = cast(inputs.Dense, data)[1]
    moved = []
    for launch in launches:
        macro = _pitch(launch.kernel)
        if macro is None:
            reason = "takes the vectors of a batch one after another only"
            raise UnsupportedError(f"{task.name} as a bundle", (Refusal(launch.kernel.source, (reason,)),))
        pitch = inputs.GEMV_ROWS * codes.shape[-1]
        kernel = replace(launch.kernel, constants=(*launch.kernel.constants, (macro, pitch)))
        args = tuple(
            Pointer(padded) if isinstance(argument, Pointer) and argument.tensor is codes else argument
            for argument in launch.args
        )
        assert args != launch.args
        moved.append(replace(launch, kernel=kernel, args=args))
    return tuple(moved)


def _step(launch: Launch, kernels: _Kernels, memory: _Memory) -> tuple[Any, ...]:
    arguments = tuple(_argument(argument, memory) for argument in launch.args)
    shape = (launch.grid, launch.block, launch.cluster)
    return ("launch", kernels.name(launch.kernel), *shape, launch.shared_bytes, launch.programmatic, arguments)


def rename(text: str) -> str:
    """`text` without the forbidden word: "strand" stands in its place, with the same capitals."""

    def replace(found: re.Match[str]) -> str:
        word = found.group()
        if word.isupper():
            return _REPLACEMENT.upper()
        return _REPLACEMENT.capitalize() if word[0].isupper() else _REPLACEMENT

    return re.sub(FORBIDDEN, replace, text, flags=re.IGNORECASE)


def _runtime() -> tuple[str, str]:
    """The text of ``runtime.py`` before and behind its tables."""
    text = (Path(__file__).parent / "runtime.py").read_text(encoding="utf-8")
    before, _, rest = text.partition("# [tables\n")
    _, _, behind = rest.partition("# tables]\n")
    return before, behind


def _entry(table: str, key: object, parts: Sequence[object]) -> str:
    """``table[key] = (parts)``, a line or more for each part."""
    lines = [f"{table}[{key!r}] = ("]
    for part in parts:
        text = f"{part!r},"
        wrapped = textwrap.wrap(text, 114, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)
        # Wrapping cuts at spaces: a string with spaces would not be the same any more.
        assert ast.literal_eval("".join(("(", *wrapped, ")")))[0] == part
        lines += (f"    {line}" for line in wrapped)
    return "\n".join((*lines, ")"))


def _collector(groups: int) -> str:
    """``runtime._collect`` for calls of so many groups, written out."""
    numbers = range(groups)
    names = [*(f"{x}{i}" for i in numbers for x in "abc"), *(f"{x}{i}" for i in numbers for x in "st")]
    calls = [f"{name}.data_ptr()" for name in names]
    lines = (
        "",
        f"def _collect_{groups}(data):",
        f"    [{', '.join(f'(a{i}, b{i}, c{i})' for i in numbers)}] = data[0]",
        f"    [{', '.join(f'(s{i}, t{i})' for i in numbers)}] = data[2]",
        "    addresses = (",
        *(f"        {', '.join(calls[i : i + 6])}," for i in range(0, len(calls), 6)),
        "    )",
        f"    return addresses, [{', '.join(f'c{i}' for i in numbers)}]",
        "",
        "",
        f"COLLECT[{groups}] = _collect_{groups}",
        "",
    )
    return "\n".join(lines)


def _quoted(text: str) -> str:
    if "'''" in text:
        raise InputError("contest bundle", "source", "no ''' in a kernel", "some", "Write it another way.")
    return f"r'''{text}'''"


def _sources(kernels: Sequence[Kernel]) -> dict[str, str]:
    found: dict[str, str] = {}
    for kernel in kernels:
        found.update(source.closure(f"kernels/{kernel.source}"))
    return found


def _header(bundle_command: str, task: Task, arch: str, plans: Sequence[tuple[Case, str, str]], launches: int) -> str:
    lines = [
        f"#!POPCORN leaderboard {task.name}",
        "#!POPCORN gpu B200",
        f'"""{task.name} for {arch}: generated by nvfp4, do not edit.',
        "",
        f"Again: {bundle_command}",
        f"Commit: {commit()}",
        f"Kernels launched by a call: {launches}, in the default queue.",
        "",
        "Plans:",
    ]
    for case, backend, plan in plans:
        lines.append(f"  {task.line(case)}")
        lines.append(f"    {backend}: {plan}")
    lines += ["", "The word that the contest's rules forbid is spelt 'strand' in the sources below.", '"""', ""]
    return "\n".join(lines)


def bundle(
    task: Task, arch: str, *, strategy: str = "auto", cases: Sequence[Case] | None = None, command: str = ""
) -> Bundle:
    """Make the submission of a task.

    Args:
        task: The task.
        arch: ``"sm_90a"``, ``"sm_100a"``, or any that a backend has kernels for.
        strategy: The backend whose kernels to take; ``"auto"`` for the first that does not refuse.
        cases: What it is for; all tests and benchmarks of the task when None.
        command: The command that makes it, for the header.

    Raises:
        UnsupportedError: No backend made of Launches runs a case.
        InputError: The file would break the contest's rules.
    """
    kernels = _Kernels()
    programs: dict[Any, Any] = {}
    plans: list[tuple[Case, str, str]] = []
    most = 0
    backend = None if strategy == "auto" else strategy
    every = tuple(dict.fromkeys(cases if cases is not None else (*task.tests, *task.benchmarks)))
    problems = {case: task.problem(case, scale_layout="tiled") for case in every}
    fields = _FIELDS[task.op]
    if task.op is Op.GEMV and all(
        choose_launches(arch, problem, backend).backend.name in _ROWS_OF_A for problem in problems.values()
    ):
        fields = _FIELDS_WITH_ROWS
        problems = {case: replace(problem, a=Format("nvfp4", "linear")) for case, problem in problems.items()}
    for case, problem in problems.items():
        choice = choose_launches(arch, problem, backend)
        data = blank(task, case)
        operands = inputs.operands(task, data, scale_layout="tiled")
        if fields == _FIELDS_WITH_ROWS:
            operands = replace(operands, a=inputs.operands(task, data, scale_layout="linear").a)
        memory = _Memory(_used(task, data, fields))
        launches = cast(LaunchBackend, choice.backend).launches(choice.plan, problem, operands)
        steps = [_step(launch, kernels, memory) for launch in _in_place(task, launches, operands, data)]
        sizes = [tensor.numel() * tensor.element_size() for tensor in memory.scratch]
        programs[_key(task, data)] = (len(memory.tensors), sizes, steps)
        plans.append((case, choice.backend.name, choice.plan.describe()))
        most = max(most, len(launches))
    named = {name: (f"kernels/{k.source}", k.entry, dict(k.constants)) for k, name in kernels.names.items()}
    macros = [_entry("KERNELS", name, parts) for name, parts in named.items()]
    calls = [_entry("PROGRAMS", key, (count, sizes, *steps)) for key, (count, sizes, steps) in programs.items()]
    grouped = task.op is Op.GROUP_GEMM
    collectors = [_collector(count) for count in sorted({len(case.groups) for case in every})] if grouped else []
    tables = [
        f"TASK = {task.name!r}",
        f"ARCH = {arch!r}",
        f"GROUPED = {grouped}",
        f"FIELDS = {fields}",
        f"RESULT = {fields[-1] if fields else 0}",
        "",
        "# name: (source, entry, macros)",
        "KERNELS = {}",
        *macros,
        "",
        "# sizes of a call: (tensors, bytes of scratch memory, step, step, ...)",
        "PROGRAMS = {}",
        *calls,
        "",
        "# number of groups: addresses and results of such a call, written out: for 8 groups a loop takes 0.6 us more",
        "COLLECT = {}",
        "",
        *collectors,
        "SOURCES = {}",
        *(f"SOURCES[{name!r}] = {_quoted(text)}" for name, text in _sources(tuple(kernels.names)).items()),
        "",
    ]
    before, behind = _runtime()
    _, _, imports = before.partition("from __future__")
    header = _header(command or f"nvfp4 contest bundle {task.name} --arch {arch}", task, arch, plans, most)
    text = rename(header + "from __future__" + imports + "\n".join(tables) + behind)
    size = len(text.encode())
    if size >= MAX_BYTES:
        raise InputError("contest bundle", "size", f"below {MAX_BYTES} bytes", size, "Bundle fewer cases.")
    return Bundle(task, arch, tuple(plans), most, text)
