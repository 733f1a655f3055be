"""The four GPU MODE NVFP4 tasks as data: sizes, data distributions, tolerances, evaluator settings, speed of light.

Source of every figure: the task descriptions of the contest (``task.yml`` and the input generators below
``problems/nvidia`` of the repository gpu-mode/reference-kernels); these tables state the same facts in our own form.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.errors import InputError
from nvfp4.problem import Format, Op, Problem

Sizes = int | tuple[int, ...]
"""One size, or one for each group."""


@dataclass(frozen=True)
class Distribution:
    """How the random operands of a task are drawn.

    Attributes:
        byte_limit: A byte of two codes is drawn uniformly from ``0 .. byte_limit - 1`` ...
        byte_mask: ... and these of its bits are kept.
        scales: Block scales are integers drawn uniformly from ``low .. high - 1``; None: uniform in [0, 1), rounded
            to E4M3.
    """

    byte_limit: int
    byte_mask: int
    scales: tuple[int, int] | None


@dataclass(frozen=True)
class Case:
    """One line of a task's case list.

    Attributes:
        m, n, k: Sizes in elements, a tuple with one size for each group in the grouped task. n is 1 for the GEMV.
        l: Batch size.
        seed: Seed of the inputs before the evaluator changes it.
        light_us: The contest's speed of light on a B200 at 1.5 GHz in microseconds; None for a test case.
    """

    m: Sizes
    n: Sizes
    k: Sizes
    l: int = 1
    seed: int = 1111
    light_us: float | None = None

    @property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """(m, n, k) of every group; a case without groups is one group."""
        columns = [size if isinstance(size, tuple) else (size,) for size in (self.m, self.n, self.k)]
        return tuple((m, n, k) for m, n, k in zip(*columns, strict=True))

    @property
    def work(self) -> int:
        """Multiplications of one product of the operands."""
        return sum(m * n * k for m, n, k in self.groups) * self.l


@dataclass(frozen=True)
class Task:
    """One contest task.

    Attributes:
        name: The contest's name, such as ``"nvfp4_gemm"``.
        op: The operation.
        distribution: How its inputs are drawn.
        tests: The cases that decide whether a submission is right.
        benchmarks: The cases that are timed.
        calls: Distinct inputs that are launched back to back between two events; a sample is the time over the calls.
        seed_step: What the evaluator adds to the seed from one input to the next.
        reseeds_each_repeat: Whether a ranked run draws new inputs for each repeat (the GEMV) or once.
        repeats, ranked_repeats: Most samples of a benchmark and of a ranked run.
        rtol, atol: An output x passes when ``|x - y| <= atol + rtol * |y|`` for the reference's y.
    """

    name: str
    op: Op
    distribution: Distribution
    tests: tuple[Case, ...]
    benchmarks: tuple[Case, ...]
    calls: int
    seed_step: int
    reseeds_each_repeat: bool = False
    repeats: int = 200
    ranked_repeats: int = 1000
    rtol: float = 1e-3
    atol: float = 1e-3

    def problem(self, case: Case, *, scale_layout: str = "linear") -> Problem:
        """The `Problem` of a case; the contest hands over both scale layouts, so either may be asked for."""
        form = Format("nvfp4", scale_layout)
        groups = case.groups
        if self.op is Op.GROUP_GEMM:
            m, n, k = sum(g[0] for g in groups), max(g[1] for g in groups), max(g[2] for g in groups)
            return Problem(self.op, m, n, k, a=form, b=form, groups=groups)
        return Problem(self.op, *groups[0], l=case.l, a=form, b=form)

    def arguments(self, case: Case) -> dict[str, Sizes]:
        """The names and values of the contest's case line, in its order."""
        if self.op is Op.GROUP_GEMM:
            return {"m": case.m, "n": case.n, "k": case.k, "g": len(case.groups), "seed": case.seed}
        if self.op is Op.GEMV:
            return {"m": case.m, "k": case.k, "l": case.l, "seed": case.seed}
        return {"m": case.m, "n": case.n, "k": case.k, "l": case.l, "seed": case.seed}

    def line(self, case: Case) -> str:
        """The case as a line of the evaluator's case file: ``k: v; k: v``, groups as ``[a, b]``."""

        def show(value: Sizes) -> str:
            return str(list(value)) if isinstance(value, tuple) else str(value)

        return "; ".join(f"{name}: {show(value)}" for name, value in self.arguments(case).items())


# A GEMV byte is 0..3: the high nibble is zero, the low one 0, 0.5, 1 or 1.5, without signs.
GEMV = Task(
    name="nvfp4_gemv",
    op=Op.GEMV,
    distribution=Distribution(byte_limit=4, byte_mask=0xFF, scales=(0, 3)),
    tests=(
        Case(128, 1, 256),
        Case(128, 1, 1536),
        Case(128, 1, 3072),
        Case(256, 1, 7168),
        Case(256, 1, 7168),  # twice in the contest's list, too
        Case(2432, 1, 4608, 2),
        Case(384, 1, 7168, 2),
        Case(512, 1, 512, 2),
        Case(512, 1, 4096, 2),
        Case(512, 1, 1536, 2),
    ),
    benchmarks=(
        Case(7168, 1, 16384, 1, light_us=8.622),
        Case(4096, 1, 7168, 8, light_us=17.275),
        Case(7168, 1, 2048, 4, light_us=4.317),
    ),
    calls=1,
    seed_step=13,
    reseeds_each_repeat=True,
)

