"""Kept memory: which calls share it, and which must not."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import pytest
import torch
from tests.executors.conftest import Recorder

from nvfp4.backends.operands import repeated
from nvfp4.check import inputs
from nvfp4.executors import scratch
from nvfp4.executors.launch import Kernel, Launch, Pointer
from nvfp4.executors.scratch import Piece, Scratch
from nvfp4.problem import Op, Problem

DEVICE = torch.device("cpu")
SMALL = Scratch((Piece((100,), torch.float32), Piece((7,), torch.int32, zeroed=True), Piece((3, 5), torch.float16)))
LARGE = Scratch((Piece((3, 1 << 20), torch.uint8), Piece((5000,), torch.int32, zeroed=True)))


def call(needed: Scratch, queue: int = 0) -> tuple[int, ...]:
    return scratch.kept(needed, 0, queue)


def test_new_memory_is_what_was_described() -> None:
    tensors = SMALL.allocate(DEVICE)
    assert [(tuple(x.shape), x.dtype) for x in tensors] == [(p.shape, p.dtype) for p in SMALL.pieces]
    assert not tensors[1].any()


@pytest.mark.parametrize("needed", [SMALL, LARGE], ids=["small", "large"])
def test_pieces_lie_apart_inside_of_the_memory_of_their_kind(needed: Scratch, recorder: Recorder) -> None:
    places = call(needed)
    space = scratch._spaces.by_queue[0, 0]
    for zeroed, memory in ((False, space.memory), (True, space.zeros)):
        end = memory.data_ptr()
        for piece, place in zip(needed.pieces, places, strict=True):
            if piece.zeroed == zeroed:
                assert place % 16 == 0
                assert place >= end
                end = place + torch.empty(piece.shape, dtype=piece.dtype, device="meta").nbytes
        assert end <= memory.data_ptr() + memory.nbytes
    assert not space.zeros.any()


def test_calls_of_a_queue_share_memory_and_queues_and_devices_do_not(recorder: Recorder) -> None:
    first = call(SMALL)
    assert call(SMALL) == first
    other = Scratch((Piece((50,), torch.float32),))
    assert call(other) == first[:1]
    elsewhere = call(SMALL, 3)
    assert not set(elsewhere) & set(first)
    assert not set(scratch.kept(SMALL, 1, 0)) & {*first, *elsewhere}
    assert call(SMALL) == first
    assert call(SMALL, 3) == elsewhere


def test_a_thread_has_memory_of_its_own(recorder: Recorder) -> None:
    mine = call(SMALL)
    theirs: list[tuple[int, ...]] = []
    done = threading.Event()

    def work() -> None:
        theirs.extend([call(SMALL), call(SMALL)])
        done.wait(10)  # memory is freed with its thread

    thread = threading.Thread(target=work)
    thread.start()
    while len(theirs) < 2:
        pass
    assert theirs[0] == theirs[1]
    assert not set(theirs[0]) & set(mine)
    done.set()
    thread.join()


def test_memory_that_grows_moves_for_every_kind_of_call(recorder: Recorder) -> None:
    call(SMALL)
    old = scratch._spaces.by_queue[0, 0].memory
    large = call(LARGE)
    space = scratch._spaces.by_queue[0, 0]
    assert space.memory is not old
    assert space.memory.nbytes >= 3 << 20
    assert space.zeros.nbytes >= 20000
    small = call(SMALL)
    assert small[:2] == large  # and not where it was: that memory is gone
    assert call(LARGE) == large


def test_memory_is_taken_in_another_thread(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch may send all that this thread allocates to the pool of a graph that is being warmed up."""
    threads = []
    real = torch.zeros
    monkeypatch.setattr(
        torch, "zeros", lambda *args, **rest: (threads.append(threading.get_ident()), real(*args, **rest))[1]
    )
    call(SMALL)
    assert threads
    assert threading.get_ident() not in threads


