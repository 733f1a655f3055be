"""Running cases through the public operations and judging them: what `nvfp4 check` and `nvfp4 solve` do."""

from __future__ import annotations

import functools
import random
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

import nvfp4
from nvfp4.backends import Choice, choose, get, installed
from nvfp4.backends.base import LaunchBackend, Operands
from nvfp4.check import inputs
from nvfp4.check.inputs import DTYPES
from nvfp4.check.poison import Poisoned, poisoned
from nvfp4.check.verdict import Expected, Verdict, expected, judge
from nvfp4.device import capability, known
from nvfp4.errors import Refusal, UnsupportedError
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor


@dataclass(frozen=True)
class Case:
    """One thing to check: a problem, with one kind of data and one seed."""

    problem: Problem
    distribution: str
    seed: int

    def __str__(self) -> str:
        return f"{self.problem}, {self.distribution} data, seed {self.seed}"


@dataclass(frozen=True)
class Target:
    """Where and with what a case runs.

    Attributes:
        device: Where the operands lie: ``"cpu"`` or ``"cuda"``.
        backend: A backend by name, or None to choose.
        arch: Run the kernels of this architecture in the emulator (then `device` is ``"cpu"``); None to call the public
            operation.
    """

    device: str = "cpu"
    backend: str | None = None
    arch: str | None = None

    def __str__(self) -> str:
        where = f"emulated {self.arch}" if self.arch else self.device
        return f"{self.backend or 'chosen'} on {where}"


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: The case.
        backend: What ran it, or was asked to.
        verdict: The judgement; None when the case was refused.
        refusal: Why no backend ran it; None when one did.
        seconds: Wall time of the call, with compilation when it was the first of its kind.
    """

    case: Case
    backend: str | None
    verdict: Verdict | None
    refusal: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the case ran and was right."""
        return self.verdict is not None and self.verdict.ok


def call(problem: Problem, operands: Operands, target: Target) -> str:
    """Run the operation on `operands`, into ``operands.out``; says which backend did it.

    Args:
        problem: Names the operation and the type of the result.
        operands: Its tensors, on the target's device.
        target: What runs it.
    """
    if target.arch is None:
        choice = choose(capability(target.device), problem, target.backend)
        _call_public(problem, operands, target.backend)
    else:
        choice = choose_launches(target.arch, problem, target.backend)
        # Tensors on the CPU and a plan for a GPU: the launches go to the emulator.
        choice.backend.run(choice.plan, problem, operands)
    return choice.backend.name


def choose_launches(arch: str, problem: Problem, backend: str | None) -> Choice:
    """As `backends.choose`, among the backends whose kernels can be emulated: those made of Launches."""
    refusals: list[Refusal] = []
    for name in installed() if backend is None else (backend,):
        if not isinstance(get(name), LaunchBackend):
            refusals.append(Refusal(name, ("has no kernels of its own to emulate",)))
            continue
        try:
            return choose(known(arch), problem, name)
        except UnsupportedError as error:
            refusals += error.refusals
    raise UnsupportedError(f"{problem} in the emulator as {arch}", tuple(refusals))


def _call_public(problem: Problem, operands: Operands, backend: str | None) -> None:
    out_dtype = DTYPES[problem.out_dtype]
    out = operands.out[0]
    a, b = operands.a[0], cast("tuple[NVFP4Tensor, ...]", operands.b)
    if problem.op is Op.GEMV:
        matrix = cast("NVFP4Tensor", a)
        nvfp4.gemv(matrix, b[0], bias=operands.bias, out_dtype=out_dtype, out=out, backend=backend)
    elif problem.op is Op.GEMM:
        nvfp4.gemm(a, b[0], out_dtype=out_dtype, out=out, backend=backend)
    elif problem.op is Op.DUAL_GEMM:
        nvfp4.dual_gemm(a, b[0], b[1], out_dtype=out_dtype, out=out, backend=backend)
    elif operands.offsets is not None:
        grouped: Any = nvfp4.group_dual_gemm if problem.op.dual else nvfp4.group_gemm
        grouped(a, *b, offsets=operands.offsets, rows=operands.rows, out_dtype=out_dtype, out=out, backend=backend)
    else:
        lists: Any = nvfp4.group_dual_gemm if problem.op.dual else nvfp4.group_gemm
        count = len(operands.a)
        weights = [list(b[i : i + count]) for i in range(0, len(b), count)]
        lists(list(operands.a), *weights, out_dtype=out_dtype, out=list(operands.out), backend=backend)


def poison_outputs(operands: Operands) -> tuple[Operands, tuple[Poisoned, ...]]:
    """The same operands with poisoned outputs."""
    outputs = tuple(poisoned(tuple(out.shape), out.dtype, out.device) for out in operands.out)
    return replace(operands, out=tuple(output.tensor for output in outputs)), outputs


