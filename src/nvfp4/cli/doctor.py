"""`nvfp4 doctor`: what this machine has, what will be used, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from rich.table import Table

from nvfp4 import backends, config
from nvfp4.cli import output
from nvfp4.device import Capability, capability
from nvfp4.problem import Op, Problem


@dataclass(frozen=True)
class Finding:
    """One line: `status` is ``ok``, ``absent`` (something optional) or ``broken``."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def _package(name: str, module: str, remedy: str, *, required: bool) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(name, "broken" if required else "absent", "not installed", remedy)
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "ok", "version unknown")


def _gpu() -> Finding:
    if torch.cuda.is_available():
        what = capability("cuda")
        count = torch.cuda.device_count()
        more = f", and {count - 1} more" if count > 1 else ""
        return Finding("GPU", "ok", f"{what.name} ({what.arch}, {what.sms} SMs){more}; CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        remedy = "For a GPU install a CUDA build of torch; without one everything works by emulation."
        return Finding("GPU", "absent", "this torch is a CPU build", remedy)
    return Finding(
        "GPU", "absent", "no NVIDIA GPU, or no driver", "Check nvidia-smi; without a GPU kernels are emulated."
    )


def _compiler() -> Finding:
    """Compiles a real kernel to a cubin for Hopper: needs no GPU."""
    from nvfp4 import jit
    from nvfp4.backends.base import Operands
    from nvfp4.check import inputs
    from nvfp4.device import known

    problem = Problem(Op.GEMV, 32, 1, 64)
    backend = backends.get("sm80")
    operands: Operands = inputs.make(problem)
    launches = getattr(backend, "launches")(backend.plan(known("sm_90a"), problem), problem, operands)  # noqa: B009
    artifact = jit.compile(launches[0].kernel, "cubin")
    return Finding(
        "compiler (NVRTC)", "ok", f"compiled {launches[0].kernel.entry} for sm_90a, {len(artifact.code)} bytes"
    )


def _emulator() -> Finding:
    from nvfp4.check.run import Case, Target, run_case

    outcome = run_case(Case(Problem(Op.GEMV, 32, 1, 64), "integers", 0), Target("cpu", "sm80", "sm_90a"))
    detail = outcome.verdict.summary if outcome.verdict else str(outcome.refusal)
    return Finding("emulator", "ok" if outcome.ok else "broken", f"GEMV kernel emulated: {detail}")


def _cache() -> Finding:
    settings = config.load()
    if not settings.cache_enabled:
        return Finding("kernel cache", "absent", "off (NVFP4_CACHE=0)")
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    entries = sum(1 for path in settings.cache_dir.rglob("*") if path.is_file())
    return Finding("kernel cache", "ok", f"{settings.cache_dir}, {entries} files")


def _guarded(name: str, look: Callable[[], Finding], remedy: str) -> Finding:
    """A finding, or the error that looking for it raised."""
    try:
        return look()
    except Exception as error:
        text = str(error).strip().splitlines()
        return Finding(name, "broken", f"{type(error).__name__}: {text[0] if text else ''}"[:200], remedy)


def findings() -> list[Finding]:
    """Everything that is looked at, in order."""
    install = "pip install nvfp4"
    return [
        _gpu(),
        _package("torch", "torch", install, required=True),
        _package("cuda-bindings", "cuda.bindings", install, required=True),
        _package("nvidia-cuda-nvrtc", "nvidia", install, required=True),
        _guarded("compiler (NVRTC)", _compiler, "pip install --force-reinstall nvidia-cuda-nvrtc nvidia-cuda-runtime"),
        _package("llvmlite", "llvmlite", install, required=True),
        _guarded("emulator", _emulator, "Report this with the output of the tests."),
        _package("triton", "triton", "pip install 'nvfp4[triton]' for the Triton backend", required=False),
        _package(
            "humming-kernels", "humming", "pip install 'nvfp4[peers]' to benchmark against Humming", required=False
        ),
        _guarded("kernel cache", _cache, "Set NVFP4_CACHE_DIR to a folder that can be written, or NVFP4_CACHE=0."),
    ]


def _used(what: Capability) -> list[tuple[str, str]]:
    """Which backend would run one typical problem of each operation here."""
    problems = [
        Problem(Op.GEMV, 7168, 1, 16384),
        Problem(Op.GEMM, 128, 7168, 16384),
        Problem(Op.DUAL_GEMM, 256, 4096, 7168),
        Problem(Op.GROUP_GEMM, 512, 4096, 7168, groups=((256, 4096, 7168),) * 2),
        Problem(Op.GROUP_DUAL_GEMM, 512, 2048, 7168, groups=((256, 2048, 7168),) * 2),
    ]
    rows = []
    for problem in problems:
        found = backends.explain(what, problem)
        rows.append((str(problem.op), str(found.choice) if found.choice else "nothing"))
    return rows


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at this machine: GPU, compiler, emulator, packages, and what dispatch would use. Exit code 1 when broken."""
    found = findings()
    what = capability("cuda" if torch.cuda.is_available() else "cpu")
    used = _used(what)
    broken = any(finding.status == "broken" for finding in found)
    if as_json:
        output.emit({"ok": not broken, "findings": [asdict(f) for f in found], "used": dict(used)})
    else:
        table = Table(title="nvfp4 doctor")
        for name in ("what", "status", "found", "remedy"):
            table.add_column(name, overflow="fold")
        colours = {"ok": "green", "absent": "yellow", "broken": "bold red"}
        for f in found:
            table.add_row(f.name, f"[{colours[f.status]}]{f.status}[/]", f.detail, f.remedy)
        output.console.print(table)
        chosen = Table(title=f"what runs on {what.name} ({what.arch})")
        for name in ("operation", "backend and plan"):
            chosen.add_column(name, overflow="fold")
        for row in used:
            chosen.add_row(*row)
        output.console.print(chosen)
    raise typer.Exit(1 if broken else 0)
