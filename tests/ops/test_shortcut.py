"""The short way through a registered operator: the same addresses as by the long way, or not taken."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from tests.ops.samples import activations, weights
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import nvfp4
from nvfp4 import backends
from nvfp4.backends.base import Operands, Plan, Repeating, Steady, Weight
from nvfp4.backends.operands import addresses, flatten
from nvfp4.device import Capability
from nvfp4.ops import _dispatch, _library
from nvfp4.problem import Problem

H = torch.float16


class Recording:
    """A backend that computes nothing and says what it was called with."""

    name = "recording"

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int], list[int]]] = []
        self.ready = True
        self.settled: int | None = None
        """Where the codes of the weight are in `flatten`, if it has settled."""

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        return ()

    def plan(self, capability: Capability, problem: Problem) -> Plan:
        raise NotImplementedError

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        raise NotImplementedError

    def launches(self, plan: Plan, problem: Problem, operands: Operands) -> tuple[()]:
        return ()

    def prepare(self, plan: Plan, problem: Problem) -> Repeating:
        recording = self

        class Computation:
            def __call__(self, operands: Operands) -> None:
                recording.calls.append(("long", addresses(operands), inputs(flatten(operands))))

            def again(self, tensors: Sequence[Any], addresses: Sequence[int]) -> bool:
                if recording.ready:
                    recording.calls.append(("short", list(addresses), inputs(tensors)))
                return recording.ready

            def steady(self, tensors: Sequence[Any]) -> Steady | None:
                first = recording.settled
                if first is None:
                    return None
                codes, scales = tensors[first : first + 2]
                places = codes.data_ptr(), scales.data_ptr()
                weight = Weight(weakref.ref(codes), places, codes._version + scales._version)
                return Steady(lambda where: recording.calls.append(("steady", list(where), [])), (weight,), first)

        return Computation()

    @property
    def ways(self) -> list[str]:
        """How the calls came."""
        return [way for way, *_ in self.calls]


def inputs(tensors: Sequence[torch.Tensor | None]) -> list[int]:
    """The addresses of tensors."""
    return [0 if x is None else x.data_ptr() for x in tensors]


@pytest.fixture(params=["dispatched", "unwatched"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """The only backend. Every call goes to the operator: through torch's dispatcher, or around it."""
    found = Recording()
    if request.param == "dispatched":
        monkeypatch.setattr(_dispatch, "direct", lambda: False)
    monkeypatch.setattr(_dispatch, "directly", lambda call: None)
    _dispatch.clear()
    with mock.patch.object(backends, "choose", return_value=backends.Choice(found, mock.Mock(), ())):
        yield found
    _dispatch.clear()


def tiled(rows: int, seed: int) -> nvfp4.NVFP4Tensor:
    return weights(rows, 64, layout="tiled", scale=0.5, seed=seed)


