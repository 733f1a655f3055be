"""Runs a `Program` in the emulator."""

from __future__ import annotations

import functools
from typing import Any

from nvfp4.emulator import Checks, Module, Report, TensorMap

from .compile import compile_text
from .program import Array, In, Int, Map, Out, Program


@functools.lru_cache(maxsize=32)
def module(source: str, arch: str) -> Module:
    """The emulator's module of a source text; programs that differ in their data only share it."""
    return Module(compile_text(source, arch, "ptx"))


def _argument(argument: Any, buffers: dict[str, Array]) -> Any:
    if isinstance(argument, (In, Out)):
        return buffers[argument.name]
    if isinstance(argument, Int):
        return argument.value
    assert isinstance(argument, Map)
    fields = {
        f: getattr(argument, f)
        for f in ("dtype", "shape", "strides", "box", "element_strides", "swizzle", "nan_fill", "offset")
    }
    return TensorMap(buffers[argument.name], **fields)


def run(program: Program, *, seed: int = 0, checks: Checks | None = None) -> tuple[dict[str, Array], Report]:
    """The recorded buffers after one launch, and the emulator's report.

    Raises:
        nvfp4.emulator.EmulatorError: The program is refused or has findings.
    """
    buffers = program.buffers()
    report = module(program.source, program.arch).launch(
        "kernel", program.grid, program.block, [_argument(a, buffers) for a in program.args],
        cluster=program.cluster if program.cluster != (1, 1, 1) else None, shared_bytes=program.shared_bytes,
        checks=checks, seed=seed,
    )  # fmt: skip
    return {name: buffers[name] for name in program.outputs}, report
