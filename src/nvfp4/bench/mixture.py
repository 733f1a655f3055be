"""Mixtures of experts: layers of models, how tokens are routed, and a run that times them as records.

A token goes to `top_k` experts, and its row is multiplied with the weights of each. Grouped products want the rows in
the order of the experts. Where the rows are tokens (gate and up), ours takes tokens and the row of each, as peers do
whose kernels take an index; for the others gathering is timed with the product. A down projection finds its rows where
gate and up have left them. Routing itself (which experts, the ends of the groups, lists of indices) is there before
timing, for all.

All calls of a sample share the weights, and have activations of their own; the weights that a call reads exceed the
cache.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nvfp4 import backends
from nvfp4.backends.base import Operands
from nvfp4.bench import inputs, peers, records, timing
from nvfp4.bench.records import Record, Workload
from nvfp4.bench.run import PEER_ERROR, Environment, Ready, Settings, measure
from nvfp4.bench.timing import Call
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import Expected, expected, judge
from nvfp4.errors import InputError, UnsupportedError
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

ACTIVATIONS = torch.bfloat16


@dataclass(frozen=True)
class Layer:
    """One projection of a mixture of experts.

    Attributes:
        name: Of which model, and which projection.
        experts: How many there are.
        n, k: Sizes of one weight matrix of an expert.
        dual: Gate and up are two matrices, joined by SiLU and a multiplication.
        gathered: Rows are tokens, each of which goes to several experts; else there is a row for each of them.
    """

    name: str
    experts: int
    n: int
    k: int
    dual: bool = False
    gathered: bool = True


LAYERS: dict[str, Layer] = {
    "64-gate-up": Layer("64 experts, gate and up in one matrix", 64, 4096, 7168),
    "64-dual": Layer("64 experts, gate and up with SiLU", 64, 2048, 7168, dual=True),
    "64-down": Layer("64 experts, down", 64, 7168, 2048, gathered=False),
    "256-gate-up": Layer("DeepSeek-V3, gate and up in one matrix", 256, 4096, 7168),
    "256-dual": Layer("DeepSeek-V3, gate and up with SiLU", 256, 2048, 7168, dual=True),
    "256-down": Layer("DeepSeek-V3, down", 256, 7168, 2048, gathered=False),
}
"""Layers by name: experts of DeepSeek-V3's sizes (hidden 7168, 2048 in an expert), 256 as it has and 64."""

TOKENS: tuple[int, ...] = (16, 64, 256, 1024)
TOP: tuple[int, ...] = (4, 8)
ROUTINGS: tuple[str, ...] = ("uniform", "skewed")


@dataclass(frozen=True)
class Case:
    """One call of a layer.

    Attributes:
        layer: The layer.
        tokens, top_k: Tokens, and experts that each goes to.
        routing: ``"uniform"``: all experts are equally likely; ``"skewed"``: the i-th most popular one is drawn with a
            weight of 1 / i, as natural text has favourites.
        seed: Of the routing.
    """

    layer: Layer
    tokens: int
    top_k: int
    routing: str = "uniform"
    seed: int = 0

    @property
    def problem(self) -> Problem:
        """What is computed: bf16 rows, or tokens by an index, times NVFP4 weights, stacked, to bf16."""
        layer = self.layer
        tokens = self.tokens if layer.gathered else 0
        op = Op.GROUP_DUAL_GEMM if layer.dual else Op.GROUP_GEMM
        a, b = Format("bf16", ""), Format("nvfp4", "linear")
        count = self.tokens * self.top_k
        return Problem(op, count, layer.n, layer.k, 1, a, b, "bf16", stacked=layer.experts, tokens=tokens)

    def __str__(self) -> str:
        return f"{self.layer.name}, {self.tokens} tokens, top {self.top_k}, {self.routing}"


@dataclass(frozen=True, eq=False)
class Routing:
    """Which rows go to which expert.

    Attributes:
        experts: int64 [tokens, top_k], those of each token, all different.
        order: int64 [tokens * top_k]: the rows in the order of the experts, as indices into the flattened `experts`.
        ends: int32 [experts], the end row of each expert in that order.
        active: Experts that have rows.
    """

    experts: torch.Tensor
    order: torch.Tensor
    ends: torch.Tensor
    active: int

    def to(self, device: torch.device) -> Routing:
        """The same on `device`."""
        return Routing(self.experts.to(device), self.order.to(device), self.ends.to(device), self.active)


