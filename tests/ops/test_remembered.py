"""What calls remember of each other: nothing that memory, shapes, types or queues could make wrong."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from tests.ops.samples import activations, weights

import nvfp4
from nvfp4 import tensor as tensor_module
from nvfp4.device import capability
from nvfp4.ops import _dispatch
from nvfp4.ops._prepare import _allocator

pytestmark = pytest.mark.usefixtures("path")

H = torch.float16


def test_a_result_that_was_apart_may_overlap_the_next_time() -> None:
    memory = torch.zeros(4096, dtype=H)
    x = memory[:512].view(8, 64)
    b = weights(4, 64)
    apart, overlapping = memory[512:544].view(8, 4), memory[480:512].view(8, 4)
    for _ in range(2):
        nvfp4.gemm(x, b, out=apart)
        with pytest.raises(nvfp4.InputError, match="overlapping"):
            nvfp4.gemm(x, b, out=overlapping)
    # The same addresses in a call of another size.
    with pytest.raises(nvfp4.InputError, match="overlapping"):
        nvfp4.gemm(memory[: 9 * 64].view(9, 64), b, out=memory[512:548].view(9, 4))


def test_results_of_lists_may_not_overlap_each_other_nor_inputs() -> None:
    memory = torch.zeros(4096, dtype=H)
    a, b = [memory[64 * i : 64 * (i + 1)].view(1, 64) for i in (0, 4, 8)], [weights(16, 64)] * 3

    def results(*begins: int) -> list[torch.Tensor]:
        return [memory[begin : begin + 16].view(1, 16) for begin in begins]

    for _ in range(2):
        nvfp4.group_gemm(a, b, out=results(64, 80, 1024))  # among the inputs, and beyond
        nvfp4.group_gemm(a, b, out=results(1024, 320, 64))
        for wrong in ((64, 72, 1024), (1024, 1024, 64), (64, 80, 256), (264, 80, 1024), (48, 80, 1024)):
            with pytest.raises(nvfp4.InputError, match="overlapping"):
                nvfp4.group_gemm(a, b, out=results(*wrong))


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_APART", 4)
    x, b, memory = activations(2, 64), weights(16, 64), torch.zeros(4096, dtype=H)
    for i in range(12):
        nvfp4.gemm(x, b, out=memory[32 * i : 32 * (i + 1)].view(2, 16))
        kept = [value for cache in _dispatch.caches for value in cache.values()]
        (prepared,) = (value[0] if isinstance(value, tuple) else value for value in kept)
        assert 1 <= len(prepared.apart) <= 4


def test_tensors_of_one_kind_have_one_number_and_others_another(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[Callable[[], nvfp4.NVFP4Tensor]] = [
        lambda: weights(8, 64),
        lambda: weights(8, 64, layout="tiled"),
        lambda: weights(8, 64, scale=2.0),
        lambda: weights(9, 64),
        lambda: weights(8, 80),
        lambda: weights(1, 8, 64),
        lambda: nvfp4.NVFP4Tensor(weights(3, 8, 64).codes, weights(3, 8, 64).scales, torch.ones(3)),
        lambda: nvfp4.NVFP4Tensor(weights(3, 8, 64).codes, weights(3, 8, 64).scales, 1.0),
    ]
    numbers = [kind().signature for kind in kinds]
    assert len(set(numbers)) == len(kinds)
    assert [kind().signature for kind in kinds] == numbers
    # Forgotten numbers are never given to another kind.
    monkeypatch.setattr(tensor_module, "_signatures", {})
    monkeypatch.setattr(tensor_module, "_SIGNATURES", 2)
    kind_of: dict[int, int] = {}
    for i in [*range(len(kinds))] * 3:
        number = kinds[i]().signature
        assert number not in numbers
        assert kind_of.setdefault(number, i) == i
        assert len(tensor_module._signatures) <= 2


def test_a_prepared_call_keeps_no_memory() -> None:
    x, b = activations(2, 64), weights(16, 64)
    out = torch.empty(2, 16, dtype=H)
    nvfp4.gemm(x, b)
    nvfp4.gemm(x, b, out=out)
    nvfp4.group_gemm([x], [b], out=[out])
    gone = [weakref.ref(tensor) for tensor in (x, b, b.codes, b.scales, out)]
    del x, b, out
    gc.collect()
    assert [ref() for ref in gone] == [None] * 5
    assert any(_dispatch.caches)


def test_a_parameter_and_a_tensor_are_told_apart() -> None:
    x, b = activations(2, 64), weights(16, 64)
    expected = nvfp4.gemm(x, b)
    parameter = torch.nn.Parameter(x)
    with torch.no_grad():
        assert torch.equal(nvfp4.gemm(parameter, b), expected)
    with pytest.raises(nvfp4.InputError, match="gradient"):
        nvfp4.gemm(parameter, b)
    assert torch.equal(nvfp4.gemm(x, b), expected)


@pytest.mark.parametrize(
    "shapes", [((3, 5),), ((0, 5),), ((2, 0, 3),), ((8, 8), (4, 8)), ((8, 8), (3, 5)), ((8, 8), (0, 8))]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_results_are_what_torch_empty_would_make(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> None:
    allocate = _allocator(shapes, dtype, torch.device("cpu"))
    first, second = allocate(), allocate()
    for made, like in zip(first, [torch.empty(shape, dtype=dtype) for shape in shapes], strict=True):
        assert (made.shape, made.stride(), made.dtype, made.device) == (like.shape, like.stride(), dtype, like.device)
        assert made.data_ptr() % 16 == 0
    spans = sorted((x.data_ptr(), x.data_ptr() + x.nbytes) for x in (*first, *second) if x.numel())
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_results_of_lists_are_tensors_of_their_own() -> None:
    """Parts of one allocation, but no views of each other: changing one in place says nothing of the others."""
    for rows in (16, 24):
        first, second = nvfp4.group_gemm([activations(8, 64)] * 2, [weights(16, 64), weights(rows, 64)])
        version = second._version
        first.add_(1)
        assert second._version == version
        assert not first._is_view()


def test_inference_mode() -> None:
    x, b = activations(2, 64), weights(16, 64)
    expected = nvfp4.gemm(x, b)
    with torch.inference_mode():
        result = nvfp4.gemm(x.clone(), weights(16, 64))
        assert result.is_inference()
        assert torch.equal(result, expected)
        assert torch.equal(nvfp4.group_gemm([x], [b])[0], expected)
    assert not nvfp4.gemm(x, b).is_inference()


GPU_BACKENDS = ["sm80", "sm90"]


def on_gpu(backend: str) -> tuple[Callable[[], list[torch.Tensor]], list[torch.Tensor]]:
    """A few calls that need scratch memory (where the backend uses some), and their results."""
    if backend == "sm90" and capability("cuda").arch != "sm_90a":
        pytest.skip("needs Hopper")
    x, b = activations(24, 4096).cuda(), weights(520, 4096, layout="tiled", device="cuda")
    q = nvfp4.quantize(x.float(), scale_layout="tiled")
    groups = [q, q], [b, b]

    def calls() -> list[torch.Tensor]:
        return [
            nvfp4.gemm(x, b, backend=backend),
            nvfp4.gemm(q, b, backend=backend),
            nvfp4.dual_gemm(q, b, b, backend=backend),
            *nvfp4.group_gemm(*groups, backend=backend),
        ]

    expected = calls()
    torch.cuda.synchronize()
    return calls, expected


def same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, results, expected))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_queues_beside_each_other(backend: str) -> None:
    calls, expected = on_gpu(backend)
    queues = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for _ in range(20):
        for queue in queues:
            with torch.cuda.stream(queue):
                results.append(calls())
    torch.cuda.synchronize()
    assert all(same(result, expected) for result in results)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_threads_in_one_queue(backend: str) -> None:
    calls, expected = on_gpu(backend)
    results: list[list[torch.Tensor]] = []
    threads = [threading.Thread(target=lambda: results.extend(calls() for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert len(results) == 80
    assert all(same(result, expected) for result in results)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_graphs_beside_each_other(backend: str) -> None:
    """Two graphs of the same calls, replayed in two queues at once, and one captured in two queues that join."""
    calls, expected = on_gpu(backend)
    side = torch.cuda.Stream()
    graphs, results = [], []
    for _ in range(2):
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1]):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                results.append(calls())
            results.append(calls())
            torch.cuda.current_stream().wait_stream(side)
    queues = [torch.cuda.Stream(), torch.cuda.Stream()]
    for _ in range(20):
        for graph, queue in zip(graphs, queues, strict=True):
            with torch.cuda.stream(queue):
                graph.replay()
    torch.cuda.synchronize()
    assert all(same(result, expected) for result in results)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_graph_beside_eager_calls(backend: str) -> None:
    """What is captured has memory of its own: its replays and calls in another queue do not meet."""
    calls, expected = on_gpu(backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = calls()
    queue = torch.cuda.Stream()
    eager = []
    for _ in range(20):
        graph.replay()
        with torch.cuda.stream(queue):
            eager.append(calls())
    torch.cuda.synchronize()
    assert same(captured, expected)
    assert all(same(result, expected) for result in eager)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_memory_that_was_freed_and_taken_again(backend: str) -> None:
    calls, expected = on_gpu(backend)
    for _ in range(3):
        assert same(calls(), expected)
        torch.cuda.empty_cache()
        noise = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(8)]
        del noise


@pytest.mark.gpu
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_the_warm_up_of_graph_trees(backend: str, path: str) -> None:
    """torch.compile warms graphs up with all allocations of the thread sent to their pool; kept memory is not there."""
    if path == "direct":
        pytest.skip("compiled calls go through the dispatcher")
    calls, _ = on_gpu(backend)
    x, b = activations(40, 4096).cuda(), weights(1032, 4096, layout="tiled", device="cuda")
    expected = nvfp4.gemm(x * 2, b, backend=backend) + 1
    torch._dynamo.reset()
    from nvfp4.executors import scratch

    scratch.release()  # so that the first call that needs memory is one of the warm-up
    compiled = torch.compile(lambda x, b: nvfp4.gemm(x * 2, b, backend=backend) + 1, mode="reduce-overhead")
    for _ in range(5):
        assert torch.equal(compiled(x, b), expected)
    calls()
