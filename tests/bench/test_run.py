"""Benchmark runs on the CPU with a fake clock and backends made up here: what is timed, refused, checked, recorded."""

import dataclasses

import pytest
import torch

from nvfp4 import backends
from nvfp4.bench import inputs, peers, records, roofline
from nvfp4.bench import run as bench_run
from nvfp4.bench.peers import Peer
from nvfp4.bench.run import Environment, Settings, bench
from nvfp4.contest.tasks import GROUP_GEMM, TASKS
from nvfp4.device import known
from nvfp4.errors import InputError
from nvfp4.problem import Format, Op, Problem

SMALL = Problem(Op.GEMM, 32, 48, 64)


class Clock:
    """Every call takes as long as its subject says, on the device and on the wall."""

    def __init__(self):
        self.wall = 0.0
        self.running = 0.0

    def sample(self, run):
        self.running = 0.0
        run()
        self.wall += self.running + 0.02
        return self.running, 1e-6

    def capture(self, calls):
        return lambda: [call() for call in calls]

    def now(self):
        return self.wall


@dataclasses.dataclass(frozen=True)
class FakePlan:
    def describe(self):
        return "fake plan"


class FakeBackend:
    """Computes with the decoded operands, and advances the clock by `seconds`."""

    def __init__(self, name, clock, seconds, reasons=(), error=None, scale=1.0):
        self.name, self.clock, self.seconds = name, clock, seconds
        self.reasons, self.error, self.scale = reasons, error, scale

    def refuse(self, capability, problem):
        return self.reasons

    def plan(self, capability, problem):
        return FakePlan()

    def run(self, plan, problem, operands):
        if self.error:
            raise self.error
        self.clock.running += self.seconds
        product = operands.a[0].dequantize() @ operands.b[0].dequantize().T
        operands.out[0].copy_(product * self.scale)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def env(clock):
    return Environment(
        torch.device("cpu"), known("sm_90a"), clock, roofline.limits_of("NVIDIA H200"), 1 << 20, 1 << 30,
        bench_run.judged,
    )  # fmt: skip


@pytest.fixture
def with_backends(monkeypatch, clock):
    def install(*fakes):
        table = {fake.name: fake for fake in fakes}
        monkeypatch.setattr(backends, "installed", lambda: tuple(table))
        monkeypatch.setattr(backends, "get", table.__getitem__)

    return install


def fake_peer(clock, seconds, scale=1.0, same=True):
    def prepare(problem, operands):
        def call():
            clock.running += seconds
            return operands.a[0].dequantize() @ operands.b[0].dequantize().T * scale

        return call

    return Peer("fake-peer", "multiplies", lambda capability, problem: (), prepare, same)


QUICK = Settings(peers=(), floor=False, max_samples=5, calls=3)


def test_a_run_times_checks_and_records(with_backends, clock, env, tmp_path, monkeypatch):
    with_backends(FakeBackend("sm90", clock, 2e-5), FakeBackend("sm80", clock, 6e-5))
    monkeypatch.setattr(peers, "peers", lambda: (fake_peer(clock, 4e-5),))
    told = []
    settings = dataclasses.replace(QUICK, peers=None)
    path = tmp_path / "out.jsonl"
    (record,) = bench([SMALL], settings, env, progress=lambda *what: told.append(what), path=path)
    assert [entry.name for entry in record.entries] == ["nvfp4/sm90", "nvfp4/sm80", "fake-peer"]
    assert [entry.median_us for entry in record.entries] == pytest.approx([20, 60, 40])
    assert [entry.verdict for entry in record.entries[:2]] == ["bit-equal", "bit-equal"]
    assert record.entries[2].verdict == "largest error 0.0e+00 of the largest element"
    assert record.best("nvfp4").name == "nvfp4/sm90"
    assert record.protocol.calls == 3
    assert records.load(path) == (record,)
    assert {step for _, step, _ in told} >= {"inputs", "prepare nvfp4/sm90", "samples"}


def test_refusals_and_failures_are_listed_with_their_reasons(with_backends, clock, env):
    with_backends(
        FakeBackend("sm100", clock, 1e-5, reasons=("needs sm_100a", "and more")),
        FakeBackend("sm90", clock, 1e-5, error=RuntimeError("the kernel fell over\nstack")),
        FakeBackend("sm80", clock, 1e-5),
    )
    (record,) = bench([SMALL], dataclasses.replace(QUICK, peers=("cublas-nvfp4",)), env)
    assert [entry.name for entry in record.entries] == ["nvfp4/sm80"]
    assert record.refusals["nvfp4/sm100"] == "needs sm_100a; and more"
    assert record.refusals["nvfp4/sm90"] == "RuntimeError: the kernel fell over"
    assert "sm_100" in record.refusals["cublas-nvfp4"]


def test_a_wrong_answer_is_timed_but_named_and_never_the_best(with_backends, clock, env):
    with_backends(FakeBackend("sm90", clock, 1e-5, scale=2.0), FakeBackend("sm80", clock, 3e-5))
    (record,) = bench([SMALL], QUICK, env)
    assert record.entry("nvfp4/sm90").verdict.startswith("wrong: ")
    assert record.entry("nvfp4/sm90").wrong
    assert record.best("nvfp4").name == "nvfp4/sm80"


@pytest.mark.parametrize(("same", "wrong"), [(True, True), (False, False)])
def test_a_peer_that_computes_something_else_is_named(with_backends, clock, env, monkeypatch, same, wrong):
    with_backends()
    monkeypatch.setattr(peers, "peers", lambda: (fake_peer(clock, 4e-5, scale=1.2, same=same),))
    (record,) = bench([SMALL], dataclasses.replace(QUICK, peers=None), env)
    assert record.entries[0].wrong is wrong
    assert record.entries[0].role == ("peer" if same else "other")
    assert "largest error 2.0e-01" in record.entries[0].verdict


