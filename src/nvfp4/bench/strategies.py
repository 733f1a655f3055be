"""Strategies: the ways in which contestants put an NVFP4 operation together, from library calls to one fused kernel.

Every strategy computes the same from the same operands, which it gets as the contest hands them over: codes, scales in
rows, and the same scales in 128x4 tiles. A *product* is cuBLAS on NVFP4 where the GPU has FP4 matrix units. Elsewhere
it is cuBLAS (on a CPU, torch) on operands that were decoded before the clock runs: what a strategy does with scales,
launches and queues is its own then too, the product is not, and `product_of` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from nvfp4 import backends
from nvfp4.backends.base import Operand, Operands, PreparingBackend
from nvfp4.bench import inputs, provenance, records, timing
from nvfp4.bench.peers import DTYPES
from nvfp4.bench.records import Conditions, Entry, Record
from nvfp4.bench.timing import Call, CudaTimer
from nvfp4.check.run import choose_launches
from nvfp4.check.verdict import Expected, expected, judge
from nvfp4.device import Capability, capability
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor

PROTOCOL = "strategies"
"""Name of the protocol of these records: back to back, on distinct inputs, as the contest's."""

Results = Sequence[torch.Tensor]
Make = Callable[["Prepared"], Call]


def has_fp4(what: Capability) -> bool:
    """Whether the device has FP4 matrix units."""
    return what.compute >= (10, 0)


def product_of(what: Capability) -> str:
    """What a product is on this device, for the table."""
    if has_fp4(what):
        return "cuBLAS NVFP4 (torch._scaled_mm)"
    where = "torch fp32 on the CPU" if what.arch == "cpu" else "cuBLAS fp16, fp32 results"
    return f"no FP4 matrix units here: products are {where}, on operands decoded before the clock runs"


@dataclass(eq=False)
class _Side:
    """One operand of a product, [rows, K], in all the forms that strategies start from."""

    linear: NVFP4Tensor
    fp4: bool

    @functools.cached_property
    def tiled(self) -> NVFP4Tensor:
        return self.linear.to_layout("tiled")

    @functools.cached_property
    def values(self) -> torch.Tensor:
        return self.linear.dequantize(torch.float32 if self.linear.device.type == "cpu" else torch.float16)

    @functools.cached_property
    def codes(self) -> torch.Tensor:
        return self.linear.codes.view(torch.float4_e2m1fn_x2)

    def product_input(self) -> torch.Tensor:
        """What the product reads beside scales."""
        return self.codes if self.fp4 else self.values


def _mm(left: torch.Tensor, right: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor) -> torch.Tensor:
    """left times right transposed, fp32 [M, N]; the scales are those of NVFP4, and unused elsewhere."""
    if left.dtype is torch.float4_e2m1fn_x2:
        return torch._scaled_mm(left, right.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=torch.float32)
    if left.dtype is torch.float32:
        return torch.mm(left, right.t())
    return torch.mm(left, right.t(), out_dtype=torch.float32)


