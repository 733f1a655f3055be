"""Time bf16 activations times NVFP4 weights for M from 32 to 8192, beside cuBLAS and Humming, and add the records.

    python benchmarks/sweep.py                                  # 3 weights x 7 sizes, about 3 minutes
    python benchmarks/sweep.py --rows 128 512 --weights 8192x7168 --samples 10

The table in the documentation is made by benchmarks/render.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nvfp4.bench import model_tables, records, sweep, tables
from nvfp4.bench.run import Environment, Settings, bench
from nvfp4.bench.timing import PROTOCOLS

RESULTS = Path(__file__).resolve().parent / "results"


def weight(text: str) -> tuple[int, int]:
    """``NxK`` as two numbers."""
    n, _, k = text.partition("x")
    return int(n), int(k)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=sweep.ROWS, help="values of M")
    parser.add_argument("--weights", type=weight, nargs="*", default=sweep.WEIGHTS, help="weights, as 8192x7168")
    parser.add_argument("--activations", choices=("bf16", "fp16"), default="bf16", help="their type, and the result's")
    parser.add_argument("--layout", choices=("linear", "tiled"), default="linear", help="layout of the block scales")
    parser.add_argument("--backend", nargs="*", default=["sm90"], help="our backends")
    parser.add_argument("--peer", nargs="*", default=list(sweep.PEERS), help="peers; none when empty")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="back-to-back")
    parser.add_argument("--samples", type=int, default=40, help="most samples of each subject")
    parser.add_argument("--calls", type=int, default=20, help="calls of a sample, each on inputs of its own")
    parser.add_argument("--no-check", action="store_true", help="do not check the answers before timing")
    parser.add_argument("--commit", help="name of the commit, where there is no git")
    parser.add_argument("--out", type=Path, help="the JSONL file; one named after the device when left out")
    return parser.parse_args()


def main() -> None:
    """Run, and print the table."""
    options = arguments()
    env = Environment.here(check=not options.no_check)
    device = tables.slug(env.capability.name)
    path = options.out or RESULTS / f"{device}.jsonl"
    settings = Settings(
        backends=tuple(options.backend),
        peers=tuple(options.peer),
        floor=False,
        protocol=options.protocol,
        max_samples=options.samples,
        calls=options.calls,
        commit=options.commit,
    )
    chosen = sweep.problems(options.rows, options.weights, activations=options.activations, scale_layout=options.layout)
    done: list[records.Record] = []
    for record in bench(chosen, settings, env, path=path):
        done.append(record)
        print("\n".join(tables.lines(record)), flush=True)
    print(model_tables.sweep_table(done, device, options.protocol), flush=True)


if __name__ == "__main__":
    main()
