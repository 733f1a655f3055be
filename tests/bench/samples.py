"""Made-up records for the tests of records, tables and plots; no figure in here was measured."""

from nvfp4.bench import roofline
from nvfp4.bench.records import Entry, Record
from nvfp4.bench.timing import Protocol
from nvfp4.contest.tasks import TASKS
from nvfp4.problem import Problem


def record(
    problem: Problem, *entries: Entry, time: str = "2026-01-02T03:04:05Z", device: str = "NVIDIA H200"
) -> Record:
    limits = roofline.limits_of(device)
    return Record(
        problem=problem,
        device={"name": device, "arch": "sm_90a", "sms": 132, "driver": "580.1"},
        clocks=({"sm_mhz": 1980.0}, {"sm_mhz": 1755.0}),
        versions={"python": "3.12.3", "torch": "2.11.0"},
        commit="0123456789abcdef",
        time=time,
        protocol=Protocol("back-to-back", 50),
        inputs=50,
        limits=limits,
        light=roofline.light(problem, limits),
        entries=entries,
        official_us=None if (seconds := roofline.official_light(problem)) is None else seconds * 1e6,
    )


def entry(name: str, role: str, us: float, verdict: str = "not checked") -> Entry:
    return Entry(name, role, f"plan of {name}", (us, us * 1.01, us * 0.99), verdict=verdict)


def contest_records() -> tuple[Record, ...]:
    """One record for each benchmark shape of the contest: ours at half, cuBLAS at a quarter of the speed of light."""
    made = []
    for task in TASKS:
        for case in task.benchmarks:
            problem = task.problem(case)
            light = roofline.light(problem, roofline.limits_of("NVIDIA H200")).seconds * 1e6
            made.append(
                record(
                    problem,
                    entry("nvfp4/sm90", "nvfp4", 2 * light, "bit-equal"),
                    entry("cublas-fp16", "peer", 4 * light),
                    entry("read-floor", "floor", 1.05 * problem.bytes / 4.8e6),
                )
            )
    return tuple(made)
