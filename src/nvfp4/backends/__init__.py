"""The backends, and the choice among them: a pure function that keeps every refusal.

A backend is a package below this one with a module-level `BACKEND` (see `base.Backend`). Packages are imported when
they are first considered, so that one that is not needed costs nothing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass

from nvfp4 import config
from nvfp4.backends import gathering
from nvfp4.backends.base import Backend, Plan
from nvfp4.device import Capability
from nvfp4.errors import InputError, Refusal, UnsupportedError
from nvfp4.problem import Problem

ORDER: tuple[str, ...] = ("sm100", "sm90", "sm80", "triton", "torch_ops")
"""Order of preference: kernels made for the architecture, plain CUDA, then what others compile or provide."""


@dataclass(frozen=True)
class Choice:
    """What runs a problem.

    Attributes:
        backend: The first backend, in order of preference, that did not refuse.
        plan: How it will do it.
        refusals: Why each backend that comes before it in that order does not.
    """

    backend: Backend
    plan: Plan
    refusals: tuple[Refusal, ...]

    def __str__(self) -> str:
        return f"{self.backend.name}: {self.plan.describe()}"


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: the verdict of every backend on a problem.

    Attributes:
        problem: What was asked.
        capability: For which device.
        choice: What would run; None when every backend declines.
        plans: (name, plan) of every backend that would run it, in order of preference.
        refusals: Why each of the others does not.
    """

    problem: Problem
    capability: Capability
    choice: Choice | None
    plans: tuple[tuple[str, Plan], ...]
    refusals: tuple[Refusal, ...]

    def __str__(self) -> str:
        lines = [f"{self.problem}", f"on {self.capability.name} ({self.capability.arch}):"]
        chosen = self.choice.backend.name if self.choice is not None else None
        for name, plan in self.plans:
            lines.append(f"  {'->' if name == chosen else '  '} {name}: {plan.describe()}")
        lines += [f"   x {refusal}" for refusal in self.refusals]
        if self.choice is None:
            lines.append("  no backend runs it")
        return "\n".join(lines)


@functools.cache
def get(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        InputError: There is none of that name.
    """
    if name not in ORDER:
        raise InputError("backends", "backend", "one of " + ", ".join(ORDER), repr(name), "Name a listed backend.")
    backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    assert isinstance(backend, Backend)
    return backend


@functools.cache
def installed() -> tuple[str, ...]:
    """Names of the backends that this installation holds, in order of preference."""
    specs = {name: importlib.util.find_spec(f"{__name__}.{name}") for name in ORDER}
    # A directory without a module (left behind by an uninstallation) has a specification without an origin.
    return tuple(name for name, spec in specs.items() if spec is not None and spec.origin is not None)


@functools.cache
def configured() -> str | None:
    """The backend that the environment asks for, read once for each process."""
    return config.load().backend


def choose(capability: Capability, problem: Problem, backend: str | None = None) -> Choice:
    """The backend and plan for `problem` on a device of `capability`. Pure: needs no device, touches no tensor.

    Args:
        capability: Of the device, or `device.known(arch)` for one that is not here.
        problem: What is to be computed.
        backend: The only backend to consider; None for the first that does not refuse.

    Raises:
        UnsupportedError: Every backend considered refuses; it holds all their reasons.
        InputError: There is no such backend.
    """
    refusals: list[Refusal] = []
    for name in installed() if backend is None else (backend,):
        candidate = gathering.serving(get(name), capability, problem)
        reasons = candidate.refuse(capability, problem)
        if not reasons:
            return Choice(candidate, candidate.plan(capability, problem), tuple(refusals))
        refusals.append(Refusal(name, tuple(reasons)))
    raise UnsupportedError(f"{problem} on {capability.arch}", tuple(refusals))


def explain(capability: Capability, problem: Problem, backend: str | None = None) -> Explanation:
    """What every backend says about `problem`; never raises for a refusal.

    Args:
        capability: Of the device.
        problem: What is to be computed.
        backend: The only backend to consider; None for all.
    """
    plans: list[tuple[str, Plan]] = []
    refusals: list[Refusal] = []
    for name in installed() if backend is None else (backend,):
        candidate = gathering.serving(get(name), capability, problem)
        reasons = candidate.refuse(capability, problem)
        if reasons:
            refusals.append(Refusal(name, tuple(reasons)))
        else:
            plans.append((name, candidate.plan(capability, problem)))
    try:
        choice = choose(capability, problem, backend)
    except UnsupportedError:
        choice = None
    return Explanation(problem, capability, choice, tuple(plans), tuple(refusals))