def route(case: Case) -> Routing:
    """The routing of a case: the same on every machine.

    Raises:
        InputError: The routing is not known, or there are fewer experts than a token goes to.
    """
    count = case.layer.experts
    if case.routing not in ROUTINGS:
        raise InputError("mixture", "routing", "one of " + ", ".join(ROUTINGS), case.routing, "Name one of them.")
    if case.top_k > count:
        raise InputError("mixture", "top_k", f"at most {count}, the experts", case.top_k, "Choose fewer.")
    generator = torch.Generator().manual_seed(case.seed)
    # The largest of Gumbel numbers plus log weights are a draw without replacement by these weights.
    uniform = torch.rand(case.tokens, count, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    scores = -torch.log((-torch.log(uniform)).clamp_min(1e-300))
    if case.routing == "skewed":
        rank = torch.randperm(count, generator=generator)
        scores -= torch.log(rank.double() + 1)
    experts = scores.topk(case.top_k, dim=1).indices
    flat = experts.flatten()
    sizes = torch.bincount(flat, minlength=count)
    return Routing(experts, torch.argsort(flat, stable=True), sizes.cumsum(0).int(), int((sizes > 0).sum()))


class Weights:
    """The weights of a layer on a device, in every form that a subject wants, each made when it is first used."""

    def __init__(self, layer: Layer, device: torch.device, seed: int = 1111) -> None:
        self.layer = layer
        rows = Case(layer, 1, 1).problem
        made = inputs.make(rows, seed=seed, device=device)
        self.nvfp4: tuple[NVFP4Tensor, ...] = tuple(x for x in made.b if isinstance(x, NVFP4Tensor))

    @functools.cached_property
    def dense(self) -> torch.Tensor:
        """bf16 [experts, N or 2 N, K]: B, or B1 above B2."""
        layer, count = self.layer, len(self.nvfp4)
        device = self.nvfp4[0].device
        values = torch.empty(layer.experts, count * layer.n, layer.k, dtype=ACTIVATIONS, device=device)
        for expert in range(layer.experts):
            for i, x in enumerate(self.nvfp4):
                values[expert, i * layer.n : (i + 1) * layer.n] = x[expert].dequantize(ACTIVATIONS)
        return values

    @functools.cached_property
    def humming(self) -> object:
        """`humming.Experts`."""
        from nvfp4.bench.humming import Experts

        return Experts(tuple(self.nvfp4))


@dataclass(frozen=True, eq=False)
class Tensors:
    """What one call works on.

    Attributes:
        x: bf16: tokens [tokens, K], or for a down projection the rows of every token [tokens * top_k, K].
        index: int64 [tokens * top_k]: row of `x` for each row in the order of the experts.
        short: int32, the same.
        rows: bf16 [tokens * top_k, K]: those rows.
        routing: Which rows go to which expert.
    """

    x: torch.Tensor
    index: torch.Tensor
    short: torch.Tensor
    rows: torch.Tensor
    routing: Routing

    def gather(self) -> None:
        """Fill `rows`."""
        torch.index_select(self.x, 0, self.index, out=self.rows)

    def operands(self, problem: Problem, weights: tuple[NVFP4Tensor, ...], out: torch.Tensor) -> Operands:
        """As a backend takes them: tokens by their index where `problem` has one, else `rows`."""
        if problem.tokens:
            return Operands((self.x,), weights, (out,), self.routing.ends, rows=self.short)
        return Operands((self.rows,), weights, (out,), self.routing.ends)


def tensors(case: Case, routing: Routing, seed: int) -> Tensors:
    """Random activations for one call."""
    device = routing.order.device
    generator = torch.Generator(device=device).manual_seed(seed)
    gathered = case.layer.gathered
    count = case.tokens if gathered else routing.order.numel()
    x = torch.randn(count, case.layer.k, device=device, generator=generator).to(ACTIVATIONS)
    index = routing.order // case.top_k if gathered else routing.order
    made = Tensors(x, index, index.int(), x.new_empty(routing.order.numel(), case.layer.k), routing)
    made.gather()
    return made


Prepare = Callable[[Tensors], Call]


def _with_gather(case: Case, product: Prepare) -> Prepare:
    """The product after its rows were gathered, where the layer's rows are tokens."""

    def prepare(operands: Tensors) -> Call:
        call = product(operands)
        if not case.layer.gathered:
            return call

        def both() -> object:
            operands.gather()
            return call()

        return both

    return prepare


def _loop(case: Case, weights: Weights) -> Prepare:
    """One cuBLAS product after another for every expert that has rows."""
    problem = case.problem

    def prepare(operands: Tensors) -> Call:
        ends = operands.routing.ends.tolist()
        starts = [0, *ends[:-1]]
        width = problem.op.matrices * problem.n
        both = operands.rows.new_empty(problem.m, width)
        parts = [
            (operands.rows[i:j], weights.dense[e].t(), both[i:j])
            for e, (i, j) in enumerate(zip(starts, ends, strict=True))
            if i < j
        ]
        out = operands.rows.new_empty(problem.m, problem.n)

        def call() -> torch.Tensor:
            for x, y, part in parts:
                torch.mm(x, y, out=part)
            return peers.silu_times(both, out) if problem.op.dual else both

        return call

    return prepare


def _grouped_mm(case: Case, weights: Weights) -> Prepare:
    def prepare(operands: Tensors) -> Call:
        turned, ends = weights.dense.transpose(1, 2), operands.routing.ends
        if case.layer.dual:
            return lambda: peers.silu_times(torch._grouped_mm(operands.rows, turned, offs=ends))
        return lambda: torch._grouped_mm(operands.rows, turned, offs=ends)

    return prepare


def _humming(case: Case, weights: Weights, *, indexed: bool) -> Prepare:
    def prepare(operands: Tensors) -> Call:
        from nvfp4.bench.humming import Experts

        experts = weights.humming
        assert isinstance(experts, Experts)
        if not indexed:
            return experts.grouped(operands.rows, operands.routing.ends)
        chosen = operands.routing.experts
        return experts.indexed(operands.x, chosen if case.layer.gathered else chosen.reshape(-1, 1))

    return prepare


PEERS: dict[str, str] = {
    "humming-indexed": "Humming's indexed kernel: takes tokens and an index; dual: its own silu*mul",
    "humming-grouped": "Humming's grouped kernel on gathered rows; dual: its own silu*mul",
    "cublas-loop": "cuBLAS bf16 on decoded weights, a loop over the experts that have tokens; dual: eager silu*mul",
    "grouped-mm": "torch._grouped_mm, bf16 on decoded weights; dual: eager silu*mul",
}
"""Peers by name, with what they compute and are spared."""


def _peer(name: str, case: Case, weights: Weights) -> Prepare:
    if name == "humming-indexed":
        return _humming(case, weights, indexed=True)
    if name == "humming-grouped":
        product = _humming(case, weights, indexed=False)
    else:
        product = (_loop if name == "cublas-loop" else _grouped_mm)(case, weights)
    return _with_gather(case, product)


def _refuse_peer(name: str, env: Environment) -> str | None:
    cpu = env.device.type == "cpu"
    if name.startswith("humming"):
        if cpu:
            return "needs a GPU"
        return None if peers.installed("humming") else 'not installed: pip install "humming-kernels[cu13]"'
    if name == "grouped-mm" and not cpu and env.capability.compute < (9, 0):
        return "torch._grouped_mm needs sm_90"
    return None


class _Answers:
    """Checks of answers on the operands of the first call, against the exact reference computed once."""

    def __init__(self, case: Case, weights: Weights, first: Tensors) -> None:
        self.case, self.first = case, first
        self.out = first.rows.new_empty(case.problem.m, case.problem.n)
        self.weights = weights.nvfp4

    @functools.cached_property
    def expected(self) -> tuple[Expected, ...]:
        problem = self.case.problem
        return expected(problem, self.first.operands(problem, self.weights, self.out))

    def ours(self, problem: Problem, run: Callable[[Operands], None]) -> str:
        poisoned, outputs = poison_outputs(self.first.operands(problem, self.weights, self.out))
        run(poisoned)
        verdict = judge(problem, poisoned, outputs, wants=self.expected)
        return verdict.summary if verdict.ok else f"wrong: {verdict.summary}"

    def peer(self, result: object, *, token_order: bool) -> str:
        assert isinstance(result, torch.Tensor)
        got = result.double()
        if token_order:
            got = got[self.first.routing.order]
        want = self.expected[0].value.to(got.device)
        error = float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))
        text = f"largest error {error:.1e} of the largest element"
        return text if error <= PEER_ERROR else f"wrong: {text}"


