"""The Hopper GEMV without a GPU: what it refuses and plans, and its kernels in the emulator under many plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvfp4 import executors, jit
from nvfp4.backends.sm90 import BACKEND, gemv
from nvfp4.backends.sm90.gemv import MmaPlan, QueuePlan, StreamPlan
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.contest.tasks import TASKS
from nvfp4.device import known
from nvfp4.problem import Format, Op, Problem

H200 = known("sm_90a")
LINEAR, TILED = Format("nvfp4", "linear"), Format("nvfp4", "tiled", True)
FP16, BF16 = Format("fp16", ""), Format("bf16", "")
SERVING = [(7168, 16384), (4096, 7168), (7168, 2048), (8192, 7168), (28672, 4096), (4096, 14336)]


def problem(m: int, n: int, k: int, l: int = 1, a: Format = LINEAR, b: Format = LINEAR, out: str = "fp32") -> Problem:
    return Problem(Op.GEMV, m, n, k, l, a, b, out)


def test_refusals_name_the_reason():
    def reason(what: Problem, arch: str = "sm_90a") -> str:
        (text,) = BACKEND.refuse(known(arch), what)
        return text

    assert "not sm_100a" in reason(problem(64, 1, 64), "sm_100a")
    assert "A must be NVFP4" in reason(problem(64, 1, 64, a=FP16))
    assert "1..16 vectors, not 17" in reason(problem(64, 17, 64))
    assert "multiple of 16, not 72" in reason(problem(64, 1, 72))
    assert "65535 matrices" in reason(problem(64, 1, 64, 70000))
    assert "shared memory of a cluster" in reason(problem(64, 16, 2**20, b=FP16))


@pytest.mark.parametrize("layout", [LINEAR, TILED])
@pytest.mark.parametrize("n", range(1, 17))
@pytest.mark.parametrize(("m", "k"), [*SERVING, (152064, 4096), (1, 16), (33, 48), (8192, 53248), (1000, 7 * 16)])
def test_plans_fit_the_device(m, k, n, layout):
    for b in (LINEAR, FP16):
        what = problem(m, n, k, 3 if m < 100 else 1, layout, b)
        assert gemv.refuse(what) == ()
        plan = gemv.plan(H200, what)
        assert H200.arch in plan.describe()
        assert plan.warps_k * plan.warps_r <= 30
        if isinstance(plan, MmaPlan):
            assert plan.blocks * (plan.shared_bytes(what) + 1024) <= 228 * 1024
            continue
        assert n == 1
        assert b is LINEAR
        assert plan.warps_k * plan.chunks * 1024 >= k
        # A few hundred bytes of a stream's sums are not in this count.
        assert plan.blocks * (plan.shared_bytes(what) + 2048) <= 228 * 1024
        if isinstance(plan, StreamPlan):
            assert plan.rows <= m
            assert plan.grid(what) <= m
            assert plan.rows * plan.batches * plan.warps_r * plan.grid(what) >= m
        else:
            assert plan.grid <= m


def test_contest_shapes_have_tuned_plans():
    (task,) = [task for task in TASKS if task.op is Op.GEMV]
    for shape in task.benchmarks:
        plan = gemv.plan(H200, task.problem(shape, scale_layout="linear"))
        assert not isinstance(plan, MmaPlan)
        # Another device gets a plan of the model: the same kernel, for its own number of multiprocessors.
        other = gemv.plan(replace(H200, sms=114), task.problem(shape, scale_layout="linear"))
        assert type(other) is type(plan)


def resources(what: Problem) -> jit.artifact.Resources | None:
    small = replace(what, m=min(what.m, 64), l=1)
    operands = inputs.make(small)
    (launch,) = gemv.launches(gemv.plan(H200, what), small, operands, early=True)
    return jit.compile(launch.kernel, "cubin").resources


@pytest.mark.parametrize(("m", "k"), SERVING)
def test_kernels_use_no_local_memory(m, k):
    for n, b in ((1, LINEAR), (1, FP16), (16, BF16)):
        found = resources(problem(m, n, k, b=b, out="fp16"))
        assert found is not None
        assert found.local_bytes == 0, (n, b)


def emulate(what: Problem, plan: gemv.GemvPlan, distribution: str, seed: int, early: bool) -> None:
    operands, outputs = poison_outputs(inputs.make(what, distribution, seed, "cpu"))
    executors.choose(operands.out[0].device).run(gemv.launches(plan, what, operands, early=early))
    verdict = judge(what, operands, outputs)
    assert verdict.ok, str(verdict)


STREAMS = [
    # All in one lane's reach; a ragged end of K; several warps along K and rows; batches that overlap the end of M.
    (problem(5, 1, 16, a=TILED), (1, 1, 1, 1, 1, 1, 1)),
    (problem(21, 1, 80, 2, b=TILED), (1, 2, 1, 2, 3, 1, 1)),
    (problem(37, 1, 1552, 2, TILED), (2, 2, 1, 4, 2, 1, 1)),
    (problem(40, 1, 2560, out="bf16"), (3, 1, 1, 8, 2, 2, 1)),
    (problem(9, 1, 4096, out="fp16"), (2, 1, 2, 4, 3, 2, 1)),
    # Batches that are decoded before x is there: some, all; blocks with equal rows, down to fewer than a batch.
    (problem(37, 1, 1552, 2, TILED), (2, 2, 1, 4, 2, 2, 1, 1)),
    (problem(40, 1, 2560, out="bf16"), (3, 1, 1, 8, 2, 2, 1, 2)),
    (problem(9, 1, 4096, 2), (2, 1, 2, 4, 3, 3, 1, 2)),
    (problem(21, 1, 80, 2, b=TILED), (1, 2, 1, 2, 3, 2, 1, 1)),
    (problem(50, 1, 1024), (1, 2, 1, 4, 2, 3, 1, 1)),
    (problem(5, 1, 48, 3), (1, 1, 1, 4, 1, 1, 1, 1)),
]


@pytest.mark.parametrize("i", range(len(STREAMS)))
def test_stream_plans_in_the_emulator(i):
    what, values = STREAMS[i]
    emulate(
        what,
        StreamPlan("sm_90a", *values),
        ("largest", "integers", "all-scales", "uniform")[i % 4],
        i,
        early=i % 2 == 0,
    )


QUEUES = [
    # Scales by hand; 4 bytes at a time from tiles and from rows; 16 bytes; rows that do not divide; two chunks a warp.
    (problem(5, 1, 16, a=TILED), (1, 1, 1, 1, 1, 1, 1)),
    (problem(21, 1, 80, 2, b=TILED), (1, 2, 1, 2, 3, 3, 1)),
    (problem(37, 1, 1552, 2, TILED), (2, 2, 1, 4, 2, 2, 1)),
    (problem(33, 1, 1056, 1, TILED), (2, 2, 1, 2, 2, 2, 1)),
    (problem(9, 1, 1088, out="fp16"), (2, 1, 1, 4, 3, 2, 1)),
    (problem(40, 1, 2560, out="bf16"), (3, 1, 1, 8, 2, 3, 1)),
    (problem(21, 1, 4096, out="fp16"), (2, 1, 2, 4, 3, 2, 1)),
    # Rows dealt to fewer blocks than would take them at once, the last ones half a unit; and to more than there are.
    (problem(53, 1, 1280, 2), (2, 2, 1, 4, 2, 3, 1)),
    (problem(9, 1, 1024, 2, TILED), (1, 2, 1, 4, 2, 4, 1)),
]


@pytest.mark.parametrize("i", range(len(QUEUES)))
def test_queue_plans_in_the_emulator(i):
    what, values = QUEUES[i]
    emulate(
        what, QueuePlan("sm_90a", *values), ("largest", "integers", "all-scales", "uniform")[i % 4], i, early=i % 2 == 0
    )


MMAS = [
    # One block sum a column; scales by hand; segments beyond K; tiles side by side; clusters; rows of a cluster that
    # end inside a tile; more tiles than warps; two column tiles. Long segments, then short ones.
    (problem(20, 1, 80, b=FP16), (1, 1, 1, 1, 32, 1, 1, 4)),
    (problem(37, 1, 1072, 2, TILED, FP16), (2, 2, 1, 2, 32, 1, 1, 4)),
    (problem(70, 1, 2048, b=BF16), (2, 1, 2, 2, 55, 1, 1, 4)),
    (problem(150, 3, 96, a=TILED, b=TILED), (1, 2, 1, 1, 64, 1, 1, 4)),
    (problem(60, 8, 1552, out="bf16"), (2, 2, 2, 2, 40, 1, 1, 4)),
    (problem(37, 16, 1024, a=TILED, b=BF16, out="fp16"), (1, 1, 2, 1, 16, 1, 1, 4)),
    (problem(90, 9, 560, b=FP16), (1, 4, 1, 2, 80, 1, 1, 4)),
    (problem(20, 1, 80, b=BF16), (1, 1, 1, 1, 32, 1)),
    (problem(37, 1, 1072, 2, TILED), (2, 3, 1, 2, 32, 1)),
    (problem(60, 8, 1552, out="bf16"), (2, 2, 2, 2, 40, 1)),
    (problem(90, 11, 560, 3, b=LINEAR), (1, 4, 1, 2, 80, 1)),
    # Sums added for several tiles at once, in one place and in two; queues as long as a warp's work and longer; many
    # warps, each for itself.
    (problem(150, 1, 1552, b=FP16), (2, 2, 1, 2, 150, 1, 3, 4)),
    (problem(150, 5, 1040, b=FP16), (2, 1, 1, 1, 96, 1, 2, 4)),
    (problem(37, 16, 1072, 1, TILED, FP16), (1, 3, 2, 3, 48, 1)),
    (problem(70, 1, 1536, b=FP16), (2, 1, 1, 2, 35, 1, 2)),
    (problem(300, 9, 512, b=BF16), (1, 18, 2, 1, 300, 1)),
    (problem(90, 12, 1024, b=LINEAR), (2, 9, 1, 1, 48, 1)),
    (problem(90, 7, 1024, b=FP16), (2, 9, 1, 2, 48, 1)),
    (problem(150, 3, 352, a=TILED, b=TILED), (1, 2, 1, 4, 64, 1)),
    # Vectors that take all threads several rounds to load, the last one not whole; and rows of them that do not divide.
    (problem(20, 3, 11008, b=FP16), (8, 2, 1, 2, 32, 1)),
    (problem(20, 16, 4096, b=BF16), (2, 2, 2, 1, 32, 1)),
    (problem(20, 5, 4112, b=LINEAR), (3, 2, 1, 1, 32, 1)),
    # Tiles that are not whole, or not there for all warps.
    (problem(71, 1, 1536, b=FP16), (2, 2, 1, 2, 35, 1)),
    (problem(70, 1, 2048, b=BF16), (2, 1, 2, 2, 55, 1, 2)),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("i", range(len(MMAS)))
def test_mma_plans_in_the_emulator(i):
    what, values = MMAS[i]
    emulate(
        what, MmaPlan("sm_90a", *values), ("largest", "integers", "all-scales", "uniform")[i % 4], i, early=i % 2 == 0
    )


@pytest.mark.parametrize(
    ("bias", "what", "plan"),
    [
        ("fp16", problem(21, 1, 80, 2), StreamPlan("sm_90a", 1, 2, 1, 2, 3, 2, 1, 1)),
        ("bf16", problem(21, 1, 256, 2, out="bf16"), QueuePlan("sm_90a", 1, 2, 1, 2, 2, 2, 1)),
        ("fp32", problem(40, 3, 1040, b=FP16, out="fp16"), MmaPlan("sm_90a", 1, 1, 2, 1, 32, 1)),
        ("bf16", problem(20, 1, 80, 2, b=BF16), MmaPlan("sm_90a", 1, 1, 1, 1, 32, 1)),
    ],
)
def test_a_bias_in_the_emulator(bias, what, plan):
    emulate(replace(what, bias=bias), plan, "integers", 1, early=True)


def test_a_weight_is_loaded_early_only_while_nothing_has_changed_it(monkeypatch):
    what = problem(3, 1, 32)
    operands = inputs.make(what)
    asked: list[bool] = []

    def record(plan, what, operands, *, early=False):
        asked.append(early)
        return ()

    monkeypatch.setattr(gemv, "launches", record)
    run = gemv.prepare(gemv.plan(H200, what), what)
    run(operands)
    run(operands)
    operands.a[0].codes.zero_()
    run(operands)
    run(operands)
    operands.a[0].scales.copy_(operands.a[0].scales)
    run(operands)
    run(inputs.make(what))
    assert asked == [False, True, False, True, False, False]