class Inputs:
    """The operands of a case on a device, and what they must give, for as many targets as are tried on them."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        self.case = case
        self.device = device
        self.operands = inputs.make(case.problem, case.distribution, case.seed, device)

    @functools.cached_property
    def expected(self) -> tuple[Expected, ...]:
        """The exact answer, computed once."""
        return expected(self.case.problem, self.operands)


def run_case(case: Case, target: Target, prepared: Inputs | None = None) -> Outcome:
    """Run the operation on the operands of a case, into poisoned outputs, and judge the result.

    Args:
        case: What to run.
        target: What runs it.
        prepared: Its inputs on the target's device, when they were made before; else they are made here.
    """
    prepared = prepared or Inputs(case, target.device)
    operands, outputs = poison_outputs(prepared.operands)
    begin = time.perf_counter()
    try:
        backend = call(case.problem, operands, target)
    except UnsupportedError as error:
        return Outcome(case, target.backend, None, str(error), time.perf_counter() - begin)
    if target.device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    verdict = judge(case.problem, operands, outputs, wants=prepared.expected)
    return Outcome(case, backend, verdict, None, seconds)


_PRODUCT_KINDS = (("nvfp4", "nvfp4"), ("fp16", "nvfp4"), ("bf16", "nvfp4"))
_KINDS = dict.fromkeys(Op, _PRODUCT_KINDS) | {Op.GEMV: tuple((b, a) for a, b in _PRODUCT_KINDS)}


def _sizes(rng: random.Random, largest: int) -> int:
    """A size that is ragged, a multiple of a tile, or just beside one."""
    base = rng.choice((1, 8, 16, 32, 64, 128, 256))
    size = base * rng.randint(1, max(1, largest // base)) + rng.choice((0, 0, -1, 1, 3))
    return min(max(1, size), largest)


def _formats(op: Op, rng: random.Random) -> tuple[Format, Format]:
    """Formats and layouts of A and B."""
    kinds, scaled = rng.choice(_KINDS[op]), rng.random() < 0.4
    layouts = [rng.choice(("linear", "tiled")) for _ in kinds]
    a, b = (
        Format(kind, layout, scaled) if kind == "nvfp4" else Format(kind, "", False)
        for kind, layout in zip(kinds, layouts, strict=True)
    )
    return a, b


def fuzz(op: Op, seed: int, *, largest: int = 384, largest_k: int = 2048) -> Case:
    """The case that `seed` stands for: random ragged sizes, formats, layouts and data.

    Args:
        op: The operation.
        seed: Any integer; the same one is the same case on every machine.
        largest: Bound of M and N in elements.
        largest_k: Bound of K in elements.
    """
    rng = random.Random(f"{op}:{seed}")
    a, b = _formats(op, rng)
    k = 16 * _sizes(rng, largest_k // 16)
    out_dtype = rng.choice(("fp16", "bf16", "fp32"))
    distribution = rng.choice(inputs.NAMES)
    m, n = _sizes(rng, largest), _sizes(rng, largest)
    if op is Op.GEMV:
        problem = Problem(
            op, m, rng.choice((1, 1, 1, 2, 3, 4, 7, 8, 13, 16)), k, rng.choice((1, 1, 2, 3)), a, b, out_dtype
        )
        problem = replace(problem, bias=rng.choice(("", "", "", "fp16", "bf16", "fp32")))
    elif op is Op.GEMM:
        problem = Problem(op, m, n, k, rng.choice((1, 1, 1, 2, 3)), a, b, out_dtype)
    elif op is Op.DUAL_GEMM:
        problem = Problem(op, m, n, k, 1, a, b, out_dtype)
    elif rng.random() < 0.5:
        groups = tuple(
            (_sizes(rng, largest // 2), _sizes(rng, largest // 2), 16 * _sizes(rng, largest_k // 32))
            for _ in range(rng.randint(1, 5))
        )
        m, n, k = sum(g[0] for g in groups), max(g[1] for g in groups), max(g[2] for g in groups)
        problem = Problem(op, m, n, k, 1, a, b, out_dtype, groups=groups)
    else:
        problem = Problem(op, m, n, k, 1, a, b, out_dtype, stacked=rng.randint(1, 9))
        if rng.random() < 0.5:  # more rows than the operand has, or fewer
            problem = replace(problem, tokens=_sizes(rng, largest))
    return Case(problem, distribution, seed)


# N and K of layers, from the sizes that the models' configurations give: Llama 3.1 8B and 70B, Qwen2.5 7B, 14B and 32B,
# and of DeepSeek-V3 the dense layers and an expert.
_LAYERS = (
    *((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
    *((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672)),
    *((4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944)),
    *((7168, 5120), (5120, 5120), (27648, 5120), (5120, 13824), (5120, 27648)),
    *((36864, 7168), (7168, 18432), (4096, 7168), (7168, 2048)),
)
_EXPERT = ((4096, 7168), (7168, 2048))


def of_models(op: Op, seed: int) -> Case:
    """The case that `seed` stands for, of the size of a model's layer: large enough for every plan that is made of one.

    Args:
        op: The operation.
        seed: Any integer; the same one is the same case on every machine.
    """
    rng = random.Random(f"models:{op}:{seed}")
    a, b = _formats(op, rng)
    out_dtype, distribution = rng.choice(("fp16", "bf16", "fp32")), rng.choice(inputs.NAMES)
    n, k = rng.choice(_EXPERT if op.grouped else _LAYERS)
    m = rng.choice((1, 3, 8, 16, 24, 48, 64, 96, 128, 256, 384, 640))
    if op is Op.GEMV:
        return Case(Problem(op, n, rng.choice((1, 2, 4, 8, 16)), k, 1, a, b, out_dtype), distribution, seed)
    if not op.grouped:
        n = n // op.matrices
        return Case(Problem(op, m, n, k, 1, a, b, out_dtype), distribution, seed)
    if rng.random() < 0.5:
        groups = tuple((rng.choice((0, 16, 40, 64, 96, 130, 200, 256)), n, k) for _ in range(rng.randint(2, 8)))
        m = sum(rows for rows, _, _ in groups)
        return Case(Problem(op, m, n, k, 1, a, b, out_dtype, groups=groups), distribution, seed)
    return Case(Problem(op, m, n, k, 1, a, b, out_dtype, stacked=rng.choice((4, 16, 32))), distribution, seed)
