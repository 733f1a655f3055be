"""Programs without a GPU: what each kernel of a call would see, with a driver that only records."""

from __future__ import annotations

import struct
import types
from unittest import mock

import pytest
import torch
from tests.executors.conftest import Recorder

from nvfp4 import executors
from nvfp4.backends.operands import addresses, flatten, repeated
from nvfp4.backends.sm80 import BACKEND
from nvfp4.backends.sm90 import BACKEND as SM90
from nvfp4.check import inputs
from nvfp4.device import known
from nvfp4.errors import InputError, LaunchError
from nvfp4.executors import libcuda, program
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, ScalarArray, TensorMap, TensorMapArray
from nvfp4.executors.program import Program
from nvfp4.problem import Format, Op, Problem

KERNEL = Kernel("probe.cu", "probe_increment", (), "sm_90a")
T = [torch.zeros(4) for _ in range(6)]
NVFP4, FP16 = Format("nvfp4", "tiled", True), Format("fp16", "")


def launch(*args) -> Launch:
    return Launch(KERNEL, (1, 1, 1), (32, 1, 1), args)


def tensor_map(tensor: torch.Tensor, offset: int = 0) -> TensorMap:
    return TensorMap(tensor, "f32", (4, 1), (16,), (4, 1), offset=offset)


def test_addresses_go_where_their_tensors_were(recorder: Recorder) -> None:
    recorder.launches = (
        launch(Pointer(T[2]), Scalar("i32", 1), PointerArray((T[0], None, T[2]), 4), Pointer(T[1])),
        launch(Pointer(T[1]), ScalarArray("f32", (1.5, -2.0), 3)),
        launch(Pointer(T[0]), PointerArray((T[0], T[1], T[2]), 3), Pointer(None), PointerArray((None, None), 4)),
    )
    ran = Program(recorder.launches, [T[0], T[1], T[2], None])
    for a, b, c in ((10, 11, 12), (20, 21, 22)):
        ran.run([a, b, c, 0])
        assert recorder.last() == [
            [c, 1, [a, 0, c, 0], b],
            [b, [1.5, -2.0, 0.0]],
            [a, [a, b, c], 0, [0, 0, 0, 0]],
        ]


def test_tensor_maps_follow_their_tensors(recorder: Recorder) -> None:
    recorder.launches = (
        launch(tensor_map(T[1]), Pointer(T[0])),
        launch(TensorMapArray((tensor_map(T[0]), tensor_map(T[1], 64)), 4), Scalar("u64", 2**40)),
    )
    ran = Program(recorder.launches, T[:2])
    for a, b in ((1024, 2048), (1024, 4096), (8192, 4096), (1024, 2048)):
        ran.run([a, b])
        assert recorder.last() == [[b, a], [[a, b + 64], 2**40]]


def test_a_view_of_a_tensor_counts_as_the_tensor(recorder: Recorder) -> None:
    recorder.launches = [launch(Pointer(T[0].view(torch.uint8)))]
    Program(recorder.launches, [T[1], T[0]]).run([5, 6])
    assert recorder.last() == [[6]]


def test_memory_that_no_call_brings_is_refused(recorder: Recorder) -> None:
    with pytest.raises(InputError, match="start of a given tensor"):
        Program([launch(Pointer(T[3]))], [T[0]])
    with pytest.raises(InputError, match="start of a given tensor"):
        Program([launch(Pointer(T[0][1:]))], [T[0]])
    with pytest.raises(InputError, match="distinct memory"):
        Program([launch(Pointer(T[0]))], [T[0], T[0]])


def test_the_queue_of_the_call_counts(recorder: Recorder) -> None:
    recorder.launches = (launch(Pointer(T[0])), launch(Pointer(T[1])))
    ran = Program(recorder.launches, T[:2])
    for queue in (7, 7, 0, 9):
        recorder.queue = queue
        ran.run([1, 2])
        assert [seen for seen, _ in recorder.seen[-2:]] == [queue, queue]


