"""Time GEMV with 1 to 16 rows of 16-bit activations on the weights of served models, beside its peers; add the records.

    python benchmarks/gemv_rows.py                              # 6 weights x 5 numbers of rows, about 2 minutes
    python benchmarks/gemv_rows.py --activations bf16 --rows 16 --weights 8192x7168

Six weights from 8 to 66 MB. Each call of a sample has inputs of its own, so that L2 is cold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nvfp4.bench import records, tables
from nvfp4.bench.run import Environment, Settings, bench
from nvfp4.bench.timing import PROTOCOLS
from nvfp4.problem import Format, Op, Problem

RESULTS = Path(__file__).resolve().parent / "results"
ROWS = (1, 2, 4, 8, 16)
WEIGHTS = ((7168, 16384), (4096, 7168), (7168, 2048), (8192, 7168), (28672, 4096), (4096, 14336))


def weight(text: str) -> tuple[int, int]:
    """``MxK`` as two numbers."""
    m, _, k = text.partition("x")
    return int(m), int(k)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="numbers of vectors, 1 to 16")
    parser.add_argument("--weights", type=weight, nargs="*", default=WEIGHTS, help="weights, as 7168x16384 (M x K)")
    parser.add_argument("--activations", choices=("fp16", "bf16"), default="fp16", help="type of the vectors")
    parser.add_argument("--layout", choices=("linear", "tiled"), default="linear", help="layout of the block scales")
    parser.add_argument("--backend", nargs="*", default=["sm90"], help="our backends")
    parser.add_argument("--peer", nargs="*", help="peers; Humming and cuBLAS in the type of the vectors when left out")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="back-to-back")
    parser.add_argument("--samples", type=int, default=20, help="most samples of each subject")
    parser.add_argument("--calls", type=int, help="calls of a sample, each on inputs of its own")
    parser.add_argument("--no-check", action="store_true", help="do not check the answers before timing")
    parser.add_argument("--commit", help="name of the commit, where there is no git")
    parser.add_argument("--out", type=Path, help="the JSONL file; one named after the device when left out")
    return parser.parse_args()


def main() -> None:
    """Run, and print the table."""
    options = arguments()
    env = Environment.here(check=not options.no_check)
    path = options.out or RESULTS / f"{tables.slug(env.capability.name)}.jsonl"
    settings = Settings(
        backends=tuple(options.backend),
        peers=("humming", f"cublas-{options.activations}") if options.peer is None else tuple(options.peer),
        protocol=options.protocol,
        max_samples=options.samples,
        calls=options.calls,
        commit=options.commit,
    )
    matrix, vectors = Format("nvfp4", options.layout), Format(options.activations, "")
    chosen = [Problem(Op.GEMV, m, n, k, 1, matrix, vectors) for n in options.rows for m, k in options.weights]
    done: list[records.Record] = []
    for record in bench(chosen, settings, env, path=path):
        done.append(record)
        print("\n".join(tables.lines(record)), flush=True)
    print(tables.markdown(done), flush=True)


if __name__ == "__main__":
    main()
