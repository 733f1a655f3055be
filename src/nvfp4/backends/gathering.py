"""Rows by index for backends whose kernels do not follow one: they are copied in the order of the index first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from nvfp4.backends.base import Backend, Operands, Plan, PreparingBackend
from nvfp4.device import Capability
from nvfp4.problem import Problem
from nvfp4.tensor import NVFP4Tensor


@dataclass(frozen=True)
class GatheringPlan:
    """Rows are gathered, and multiplied by a plan for their product.

    Attributes:
        product: How another backend multiplies the gathered rows.
    """

    product: Plan

    def describe(self) -> str:
        """One line for people."""
        return f"rows gathered first; {self.product.describe()}"


class GatheringBackend:
    """A backend that gathers rows, and leaves their product to another one."""

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self._inner = inner

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons of the other backend not to multiply the rows."""
        return self._inner.refuse(capability, _gathered(problem))

    def plan(self, capability: Capability, problem: Problem) -> GatheringPlan:
        """The plan for `problem` there."""
        return GatheringPlan(self._inner.plan(capability, _gathered(problem)))

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``."""
        assert isinstance(plan, GatheringPlan)
        self._inner.run(plan.product, _gathered(problem), gathered(operands))

    def prepare(self, plan: Plan, problem: Problem) -> Callable[[Operands], None]:
        """`run` for many calls."""
        assert isinstance(plan, GatheringPlan)
        product = _gathered(problem)
        if isinstance(self._inner, PreparingBackend):
            run = self._inner.prepare(plan.product, product)
        else:
            run = functools.partial(self._inner.run, plan.product, product)
        return lambda operands: run(gathered(operands))


def serving(backend: Backend, capability: Capability, problem: Problem) -> Backend:
    """`backend`, or what gathers rows for it where `problem` has an index and it refuses."""
    return GatheringBackend(backend) if problem.tokens and backend.refuse(capability, problem) else backend


def gathered(operands: Operands) -> Operands:
    """The same operands without an index: its rows of A, copied."""
    rows = operands.rows
    assert rows is not None
    (a,) = operands.a
    # No value may lead outside of A, as in kernels that follow the index.
    index = rows.clamp(0, a.shape[0] - 1)
    chosen = a.take_rows(index) if isinstance(a, NVFP4Tensor) else a.detach().index_select(0, index)
    return Operands((chosen,), operands.b, operands.out, operands.offsets)


def _gathered(problem: Problem) -> Problem:
    """The product of the gathered rows."""
    return replace(problem, tokens=0)
