"""Time mixtures of experts beside Humming's indexed kernel and cuBLAS over the experts with tokens; add the records.

    python benchmarks/moe.py                                              # six layers, 96 cases: about 8 minutes
    python benchmarks/moe.py --layer 64-gate-up --tokens 16 --top 4 --routing uniform --samples 10
    python benchmarks/moe.py --dry-run                                    # on the CPU, small, to see that it works

The table in the documentation is made by benchmarks/render.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from nvfp4.bench import mixture, model_tables, records, tables
from nvfp4.bench.run import Environment, Settings
from nvfp4.bench.timing import PROTOCOLS

RESULTS = Path(__file__).resolve().parent / "results"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", nargs="*", choices=list(mixture.LAYERS), default=list(mixture.LAYERS))
    parser.add_argument("--tokens", type=int, nargs="*", default=mixture.TOKENS, help="tokens of a call")
    parser.add_argument("--top", type=int, nargs="*", default=mixture.TOP, help="experts of a token")
    parser.add_argument("--routing", nargs="*", choices=mixture.ROUTINGS, default=mixture.ROUTINGS)
    parser.add_argument("--backend", nargs="*", default=["sm90"], help="our backends")
    parser.add_argument("--peer", nargs="*", choices=list(mixture.PEERS), default=list(mixture.PEERS))
    parser.add_argument("--protocol", choices=PROTOCOLS, default="back-to-back")
    parser.add_argument("--samples", type=int, default=30, help="most samples of each subject")
    parser.add_argument("--calls", type=int, default=8, help="calls of a sample, each with activations of its own")
    parser.add_argument("--no-check", action="store_true", help="do not check the answers before timing")
    parser.add_argument("--commit", help="name of the commit, where there is no git")
    parser.add_argument("--out", type=Path, help="the JSONL file; one named after the device when left out")
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU; records go to a temporary file")
    return parser.parse_args()


def small(layer: mixture.Layer) -> mixture.Layer:
    """A layer that a CPU multiplies in no time."""
    return dataclasses.replace(layer, experts=layer.experts // 8, n=layer.n // 64, k=layer.k // 64)


def main() -> None:
    """Run, and print the table."""
    options = arguments()
    layers = [mixture.LAYERS[name] for name in options.layer]
    tokens, backends = options.tokens, tuple(options.backend)
    if options.dry_run:
        env = Environment.dry()
        layers, tokens, backends = [small(layer) for layer in layers], [4, 16], ("torch_ops",)
        path = options.out or Path(tempfile.mkdtemp()) / "dry-run.jsonl"
    else:
        env = Environment.here(check=not options.no_check)
        path = options.out or RESULTS / f"{tables.slug(env.capability.name)}.jsonl"
    if options.no_check:
        env = dataclasses.replace(env, check=None)
    settings = Settings(
        backends=backends,
        peers=tuple(options.peer),
        protocol=options.protocol,
        max_samples=3 if options.dry_run else options.samples,
        calls=2 if options.dry_run else options.calls,
        commit=options.commit,
    )
    done: list[records.Record] = []
    for case, record in mixture.bench(
        mixture.cases(layers, tokens, options.top, options.routing), settings, env, path=path
    ):
        done.append(record)
        print(f"{case}: {record.workload.active if record.workload else 0} experts have tokens")
        print("\n".join(tables.lines(record)), flush=True)
    device = tables.slug(env.capability.name)
    print(model_tables.mixture_table(done, device, options.protocol), flush=True)
    print(f"{len(records.load(path))} records in {path}")


if __name__ == "__main__":
    main()
