"""The command line, a file each: solve, check, bench, explain, emulate, contest, ladder, log, report, doctor."""

from __future__ import annotations

import sys

import typer

from nvfp4.cli import bench, check, contest, doctor, emulate, explain, ladder, log, report, solve
from nvfp4.cli.output import show_error
from nvfp4.errors import NVFP4Error

app = typer.Typer(
    name="nvfp4",
    help="NVFP4 kernels for Hopper and Blackwell: compute, check, benchmark, explain, emulate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("solve")(solve.solve)
app.command("check")(check.check)
app.command("bench")(bench.bench)
app.command("explain")(explain.explain)
app.command("emulate")(emulate.emulate)
app.command("doctor")(doctor.doctor)
app.command("log")(log.log)
app.command("ladder")(ladder.ladder)
app.command("report")(report.report)
app.add_typer(contest.app, name="contest")


def main() -> None:
    """Entry point: errors of ours end with one clear message and exit code 2, results that are wrong with 1."""
    try:
        app()
    except NVFP4Error as error:
        show_error(str(error))
        sys.exit(2)
    except OSError as error:
        if error.filename is None:  # no file that was named to us
            raise
        show_error(f"{error.filename}: {error.strerror}")
        sys.exit(2)
