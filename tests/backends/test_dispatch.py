"""Choosing a backend: pure, total, and never silent about a refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from unittest import mock

import pytest
import torch

import nvfp4
from nvfp4 import backends
from nvfp4.backends.base import Backend, Operands, Plan
from nvfp4.device import KNOWN, Capability, known
from nvfp4.errors import InputError, Refusal, UnsupportedError
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

ACTIVATIONS = Format("fp16", "")
PROBLEMS = [
    Problem(Op.GEMV, 7168, 1, 16384),
    Problem(Op.GEMV, 4096, 8, 7168, 8, b=ACTIVATIONS),
    Problem(Op.GEMM, 128, 7168, 16384),
    Problem(Op.GEMM, 1, 1, 16, 3, a=ACTIVATIONS, b=Format("nvfp4", "tiled", True), out_dtype="fp32"),
    Problem(Op.DUAL_GEMM, 256, 4096, 7168, out_dtype="bf16"),
    Problem(Op.GROUP_GEMM, 30, 20, 64, groups=((10, 20, 64), (20, 8, 32))),
    Problem(Op.GROUP_GEMM, 1024, 4096, 7168, stacked=8),
]


@dataclass(frozen=True)
class FakePlan:
    text: str

    def describe(self) -> str:
        return self.text


class Fake:
    """A backend that refuses for the given reasons."""

    def __init__(self, name: str, *reasons: str) -> None:
        self.name, self.reasons = name, reasons

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        return self.reasons

    def plan(self, capability: Capability, problem: Problem) -> FakePlan:
        assert not self.reasons, "planned what it refuses"
        return FakePlan(f"{self.name} plan")

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        raise AssertionError("not run here")


def registered(*fakes: Fake) -> AbstractContextManager[object]:
    """Put `fakes` in the place of all backends."""
    table = {fake.name: fake for fake in fakes}
    return mock.patch.multiple(backends, installed=lambda: tuple(table), get=lambda name: table[name])


CPU = known("cpu")
PROBLEM = PROBLEMS[2]


def test_the_first_that_does_not_refuse_is_chosen_and_earlier_refusals_are_kept() -> None:
    with registered(Fake("one", "too small", "too old"), Fake("two"), Fake("three", "unused")):
        choice = backends.choose(CPU, PROBLEM)
    assert (choice.backend.name, choice.plan) == ("two", FakePlan("two plan"))
    assert choice.refusals == (Refusal("one", ("too small", "too old")),)
    assert str(choice) == "two: two plan"


def test_when_all_refuse_every_reason_is_told() -> None:
    with registered(Fake("one", "reason 1", "reason 2"), Fake("two", "reason 3")):
        with pytest.raises(UnsupportedError) as caught:
            backends.choose(CPU, PROBLEM)
        explanation = backends.explain(CPU, PROBLEM)
    assert caught.value.refusals == (Refusal("one", ("reason 1", "reason 2")), Refusal("two", ("reason 3",)))
    for reason in ("one: reason 1; reason 2", "two: reason 3", str(PROBLEM), "cpu"):
        assert reason in str(caught.value)
    assert explanation.choice is None
    assert explanation.refusals == caught.value.refusals
    assert "no backend runs it" in str(explanation)


def test_a_named_backend_is_the_only_one_considered() -> None:
    with registered(Fake("one"), Fake("two", "not this")):
        assert backends.choose(CPU, PROBLEM, "one").refusals == ()
        with pytest.raises(UnsupportedError, match="not this") as caught:
            backends.choose(CPU, PROBLEM, "two")
    assert [refusal.backend for refusal in caught.value.refusals] == ["two"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="torch_ops"):
        backends.choose(CPU, PROBLEM, "cutlass")


def test_explain_has_every_backend_and_marks_the_choice() -> None:
    with registered(Fake("one", "never"), Fake("two"), Fake("three")):
        explanation = backends.explain(CPU, PROBLEM)
    assert [name for name, _ in explanation.plans] == ["two", "three"]
    assert explanation.choice is not None
    assert explanation.choice.backend.name == "two"
    text = str(explanation)
    assert "-> two: two plan" in text
    assert "   three: three plan" in text
    assert "x one: never" in text


@pytest.mark.parametrize("arch", KNOWN)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_real_backend_decides_without_a_device(arch: str, problem: Problem) -> None:
    """Each either refuses with reasons or plans; nothing else, twice the same, and no CUDA call."""
    capability = known(arch)
    with mock.patch.object(torch.cuda, "_lazy_init", side_effect=AssertionError("touched CUDA")):
        for name in backends.installed():
            backend = backends.get(name)
            assert isinstance(backend, Backend)
            assert backend.name == name
            reasons = backend.refuse(capability, problem)
            assert all(reason and isinstance(reason, str) for reason in reasons)
            assert backend.refuse(capability, problem) == reasons
            if not reasons:
                plan = backend.plan(capability, problem)
                assert plan == backend.plan(capability, problem), "plans compare by value"
                assert hash(plan) == hash(backend.plan(capability, problem))
                assert "\n" not in plan.describe()
        choice = backends.choose(capability, problem)
        assert nvfp4.explain(problem, arch).choice == choice


@pytest.mark.parametrize("op", [Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM])
def test_rows_are_gathered_first_where_kernels_follow_no_index(op: Op) -> None:
    problem = Problem(op, 512, 4096, 7168, a=ACTIVATIONS, stacked=8, tokens=128)
    for arch in KNOWN:
        plain = backends.explain(known(arch), replace(problem, tokens=0))
        found = backends.explain(known(arch), problem)
        assert "rows of 128 by index" in str(found)
        # The same backends as for gathered rows, with their plans.
        assert [name for name, _ in found.plans] == [name for name, _ in plain.plans]
        assert found.refusals == plain.refusals
        for (name, plan), (_, product) in zip(found.plans, plain.plans, strict=True):
            text = product.describe() if name == "sm90" else f"rows gathered first; {product.describe()}"
            assert plan.describe() == text
            assert backends.choose(known(arch), problem, name).backend.name == name
            # Who would ignore an index refuses it.
            assert (backends.get(name).refuse(known(arch), problem) == ()) == (name == "sm90")


def test_the_cpu_always_has_a_backend_that_says_why_others_do_not() -> None:
    choice = backends.choose(CPU, PROBLEM)
    assert choice.backend.name == "torch_ops"
    assert {refusal.backend for refusal in choice.refusals} == set(backends.installed()) - {"torch_ops"}


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CALL = """
import torch, nvfp4
x = nvfp4.NVFP4Tensor(torch.zeros(4, 8, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.uint8))
try:
    print(nvfp4.gemm(x, x).shape)
