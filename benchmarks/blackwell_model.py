"""What the static model of the Blackwell kernels predicts, and how wrong it is where something was measured.

    python benchmarks/blackwell_model.py     # write both tables of docs/blackwell.md

The first table has the contest's benchmark shapes, with the official speed of light and the best published times. The
second applies the same model to what others published for a B200, and to this project's records of an H200.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from nvfp4.backends.sm100 import BACKEND, model
from nvfp4.backends.sm100.constants import Cluster, Schedule
from nvfp4.backends.sm100.gemv import GemvPlan
from nvfp4.backends.sm100.model import B200, Machine, Prediction
from nvfp4.backends.sm100.plans import TILE_NS, ProductPlan
from nvfp4.bench import records, tables
from nvfp4.contest.tasks import TASKS, case_of
from nvfp4.device import known
from nvfp4.problem import Format, Op, Problem

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "blackwell.md"
SM_100A = known("sm_100a")

# Microseconds, in the order of the contest's benchmark shapes: its boards, and the authors' own tables.
PUBLISHED = {
    Op.GEMV: (18.4, 28.0, 12.6),
    Op.GEMM: (18.8, 10.3, 6.78),
    Op.DUAL_GEMM: (12.4, 15.3, 10.0, 14.4),
    Op.GROUP_GEMM: (27.9, 19.4, 8.48, 6.43),
}

H200 = Machine(
    sms=132,
    # Under load, as read beside the records.
    clock_ghz=1.7,
    # What the read floor reaches on buffers of these sizes (records of an H200).
    memory_tbs=4.6,
    # 16-bit WGMMA: 989 TFLOP/s at 1.83 GHz.
    macs=2048,
    shared_bytes=128,
    l2_bytes=64,
    # Sums are in registers.
    tensor_bytes=1024,
    issues=4,
    launch_us=2.8,
    fill_us=1.8,
    drain_us=0.8,
)


@dataclass(frozen=True)
class Line:
    """Something measured, and what the model says.

    Attributes:
        group: What errors are averaged over.
        what: For people.
        measured, predicted: Microseconds.
        unit: Work that turns microseconds into TFLOP/s for the table, in TFLOP; 0 to show microseconds.
    """

    group: str
    what: str
    measured: float
    predicted: float
    unit: float = 0.0

    @property
    def error(self) -> float:
        """Of the predicted time, relative."""
        return self.predicted / self.measured - 1

    def row(self) -> str:
        """Of the table."""

        def show(us: float) -> str:
            return f"{self.unit / us * 1e6:.0f} TFLOP/s" if self.unit else f"{us:.1f} us"

        return f"| {self.what} | {show(self.measured)} | {show(self.predicted)} | {self.error:+.0%} |"


def contest() -> str:
    """Predictions for the contest's benchmark shapes."""
    lines = [
        "| problem | official speed of light | best published | model for our plan | memory / products / epilogue "
        "| plan |",
        "|---|---:|---:|---:|---|---|",
    ]
    for task in TASKS:
        for case, published in zip(task.benchmarks, PUBLISHED[task.op], strict=True):
            problem = task.problem(case, scale_layout="tiled")
            plan = BACKEND.plan(SM_100A, problem)
            if isinstance(plan, GemvPlan):
                found, how = model.vector(plan, problem), f"{plan.rows} rows a warp"
            else:
                found, how = model.product(plan, problem), short(plan)
            parts = f"{found.memory:.1f} / {found.products:.1f} / {found.epilogue:.1f}"
            name = f"{task.op} {tables.shape_text(problem)}"
            lines.append(
                f"| {name} | {case.light_us:.1f} | {published:.1f} | {found.microseconds:.1f} | {parts} | {how} |"
            )
    return "\n".join(lines) + "\n"


def short(plan: ProductPlan) -> str:
    """A plan in a few words."""
    words = [f"{plan.tile_m}x{plan.tile_n}, {plan.stages} stages"]
    words += [
        {Cluster.MULTICAST: "multicast", Cluster.PAIR: "pairs", Cluster.HALVES: "pairs of 64 rows"}.get(
            plan.cluster, ""
        )
    ]
    words += [f"K in {plan.splits}" if plan.splits > 1 else "", "swapped" if plan.swapped else ""]
    return ", ".join(filter(None, [*words, "staged" if plan.staged else ""]))


def dense(m: int, n: int, k: int, machine: Machine, plan: ProductPlan) -> Prediction:
    """A product of 16-bit matrices, as one of FP4 with four times the K: as many bytes, and as many cycles."""
    return model.product(
        plan, Problem(Op.GEMM, m, n, 4 * k, 1, Format("nvfp4", "tiled"), Format("nvfp4", "tiled"), "bf16"), machine
    )


