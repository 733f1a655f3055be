"""Make the tables of the documentation and the plots from benchmarks/results: ``python benchmarks/render.py``."""

from __future__ import annotations

from pathlib import Path

from nvfp4.bench import plots, records, tables
from nvfp4.ladder import pages


def main() -> None:
    """Update every document with markers, and draw a roofline for each device."""
    root = Path(__file__).resolve().parent.parent
    results = root / "benchmarks" / "results"
    found = records.load(results)
    ladders = pages.update(root, found, pages.load_counters(results))
    for path in (*tables.update(root, found), *plots.plot_all(found, root / "docs" / "images"), *ladders):
        print(path.relative_to(root))


if __name__ == "__main__":
    main()
