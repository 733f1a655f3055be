"""Make the tables of the documentation and the plots from benchmarks/results: ``python benchmarks/render.py``."""

from __future__ import annotations

from pathlib import Path

from nvfp4.bench import plots, records, tables
from nvfp4.ladder import pages
from nvfp4.report.page import build


def main() -> None:
    """Update every document with markers, draw a roofline for each device, and write the report."""
    root = Path(__file__).resolve().parent.parent
    results = root / "benchmarks" / "results"
    found = records.load(results)
    ladders = pages.update(root, found, pages.load_counters(results))
    page = root / "benchmarks" / "report.html"
    page.write_text(build(found, pages.load_counters(results)), encoding="utf-8")
    for path in (page, *tables.update(root, found), *plots.plot_all(found, root / "docs" / "images"), *ladders):
        print(path.relative_to(root))


if __name__ == "__main__":
    main()
