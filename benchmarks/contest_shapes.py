"""Time the contest's benchmark shapes on the GPU of this machine, and add the records to benchmarks/results.

Every backend, every peer that is installed, and the read floor, interleaved; ``--help`` lists what can be left out.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from nvfp4.bench import peers, records, tables
from nvfp4.bench.measure import measure_limits
from nvfp4.bench.run import Environment, Settings, bench, benchmark_problems
from nvfp4.bench.timing import PROTOCOLS
from nvfp4.problem import Format, Op, Problem

RESULTS = Path(__file__).resolve().parent / "results"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", nargs="*", default=[op.value for op in Op], help="operations")
    parser.add_argument("--shape", type=int, nargs="*", help="numbers of the shapes to time; all when left out")
    parser.add_argument("--backend", nargs="*", help="our backends; every one when left out")
    parser.add_argument("--peer", nargs="*", help=f"peers, of {', '.join(peer.name for peer in peers.peers())}")
    parser.add_argument("--activations", choices=("nvfp4", "fp16", "bf16"), default="nvfp4", help="their format")
    parser.add_argument("--layout", choices=("linear", "tiled"), default="linear", help="layout of the block scales")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="back-to-back")
    parser.add_argument("--samples", type=int, help="most samples of each subject")
    parser.add_argument("--calls", type=int, help="calls of a sample")
    parser.add_argument("--no-check", action="store_true", help="do not check the answers before timing")
    parser.add_argument("--limits", action="store_true", help="measure and print the limits of the device first")
    parser.add_argument("--commit", help="name of the commit, where there is no git")
    parser.add_argument("--out", type=Path, help="the JSONL file; one named after the device when left out")
    return parser.parse_args()


def problems(op: str, activations: str, layout: str) -> list[Problem]:
    """The benchmark shapes of an operation with activations of a format."""
    found = []
    for problem in benchmark_problems(op, scale_layout=layout):
        if activations != "nvfp4":
            side = {"b" if problem.op is Op.GEMV else "a": Format(activations, "")}
            problem = dataclasses.replace(problem, **side)
        found.append(problem)
    return found


def main() -> None:
    """Run, and print a table for each operation."""
    options = arguments()
    env = Environment.here(check=not options.no_check)
    if options.limits:
        print(measure_limits(env.device), flush=True)
    path = options.out or RESULTS / f"{tables.slug(env.capability.name)}.jsonl"
    settings = Settings(
        backends=None if options.backend is None else tuple(options.backend),
        peers=None if options.peer is None else tuple(options.peer),
        protocol=options.protocol,
        max_samples=options.samples,
        calls=options.calls,
        commit=options.commit,
    )
    for op in options.op:
        chosen = problems(op, options.activations, options.layout)
        if options.shape is not None:
            chosen = [chosen[index] for index in options.shape if index < len(chosen)]
        done: list[records.Record] = []
        for record in bench(chosen, settings, env, path=path):
            done.append(record)
            print("\n".join(tables.lines(record)), flush=True)
        print(tables.markdown(done), flush=True)


if __name__ == "__main__":
    main()