def test_answers_can_be_left_unchecked(with_backends, clock, env):
    with_backends(FakeBackend("sm90", clock, 1e-5, scale=2.0))
    (record,) = bench([SMALL], QUICK, dataclasses.replace(env, check=None))
    assert record.entries[0].verdict == "not checked"
    assert not record.entries[0].right


def test_one_backend_by_name(with_backends, clock, env):
    with_backends(FakeBackend("sm90", clock, 1e-5), FakeBackend("sm80", clock, 1e-5))
    (record,) = bench([SMALL], dataclasses.replace(QUICK, backends=("sm80",)), env)
    assert [entry.name for entry in record.entries] == ["nvfp4/sm80"]


def test_nothing_to_time_says_why(with_backends, clock, env):
    with_backends(FakeBackend("sm90", clock, 1e-5, reasons=("it is Tuesday",)))
    with pytest.raises(InputError, match="it is Tuesday"):
        list(bench([SMALL], QUICK, env))


def test_too_little_memory_is_an_error(with_backends, clock, env):
    with_backends(FakeBackend("sm90", clock, 1e-5))
    with pytest.raises(InputError, match="caches stay cold"):
        list(bench([Problem(Op.GEMM, 32, 48, 64)], QUICK, dataclasses.replace(env, free_bytes=4000)))


def test_an_impossible_time_is_flagged(with_backends, clock, env):
    with_backends(FakeBackend("sm90", clock, 1e-9))
    (record,) = bench([SMALL], QUICK, env)
    assert records.to_json(record)["entries"][0]["fault"] is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_so():
    with pytest.raises(InputError, match="GPU"):
        Environment.here()


def test_benchmark_problems_are_those_of_the_contest():
    assert bench_run.benchmark_problems("gemm")[0] == Problem(Op.GEMM, 128, 7168, 16384)
    assert len(bench_run.benchmark_problems("group_gemm")) == 4
    assert bench_run.benchmark_problems("gemm", scale_layout="tiled")[0].b.scale_layout == "tiled"


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Op.GEMV, 48, 3, 64, b=Format("bf16")),
        Problem(Op.GEMV, 48, 1, 64, 2),
        Problem(Op.GEMM, 32, 48, 64, 3, a=Format("nvfp4", "tiled", True), b=Format("nvfp4", "linear", True)),
        Problem(Op.DUAL_GEMM, 32, 48, 64, out_dtype="fp32"),
        GROUP_GEMM.problem(GROUP_GEMM.tests[0]),
        Problem(Op.GROUP_GEMM, 50, 48, 64, a=Format("fp16"), b=Format("nvfp4", "linear", True), stacked=4),
    ],
    ids=str,
)
def test_operands_fit_the_problem(problem):
    made = inputs.make(problem, seed=5, device="cpu")
    batch = () if problem.l == 1 else (problem.l,)
    sizes = problem.groups or ((problem.m, problem.n, problem.k),)
    for a, (m, _, k) in zip(made.a, sizes, strict=True):
        assert tuple(a.shape) == (*batch, m, k)
    for b, form in ((b, problem.b) for b in made.b):
        assert form.kind != "nvfp4" or b.format == form
    assert len(made.b) == (2 if problem.op is Op.DUAL_GEMM else len(sizes))
    held = sum(t.numel() for t in (*made.a, *made.b))
    assert held == inputs.elements(problem)
    if problem.stacked:
        assert made.b[0].shape == (4, 48, 64)
        assert made.offsets.tolist() == [12, 25, 37, 50]
    again = inputs.make(problem, seed=5, device="cpu")
    assert torch.equal(getattr(made.b[0], "codes", made.b[0]), getattr(again.b[0], "codes", again.b[0]))


def test_every_contest_problem_has_operands_of_its_size():
    for task in TASKS:
        problem = task.problem(min(task.tests, key=lambda case: task.problem(case).bytes))
        made = inputs.make(problem, seed=1, device="cpu")
        stored = sum(x.codes.nbytes + x.scales.nbytes for x in (*made.a, *made.b)) + sum(o.nbytes for o in made.out)
        assert stored == problem.bytes


def test_grouped_dual_gemm_is_timed_on_gate_and_up_of_the_contest_groups():
    found = bench_run.benchmark_problems("group_dual_gemm", scale_layout="tiled")
    whole = bench_run.benchmark_problems("group_gemm", scale_layout="tiled")
    assert [(p.n, p.k, len(p.groups)) for p in found] == [(2048, 7168, 8), (1536, 4096, 2)]
    for dual, one in zip(found, (whole[0], whole[2]), strict=True):
        assert dual.op is Op.GROUP_DUAL_GEMM
        assert dual.flops == one.flops  # the two halves of the same matrices
        assert [group[0] for group in dual.groups] == [group[0] for group in one.groups]
        assert roofline.official_light(dual) is None


def test_a_dry_run_needs_no_gpu():
    problem = bench_run.benchmark_problems("group_dual_gemm")[1]
    groups = ((3, 32, 64), (5, 16, 32))
    problem = dataclasses.replace(problem, m=8, n=32, k=64, groups=groups)
    settings = Settings(backends=("torch_ops", "sm90"), peers=(), floor=False, max_samples=3, calls=2, commit="x")
    (record,) = bench([problem], settings, Environment.dry())
    assert record.entry("nvfp4/torch_ops").right
    assert "a CPU" in record.refusals["nvfp4/sm90"]
