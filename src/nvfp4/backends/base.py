"""The contract between dispatch and the backends.

A backend decides from data alone: `refuse` and `plan` take a `Capability` and a `Problem`, never a device or a tensor,
so that `nvfp4 explain` works for GPUs that are not there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from nvfp4.device import Capability
from nvfp4.executors.launch import Launch
from nvfp4.problem import Problem
from nvfp4.tensor import NVFP4Tensor

Operand = NVFP4Tensor | torch.Tensor


@dataclass(frozen=True, eq=False, init=False)
class Operands:
    """The tensors of one call, validated.

    Every tuple has one element, except that the list form of grouped operations has one for each group, and `b` of
    dual operations has twice as many: every B1, then every B2. `out` is allocated, contiguous, and never aliases an
    input.

    Attributes:
        a: Left operands.
        b: Right operands.
        out: Results.
        offsets: Stacked groups: int32 [groups] on the device, the end row of each group in A.
        bias: gemv: [M] fp16, bf16 or fp32, contiguous; None for none.
        rows: Stacked groups: int32 [M] on the device, the row of `a` that each row of A is; None where they are the
            same. Values that are not rows of `a` stand for its first or last one.
        addresses: What `operands.addresses` gives, where it was called for this very call; else None.
    """

    a: tuple[Operand, ...]
    b: tuple[Operand, ...]
    out: tuple[torch.Tensor, ...]
    offsets: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    addresses: Sequence[int] | None = None

    def __init__(
        self,
        a: tuple[Operand, ...],
        b: tuple[Operand, ...],
        out: tuple[torch.Tensor, ...],
        offsets: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        addresses: Sequence[int] | None = None,
    ) -> None:
        # Half the time of the generated one, in every call.
        fields = self.__dict__
        fields["a"], fields["b"], fields["out"], fields["offsets"] = a, b, out, offsets
        fields["bias"], fields["rows"], fields["addresses"] = bias, rows, addresses

    def weights(self, index: int) -> tuple[Operand, ...]:
        """What ``a[index]`` is multiplied with: (B,), or (B1, B2) of a dual operation."""
        return self.b[index :: len(self.a)]


def follows_no_index(problem: Problem) -> tuple[str, ...]:
    """The reason to refuse of a backend that ignores `Operands.rows`; dispatch then gathers for it."""
    return ("its kernels follow no index of rows",) if problem.tokens else ()


class Plan(Protocol):
    """How one backend runs one problem: a frozen dataclass of everything that a tuner may vary."""

    def describe(self) -> str:
        """One line for people."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A way to compute problems."""

    name: str

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons why this backend does not run `problem` there; empty when it does."""
        ...

    def plan(self, capability: Capability, problem: Problem) -> Plan:
        """The plan that it would use. Only called when `refuse` gives no reason."""
        ...

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``."""
        ...


@runtime_checkable
class PreparingBackend(Backend, Protocol):
    """A backend that can do what does not depend on memory once for many calls."""

    def prepare(self, plan: Plan, problem: Problem) -> Callable[[Operands], None]:
        """`run` for operands that differ in their memory only: same shapes, types, layouts and device."""
        ...


class Weight(NamedTuple):
    """A weight as it was in some call.

    Attributes:
        codes: Its codes, which are not kept alive.
        places: The addresses of codes and scales.
        version: The sum of the versions of both: only ever growing, they have the same sum only if both are the same.
    """

    codes: weakref.ref[torch.Tensor]
    places: tuple[int, int]
    version: int


class Steady(NamedTuple):
    """How calls with the same weights compute, as long as these do not change.

    Attributes:
        run: Takes `operands.addresses` of a call.
        weights: What must be as it was.
        first: Where their codes begin in `operands.flatten`; as many scales follow them.
    """

    run: Callable[[Sequence[int]], None]
    weights: tuple[Weight, ...] = ()
    first: int = 0


@runtime_checkable
class Repeating(Protocol):
    """What `PreparingBackend.prepare` gives, where later calls can do without `Operands`."""

    def __call__(self, operands: Operands) -> None:
        """Compute."""
        ...

    def again(self, tensors: Sequence[Any], addresses: Sequence[int]) -> bool:
        """Compute like an earlier call, if nothing differs but memory.

        Args:
            tensors: `operands.flatten` of the call, as far as its inputs go that are not `offsets`, `bias` or `rows`.
            addresses: `operands.addresses` of the call.

        Returns:
            Whether that is done. If not, nothing is, and the computation wants to be called with the operands.
        """
        ...

    def steady(self, tensors: Sequence[Any]) -> Steady | None:
        """The same without a look at anything but weights, after `again` has computed; None where there is no such way.

        Args:
            tensors: As above.
        """
        ...


@runtime_checkable
class LaunchBackend(Backend, Protocol):
    """A backend whose work is Launches, so that it runs on a GPU and in the emulator alike.

    It takes addresses from the operands and sizes from the Problem: the operations pass it gemv's single vectors [K] or
    [L, K] and their results as the caller has them, where other backends see [1, K] or [L, 1, K].
    """

    def launches(self, plan: Plan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
        """The launches, in order, that compute ``operands.out``."""
        ...
