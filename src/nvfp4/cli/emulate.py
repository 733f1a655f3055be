"""`nvfp4 emulate FILE.ptx`: run any PTX kernel on the CPU under the emulator's checks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nvfp4.cli import output
from nvfp4.errors import InputError

if TYPE_CHECKING:
    from nvfp4.emulator import Report

_TYPES = {
    **{f"u{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"i{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
}


def _argument(text: str) -> object:
    """A number (``7``, ``0.5f``), or a buffer: ``f32[99]`` (zeros), ``f32[8x128]=rand``, ``=arange``, ``=FILE.npy``."""
    kind, bracket, rest = text.partition("[")
    if not bracket:
        return float(text.rstrip("f")) if any(c in text for c in ".fen") and not text.startswith("0x") else int(text, 0)
    count, _, source = rest.partition("]")
    if kind not in _TYPES or not count.replace("x", "").isdigit():
        expected = "a number or TYPE[COUNT], TYPE one of " + ", ".join(_TYPES)
        raise InputError("nvfp4 emulate", "--arg", expected, repr(text), "Write, for example, f32[1024]=rand.")
    shape = tuple(int(part) for part in count.split("x"))
    dtype, source = _TYPES[kind], source.removeprefix("=")
    if source in ("", "zeros"):
        return np.zeros(shape, dtype)
    if source == "arange":
        return np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    if source == "rand":
        generator = np.random.default_rng(0)
        if dtype.kind == "f":
            return generator.standard_normal(shape).astype(dtype)
        return np.frombuffer(generator.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()
    loaded = np.load(source)
    if loaded.dtype != dtype or loaded.shape != shape:
        found = f"{loaded.dtype}{list(loaded.shape)}"
        raise InputError("nvfp4 emulate", "--arg", f"{dtype}{list(shape)} in {source}", found, "Convert the file.")
    return loaded


def _plain(report: Report) -> dict[str, Any]:
    """What a report says, for machines."""
    whole = ("kernel", "counts", "instructions", "output", "seconds", "compile_seconds", "steps")
    lists = {name: [asdict(item) for item in getattr(report, name)] for name in ("findings", "lines", "waits")}
    return {**{name: getattr(report, name) for name in whole}, **lists}


def _triple(text: str, option: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) > 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError("nvfp4 emulate", option, "one to three positive sizes, such as 64,1,1", text, "Use commas.")
    x, y, z = (*map(int, parts), 1, 1)[:3]
    return x, y, z


def emulate(
    file: Annotated[Path, typer.Argument(help="A PTX file, from any compiler.")],
    entry: Annotated[str, typer.Option(help="Kernel to run; the only one by default.")] = "",
    grid: Annotated[str, typer.Option(help="Blocks in x,y,z.")] = "1",
    block: Annotated[str, typer.Option(help="Threads in x,y,z.")] = "32",
    cluster: Annotated[str, typer.Option(help="Cluster size in x,y,z.")] = "1",
    shared: Annotated[int, typer.Option(help="Dynamic shared memory in bytes.")] = 0,
    arg: Annotated[
        list[str] | None, typer.Option(help="Arguments in order: 7, 0.5f, f32[1024]=rand, u8[64]=data.npy.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which interleaving of warps and asynchronous work.")] = 0,
    checks: Annotated[bool, typer.Option("--checks/--no-checks", help="All checks, or none.")] = True,
    save: Annotated[Path | None, typer.Option(help="Save every buffer after the launch to this .npz file.")] = None,
    profile: Annotated[bool, typer.Option(help="Also print which source lines execute most.")] = False,
    timeline: Annotated[bool, typer.Option(help="Also print where the warps of the first block wait.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Only list the kernels and what cannot be run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a PTX kernel on the CPU; out-of-bounds and uninitialised accesses, races and deadlocks are reported."""
    from nvfp4.emulator import Checks, EmulatorError, Module

    try:
        module = Module(file.read_text())
        names = list(module.entries)
        if show:
            unsupported = list(module.unsupported)
            if as_json:
                output.emit({"entries": names, "unsupported": unsupported})
            else:
                output.console.print("kernels: " + ", ".join(names), highlight=False)
                output.console.print("unsupported: " + (", ".join(map(str, unsupported)) or "nothing"), highlight=False)
            raise typer.Exit(1 if unsupported else 0)
        if not entry and len(names) != 1:
            raise InputError("nvfp4 emulate", "--entry", "one of " + ", ".join(names), "nothing", "Name the kernel.")
        arguments = [_argument(text) for text in arg or ()]
        report = module.launch(
            entry or names[0],
            grid=_triple(grid, "--grid"),
            block=_triple(block, "--block"),
            cluster=_triple(cluster, "--cluster"),
            shared_bytes=shared,
            args=arguments,
            checks=Checks.all() if checks else Checks.none(),
            seed=seed,
        )
    except EmulatorError as error:
        output.error_console.print(str(error), highlight=False, markup=False)
        raise typer.Exit(1) from None
    if save is not None:
        buffers = {f"arg{i}": value for i, value in enumerate(arguments) if isinstance(value, np.ndarray)}
        np.savez(save, allow_pickle=False, **buffers)
    if as_json:
        output.emit(_plain(report))
    else:
        parts = [str(report)] + ([report.profile()] if profile else []) + ([report.timeline()] if timeline else [])
        output.console.print("\n\n".join(parts), highlight=False, markup=False)
