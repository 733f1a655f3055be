"""Programs without a GPU: which address goes to which parameter, with a driver that only records."""

from __future__ import annotations

import types

import pytest
import torch

from nvfp4.backends import operands as backend_operands
from nvfp4.backends.operands import flatten, repeated
from nvfp4.backends.sm80 import BACKEND
from nvfp4.check import inputs
from nvfp4.device import known
from nvfp4.errors import InputError
from nvfp4.executors import driver, parameters, program
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar
from nvfp4.executors.program import Program
from nvfp4.problem import Format, Op, Problem

KERNEL = Kernel("probe.cu", "probe_increment", (), "sm_90a")
T = [torch.zeros(4) for _ in range(4)]


@pytest.fixture
def calls(monkeypatch):
    """Every launch that a program makes: (launch, addresses)."""
    made: list[tuple[Launch, list[int]]] = []

    def prepare(launch: Launch, index: int):
        assert index == 0
        return lambda addresses, queue: made.append((launch, list(addresses)))

    monkeypatch.setattr(driver, "prepare", prepare)
    monkeypatch.setattr(driver, "device_index", lambda launches: 0)
    monkeypatch.setattr(driver, "current_queue", lambda index: 0)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    return made


def launch(*args) -> Launch:
    return Launch(KERNEL, (1, 1, 1), (32, 1, 1), args)


def test_addresses_go_where_their_tensors_were(calls):
    first = launch(Pointer(T[2]), Scalar("i32", 1), PointerArray((T[0], None, T[2]), 4), Pointer(T[1]))
    second = launch(Pointer(T[1]))
    third = launch(Pointer(T[0]), Pointer(T[1]), Pointer(T[2]), Pointer(None))
    ran = Program((first, second, third), [T[0], T[1], T[2], None])
    ran([10, 11, 12, 0])
    assert calls == [(first, [12, 10, 0, 12, 11]), (second, [11]), (third, [10, 11, 12, 0])]
    ran([20, 21, 22, 0])
    assert [addresses for _, addresses in calls[3:]] == [[22, 20, 0, 22, 21], [21], [20, 21, 22, 0]]


def test_a_view_of_a_tensor_counts_as_the_tensor(calls):
    Program([launch(Pointer(T[0].view(torch.uint8)))], [T[1], T[0]])([5, 6])
    assert calls[0][1] == [6]


def test_memory_that_no_call_brings_is_refused(calls):
    with pytest.raises(InputError, match="start of a given tensor"):
        Program([launch(Pointer(T[3]))], [T[0]])
    with pytest.raises(InputError, match="start of a given tensor"):
        Program([launch(Pointer(T[0][1:]))], [T[0]])
    with pytest.raises(InputError, match="distinct memory"):
        Program([launch(Pointer(T[0]))], [T[0], T[0]])


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Op.GEMV, 9, 2, 64),
        Problem(Op.GEMM, 9, 8, 64, 2, Format("bf16", ""), Format("nvfp4", "tiled", True)),
        Problem(Op.DUAL_GEMM, 9, 8, 64, a=Format("nvfp4", "linear", True)),
        Problem(Op.GROUP_GEMM, 12, 8, 64, groups=((5, 8, 64), (0, 8, 64), (7, 8, 32))),
        Problem(Op.GROUP_GEMM, 12, 8, 64, stacked=3),
    ],
    ids=str,
)
def test_a_repeated_backend_call_is_the_launch_for_its_operands(problem, calls, monkeypatch):
    """Every call passes just the addresses that launches built for its own operands would have."""
    monkeypatch.setattr(
        backend_operands.executors, "choose", lambda device: types.SimpleNamespace(name="driver", run=None)
    )
    plan = BACKEND.plan(known("sm_90a"), problem)
    compute = repeated(lambda operands, _: BACKEND.launches(plan, problem, operands))
    for seed in range(3):
        operands = inputs.make(problem, "uniform", seed)
        compute(operands)
        own = BACKEND.launches(plan, problem, operands)
        made = [addresses for _, addresses in calls[-len(own) :]]
        wanted = [parameters.tensors(each.args) for each in own]
        assert made == [[0 if tensor is None else tensor.data_ptr() for tensor in tensors] for tensors in wanted]
    assert len(calls) == 3 * len(own)


def test_operands_that_alias_are_not_remembered(calls, monkeypatch):
    ran = []
    chosen = types.SimpleNamespace(name="driver", run=ran.append)
    monkeypatch.setattr(backend_operands.executors, "choose", lambda device: chosen)
    problem = Problem(Op.GEMM, 8, 8, 64)
    plan = BACKEND.plan(known("sm_90a"), problem)
    compute = repeated(lambda operands, _: BACKEND.launches(plan, problem, operands))
    made = inputs.make(problem)
    compute(type(made)(made.a, made.a, made.out))
    assert len(ran) == 1
    assert not calls
    compute(made)
    compute(type(made)(made.a, made.a, made.out))
    assert len(ran) == 1
    assert calls[0][1][3] == made.b[0].codes.data_ptr()
    assert calls[1][1][3] == made.a[0].codes.data_ptr()


def test_scratch_is_fresh_for_every_call(calls, monkeypatch):
    monkeypatch.setattr(
        backend_operands.executors, "choose", lambda device: types.SimpleNamespace(name="driver", run=None)
    )
    kept = []

    def scratch(operands):
        kept.append(torch.empty(64))
        return kept[-1:]

    compute = repeated(lambda operands, extra: [launch(Pointer(extra[0]), Pointer(operands.out[0]))], scratch)
    made = inputs.make(Problem(Op.GEMM, 8, 8, 64))
    for _ in range(3):
        compute(made)
    assert [addresses for _, addresses in calls] == [[t.data_ptr(), made.out[0].data_ptr()] for t in kept]
    assert len({t.data_ptr() for t in kept}) == 3


def test_flatten_lists_everything_once():
    problem = Problem(Op.GROUP_GEMM, 12, 8, 64, stacked=3)
    operands = inputs.make(problem)
    tensors = flatten(operands)
    assert len(tensors) == 3 + 3 + 1 + 1
    assert tensors[-1] is operands.offsets
    assert not program.aliased(tensors)