GEMM = Task(
    name="nvfp4_gemm",
    op=Op.GEMM,
    distribution=Distribution(byte_limit=256, byte_mask=0xFF, scales=(0, 4)),
    tests=(
        Case(128, 256, 256),
        Case(128, 1536, 7168),
        Case(128, 3072, 1536),
        Case(256, 7168, 256),
        Case(256, 7168, 2048),
        Case(2304, 4608, 7168),
        Case(384, 7168, 2304),
        Case(512, 512, 7168),
        Case(512, 4096, 512),
        Case(512, 1536, 7168),
    ),
    benchmarks=(
        Case(128, 7168, 16384, light_us=8.994),
        Case(128, 4096, 7168, light_us=2.354),
        Case(128, 7168, 2048, light_us=1.333),
    ),
    calls=50,
    seed_step=42,
)

# The mask keeps the sign and the two low bits of each code: values within 1.5 in magnitude.
DUAL_GEMM = Task(
    name="nvfp4_dual_gemm",
    op=Op.DUAL_GEMM,
    distribution=Distribution(byte_limit=255, byte_mask=0xBB, scales=None),
    tests=(
        Case(1536, 512, 7168),
        Case(256, 512, 256),
        Case(1536, 512, 7168),  # twice in the contest's list, too
        Case(3072, 1024, 1536),
        Case(7168, 1024, 256),
        Case(7168, 2304, 2048),
        Case(4608, 384, 7168),
        Case(7168, 384, 2304),
        Case(512, 768, 7168),
        Case(4096, 768, 512),
    ),
    benchmarks=(
        Case(256, 4096, 7168, light_us=4.708),
        Case(512, 4096, 7168, light_us=8.714),
        Case(256, 3072, 4096, light_us=2.125),
        Case(512, 3072, 7168, light_us=6.535),
    ),
    calls=50,
    seed_step=42,
)

GROUP_GEMM = Task(
    name="nvfp4_group_gemm",
    op=Op.GROUP_GEMM,
    distribution=Distribution(byte_limit=255, byte_mask=0xBB, scales=(1, 3)),
    tests=(
        Case((96, 128), (128, 256), (256, 512)),
        Case((256, 72), (512, 384), (256, 256)),
        Case((128, 128), (128, 256), (512, 256)),
        Case((80, 128, 256), (384, 256, 128), (256, 512, 256)),
        Case((64, 72, 96), (128, 384, 512), (512, 512, 256)),
        Case((64, 256, 128), (768, 128, 256), (512, 256, 512)),
        Case((128, 128, 64), (256, 512, 512), (768, 256, 768)),
        Case((128,) * 4, (128,) * 4, (512, 256, 512, 256)),
        Case((40, 56, 384, 512), (512, 384, 256, 128), (256,) * 4),
        Case((512, 384, 256, 128), (256,) * 4, (512, 768, 512, 768)),
    ),
    benchmarks=(
        Case((80, 176, 128, 72, 64, 248, 96, 160), (4096,) * 8, (7168,) * 8, light_us=18.833),
        Case((40, 76, 168, 72, 164, 148, 196, 160), (7168,) * 8, (2048,) * 8, light_us=10.667),
        Case((192, 320), (3072,) * 2, (4096,) * 2, light_us=2.406),
        Case((128, 384), (4096,) * 2, (1536,) * 2, light_us=1.525),
    ),
    calls=15,
    seed_step=42,
    repeats=100,
    ranked_repeats=100,
)

TASKS: tuple[Task, ...] = (GEMV, GEMM, DUAL_GEMM, GROUP_GEMM)


def task_of(name: str | Op) -> Task:
    """The task of an operation (``Op.GEMM`` or ``"gemm"``) or of a contest name (``"nvfp4_gemm"``).

    Raises:
        InputError: There is no such task.
    """
    for task in TASKS:
        if name in (task.op, task.op.value, task.name):
            return task
    known = ", ".join(task.name for task in TASKS)
    raise InputError("contest", "task", f"one of {known}", repr(str(name)), "Name an operation or a contest task.")


def distribution_of(op: Op) -> Distribution:
    """The data of an operation's task; for grouped dual GEMM, which has none, the dual GEMM's: SiLU stays in range."""
    return task_of(Op.DUAL_GEMM if op is Op.GROUP_DUAL_GEMM else op).distribution


def calls_of(op: Op) -> int:
    """Calls between two events of an operation's task; the grouped GEMM's for grouped dual GEMM, which has no task."""
    return task_of(Op.GROUP_GEMM if op is Op.GROUP_DUAL_GEMM else op).calls


def benchmarks_of(op: Op) -> tuple[Case, ...]:
    """The benchmark cases of an operation's task; none of grouped dual GEMM, which has no task."""
    return () if op is Op.GROUP_DUAL_GEMM else task_of(op).benchmarks


def case_of(problem: Problem) -> Case | None:
    """The benchmark case that a problem is, or None: how it finds its official speed of light."""
    if problem.a.kind != "nvfp4":
        return None
    for case in benchmarks_of(problem.op):
        groups = problem.groups or ((problem.m, problem.n, problem.k),)
        if case.groups == groups and case.l == problem.l:
            return case
    return None
