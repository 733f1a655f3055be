"""`nvfp4 bench`: time our backends, peers and the read floor on the same cold inputs, and write records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvfp4 import backends
from nvfp4.bench.records import Record, to_json
from nvfp4.bench.run import Environment, Settings, benchmark_problems
from nvfp4.bench.run import bench as run_bench
from nvfp4.cli import output
from nvfp4.cli.strategies import show
from nvfp4.errors import InputError
from nvfp4.problem import Problem


def bench(
    op: Annotated[list[str] | None, typer.Argument(help="Operation(s); all by default.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All operations; the default when none is named.")] = False,
    shape: Annotated[
        list[str] | None, typer.Option(help="Sizes, such as 128x7168x16384; the benchmarks' by default.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Our backend(s); every one that takes the problem.")] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Peer(s), or 'none'; every one that takes the problem.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="back-to-back, event-pair or graph.")] = "back-to-back",
    samples: Annotated[int, typer.Option(help="Most samples of each subject; 0 for the protocol's own.")] = 0,
    activations: Annotated[str, typer.Option(help="nvfp4, fp16 or bf16.")] = "nvfp4",
    scale_layout: Annotated[str, typer.Option(help="linear or tiled.")] = "linear",
    out: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    commit: Annotated[str, typer.Option(help="What the records name as the commit; git is asked by default.")] = "",
    record: Annotated[Path | None, typer.Option(help="Append the records to this JSONL file.")] = None,
    strategies: Annotated[
        bool, typer.Option("--strategies", help="Compare ways to put the operation together, from library calls on.")
    ] = False,
    emulate: Annotated[
        str, typer.Option(help="With --strategies and no GPU: the architecture whose fused kernel is emulated.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time everything that runs a problem, interleaved, with cold inputs; answers are checked before they are timed."""
    chosen = output.operations(None if everything else op)
    if shape:
        if len(chosen) != 1:
            raise InputError("nvfp4 bench", "--shape", "one operation", f"{len(chosen)}", "Name one operation.")
        problems = [output.parse_shape(chosen[0], text) for text in shape]
    else:
        problems = [problem for what in chosen for problem in benchmark_problems(what.value)]
    problems = [output.formats(problem, activations, scale_layout, out) for problem in problems]
    if strategies:
        commits, most = commit or None, samples or None
        show(problems, emulate=emulate or None, samples=most, commit=commits, record=record, as_json=as_json)
    names, peers = output.split(backend), output.split(peer)
    settings = Settings(
        backends=tuple(names) or None,
        peers=() if peers == ["none"] else tuple(peers) or None,
        protocol=protocol,
        max_samples=samples or None,
        commit=commit or None,
    )
    env = Environment.here()
    done: list[Record] = []
    with output.Steps("bench", len(problems)) as steps:

        def tell(problem: Problem, step: str, fraction: float) -> None:
            steps.now(f"{problem.op} {step}", fraction)

        for result in run_bench(problems, settings, env, progress=tell, path=record):
            done.append(result)
            steps.advance()
            if not as_json:
                output.console.print(_table(result))
    if not as_json:
        timed = {
            entry.name.removeprefix("nvfp4/") for result in done for entry in result.entries if entry.role == "nvfp4"
        }
        for note in filter(None, (getattr(backends.get(name), "note", "") for name in sorted(timed))):
            output.console.print(note)
    if as_json:
        output.emit([to_json(result) for result in done])
    wrong = any(not entry.right for result in done for entry in result.entries if entry.role == "nvfp4")
    raise typer.Exit(1 if wrong else 0)


def _table(record: Record) -> Table:
    problem = record.problem
    table = Table(title=f"{problem.op} {output.shape(problem)}, {record.protocol.name}, {record.light.bound}-bound")
    for name in ("subject", "median", "spread", "speed of light", "TB/s", "TFLOP/s", "verdict"):
        table.add_column(name, justify="left" if name in ("subject", "verdict") else "right", overflow="fold")
    for entry in sorted(record.entries, key=lambda e: e.median_us):
        seconds = entry.median_us * 1e-6
        fault = " (fault)" if record.light.is_fault(seconds) and entry.role != "floor" else ""
        table.add_row(
            entry.name,
            output.duration(seconds),
            f"{entry.samples.spread:.1%}",
            f"{record.light.fraction(seconds):.0%}{fault}",
            f"{problem.bytes / seconds / 1e12:.2f}",
            f"{problem.flops / seconds / 1e12:.0f}",
            entry.verdict,
        )
    for name, reason in record.refusals.items():
        table.add_row(name, "", "", "", "", "", f"[dim]{reason}[/]")
    return table
