"""A call of an operation as data: what its caller wrote, and what a prepared call may depend on in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from nvfp4.backends.base import Operand
from nvfp4.ops import _validate
from nvfp4.ops._validate import Described
from nvfp4.tensor import ALIGNMENT, NVFP4Tensor

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_LISTS = frozenset((list, tuple, type(None)))
_MISALIGNED = ALIGNMENT - 1


@dataclass(frozen=True, eq=False)
class Spec:
    """One form of an operation.

    Attributes:
        op: Its name in messages.
        name: Its name as an operator of torch.
        describe: Its validation: (one argument for each of `operands`, offsets and rows if stacked, bias if there may
            be one, out_dtype) to `Described`.
        operands: What its operands are called: A first, then the right ones.
        stacked: Whether `offsets` follow them, and there may be `rows`.
        lists: Whether every operand is a list, and the result too.
        bias: Whether there may be a `bias`, after all of these.
        weights: Which operand later calls are likely to pass again.
    """

    op: str
    name: str
    describe: Callable[..., Described]
    operands: tuple[str, ...]
    stacked: bool = False
    lists: bool = False
    bias: bool = False
    weights: int = 1


class Call(NamedTuple):
    """A call, not validated. (A tuple, because it takes half the time of a dataclass to build.)

    Attributes:
        spec: The operation.
        a: Left operands: one, or one for each group of a list form.
        b: Right operands: in a list form every B (or B1), then every B2.
        offsets: Stacked forms only.
        out_dtype: Type of the results.
        out: Where the results go; None to allocate them.
        backend: The backend that the caller asks for.
        lengths: List forms only: how long each list is.
        bias: What is added to the sums, where the operation has that.
        rows: Stacked forms only: which row of A each row is; None where they are the same.
    """

    spec: Spec
    a: tuple[Operand, ...]
    b: tuple[Operand, ...]
    offsets: torch.Tensor | None
    out_dtype: torch.dtype
    out: tuple[torch.Tensor, ...] | None
    backend: str | None
    lengths: tuple[int, ...] = ()
    bias: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    @staticmethod
    def of_lists(
        spec: Spec,
        lists: tuple[Sequence[Operand], ...],
        out_dtype: torch.dtype,
        out: Sequence[torch.Tensor] | None,
        backend: str | None,
    ) -> Call:
        """The call of a list form; `lists` has one list for each of its operands."""
        if {*map(type, lists), type(out)}.difference(_LISTS):  # torch 2.11 compiles no "-" between them
            _validate.are_lists(spec.op, lists, out)  # anything that can be iterated over is right
        a, b = (*lists[0],), (*lists[1],)
        outs = None if out is None else (*out,)
        if len(lists) == 2:
            return Call(spec, a, b, None, out_dtype, outs, backend, (len(a), len(b)))
        b2 = (*lists[2],)
        return Call(spec, a, b + b2, None, out_dtype, outs, backend, (len(a), len(b), len(b2)))

    def arguments(self) -> tuple[Operand | tuple[Operand, ...], ...]:
        """One for each of the operands that the operation names."""
        flat = self.a + self.b
        if not self.lengths:
            return flat
        ends = [sum(self.lengths[: i + 1]) for i in range(len(self.lengths))]
        return tuple(flat[end - length : end] for end, length in zip(ends, self.lengths, strict=True))

    def described(self) -> Described:
        """Validate everything except what `out` is like."""
        self.check_kinds()
        stacked = (self.offsets, self.rows) if self.spec.stacked else ()
        biased = (self.bias,) if self.spec.bias else ()
        found = self.spec.describe(*self.arguments(), *stacked, *biased, self.out_dtype)
        if self.lengths and self.out is not None:
            _validate.out_count(self.spec.op, self.out, len(self.a))
        return found

    def check_kinds(self) -> None:
        """Check that a stacked form was passed no lists."""
        if self.spec.stacked:
            out = {} if self.out is None else {"out": self.out[0]}
            _validate.not_lists(self.spec.op, {**dict(zip(self.spec.operands, self.a + self.b, strict=True)), **out})

    def key(self) -> Hashable:
        """Of two calls with equal keys one may stand for the other, except for the memory of their tensors."""
        spec, a, b, offsets, out_dtype, out, backend, lengths, bias, rows = self
        return (
            spec,
            out_dtype,
            backend,
            lengths,
            *[x.signature if type(x) is NVFP4Tensor else signature(x) for x in a + b],
            None if offsets is None else signature(offsets),
            None if out is None else (*map(signature, out),),
            None if bias is None else signature(bias),
            None if rows is None else signature(rows),
        )

    def plain(self) -> bool:
        """Whether all tensors are of torch's own types: subclasses (fake tensors, users' own) need the dispatcher."""
        return all(map(plain, (*self.a, *self.b, self.offsets, self.bias, self.rows, *(self.out or ()))))


def signature(x: Any) -> Hashable:
    """What a prepared call may depend on in one argument. Never raises: wrong arguments are found by validation."""
    kind = type(x)
    if kind is torch.Tensor:
        return (  # the same as below, for what nearly all calls pass
            x.shape,
            x.dtype,
            x.device,
            x.is_contiguous(),
            x.data_ptr() & _MISALIGNED,
            x.requires_grad and torch.is_grad_enabled(),
        )
    if kind is NVFP4Tensor:
        return x.signature  # type: ignore[no-any-return]
    if isinstance(x, torch.Tensor):
        offset = x.data_ptr() & _MISALIGNED if kind in _PLAIN else 0
        grad = x.requires_grad and torch.is_grad_enabled()
        return kind, x.shape, x.dtype, x.device, x.is_contiguous(), offset, grad
    return (kind,)


def plain(x: object) -> bool:
    """Whether `x` is no tensor, or one of torch's own types."""
    kind = type(x.codes) if isinstance(x, NVFP4Tensor) else type(x)
    return kind in _PLAIN or not issubclass(kind, torch.Tensor)
