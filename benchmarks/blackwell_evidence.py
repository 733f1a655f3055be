"""The Blackwell kernels at full size in the emulator: every test and benchmark shape of the four contest tasks.

    python benchmarks/blackwell_evidence.py             # run what has no record of the kernels as they are now
    python benchmarks/blackwell_evidence.py --only gemv # one operation
    python benchmarks/blackwell_evidence.py --render    # write the table of docs/blackwell.md from the records

Each shape runs with the contest's data, and with hard data and fp32 results (every finite block scale, negative and
subnormal ones, all codes), with linear and with tiled scales, under the plan that the planner chooses, with every check
of the emulator on and another interleaving each time. A record says what was found; an error of the emulator is a
record, too.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nvfp4.backends.sm100 import BACKEND, kernel_of
from nvfp4.bench.tables import shape_text
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.contest.tasks import TASKS, Case, Task
from nvfp4.device import known
from nvfp4.errors import LaunchError
from nvfp4.executors import emulated
from nvfp4.jit import source
from nvfp4.problem import Problem

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "emulator" / "blackwell.jsonl"
DOCUMENT = ROOT / "docs" / "blackwell.md"
ARCH = "sm_100a"
# Sums of products with every scale are beyond fp16.
DATA = {"contest": "fp16", "all-scales": "fp32"}
LAYOUTS = ("linear", "tiled")
_MARKER = re.compile(r"(<!-- evidence -->\n).*?(<!-- /evidence -->)", re.DOTALL)


Key = tuple[str, str]


@dataclass(frozen=True)
class Run:
    """One shape with one kind of data in one layout.

    Attributes:
        task, which: The contest's task, and whether the shape is one of its ``tests`` or ``benchmarks``.
        problem: What is computed.
        data: Distribution of the operands.
        seed: Of the operands and of the interleaving.
    """

    task: Task
    which: str
    problem: Problem
    data: str
    seed: int

    @property
    def key(self) -> Key:
        """Names its record: problem (with its layout) and data."""
        return str(self.problem), self.data


@dataclass(frozen=True)
class Record:
    """What came of a run.

    Attributes:
        op, which, problem, shape, layout, data, seed, plan: What ran.
        kernel: Digest of its source with all that it includes, and its constants.
        ok, verdict: Whether everything was right, and the judgement or the emulator's finding.
        elements, exact: Outputs that were judged, and how many of them had to be equal bit by bit.
        worst: Largest error over its bound among the others.
        warp_instructions, mma_flops: As the emulator counted them.
        seconds: In the emulator, on one core, after compilation.
        date, commit: When, and of which commit.
    """

    op: str
    which: str
    problem: str
    shape: str
    layout: str
    data: str
    seed: int
    plan: str
    kernel: str
    ok: bool
    verdict: str
    elements: int
    exact: int
    worst: float
    warp_instructions: int
    mma_flops: int
    seconds: float
    date: str
    commit: str


def digest(problem: Problem) -> str:
    """Identifies the kernel that runs `problem`: source, headers and constants."""
    kernel = kernel_of(BACKEND.plan(known(ARCH), problem), problem)
    assert kernel is not None
    text = hashlib.sha256(repr(kernel.constants).encode())
    for name, body in sorted(source.closure(f"kernels/{kernel.source}").items()):
        text.update(f"{name}\0{body}\0".encode())
    return text.hexdigest()[:12]


def runs() -> Iterator[Run]:
    """All of them; shapes that the contest lists twice come once."""
    seen: set[tuple[Problem, str]] = set()
    for task in TASKS:
        for which in ("tests", "benchmarks"):
            cases: Sequence[Case] = getattr(task, which)
            for i, case in enumerate(cases):
                for layout in LAYOUTS:
                    problem = task.problem(case, scale_layout=layout)
                    for data, out_dtype in DATA.items():
                        problem = replace(problem, out_dtype=out_dtype)
                        if (problem, data) not in seen:
                            seen.add((problem, data))
                            yield Run(task, which, problem, data, case.seed + i)


def execute(run: Run, commit: str) -> Record:
    """Run and judge."""
    problem = run.problem
    plan = BACKEND.plan(known(ARCH), problem)
    operands, outputs = poison_outputs(inputs.make(problem, run.data, run.seed))
    launches = BACKEND.launches(plan, problem, operands)
    begin = time.perf_counter()
    steps = flops = elements = exact = 0
    worst, seconds = 0.0, 0.0
    try:
        reports = emulated.emulate(launches, seed=run.seed)
        seconds = sum(report.seconds for report in reports)
        steps = sum(report.steps for report in reports)
        flops = sum(report.counts.get("mma_flops", 0) for report in reports)
        judged = judge(problem, operands, outputs)
        ok, verdict = judged.ok, judged.summary
        elements, exact, worst = judged.elements, judged.exact, judged.worst
    except LaunchError as error:
        ok, verdict, seconds = False, str(error), time.perf_counter() - begin
    return Record(
        op=str(problem.op),
        which=run.which,
        problem=str(problem),
        shape=shape_text(problem),
        layout=problem.a.scale_layout,
        data=run.data,
        seed=run.seed,
        plan=plan.describe(),
        kernel=digest(problem),
        ok=ok,
        verdict=verdict,
        elements=elements,
        exact=exact,
        worst=worst,
        warp_instructions=steps,
        mma_flops=flops,
        seconds=round(seconds, 3),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        commit=commit,
    )


def load() -> dict[Key, Record]:
    """The records."""
    found = {}
    if RECORDS.exists():
        for line in RECORDS.read_text(encoding="utf-8").splitlines():
            record = Record(**json.loads(line))
            found[record.problem, record.data] = record
    return found


def done(run: Run, records: dict[Key, Record]) -> bool:
    """Whether there is a record of the kernel as it is now."""
    return run.key in records and records[run.key].kernel == digest(run.problem)


def save(records: dict[Key, Record]) -> None:
    """Write all records, in the order of `runs`."""
    wanted = [run.key for run in runs()]
    lines = [json.dumps(asdict(records[key])) for key in wanted if key in records]
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    RECORDS.write_text("\n".join(lines) + "\n" if lines else "", encoding="utf-8")


def _cell(records: Sequence[Record]) -> str:
    """The verdict of several runs of a shape: of linear and tiled scales."""
    wrong = [f"{r.layout}: {r.verdict.splitlines()[0]}" for r in records if not r.ok]
    if wrong:
        return "; ".join(wrong).replace("|", "\\|")
    if len(records) < len(LAYOUTS):
        return "not run"
    worst = max(r.worst for r in records)
    share = min(r.exact / r.elements for r in records)
    if share == 1:
        return "bit-equal"
    return (f"{share:.0%} bit-equal, " if share else "") + f"error {worst:.2g} of the bound"


def table(records: dict[Key, Record]) -> str:
    """The table, a line for each shape."""
    lines = [
        "| operation | shape | of the | contest data | every scale, fp32 | million warp instructions | emulator, s |",
        "|---|---|---|---|---|---:|---:|",
    ]
    shapes: dict[tuple[str, str, str], dict[str, list[Record]]] = {}
    for run in runs():
        cells = shapes.setdefault((str(run.problem.op), shape_text(run.problem), run.which), {d: [] for d in DATA})
        if run.key in records:
            cells[run.data].append(records[run.key])
    commits = sorted({r.commit for cells in shapes.values() for group in cells.values() for r in group})
    total = 0.0
    for (op, shape, which), cells in shapes.items():
        every = [r for group in cells.values() for r in group]
        total += sum(r.seconds for r in every)
        steps = (
            " .. ".join(f"{s / 1e6:.1f}" for s in sorted({min(x), max(x)}))
            if (x := [r.warp_instructions for r in every])
            else ""
        )
        times = f"{min(t):.1f} .. {max(t):.1f}" if (t := [r.seconds for r in every]) else ""
        verdicts = " | ".join(_cell(group) for group in cells.values())
        lines.append(f"| {op} | {shape} | {which} | {verdicts} | {steps} | {times} |")
    right = sum(r.ok for cells in shapes.values() for group in cells.values() for r in group)
    head = (
        f"{right} of {len(list(runs()))} runs right and without a finding, {total / 60:.0f} minutes of one core under "
        f"load; kernels as of commit {', '.join(commits) or 'none'}. Each cell is for linear and for tiled scales. "
        "*Bit-equal*: all sums are exact in fp32, and all outputs equal the exact result rounded once. Otherwise the "
        "largest error is given as a part of what the bound admits, which for a dual GEMM is never a demand for equal "
        "bits, as it contains an exponential.\n\n"
    )
    return head + "\n".join(lines) + "\n"


def render(text: str, records: dict[Key, Record]) -> str:
    """`text` with the table between its markers."""
    return _MARKER.sub(lambda match: match.group(1) + table(records) + match.group(2), text)


def main() -> int:
    """Run what is missing, and render; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[str(task.op) for task in TASKS])
    parser.add_argument("--render", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    records = load()
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout.strip()
    wrong = 0
    todo = (
        [] if arguments.render else [r for r in runs() if str(r.problem.op) in arguments.only and not done(r, records)]
    )
    for number, run in enumerate(todo, 1):
        record = execute(run, commit)
        records[run.key] = record
        wrong += not record.ok
        save(records)
        print(
            f"{number}/{len(todo)} {record.problem}, {record.data}: {record.verdict} ({record.seconds:.1f} s)",
            flush=True,
        )
    DOCUMENT.write_text(render(DOCUMENT.read_text(encoding="utf-8"), records), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
