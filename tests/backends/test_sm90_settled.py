"""When weights may be read early: never before they were seen unchanged in an earlier call."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from nvfp4.backends.base import Operands, Steady
from nvfp4.backends.operands import addresses, flatten
from nvfp4.backends.sm90 import settled
from nvfp4.backends.sm90.settled import when_settled
from nvfp4.quantize import quantize
from nvfp4.tensor import NVFP4Tensor, maker

OUT = (torch.empty(1),)


def weights(seed: int = 0) -> NVFP4Tensor:
    return quantize(torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)))


class How:
    """A computation that only says that it ran."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __call__(self, operands: Operands) -> None:
        self.log.append(self.name)

    def again(self, tensors: Sequence[object], addresses: Sequence[int]) -> bool:
        self.log.append(self.name)
        return True

    def steady(self, tensors: Sequence[object]) -> Steady:
        return Steady(lambda addresses: self.log.append(self.name))


class Watched:
    """A computation that says how it ran."""

    short = False
    """Whether tensors and addresses are tried first, as calls through torch's dispatcher do."""

    def __init__(self) -> None:
        self.how: list[str] = []
        self.run = when_settled("b", How("late", self.how), How("soon", self.how))

    def __call__(self, *b: NVFP4Tensor) -> str:
        operands = Operands((weights(9),), b, OUT)
        count = len(self.how)
        if not self.short or not self.run.again(flatten(operands), addresses(operands)):
            self.run(operands)
        assert len(self.how) == count + 1
        return self.how[-1]


@pytest.fixture(autouse=True, params=["operands", "tensors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to call a computation, which have to agree."""
    monkeypatch.setattr(Watched, "short", request.param == "tensors")
    return str(request.param)


def test_known_weights_need_no_operands() -> None:
    run = when_settled("b", How("late", []), How("soon", []))
    b = weights(), weights(1)
    operands = Operands((weights(9),), b, OUT)
    given = flatten(operands), addresses(operands)
    assert not run.again(*given)
    run(operands)
    assert run.again(*given)
    b[1].scales.view(torch.uint8).zero_()
    assert not run.again(*given)


def test_a_left_weight_is_found() -> None:
    run = Watched()
    run.run = when_settled("a", How("late", run.how), How("soon", run.how))
    one, x = weights(), weights(1)
    operands = Operands((one,), (x,), OUT)
    run.run(operands)
    x.codes.zero_()
    assert run.run.again(flatten(operands), addresses(operands))
    one.codes.zero_()
    assert not run.run.again(flatten(operands), addresses(operands))


def test_the_first_call_is_late_and_others_soon() -> None:
    run, one, other = Watched(), weights(), weights(1)
    assert [run(one), run(one), run(other), run(one), run(other)] == ["late", "soon", "late", "soon", "soon"]


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_a_change_in_place_is_waited_for(part: str) -> None:
    run, one = Watched(), weights()
    run(one)
    getattr(one, part).view(torch.uint8).zero_()  # a view shares the count of changes
    assert [run(one), run(one)] == ["late", "soon"]


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_exchanged_memory_is_waited_for(part: str) -> None:
    """Torch counts no change when the data of a tensor is exchanged."""
    run, one = Watched(), weights()
    assert [run(one), run(one)] == ["late", "soon"]
    tensor = getattr(one, part)
    tensor.data = tensor.data.clone()
    assert [run(one), run(one)] == ["late", "soon"]


def test_what_is_steady_is_what_was_seen() -> None:
    run = when_settled("b", How("late", []), How("soon", []))
    b = weights(), weights(1)
    operands = Operands((weights(9),), b, OUT)
    tensors = flatten(operands)
    run(operands)
    assert run.steady(tensors) is None  # nothing was soon yet
    run(operands)
    found = run.steady(tensors)
    assert found is not None
    assert [weight.codes() for weight in found.weights] == [b[0].codes, b[1].codes]
    assert [weight.places for weight in found.weights] == [(x.codes.data_ptr(), x.scales.data_ptr()) for x in b]
    assert tensors[found.first : found.first + 4] == [b[0].codes, b[1].codes, b[0].scales, b[1].scales]
    other = Operands((weights(9),), (weights(2), weights(3)), OUT)
    assert run.steady(flatten(other)) is None


def test_every_weight_of_a_call_counts() -> None:
    run, one, two, three = Watched(), weights(), weights(1), weights(2)
    assert [run(one, two), run(one, two), run(one, three), run(one, three)] == ["late", "soon", "late", "soon"]
    three.codes.add_(1)
    assert run(one, three) == "late"


def test_other_scales_with_the_same_codes_are_new() -> None:
    run, one = Watched(), weights()
    other = NVFP4Tensor(one.codes, weights(1).scales, one.tensor_scale, validate=False)
    assert other.codes is one.codes
    assert [run(one), run(other), run(other), run(one)] == ["late", "late", "soon", "late"]


def test_operators_make_new_tensors_of_the_same_memory() -> None:
    """Through torch's dispatcher every call has an object of its own, around the same codes and views of the scales."""
    run, one = Watched(), weights()
    make = maker(one)
    scales = one.scales.view(torch.uint8)
    assert [run(make(one.codes, scales, one.tensor_scale)) for _ in range(3)] == ["late", "soon", "soon"]
    scales.zero_()
    assert run(make(one.codes, scales, one.tensor_scale)) == "late"


def test_a_new_tensor_in_the_place_of_an_old_one_is_new() -> None:
    run = Watched()
    for seed in range(20):
        assert run(weights(seed)) == "late"  # whatever ids and addresses are used again


def test_many_weights_are_not_looked_after() -> None:
    run, many = Watched(), [weights(i) for i in range(settled._WATCHED + 1)]
    assert [run(*many), run(*many)] == ["late", "late"]


def test_changes_that_torch_does_not_count_are_waited_for() -> None:
    with torch.inference_mode():
        made = weights()
    mixed = NVFP4Tensor(weights(1).codes, made.scales, made.tensor_scale, validate=False)
    run = Watched()
    for one in (made, mixed):
        assert [run(one), run(one)] == ["late", "late"]


def test_what_is_remembered_is_bounded_and_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "_KNOWN", 3)
    run, kept = Watched(), [weights(i) for i in range(9)]
    for one in kept:
        run(one)
    assert run(kept[-1]) == "soon"
    assert run(kept[0]) == "late"