def calls(seed: int) -> dict[str, Callable[..., object]]:
    """A call of every operation and form, with memory of its own; it takes `out`."""
    a, b, b2, x = tiled(8, seed), tiled(16, seed + 1), tiled(16, seed + 2), activations(8, 64)
    experts, offsets = weights(2, 16, 64, seed=seed), torch.tensor([2, 5], dtype=torch.int32)
    bias, vector, rows = torch.ones(16), activations(64), torch.arange(12, dtype=torch.int32) % 8
    plain = [weights(16, 64, seed=seed), weights(24, 64, seed=seed)]
    lists = [x, activations(24, 64)], [b, tiled(24, seed + 3)], [b2, tiled(24, seed + 4)]
    return {
        "gemv": lambda **more: nvfp4.gemv(b, a, **more),
        "gemv, one vector and bias": lambda **more: nvfp4.gemv(b, vector, bias=bias, **more),
        "gemm": lambda **more: nvfp4.gemm(a, b, **more),
        "gemm, activations": lambda **more: nvfp4.gemm(x, b, **more),
        "gemm, no tensor scale": lambda **more: nvfp4.gemm(x, plain[0], **more),
        "gemm, no tensor scales": lambda **more: nvfp4.gemm(plain[1], plain[0], **more),
        "dual_gemm": lambda **more: nvfp4.dual_gemm(a, b, b2, **more),
        "group_gemm": lambda **more: nvfp4.group_gemm(x, experts, offsets=offsets, **more),
        "group_gemm, rows": lambda **more: nvfp4.group_gemm(x, experts, offsets=offsets, rows=rows, **more),
        "group_gemm, lists": lambda **more: nvfp4.group_gemm(*lists[:2], **more),
        "group_gemm, lists, no tensor scale": lambda **more: nvfp4.group_gemm(lists[0], plain, **more),
        "group_dual_gemm, lists": lambda **more: nvfp4.group_dual_gemm(*lists, **more),
    }


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("name", calls(0))
def test_both_ways_bring_the_same_addresses(name: str, into: bool, backend: Recording) -> None:
    first = calls(0)[name]
    results = first()
    out = {"out": results} if into else {}
    first(**out)  # with results: finds out that they are apart
    for call in (calls(10)[name], calls(20)[name]):
        call(**out)
        found = []
        for ready, way in ((True, "short"), (False, "long")):
            backend.ready = ready
            made = call(**out) if not into else (call(**out), results)[1]
            assert backend.calls[-1][0] == way
            found.append((*backend.calls[-1][1:], inputs(made if isinstance(made, list) else [made])))
        (short, tensors, ours), (long, every, theirs) = found
        named = dict(zip(ours, theirs, strict=True))
        assert [named.get(address, address) for address in short] == long
        # Weights lie where `flatten` has them.
        after = {"gemv, one vector and bias": 1, "group_gemm": 1, "group_gemm, rows": 2}
        begin = len(every) - len(ours) - after.get(name, 0)
        assert tensors[:begin] == every[:begin]


def gemm(x: torch.Tensor, b: nvfp4.NVFP4Tensor, **more: object) -> None:
    nvfp4.gemm(x, b, **more)  # type: ignore[arg-type]


def test_only_what_differs_in_memory_alone_is_short(backend: Recording) -> None:
    b, memory = weights(16, 64), torch.zeros(1024, dtype=H)
    gemm(activations(4, 64), b)
    for _ in range(2):
        del backend.calls[:]
        gemm(activations(4, 64), weights(16, 64, seed=3))
        assert backend.ways == ["short"]
    others: list[Callable[[], object]] = [
        lambda: gemm(activations(5, 64), b),
        lambda: gemm(activations(4, 64, dtype=torch.bfloat16), b),
        lambda: gemm(activations(4, 64), weights(16, 64, scale=2.0)),
        lambda: gemm(activations(4, 64), weights(16, 64, layout="tiled")),
        lambda: gemm(activations(4, 64), weights(32, 64)),
        lambda: gemm(activations(4, 64), b, out_dtype=torch.float32),
        lambda: gemm(torch.nn.Parameter(activations(4, 64), requires_grad=False), b),
        lambda: gemm(activations(8, 32).view(4, 64).as_strided((4, 64), (64, 1)), b, out=torch.empty(4, 16, dtype=H)),
    ]
    for other in others:
        del backend.calls[:]
        other()
        assert backend.ways == ["long"]
    for begin, way in ((0, "short"), (1, "long"), (8, "short"), (4, "long")):
        del backend.calls[:]
        gemm(memory[begin : begin + 256].view(4, 64), b)
        assert backend.ways[-1] == way


def test_a_misaligned_scale_is_read_alone(backend: Recording) -> None:
    scales = torch.ones(8)
    b = weights(16, 64)
    for i in range(3):
        gemm(activations(4, 64), nvfp4.NVFP4Tensor(b.codes, b.scales, scales[i]))
    assert backend.ways == ["long", "short", "short"]


def test_gradients_are_looked_for_in_every_call(backend: Recording) -> None:
    b, parameter = weights(16, 64), torch.nn.Parameter(activations(4, 64))
    with torch.no_grad():
        gemm(parameter, b)
        gemm(parameter, b)
    assert backend.ways == ["long", "short"]
    with pytest.raises(nvfp4.InputError, match="gradient"):
        gemm(parameter, b)
    assert backend.ways == ["long", "short"]