@dataclass(eq=False)
class Prepared:
    """The operands of one call as pairs of matrices.

    Attributes:
        problem: What is computed.
        operands: The call's tensors, scales in rows.
        pairs: The factors of every product: batches one after another; both of a dual GEMM; groups.
        what: The device.
    """

    problem: Problem
    operands: Operands
    what: Capability
    pairs: tuple[tuple[_Side, _Side], ...] = field(init=False)

    def __post_init__(self) -> None:
        fp4 = has_fp4(self.what)
        problem = self.problem

        def matrices(operand: Operand) -> list[_Side]:
            tensor = cast(NVFP4Tensor, operand)
            return [_Side(tensor[i], fp4) for i in range(problem.l)] if tensor.ndim == 3 else [_Side(tensor, fp4)]

        a = [side for operand in self.operands.a for side in matrices(operand)]
        b = [side for operand in self.operands.b for side in matrices(operand)]
        if problem.op is Op.DUAL_GEMM:
            a = a * 2
        self.pairs = tuple(zip(a, b, strict=True))

    def product(self, index: int, scales: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Product `index` with tiled scales."""
        left, right = self.pairs[index]
        return _mm(left.product_input(), right.product_input(), *scales)

    def tiles(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tiled scales of a product's factors, as the contest hands them over."""
        left, right = self.pairs[index]
        return left.tiled.scales.flatten(), right.tiled.scales.flatten()

    def convert(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same made from scales in rows."""
        left, right = self.pairs[index]
        return left.linear.to_layout("tiled").scales.flatten(), right.linear.to_layout("tiled").scales.flatten()


def finish(problem: Problem, products: Results) -> list[torch.Tensor]:
    """Results in the problem's type from its products in fp32."""
    dtype = DTYPES[problem.out_dtype]
    if problem.op is Op.DUAL_GEMM:
        return [(torch.nn.functional.silu(products[0]) * products[1]).to(dtype)]
    turned = [x.t() for x in products] if problem.op is Op.GEMV else list(products)
    if problem.groups:
        return [x.to(dtype) for x in turned]
    return [(turned[0] if problem.l == 1 else torch.stack(turned)).to(dtype)]


# ---- the strategies --------------------------------------------------------------------------------------------------


def _baseline(call: Prepared) -> Call:
    count = range(len(call.pairs))
    return lambda: finish(call.problem, [call.product(i, call.convert(i)) for i in count])


def _cached(call: Prepared) -> Call:
    known: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def run() -> object:
        products = []
        for index, (left, right) in enumerate(call.pairs):
            key = (left.linear.scales.data_ptr(), right.linear.scales.data_ptr())
            if key not in known:
                known[key] = call.convert(index)
            products.append(call.product(index, known[key]))
        return finish(call.problem, products)

    return run


def _tiled(call: Prepared) -> Call:
    scales = [call.tiles(i) for i in range(len(call.pairs))]
    return lambda: finish(call.problem, [call.product(i, pair) for i, pair in enumerate(scales)])


def _graph(call: Prepared) -> Call:
    run = _tiled(call)
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> object:
        graph.replay()
        return result

    return replay


_MOST_QUEUES = 8


@functools.lru_cache(maxsize=1)
def _queues() -> tuple[torch.cuda.Stream, ...]:
    return tuple(torch.cuda.Stream() for _ in range(_MOST_QUEUES))  # type: ignore[no-untyped-call]


def _parallel(call: Prepared) -> Call:
    scales = [call.tiles(i) for i in range(len(call.pairs))]
    sides = _queues()[: len(scales)]

    def run() -> object:
        main = torch.cuda.current_stream()
        products = []
        for index, pair in enumerate(scales):
            side = sides[index % len(sides)]
            side.wait_stream(main)
            with torch.cuda.stream(side):
                products.append(call.product(index, pair))
        for side in sides:
            main.wait_stream(side)
        return finish(call.problem, products)

    return run


@functools.lru_cache(maxsize=32)
def _compiled(problem: Problem) -> Any:
    def whole(factors: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
        return finish(problem, [_mm(*each) for each in factors])

    return torch.compile(whole, mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True)


def _compile(call: Prepared) -> Call:
    factors = [
        (left.product_input(), right.product_input(), *call.tiles(i)) for i, (left, right) in enumerate(call.pairs)
    ]
    return functools.partial(_compiled(call.problem), factors)


def _backend(name: str, call: Prepared) -> Call:
    backend = backends.get(name)
    problem, operands = call.problem, call.operands
    plan = backend.plan(call.what, problem)
    run = _prepared_run(name, problem, call.what)
    if run is None:
        run = functools.partial(backend.run, plan, problem)

    def one() -> object:
        run(operands)
        return operands.out

    return one


@functools.lru_cache(maxsize=64)
def _prepared_run(name: str, problem: Problem, what: Capability) -> Callable[[Operands], None] | None:
    backend = backends.get(name)
    return backend.prepare(backend.plan(what, problem), problem) if isinstance(backend, PreparingBackend) else None


def _fused_name(what: Capability, problem: Problem) -> str:
    return choose_launches(what.arch, problem, None).backend.name


def _fused(call: Prepared) -> Call:
    return _backend(_fused_name(call.what, call.problem), call)


# ---- what they are called, and when they run -------------------------------------------------------------------------


@dataclass(frozen=True)
class Strategy:
    """One way to compute a problem.

    Attributes:
        name: Short, for the table.
        about: What a call does, in one line.
        make: Makes the call for prepared operands.
        needs: What the device must have: ``""``, ``"gpu"``, ``"triton"``.
        rules: Why the contest would reject it; empty when it would not.
    """

    name: str
    about: str
    make: Make
    needs: str = "gpu"
    rules: str = ""

    def refuse(self, what: Capability, problem: Problem) -> str:
        """Why it does not run here; empty when it does."""
        if self.needs == "triton":
            return "; ".join(backends.get("triton").refuse(what, problem))
        if self.make is _parallel and problem.l * len(problem.groups or (1,)) * (1 + problem.op.dual) == 1:
            return "one product has no other to run beside"
        if self.needs == "gpu" and what.arch == "cpu":
            return "needs a GPU"
        return ""


_QUEUES = "outside the rules: work in other queues than the caller's"
_ONE_KERNEL = "outside the rules: the grouped task wants one kernel, in raw CUDA"


def strategies(op: Op) -> tuple[Strategy, ...]:
    """The strategies of an operation, from the plainest to the fused one.

    Raises:
        InputError: None are written for it.
    """
    if op is Op.GROUP_DUAL_GEMM:
        known = ", ".join(str(x) for x in Op if x is not op)
        raise InputError("nvfp4 bench", "--strategies", known, str(op), "Name another operation.")
    many = op is Op.GROUP_GEMM
    rule = _ONE_KERNEL if many else ""
    what, then = {
        Op.GEMV: ("a product for each matrix", ""),
        Op.GEMM: ("one product", ""),
        Op.DUAL_GEMM: ("two products", ", SiLU and multiplication"),
        Op.GROUP_GEMM: ("a loop of products over the groups", ""),
    }[op]
    first = {Op.DUAL_GEMM: "products + SiLU", Op.GROUP_GEMM: "loop"}.get(op, "product")
    found = [
        Strategy(first, f"scales converted to tiles in every call, {what}{then}", _baseline, "", rule),
        Strategy(
            "cached conversion", f"converted scales kept by address (wrong when they change), {what}{then}", _cached,
            "", rule or "outside the rules: reuses results of earlier calls",
        ),
        Strategy("pre-tiled", f"the tiles that the contest hands over, {what}{then}", _tiled, "", rule),
        Strategy("CUDA graph", f"pre-tiled, {what}{then}, captured once for each set of inputs", _graph, rules=rule),
        Strategy("parallel queues", f"pre-tiled, {what} side by side{then}", _parallel, rules=_QUEUES),
    ]  # fmt: skip
    if not many:
        about = f"pre-tiled, {what}{then}, compiled with max-autotune (no CUDA graph)"
        found.append(Strategy("torch.compile", about, _compile))
    found.append(
        Strategy(
            "Triton", "one Triton kernel" + (" a group" if many else ""), functools.partial(_backend, "triton"),
            "triton", rule,
        )
    )  # fmt: skip
    name = "one launch" if many else "fused"
    found.append(Strategy(name, "one CUDA kernel for everything: nvfp4's backend for this device", _fused))
    return tuple(found)


@dataclass(frozen=True)
class Row:
    """What became of one strategy.

    Attributes:
        strategy: Which.
        verdict: ``"bit-equal"``, the error over its bound, ``"wrong: ..."``; empty when it did not run.
        refusal: Why it did not run; empty when it did.
        samples: Its times; None where it was not timed.
    """

    strategy: Strategy
    verdict: str = ""
    refusal: str = ""
    samples: timing.Samples | None = None

    @property
    def wrong(self) -> bool:
        """Whether it ran, and its answer was wrong."""
        return self.verdict.startswith("wrong")


@dataclass(frozen=True)
class Comparison:
    """The strategies of one problem.

    Attributes:
        problem: Which.
        product: What a product was (see `product_of`).
        rows: One for each strategy, plainest first.
        record: The timed ones as a record; None where nothing was timed.
    """

    problem: Problem
    product: str
    rows: tuple[Row, ...]
    record: Record | None


def _verdict(call: Prepared, results: object, wants: tuple[Expected, ...]) -> str:
    """Judge what a call returned against the exact reference."""
    found = list(results) if isinstance(results, list | tuple) else [cast(torch.Tensor, results)]
    shaped = tuple(got.reshape(out.shape) for got, out in zip(found, call.operands.out, strict=True))
    verdict = judge(call.problem, replace(call.operands, out=shaped), wants=wants)
    return verdict.summary if verdict.ok else f"wrong: {verdict.summary}"


def _emulated(problem: Problem, operands: Operands, arch: str) -> Results:
    choice = choose_launches(arch, problem, None)
    choice.backend.run(choice.plan, problem, operands)
    return operands.out


def _first(
    strategy: Strategy, calls: Sequence[Prepared], wants: tuple[Expected, ...], arch: str | None
) -> tuple[Row, list[Call]]:
    """Make the calls of a strategy, run the first one, and judge it."""
    what, problem = calls[0].what, calls[0].problem
    try:
        if strategy.make is _fused and what.arch == "cpu":
            if arch is None:
                return Row(strategy, refusal="needs a GPU, or an architecture to emulate"), []
            results: object = _emulated(problem, calls[0].operands, arch)
            return Row(strategy, f"{_verdict(calls[0], results, wants)} (emulated {arch})"), []
        refusal = strategy.refuse(what, problem)
        if refusal:
            return Row(strategy, refusal=refusal), []
        made = [strategy.make(call) for call in calls]
        for out in calls[0].operands.out:
            out.fill_(float("nan"))
        results = made[0]()
        if what.arch != "cpu":
            torch.cuda.synchronize()
        return Row(strategy, _verdict(calls[0], results, wants)), made
    except Exception as error:  # what a library or a compiler raises is its refusal
        text = (str(error).strip().splitlines() or [""])[0]
        return Row(strategy, refusal=f"{type(error).__name__}: {text}"[:200]), []


def compare(
    problem: Problem,
    *,
    names: Sequence[str] = (),
    emulate: str | None = None,
    max_samples: int | None = None,
    commit: str | None = None,
    seed: int = 1111,
) -> Comparison:
    """Run, judge and, on a GPU, time the strategies of a problem.

    Args:
        problem: NVFP4 on both sides, scales in rows, groups in list form.
        names: Some of the strategies' names; all when empty.
        emulate: Without a GPU, the architecture whose fused kernel runs in the emulator.
        max_samples: Most samples of each.
        commit: What the record names as the commit; None to ask git.
        seed: Of the first set of inputs.

    Raises:
        InputError: Another kind of problem, or an unknown name.
    """
    every = strategies(problem.op)
    unknown = set(names) - {strategy.name for strategy in every}
    if unknown or problem.a.kind != "nvfp4" or problem.b.kind != "nvfp4" or problem.stacked:
        got = ", ".join(sorted(unknown)) or str(problem)
        expected_text = "NVFP4 on both sides, groups in list form, names of " + ", ".join(x.name for x in every)
        raise InputError("nvfp4 bench", "--strategies", expected_text, got, "Ask for what is listed.")
    chosen = [strategy for strategy in every if not names or strategy.name in names]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    what = capability(device)
    protocol = replace(timing.protocol("back-to-back", problem.op, max_samples=max_samples), name=PROTOCOL)
    count = 1
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        one = problem.bytes * 3 + 2 * inputs.elements(problem) + 16 * problem.m * problem.n * problem.l
        count = timing.input_count(one, protocol.calls, CudaTimer().l2_bytes, int(0.7 * free))
    calls = [Prepared(problem, inputs.make(problem, seed=seed + 42 * i, device=device), what) for i in range(count)]
    wants = expected(problem, calls[0].operands)
    rows: list[Row] = []
    timed: dict[str, list[Call]] = {}
    for strategy in chosen:
        row, made = _first(strategy, calls, wants, emulate)
        rows.append(row)
        if made and device == "cuda" and not row.wrong:
            timed[strategy.name] = made
    if not timed:
        return Comparison(problem, product_of(what), tuple(rows), None)
    before = provenance.clocks()
    taken = timing.compare(timed, protocol, CudaTimer())
    rows = [replace(row, samples=taken.get(row.strategy.name)) for row in rows]
    clocks = (before, provenance.clocks())
    conditions = Conditions(provenance.describe_device(device), clocks, protocol, count, commit=commit)
    entries = (
        Entry.of(row.strategy.name, "other", row.strategy.rules or row.strategy.about, row.samples, row.verdict)
        for row in rows
        if row.samples is not None
    )
    refusals = {row.strategy.name: row.refusal for row in rows if row.refusal}
    return Comparison(problem, product_of(what), tuple(rows), records.made(problem, entries, conditions, refusals))


def newest(found: Sequence[Record]) -> tuple[Record, ...]:
    """The latest record of strategies for each problem and device."""
    return tuple(record for record in records.newest(found) if record.protocol.name == PROTOCOL)