def test_what_is_kept_is_bounded(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_SPACES", 3)
    monkeypatch.setattr(scratch, "_KNOWN", 3)
    for queue in range(10):
        call(SMALL, queue)
        assert len(scratch._spaces.by_queue) <= 3
    for size in range(1, 10):
        call(Scratch((Piece((size,), torch.float32),)), 9)
        assert len(scratch._spaces.by_queue[0, 9].known) <= 3
    scratch.release()
    assert not scratch._spaces.by_queue


def program(needed: Scratch) -> tuple[object, Recorder]:
    def build(operands, extra: Sequence[torch.Tensor]) -> list[Launch]:
        kernel = Kernel("probe.cu", "probe_increment", (), "sm_90a")
        return [Launch(kernel, (1, 1, 1), (32, 1, 1), (*map(Pointer, extra), Pointer(operands.out[0])))]

    return repeated(build, lambda operands: needed)


def test_a_call_takes_what_is_kept(recorder: Recorder) -> None:
    compute, made = program(SMALL), inputs.make(Problem(Op.GEMM, 8, 8, 64))
    recorder.launches = [Launch(Kernel("", "", (), ""), (1, 1, 1), (1, 1, 1), (Pointer(None),) * 4)]
    for queue in (0, 5):
        recorder.queue = queue
        for _ in range(2):
            compute(made)
            assert recorder.last() == [[*call(SMALL, queue), made.out[0].data_ptr()]]


def test_a_call_that_needs_much_has_its_own(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "KEPT_BYTES", 2048)
    needed = Scratch(SMALL.pieces)
    taken: list[tuple[torch.Tensor, ...]] = []
    real = Scratch.allocate

    def allocate(self: Scratch, device: torch.device) -> tuple[torch.Tensor, ...]:
        taken.append(real(self, device))  # kept alive, so that addresses differ
        return taken[-1]

    monkeypatch.setattr(Scratch, "allocate", allocate)
    compute, made = program(needed), inputs.make(Problem(Op.GEMM, 8, 8, 64))
    recorder.launches = [Launch(Kernel("", "", (), ""), (1, 1, 1), (1, 1, 1), (Pointer(None),) * 4)]
    for _ in range(3):
        compute(made)
    seen = [tuple(found[:3]) for _, found in recorder.seen]
    assert len(set(seen)) == 3
    assert seen == [tuple(x.data_ptr() for x in tensors) for tensors in taken[1:]]
    assert not scratch._spaces.by_queue


def test_captured_calls_have_memory_of_the_graph_and_share_zeros(recorder: Recorder) -> None:
    compute, made = program(SMALL), inputs.make(Problem(Op.GEMM, 8, 8, 64))
    recorder.launches = [Launch(Kernel("", "", (), ""), (1, 1, 1), (1, 1, 1), (Pointer(None),) * 4)]
    zeros = {}
    for capture, queue in ((1, 3), (1, 4), (2, 3), (1, 3)):
        recorder.capturing, recorder.capture, recorder.queue = True, capture, queue
        compute(made)
        first, counters, last, _ = recorder.last()[0]
        assert last - first == SMALL.pieces[0].bytes
        assert zeros.setdefault((capture, queue), counters) == counters, "the same for all calls of a captured queue"
    assert len(set(zeros.values())) == 3, "of its own for every queue and every capture"
    assert not scratch._spaces.by_queue
    places = sorted(zeros.values())
    assert all(b - a >= SMALL.bytes(True) for a, b in itertools.pairwise(places))
    (memory,) = scratch._graphs[0].memory
    assert memory.data_ptr() <= places[0]
    assert places[-1] + SMALL.bytes(True) <= memory.data_ptr() + memory.nbytes
    assert not memory.any()
    recorder.capturing = False
    compute(made)
    assert recorder.last()[0][:3] == list(call(SMALL, recorder.queue))


def test_zeros_of_graphs_are_not_used_again(recorder: Recorder) -> None:
    """Graphs may live for as long as the process: each capture gets zeros that no other has had."""
    recorder.capturing = True
    taken: list[tuple[int, int]] = []
    for recorder.capture in range(600):
        size = 1024 + recorder.capture % 7 * 1024
        taken.append((scratch._graph_zeros(size, 0, 9), size))
        assert scratch._graph_zeros(size, 0, 9) == taken[-1][0]
    taken.sort()
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(taken))
    assert len(scratch._graphs[0].memory) > 1
    assert len(scratch._graphs[0].known) <= scratch._SPACES


def test_a_captured_call_that_needs_more_zeros_gets_them(recorder: Recorder) -> None:
    recorder.capturing = True
    small, large = scratch._graph_zeros(1024, 0, 9), scratch._graph_zeros(5 << 20, 0, 9)
    assert large != small
    assert scratch._graph_zeros(1024, 0, 9) == large