def test_inside_and_outside_of_inference_mode(backend: Recording) -> None:
    x, b = activations(4, 64), weights(16, 64)
    for _ in range(3):
        with torch.inference_mode():
            gemm(x, b)
        gemm(x, b)
    assert backend.ways == ["long", "long", *["short"] * 4]


def test_a_tensor_that_is_passed_twice_goes_the_long_way(backend: Recording) -> None:
    x, b = activations(4, 64), weights(16, 64)
    for _ in range(3):
        nvfp4.group_gemm([x, x], [b, weights(16, 64)])
    assert backend.ways == ["long"] * 3


def test_results_that_overlap_are_found(backend: Recording) -> None:
    memory = torch.zeros(1024, dtype=H)
    x, b = memory[:256].view(4, 64), weights(16, 64)
    for _ in range(3):
        gemm(x, b, out=memory[256:320].view(4, 16))
        with pytest.raises(nvfp4.InputError, match="overlapping"):
            gemm(x, b, out=memory[248:312].view(4, 16))
    assert backend.ways == ["long", "short", "short"]


def test_a_missing_bias_is_not_another_one(backend: Recording) -> None:
    x, a, bias = activations(64), weights(16, 64), torch.ones(16)
    for given in (bias, None, bias, None, bias.half()):
        nvfp4.gemv(a, x, bias=given)
    assert backend.ways == ["long", "long", "short", "short", "long"]
    assert [bias.data_ptr() in call[1] for call in backend.calls[:4]] == [True, False, True, False]


def test_missing_rows_are_not_other_ones(backend: Recording) -> None:
    x, b, offsets = activations(4, 64), weights(2, 16, 64), torch.tensor([2, 4], dtype=torch.int32)
    rows = torch.zeros(4, dtype=torch.int32)
    for given in (rows, None, rows, None, rows.clone(), torch.zeros(5, dtype=torch.int32)):
        nvfp4.group_gemm(x, b, offsets=offsets, rows=given)
    assert backend.ways == ["long", "long", "short", "short", "short", "long"]
    assert [rows.data_ptr() in call[1] for call in backend.calls[:5]] == [True, False, True, False, False]


