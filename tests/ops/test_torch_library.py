"""The registered operators: opcheck, fake tensors, torch.compile, and everything else that looks at operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.ops.samples import activations, weights
from torch._subclasses import FakeTensorMode

import nvfp4
from nvfp4.ops import _library
from nvfp4.tensor import NVFP4Tensor

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def flat(**operands: NVFP4Tensor | torch.Tensor) -> tuple[object, ...]:
    return tuple(part for name, x in operands.items() for part in _library.flatten("test", name, x))


def samples(device: str) -> dict[str, tuple[str, tuple[object, ...], tuple[int, ...]]]:
    """Arguments of every operator with one result: (operator, arguments, shape of the result)."""
    a, b, b2 = (weights(rows, 64, layout="tiled", scale=0.5, device=device) for rows in (5, 20, 20))
    x, offsets = activations(5, 64).to(device), torch.tensor([2, 5], dtype=torch.int32, device=device)
    experts = weights(2, 20, 64, device=device)
    ends, index = (torch.tensor(x, dtype=torch.int32, device=device) for x in ([2, 7], [4, 0, 0, 3, 1, 4, 2]))
    return {
        "gemv": ("gemv", (*flat(a=b, x=x), None, "fp32", None), (5, 20)),
        "gemv, bias": ("gemv", (*flat(a=b, x=x), torch.ones(20, device=device), "fp16", None), (5, 20)),
        "gemm": ("gemm", (*flat(a=a, b=b), "fp16", None), (5, 20)),
        "gemm, activations": ("gemm", (*flat(a=x, b=b), "bf16", "torch_ops"), (5, 20)),
        "dual_gemm": ("dual_gemm", (*flat(a=a, b1=b, b2=b2), "fp16", None), (5, 20)),
        "group_gemm": ("group_gemm", (*flat(a=x, b=experts), offsets, None, "fp16", None), (5, 20)),
        "group_gemm, rows": ("group_gemm", (*flat(a=x, b=experts), ends, index, "fp16", None), (7, 20)),
        "group_gemm, rows of NVFP4": ("group_gemm", (*flat(a=a, b=experts), ends, index, "fp16", None), (7, 20)),
        "group_dual_gemm": (
            "group_dual_gemm",
            (*flat(a=x, b1=experts, b2=weights(2, 20, 64, seed=5, device=device)), offsets, None, "bf16", None),
            (5, 20),
        ),
        "group_dual_gemm, rows": (
            "group_dual_gemm",
            (*flat(a=x, b1=experts, b2=weights(2, 20, 64, seed=5, device=device)), ends, index, "bf16", None),
            (7, 20),
        ),
    }


OUT = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", samples("cpu"))
def test_opcheck(name: str, device: str) -> None:
    op, arguments, shape = samples(device)[name]
    torch.library.opcheck(getattr(torch.ops.nvfp4, op).default, arguments)
    out = torch.zeros(shape, dtype=OUT[str(arguments[-2])], device=device)
    torch.library.opcheck(getattr(torch.ops.nvfp4, op + "_out").default, (*arguments, out))


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_of_lists(device: str) -> None:
    a = [activations(m, 64).to(device) for m in (3, 4)]
    b = [weights(n, 64, layout="tiled", device=device) for n in (5, 6)]
    arguments = (*_library.flatten_list("t", "a", a), *_library.flatten_list("t", "b", b), "fp16", None)
    torch.library.opcheck(torch.ops.nvfp4.group_gemm_lists.default, arguments)
    outs = [torch.zeros(m, n, dtype=torch.float16, device=device) for m, n in ((3, 5), (4, 6))]
    torch.library.opcheck(torch.ops.nvfp4.group_gemm_lists_out.default, (*arguments, outs))


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_of_dual_lists(device: str) -> None:
    a = [activations(m, 64).to(device) for m in (3, 4)]
    b1, b2 = ([weights(n, 64, layout="tiled", seed=seed, device=device) for n in (5, 6)] for seed in (1, 2))
    lists = (part for name, x in (("a", a), ("b1", b1), ("b2", b2)) for part in _library.flatten_list("t", name, x))
    arguments = (*lists, "fp16", None)
    torch.library.opcheck(torch.ops.nvfp4.group_dual_gemm_lists.default, arguments)
    outs = [torch.zeros(m, n, dtype=torch.float16, device=device) for m, n in ((3, 5), (4, 6))]
    torch.library.opcheck(torch.ops.nvfp4.group_dual_gemm_lists_out.default, (*arguments, outs))


def programs(device: str) -> dict[str, tuple[Callable[..., object], tuple[object, ...]]]:
    """A function around every operation, and its arguments."""
    a, b, b2 = (weights(rows, 64, layout="tiled", scale=0.5, seed=rows, device=device) for rows in (5, 20, 20))
    x, experts = activations(5, 64).to(device), weights(2, 20, 64, device=device)
    offsets = torch.tensor([2, 5], dtype=torch.int32, device=device)

    def into(left: torch.Tensor, right: NVFP4Tensor) -> torch.Tensor:
        out = torch.empty(5, 20, dtype=torch.float16, device=device)
        nvfp4.gemm(left * 2, right, out=out)
        return out + 1

    return {
        "gemv": (lambda w, v: nvfp4.gemv(w, v * 2) + 1, (b, x)),
        "gemv, one vector": (lambda w, v: nvfp4.gemv(w, v * 2) + 1, (b, x[0].clone())),
        "gemm": (lambda p, q: nvfp4.gemm(p, q, out_dtype=torch.float32) * 2, (a, b)),
        "gemm, activations": (lambda p, q: nvfp4.gemm(p * 2, q).relu(), (x, b)),
        "gemm, out": (into, (x, b)),
        "dual_gemm": (lambda p, q, r: nvfp4.dual_gemm(p, q, r) + 1, (a, b, b2)),
        "group_gemm": (lambda p, q, o: nvfp4.group_gemm(p + 1, q, offsets=o) * 2, (x, experts, offsets)),
        "group_dual_gemm": (
            lambda p, q, r, o: nvfp4.group_dual_gemm(p + 1, q, r, offsets=o) * 2,
            (x, experts, weights(2, 20, 64, seed=5, device=device), offsets),
        ),
        "group_gemm, rows": (
            lambda p, q, o, i: nvfp4.group_gemm(p + 1, q, offsets=o, rows=i)[:5] * 2,
            (x, experts, offsets, torch.tensor([4, 0, 0, 3, 1, 4], dtype=torch.int32, device=device)),
        ),
        "group_dual_gemm, lists": (
            lambda p, q, r: nvfp4.group_dual_gemm([p * 2, p], [q, r], [r, q])[0] + 1,
            (x, b, weights(20, 64, layout="tiled", scale=0.5, seed=7, device=device)),
        ),
        "group_gemm, lists": (lambda p, q: nvfp4.group_gemm([p * 2, p], [q, q])[0] + 1, (x, b)),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", programs("cpu"))
def test_compile_makes_one_graph(name: str, dynamic: bool, device: str) -> None:
    function, arguments = programs(device)[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    assert torch.equal(compiled(*arguments), function(*arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", programs("cpu"))
def test_inductor_compiles(name: str) -> None:
    function, arguments = programs("cpu")[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True)
    assert torch.equal(compiled(*arguments), function(*arguments))


def test_compile_follows_changing_sizes() -> None:
    b = weights(20, 64)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: nvfp4.gemm(x, b) + 1, fullgraph=True, backend="aot_eager", dynamic=True)
    for m in (3, 7, 19):
        x = activations(m, 64)
        assert torch.equal(compiled(x), nvfp4.gemm(x, b) + 1)


def test_a_wrong_call_fails_while_it_is_traced() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, b: nvfp4.gemm(x, b), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="K = 64"):
        compiled(activations(3, 32), weights(20, 64))


def test_fake_tensors_have_shapes_and_no_values() -> None:
    x, b = activations(5, 64), weights(20, 64)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        result = nvfp4.gemm(mode.from_tensor(x), b, out_dtype=torch.bfloat16)
    assert isinstance(result, torch._subclasses.FakeTensor)
    assert (tuple(result.shape), result.dtype) == ((5, 20), torch.bfloat16)


def test_a_fake_tensor_never_reaches_a_backend() -> None:
    b, x = weights(20, 64), activations(5, 64)
    nvfp4.gemm(x, b)  # prepares the call for plain tensors of these shapes
    result = nvfp4.gemm(FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x), b)
    assert isinstance(result, torch._subclasses.FakeTensor)


def test_a_profiler_and_a_function_mode_see_the_operator() -> None:
    from torch.overrides import TorchFunctionMode

    x, b = activations(5, 64), weights(20, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        nvfp4.gemm(x, b)
    assert any(event.key == "nvfp4::gemm" for event in profile.key_averages())
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: object, types: object, args: tuple[object, ...] = (), kwargs: object = None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))  # type: ignore[operator]

    with Watch():
        nvfp4.gemm(x, b)
    assert any("nvfp4.gemm" in name for name in seen)


def test_a_subclass_keeps_its_own_dispatch() -> None:
    class Tagged(torch.Tensor):
        pass

    x, b = activations(5, 64), weights(20, 64)
    result = nvfp4.gemm(x.as_subclass(Tagged), b)
    assert isinstance(result, Tagged)
    assert torch.equal(result.as_subclass(torch.Tensor), nvfp4.gemm(x, b))


def test_autocast_does_not_change_results() -> None:
    x, b = activations(5, 64) + 0.125, weights(20, 64)
    expected = nvfp4.gemm(x, b, out_dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nvfp4.gemm(x, b, out_dtype=torch.float32), expected)


def test_operators_called_by_hand_are_validated() -> None:
    a, b = weights(5, 64), weights(20, 64)
    arguments = [*flat(a=a, b=b), "fp16", None]
    arguments[4] = arguments[4][:, :-1].contiguous()  # scales of B
    with pytest.raises(nvfp4.InputError, match="scales"):
        torch.ops.nvfp4.gemm(*arguments)
    with pytest.raises(nvfp4.InputError, match="out_dtype"):
        torch.ops.nvfp4.gemm(*flat(a=a, b=b), "fp64", None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", programs("cpu"))
def test_graph_capture(name: str) -> None:
    function, arguments = programs("cuda")[name]
    expected = function(*arguments)
    function(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*arguments)
    assert isinstance(result, torch.Tensor)
    result.zero_()
    graph.replay()
    assert torch.equal(result, expected)