def ladder() -> list[Line]:
    """gau-nernst, learn-cuda 02e_matmul_sm100/README.md: bf16, 4096 in each direction, on a B200."""
    size, work = 4096, 2 * 4096**3 / 1e12
    base = ProductPlan("sm_100a", tile_n=256, stages=4, buffers=1, schedule=Schedule.SINGLE, programmatic=False)
    pair = replace(base, cluster=Cluster.PAIR)
    # Both accumulators of 256 columns; the scales of FP4 have no room beside them, but 16-bit operands have none.
    static = replace(pair, schedule=Schedule.STATIC, buffers=2)
    steps = (
        ("v4, warp specialised", 1053.61, base),
        ("v5, 2-SM", 1169.65, pair),
        ("v6, persistent, epilogue overlapped", 1273.32, static),
        ("v7c, 128 blocks", 1326.11, replace(static, sms=128)),
        ("the author's write-up, best", 1475.0, static),
    )
    lines = [
        Line(
            "products of a B200",
            f"bf16 4096^3 on a B200, {name}",
            work / rate * 1e6,
            dense(size, size, size, machine, plan).microseconds,
            work,
        )
        for name, rate, plan in steps
        for machine in (replace(B200, sms=plan.sms),)
    ]
    best = replace(static, sms=148)
    for size, rate in ((2048, 955.32), (8192, 1246.06)):
        work = 2 * size**3 / 1e12
        found = dense(size, size, size, B200, best)
        lines.append(
            Line("products of a B200", f"bf16 {size}^3 on a B200, v7c", work / rate * 1e6, found.microseconds, work)
        )
    return lines


def hopper() -> list[Line]:
    """This project's records of an H200."""
    found = records.load(ROOT / "benchmarks" / "results")
    lines = []
    for op in (Op.GEMV, Op.GEMM, Op.DUAL_GEMM, Op.GROUP_GEMM):
        for record in tables.select(found, "nvidia-h200", op, "back-to-back"):
            problem = record.problem
            ours, cublas = record.entry("nvfp4/sm90"), record.entry("cublas-fp16")
            if case_of(problem) is None or ours is None or problem.b.kind != "nvfp4" or problem.a.kind != "nvfp4":
                continue
            name = f"{op} {tables.shape_text(problem)}"
            if op is Op.GEMV:
                plan = BACKEND.plan(replace(SM_100A, sms=H200.sms), problem)
                assert isinstance(plan, GemvPlan)
                # Its arithmetic is another's: only the memory is compared.
                predicted = model.vector(plan, problem, replace(H200, issues=64)).microseconds
                lines.append(Line("GEMV of an H200", f"our Hopper {name}", ours.median_us, predicted))
                continue
            predicted = best(problem, H200)
            lines.append(Line("products of an H200 that decode", f"our Hopper {name}", ours.median_us, predicted))
            if cublas is not None and op in (Op.GEMM, Op.DUAL_GEMM):
                width = problem.n * (2 if op is Op.DUAL_GEMM else 1)
                wide = Problem(
                    Op.GEMM, problem.m, width, 4 * problem.k, 1, Format("nvfp4", "tiled"), Format("nvfp4", "tiled")
                )
                predicted = best(wide, replace(H200, macs=4 * H200.macs))
                lines.append(
                    Line("cuBLAS fp16 of an H200", f"cuBLAS fp16 on an H200, {name}", cublas.median_us, predicted)
                )
    return lines


def best(problem: Problem, machine: Machine) -> float:
    """The shortest time that the model has for tiles and parts of K of one block each."""
    plans = [
        ProductPlan(
            "sm_100a", 2 if problem.op is Op.DUAL_GEMM else 1, tile_n, buffers=1, splits=splits, sms=machine.sms
        )
        for tile_n in TILE_NS
        for splits in ((1, 2, 4) if problem.op is not Op.GROUP_GEMM else (1,))
    ]
    return min(model.product(plan, problem, machine).microseconds for plan in plans)


def trust() -> str:
    """The second table, and the mean error of each group."""
    lines = [*hopper(), *ladder()]
    rows = [
        "| measured | time or rate | model | error of the time |",
        "|---|---:|---:|---:|",
        *(line.row() for line in lines),
    ]
    groups: dict[str, list[float]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line.error)
    rows += ["", "| errors | cases | mean | mean size | largest |", "|---|---:|---:|---:|---:|"]
    for name, errors in groups.items():
        sizes = [abs(error) for error in errors]
        mean, size = statistics.mean(errors), statistics.mean(sizes)
        rows.append(f"| {name} | {len(errors)} | {mean:+.0%} | {size:.0%} | {max(sizes):.0%} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the tables."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, made in (("model", contest()), ("trust", trust())):
        print(made)
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda match, made=made: match.group(1) + made + match.group(2), text)  # type: ignore[misc]
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