def test_the_device_of_the_program_is_current(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for tensors says that they lie on device 0."""
    recorder.launches, current, chosen = (launch(Pointer(T[0])),), 1, mock.MagicMock()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current)
    ran = Program(recorder.launches, T[:1])
    ran.run([1])
    chosen.assert_called_once_with(0)
    current = 0
    ran.run([2])
    chosen.assert_called_once_with(0)
    assert recorder.last() == [[2]]
    assert len(recorder.seen) == 2


def test_a_launch_during_another_one_has_parameters_of_its_own(recorder: Recorder) -> None:
    """As of two threads: the driver reads the parameters while another call brings its addresses."""
    recorder.launches = [launch(Pointer(T[0]))]
    ran = Program(recorder.launches, T[:1])
    depth = 3

    def meanwhile() -> None:
        nonlocal depth
        depth -= 1
        if depth:
            recorder.queue = depth
            ran.run([depth])

    for _ in range(2):
        depth, recorder.queue, recorder.before = 3, 3, meanwhile
        ran.run([3])
        assert recorder.seen[-3:] == [(1, [1]), (2, [2]), (3, [3])]


def test_an_error_names_the_launch_and_leaves_the_program_usable(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.launches = [launch(Pointer(T[0]))]
    ran = Program(recorder.launches, T[:1])
    monkeypatch.setattr(libcuda, "error_text", str)
    recorder.status = 1
    with pytest.raises(LaunchError, match="probe_increment"):
        ran.run([1])
    recorder.status = 0
    ran.run([2])
    assert recorder.last() == [[2]]
    with pytest.raises(struct.error, match="1 items"):
        ran.run([1, 2])


PROBLEMS = [
    Problem(Op.GEMV, 9, 2, 64),
    Problem(Op.GEMM, 9, 8, 64, 2, Format("bf16", ""), NVFP4),
    Problem(Op.DUAL_GEMM, 9, 8, 64, a=Format("nvfp4", "linear", True)),
    Problem(Op.GROUP_GEMM, 12, 8, 64, groups=((5, 8, 64), (0, 8, 64), (7, 8, 64))),
    Problem(Op.GROUP_GEMM, 32, 8, 64, 1, NVFP4, NVFP4, groups=((8, 8, 64),) * 4),
    Problem(Op.GROUP_GEMM, 33, 8, 64, 1, FP16, groups=((1, 8, 64),) * 33),
    Problem(Op.GROUP_GEMM, 12, 8, 64, stacked=3),
]


@pytest.mark.parametrize("backend", [BACKEND, SM90], ids=lambda backend: backend.name)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_repeated_call_launches_what_its_own_operands_need(problem: Problem, backend, recorder: Recorder) -> None:
    """Every kernel sees just what launches that were built for these operands would have shown it."""
    plan = backend.plan(known("sm_90a"), problem)
    compute = backend.prepare(plan, problem)
    for seed in range(3):
        operands = inputs.make(problem, "uniform", seed)
        recorder.launches = backend.launches(plan, problem, operands)
        count = len(recorder.seen)
        compute(operands)
        assert len(recorder.seen) == count + len(recorder.launches)
        own = {tensor.data_ptr() for tensor in flatten(operands) if tensor is not None}
        for found, wanted in zip(recorder.last(), recorder.wanted(), strict=True):
            for value, right in zip(found, wanted, strict=True):
                if value == right:
                    continue
                # Scratch memory lies elsewhere in every call.
                values, rights = (x if isinstance(x, list) else [x] for x in (value, right))
                for one, other in zip(values, rights, strict=True):
                    assert one == other or not {one, other} & (own | {0})


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_addresses_are_those_of_the_flat_list(problem: Problem) -> None:
    operands = inputs.make(problem)
    assert addresses(operands) == [0 if tensor is None else tensor.data_ptr() for tensor in flatten(operands)]


def test_memory_that_is_freed_and_taken_again_is_looked_at_again(recorder: Recorder) -> None:
    """Addresses are read in every call: neither the object nor its first address stands for the memory."""
    problem = Problem(Op.GEMM, 8, 8, 64, 1, FP16, NVFP4)
    plan = BACKEND.plan(known("sm_90a"), problem)
    compute = BACKEND.prepare(plan, problem)
    operands = inputs.make(problem)
    recorder.launches = BACKEND.launches(plan, problem, operands)
    compute(operands)
    weights = operands.b[0]
    moved = torch.zeros(4096, dtype=torch.uint8)
    weights.codes.set_(moved.untyped_storage(), 1024, weights.codes.shape)
    operands.a[0].set_(moved.view(torch.float16).untyped_storage(), 0, operands.a[0].shape)
    recorder.launches = BACKEND.launches(plan, problem, operands)
    compute(operands)
    assert weights.codes.data_ptr() in recorder.last()[0]
    assert operands.a[0].data_ptr() in recorder.last()[0]
    assert recorder.last() == recorder.wanted()


def test_operands_that_alias_are_not_remembered(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(executors, "choose", lambda device: types.SimpleNamespace(name="driver", run=ran.append))
    problem = Problem(Op.GEMM, 8, 8, 64)
    plan = BACKEND.plan(known("sm_90a"), problem)
    compute = repeated(lambda operands, _: BACKEND.launches(plan, problem, operands))
    made = inputs.make(problem)
    same = type(made)(made.a, made.a, made.out)
    compute(same)
    assert len(ran) == 1
    assert not recorder.seen
    for operands in (made, same):
        recorder.launches = BACKEND.launches(plan, problem, operands)
        compute(operands)
        assert recorder.last() == recorder.wanted()
    assert len(ran) == 1


def test_flatten_lists_everything_once() -> None:
    operands = inputs.make(Problem(Op.GROUP_GEMM, 12, 8, 64, stacked=3))
    tensors = flatten(operands)
    assert len(tensors) == 3 + 3 + 1 + 1
    assert tensors[-1] is operands.offsets
    assert not program.aliased(tensors)