def _ours(
    name: str, problem: Problem, env: Environment, weights: Weights
) -> tuple[str, Callable[[Operands], None], Prepare]:
    """Plan, kernel and calls of one of our backends."""
    choice = backends.choose(env.capability, problem, name)
    backend, plan = choice.backend, choice.plan
    make: Any = getattr(backend, "prepare", None)
    run = make(plan, problem) if make is not None else functools.partial(backend.run, plan, problem)

    def prepare(operands: Tensors) -> Call:
        out = operands.rows.new_empty(problem.m, problem.n)
        return functools.partial(run, operands.operands(problem, weights.nvfp4, out))

    return plan.describe(), run, prepare


def _judged(answers: _Answers, problem: Problem, run: Callable[[Operands], None], _: object) -> str:
    """The verdict on one of ours, which is called once more with a result that tells what was written."""
    return answers.ours(problem, run)


def run(case: Case, weights: Weights, settings: Settings, env: Environment) -> Record:
    """Time one case: our backends, beside the same with rows gathered before, and the peers of `PEERS`.

    Args:
        case: What is computed.
        weights: Of the case's layer, on the environment's device.
        settings: Which backends and peers (None for all), how, and what the record names as the commit.
        env: Where. Without a `check`, answers are not checked.

    Raises:
        InputError: Nothing runs, or the weights that are read fit into the cache.
    """
    problem = case.problem
    protocol = timing.protocol(settings.protocol, problem.op, max_samples=settings.max_samples, calls=settings.calls)
    routing = route(case)
    moved = problem.bytes_of(routing.active) - problem.bytes_of(0)
    if moved < 2 * env.l2_bytes:
        expected_bytes = f"weights of {2 * env.l2_bytes / 1e6:.0f} MB, twice the L2 cache, read by a call"
        raise InputError("mixture", "case", expected_bytes, f"{moved / 1e6:.0f} MB", "Take more experts or tokens.")
    routing = routing.to(env.device)
    sets = [tensors(case, routing, settings.seed + i) for i in range(max(protocol.calls, 2))]
    answers = _Answers(case, weights, sets[0])
    ready = Ready({}, {}, {}, {}, len(sets))

    def add(name: str, role: str, detail: str, prepare: Prepare, check: Callable[[object], str]) -> None:
        try:
            made = [prepare(operands) for operands in sets]
            result = made[0]()
            if env.check is not None:
                ready.verdicts[name] = check(result)
        except Exception as error:  # what a peer or a kernel raises is its refusal
            ready.refusals[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            return
        ready.calls[name], ready.details[name] = made, (role, detail)

    for name in backends.installed() if settings.backends is None else settings.backends:
        forms = [(f"nvfp4/{name}", "nvfp4", problem, "; tokens by index" if problem.tokens else "")]
        if problem.tokens:
            rows = dataclasses.replace(problem, tokens=0)
            forms.append((f"nvfp4/{name}, gathered", "other", rows, "; rows gathered before timing"))
        for label, role, form, how in forms:
            try:
                detail, kernel, prepare = _ours(name, form, env, weights)
            except UnsupportedError as error:
                ready.refusals[label] = "; ".join(error.refusals[0].reasons)
                continue
            add(label, role, detail + how, prepare, functools.partial(_judged, answers, form, kernel))
    for name in PEERS if settings.peers is None else settings.peers:
        if name not in PEERS:
            raise InputError("mixture", "peers", "some of " + ", ".join(PEERS), repr(name), "Name known peers.")
        reason = _refuse_peer(name, env)
        if reason is not None:
            ready.refusals[name] = reason
            continue
        compare = functools.partial(answers.peer, token_order=name == "humming-indexed")
        add(name, "peer", PEERS[name], _peer(name, case, weights), compare)
    if not ready.calls:
        why = "; ".join(f"{name}: {reason}" for name, reason in ready.refusals.items())
        raise InputError("mixture", "subjects", "something that runs", why, "Ask for other backends or peers.")
    workload = Workload(case.layer.name, case.tokens, case.top_k, case.routing, routing.active)
    return measure(problem, ready, protocol, env, commit=settings.commit, workload=workload)


def bench(
    cases: Iterable[Case], settings: Settings, env: Environment, *, path: Path | str | None = None
) -> Iterator[tuple[Case, Record]]:
    """Time cases one after another; weights are made once for each run of cases of one layer.

    Args:
        cases: What to time.
        settings, env: As of `run`.
        path: A JSONL file that records are added to as they are done.
    """
    weights: Weights | None = None
    for case in cases:
        if weights is None or weights.layer != case.layer:
            weights = None  # frees the memory of the last layer before the next one is made
            weights = Weights(case.layer, env.device)
        record = run(case, weights, settings, env)
        if path is not None:
            records.append(path, [record])
        yield case, record


def cases(
    layers: Iterable[Layer],
    tokens: Iterable[int] = TOKENS,
    top: Iterable[int] = TOP,
    routings: Iterable[str] = ROUTINGS,
) -> tuple[Case, ...]:
    """Every combination, layer by layer."""
    return tuple(
        Case(layer, count, top_k, routing)
        for layer in layers
        for routing in routings
        for top_k in top
        for count in tokens
    )
