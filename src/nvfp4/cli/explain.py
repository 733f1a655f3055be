"""`nvfp4 explain`: what would run a problem on an architecture, and why each other backend declines."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from typing import Annotated, Any

import torch
import typer

import nvfp4
from nvfp4.backends import Explanation
from nvfp4.cli import output
from nvfp4.device import Capability, capability, known
from nvfp4.errors import InputError, MissingDependencyError
from nvfp4.problem import Op, Problem


def explain(
    op: Annotated[str, typer.Argument(help="gemv, gemm, dual_gemm, group_gemm or group_dual_gemm.")],
    m: Annotated[int, typer.Option("--m", help="Rows of A (for gemv: of the matrix).")] = 128,
    n: Annotated[int, typer.Option("--n", help="Rows of B (for gemv: vectors; default 1).")] = 0,
    k: Annotated[int, typer.Option("--k", help="Elements along K, a multiple of 16.")] = 16384,
    l: Annotated[int, typer.Option("--l", help="Batch size.")] = 1,
    groups: Annotated[int, typer.Option(help="Stacked groups with offsets on the device.")] = 0,
    tokens: Annotated[int, typer.Option(help="Rows that an index chooses from, for stacked groups.")] = 0,
    shape: Annotated[str, typer.Option(help="All sizes at once, as in nvfp4 solve.")] = "",
    arch: Annotated[str, typer.Option(help="sm_80, sm_90a, sm_100a, ... or cpu; this machine's by default.")] = "",
    backend: Annotated[str, typer.Option(help="Ask only this backend.")] = "",
    activations: Annotated[str, typer.Option(help="nvfp4, fp16 or bf16.")] = "nvfp4",
    scale_layout: Annotated[str, typer.Option(help="linear or tiled.")] = "linear",
    out: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the plan, or why each backend declined, for any architecture. Exit code 1 when nothing runs it."""
    (what,) = output.operations([op])
    if shape:
        problem = output.parse_shape(what, shape)
    elif what.grouped and not groups:
        problem = Problem(what, m, n or 7168, k, groups=((m, n or 7168, k),))
    else:
        problem = Problem(what, m, n or (1 if what is Op.GEMV else 7168), k, l, stacked=groups)
    if tokens and not problem.stacked:
        raise InputError("nvfp4 explain", "--tokens", "stacked groups", f"{problem}", "Add --groups.")
    problem = replace(output.formats(problem, activations, scale_layout, out), tokens=tokens)
    found = nvfp4.explain(problem, _capability(arch), backend or None)
    if as_json:
        chosen = found.choice
        output.emit(
            {
                "problem": str(found.problem),
                "arch": found.capability.arch,
                "choice": {"backend": chosen.backend.name, "plan": _plan(chosen.plan)} if chosen else None,
                "plans": {name: _plan(plan) for name, plan in found.plans},
                "refusals": {refusal.backend: list(refusal.reasons) for refusal in found.refusals},
            }
        )
    else:
        output.console.print(str(found), highlight=False, markup=False)
        for line in _details(found):
            output.console.print(f"     {line}", highlight=False, markup=False)
    raise typer.Exit(0 if found.choice else 1)


def _details(found: Explanation) -> tuple[str, ...]:
    """What the chosen backend can tell beyond its plan: registers, memory, expectations. May compile the kernel."""
    if found.choice is None:
        return ()
    tell = getattr(found.choice.backend, "details", None)
    try:
        return tuple(tell(found.choice.plan, found.problem)) if tell is not None else ()
    except MissingDependencyError:
        return ()  # no compiler here: the plan is all there is


def _plan(plan: Any) -> dict[str, Any]:
    fields = asdict(plan) if is_dataclass(plan) and not isinstance(plan, type) else {}
    return {"describe": plan.describe(), **{name: str(value) for name, value in fields.items()}}


def _capability(arch: str) -> Capability:
    if arch:
        return known(arch)
    return capability("cuda" if torch.cuda.is_available() else "cpu")