def test_guards_are_bounded_and_hold_no_memory(backend: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_LIMIT", 4)
    for n in range(16, 400, 16):
        gemm(activations(4, 64), weights(n, 64))
        assert all(len(cache) <= 4 for cache in _dispatch.caches)
    x, b = activations(4, 64), weights(16, 64)
    gemm(x, b)
    gemm(x, b)
    assert backend.ways[-1] == "short"
    gone = [weakref.ref(x) for x in (x, b.codes, b.scales)]
    del x, b
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def vectors(count: int, dtype: torch.dtype = H) -> torch.Tensor:
    return activations(count, 64, dtype=dtype)


def gemv(a: nvfp4.NVFP4Tensor, x: torch.Tensor, **more: object) -> None:
    nvfp4.gemv(a, x, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("into", [False, True])
def test_the_weights_find_what_fits_and_not_what_was_there_last(into: bool, backend: Recording) -> None:
    """Calls with the same weights that differ in something else, in turns, as of prompts and single tokens."""
    b, other = weights(16, 64), weights(16, 64, scale=2.0)
    kinds: list[tuple[int, torch.dtype, torch.dtype, nvfp4.NVFP4Tensor]] = [
        (4, H, H, b),
        (8, H, H, b),
        (4, torch.bfloat16, H, b),
        (4, H, torch.float32, b),
        (4, H, H, other),
        (4, H, H, nvfp4.NVFP4Tensor(b.codes, b.scales, 0.5)),
    ]
    ways = []
    for _ in range(3):
        for rows, dtype, out_dtype, w in kinds:
            x, out = vectors(rows, dtype), torch.empty(rows, 16, dtype=out_dtype)
            if into:
                nvfp4.gemm(x, w, out_dtype=out_dtype, out=out)  # finds out that it is apart
            del backend.calls[:]
            made = nvfp4.gemm(x, w, out_dtype=out_dtype, out=out if into else None)
            assert made.dtype == out_dtype
            assert made.shape == (rows, 16)
            ((way, found, _),) = backend.calls
            scale = w.tensor_scale
            wanted = [w.codes.data_ptr(), w.scales.data_ptr(), 0 if scale is None else scale.data_ptr()]
            assert found == [x.data_ptr(), 0, 0, *wanted, made.data_ptr()]
            ways.append(way)
    assert ways[len(kinds) :] == ["short"] * (2 * len(kinds))


def test_weights_that_became_something_else_go_the_long_way(backend: Recording) -> None:
    """Their identity finds what may fit, and is not believed."""
    a, x, moved = weights(16, 64), vectors(1)[0], torch.zeros(1025, dtype=torch.uint8)
    gemv(a, x)
    a.codes.data = moved[:512].view(16, 32)
    gemv(a, x)
    assert backend.calls[-1][1][0] == moved.data_ptr()
    a.codes.set_(moved.untyped_storage(), 1, a.codes.shape)  # inside of a unit of 16 bytes
    gemv(a, x)
    assert backend.ways == ["long", "short", "long"]
    a.codes.data = moved[:256].view(8, 32)
    with pytest.raises(nvfp4.InputError):
        gemv(a, x)
    a.codes.data = torch.zeros(16, 32, dtype=torch.int8)
    with pytest.raises(nvfp4.InputError):
        gemv(a, x)
    assert len(backend.calls) == 3


def test_another_tensor_at_the_place_of_weights_that_are_gone(backend: Recording) -> None:
    x = vectors(1)[0]
    for n in (16, 32, 16, 48, 32, 16):
        for _ in range(2):
            a = weights(n, 64)
            made = nvfp4.gemv(a, x)
            assert made.shape == (n,)
            assert backend.calls[-1][1][:2] == [a.codes.data_ptr(), a.scales.data_ptr()]
            del a


def test_what_is_found_by_weights_is_bounded(backend: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_LIMIT", 4)
    x, kept = vectors(1)[0], [weights(16, 64, seed=i) for i in range(12)]
    for a in [*kept, *kept]:
        gemv(a, x)
        assert all(len(cache) <= 4 for cache in _dispatch.caches)
    assert backend.ways == ["long", *["short"] * 23]


Part = Callable[[nvfp4.NVFP4Tensor], torch.Tensor]
PARTS: dict[str, Part] = {"codes": lambda b: b.codes, "scales": lambda b: b.scales.view(torch.uint8)}


@pytest.fixture
def settled(backend: Recording) -> Recording:
    """Weights of gemv have settled as soon as the short way was taken."""
    backend.settled = 0
    return backend


def arguments(x: torch.Tensor, b: nvfp4.NVFP4Tensor) -> list[Any]:
    """Of the operator: tensors that stay the same objects."""
    return [b.codes, b.scales.view(torch.uint8), b.tensor_scale, x, None, None, None, "fp16", None]


def run(args: Sequence[Any], **more: Any) -> torch.Tensor:
    result: torch.Tensor = torch.ops.nvfp4.gemv(*args, **more)
    return result


def steady_call(settled: Recording, **weight: Any) -> tuple[nvfp4.NVFP4Tensor, list[Any]]:
    """Weights, and the arguments of a call that found them settled."""
    b = weights(16, 64, **weight)
    args = arguments(activations(4, 64), b)
    for _ in range(3):
        run(args)
    assert settled.ways[-3:] == ["long", "short", "steady"]
    del settled.calls[:]
    return b, args


def profiled(call: Callable[[], object]) -> bool:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return any(event.key == "nvfp4::gemv" for event in profile.key_averages())


def seen_by(mode: type[Any], hook: str, call: Callable[[], object]) -> bool:
    """Whether a mode, of functions or of dispatch, sees the operator."""
    seen = []

    def watch(self: object, func: Any, types: object, args: tuple[object, ...] = (), kwargs: Any = None) -> object:
        seen.append(str(func))
        return func(*args, **(kwargs or {}))

    with type("Watch", (mode,), {hook: watch})():
        call()
    return any("nvfp4.gemv" in name for name in seen)


WATCHERS: dict[str, Callable[[Callable[[], object]], bool]] = {
    "profiler": profiled,
    "function mode": lambda call: seen_by(TorchFunctionMode, "__torch_function__", call),
    "dispatch mode": lambda call: seen_by(TorchDispatchMode, "__torch_dispatch__", call),
    "trace": lambda call: (
        "nvfp4::gemv" in str(torch.jit.trace(lambda x: (call(), x + 1)[0], torch.ones(1), check_trace=False).graph)
    ),
    "make_fx": lambda call: "nvfp4.gemv" in make_fx(lambda x: (call(), x + 1)[0])(torch.ones(1)).code,
}


@pytest.mark.parametrize("overload", [False, True])
@pytest.mark.parametrize("watcher", WATCHERS)
def test_who_watches_operators_sees_them(watcher: str, overload: bool, settled: Recording) -> None:
    _, args = steady_call(settled)
    operator = torch.ops.nvfp4.gemv.default if overload else torch.ops.nvfp4.gemv
    operator(*args)
    assert settled.ways == ["steady"]
    assert WATCHERS[watcher](lambda: operator(*args))


def test_tensors_of_other_kinds_are_dispatched(settled: Recording) -> None:
    _, args = steady_call(settled)
    x = args[3]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
    assert isinstance(run([*args[:3], fake, *args[4:]]), FakeTensor)
    tagged = x.as_subclass(type("Tagged", (torch.Tensor,), {}))
    assert type(run([*args[:3], tagged, *args[4:]])) is type(tagged)
    assert settled.ways[1:] == []  # the last is another kind of call, and went the long way


def test_arguments_that_are_not_as_the_schema_says(settled: Recording) -> None:
    _, args = steady_call(settled)
    names = [argument.name for argument in torch.ops.nvfp4.gemv.default._schema.arguments]
    run([], **dict(zip(names, args, strict=True)))
    run(args[:7], out_dtype="fp16", backend=None)
    assert len(settled.calls) == 2
    for wrong in (
        [],
        args[:-1],
        [*args, None],
        ["x", *args[1:]],
        [*args[:3], 3, *args[4:]],
        [*args[:7], 3, None],
    ):
        with pytest.raises(RuntimeError, match="nvfp4::gemv"):
            run(wrong)
    assert len(settled.calls) == 2


@pytest.mark.parametrize("wrong", [[], [None] * 8, [3] * 8, [[3]] * 8, [[]] * 7])
def test_lists_that_are_not_as_the_schema_says(wrong: list[object], backend: Recording) -> None:
    calls(0)["group_gemm, lists"]()
    del backend.calls[:]
    with pytest.raises(RuntimeError, match="nvfp4::group_gemm"):
        torch.ops.nvfp4.group_gemm_lists(*wrong)
    assert backend.calls == []


def test_without_the_attribute_of_torch_every_call_is_dispatched(monkeypatch: pytest.MonkeyPatch) -> None:
    packet = mock.Mock(spec=["default"], default=mock.Mock(spec=[]))
    monkeypatch.setattr(torch.ops.nvfp4, "unknown", packet, raising=False)
    _library._shorten("unknown", mock.Mock(), lambda args: None)
    assert not hasattr(packet, "_op")
    assert not hasattr(packet.default, "_op")


def test_settled_weights_bring_the_same_addresses(settled: Recording) -> None:
    b, args = steady_call(settled, scale=0.5)
    for _ in range(2):
        args[2], args[3] = torch.tensor(2.0), activations(4, 64)
        results = [run(args) for _ in range(3)]
        assert len({result.data_ptr() for result in results}) == 3
        for (way, found, _), result in zip(settled.calls[-3:], results, strict=True):
            assert way == "steady"
            assert found == [*inputs(args[:6]), result.data_ptr()]
            assert (result.shape, result.dtype) == ((4, 16), H)
    assert b.codes is args[0]


@pytest.mark.parametrize("part", PARTS)
def test_settled_weights_that_were_written_are_looked_at_anew(part: str, settled: Recording) -> None:
    b, args = steady_call(settled)
    PARTS[part](b).zero_()
    run(args)
    run(args)
    assert settled.ways == ["short", "steady"]
    args[list(PARTS).index(part)] = PARTS[part](b).clone()
    run(args)
    assert settled.ways[2:] == ["short"]


@pytest.mark.parametrize("part", PARTS)
def test_settled_weights_with_other_memory_are_looked_at_anew(part: str, settled: Recording) -> None:
    """Torch counts no change when the data of a tensor is exchanged."""
    b, args = steady_call(settled)
    index = list(PARTS).index(part)
    versions = [x._version for x in args[:2]]
    args[index].data = args[index].data.clone()
    assert [x._version for x in args[:2]] == versions
    run(args)
    run(args)
    assert settled.ways == ["short", "steady"]
    assert all(args[index].data_ptr() in found for _, found, _ in settled.calls)
    del b


@pytest.mark.parametrize("part", PARTS)
def test_settled_weights_that_became_something_else_at_the_same_place(part: str, settled: Recording) -> None:
    _, args = steady_call(settled)
    index = list(PARTS).index(part)
    whole = args[index].data
    for other in (whole[:8], whole.view(torch.int8), whole.view(8, -1), whole.t()):
        args[index].data = other
        assert args[index].data_ptr() == whole.data_ptr()
        with pytest.raises(nvfp4.InputError):
            run(args)
    assert settled.ways == []
    args[index].data = whole
    run(args)
    assert settled.ways == ["steady"]


def test_calls_with_settled_weights_that_differ_in_something_else(settled: Recording) -> None:
    b, args = steady_call(settled)
    memory = torch.zeros(1024, dtype=H)
    scaled = nvfp4.NVFP4Tensor(b.codes, b.scales, 0.5).tensor_scale
    others: list[tuple[int, Any]] = [
        (3, activations(8, 64)),
        (3, activations(4, 64, dtype=torch.bfloat16)),
        (3, memory[1:257].view(4, 64)),
        (2, scaled),
        (6, torch.ones(16)),
        (7, "fp32"),
    ]
    for i, other in others:
        run([*args[:i], other, *args[i + 1 :]])
        assert settled.ways[-1] == "long"
        run(args)
        assert settled.ways[-1] in ("short", "steady")
    for wrong in ((3, activations(4, 32)), (0, weights(16, 32).codes), (7, "int8")):
        with pytest.raises(nvfp4.InputError):
            run([*args[: wrong[0]], wrong[1], *args[wrong[0] + 1 :]])


def test_gradients_are_looked_for_with_settled_weights(settled: Recording) -> None:
    _, args = steady_call(settled)
    args[3] = torch.nn.Parameter(activations(4, 64))
    with torch.no_grad():
        for _ in range(3):
            run(args)
    assert settled.ways == ["long", "short", "steady"]
    with pytest.raises(nvfp4.InputError, match="gradient"):
        run(args)


def test_inference_mode_with_settled_weights(settled: Recording) -> None:
    """Scales that have no version are not asked for it."""
    _, args = steady_call(settled)
    with torch.inference_mode():
        run(args)
        other = [args[0], args[1][:], *args[2:]]
    run(other)
    run(args)
    assert settled.ways[0] == "long"
    assert settled.ways[-1] in ("short", "steady")
    with torch.inference_mode():
        made = [args[0], args[1].clone(), *args[2:]]
    run(made)
    assert settled.ways[-1] == "long"


def test_results_that_overlap_settled_weights_are_found(settled: Recording) -> None:
    _, args = steady_call(settled)
    memory = torch.zeros(1024, dtype=H)
    args[3] = memory[:256].view(4, 64)
    for _ in range(4):
        torch.ops.nvfp4.gemv_out(*args, out=memory[256:320].view(4, 16))
        with pytest.raises(nvfp4.InputError, match="overlapping"):
            torch.ops.nvfp4.gemv_out(*args, out=memory[248:312].view(4, 16))
    assert settled.ways == ["long", "short", "steady", "steady"]


def test_settled_weights_are_not_kept_alive(settled: Recording) -> None:
    b, args = steady_call(settled)
    gone = [weakref.ref(x) for x in (b.codes, b.scales, args[1])]
    del b, args
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    for n in (16, 32, 16, 16):
        other = weights(n, 64)
        assert run(arguments(activations(4, 64), other)).shape == (4, n)
        assert settled.calls[-1][0] != "steady"
        assert other.codes.data_ptr() in settled.calls[-1][1]
        del other