except nvfp4.NVFP4Error as error:
    print(type(error).__name__, error)
"""


def test_the_environment_names_a_backend() -> None:
    assert "torch.Size([4, 4])" in run(CALL, NVFP4_BACKEND="torch_ops")
    assert "InputError" in run(CALL, NVFP4_BACKEND="cutlass")
    # The emulator or Triton's interpreter may be able to run these on a CPU only when asked.
    assert "UnsupportedError no backend runs gemm" in run(CALL, NVFP4_BACKEND="triton")


def test_the_environment_is_read_once() -> None:
    a = NVFP4Tensor(torch.zeros(4, 8, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.uint8))
    backends.configured()
    with mock.patch("nvfp4.config.load", side_effect=AssertionError("read again")):
        nvfp4.gemm(a, a)


def test_importing_the_registry_imports_no_backend() -> None:
    program = "import sys, nvfp4.backends; print([m for m in sys.modules if m.startswith('nvfp4.backends.')])"
    assert set(eval(run(program))) <= {"nvfp4.backends.base", "nvfp4.backends.gathering"}


def test_nvfp4_quantize_stays_a_function_after_its_module_was_imported() -> None:
    program = """
import nvfp4.quantize as module, nvfp4, sys
from nvfp4.quantize import quantize
assert nvfp4.quantize is quantize, nvfp4.quantize
import nvfp4.quantize
assert nvfp4.quantize is quantize
print(sorted(set(nvfp4.__all__) - set(dir(nvfp4))), all(hasattr(nvfp4, name) for name in nvfp4.__all__))
"""
    assert run(program) == "[] True"


def test_an_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'gem'"):
        _ = nvfp4.gem  # type: ignore[attr-defined]
