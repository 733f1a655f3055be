"""The short way through a registered operator, for calls that differ from an earlier one in their memory only.

An operator is passed plain tensors. To look at each of them, and to put operands together again, takes longer than all
the rest of a call. So a call that was validated leaves a guard as torch.compile has them: one call into C++ compares
types, devices, sizes, strides and all else that decides about dispatch, of every tensor. Behind it addresses are
enough, and the tensors by which `Repeating.again` recognises weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

import torch

from nvfp4.ops import _dispatch
from nvfp4.ops._call import Spec
from nvfp4.ops._prepare import Prepared
from nvfp4.tensor import ALIGNMENT

_MISALIGNED = ALIGNMENT - 1

_ALIKE = 4
"""Guards that are kept for calls alike at first glance, such as inside and outside of inference mode."""

_guards: Any = torch._C._dynamo.guards

Tensors = Sequence[Any]
Results = tuple[torch.Tensor, ...]
_Fits = Callable[[Tensors], bool]
_Run = Callable[[Tensors], "Results | None"]
_Known = dict[Hashable, list[tuple[_Fits, _Run]]]


class Shortcut:
    """What is remembered of the calls of one operator.

    Args:
        spec: The form of the operation.
        into: Whether this is the variant with ``out``.

    Attributes:
        take: The results of a call with the given arguments; None if it has to go the long way.
    """

    def __init__(self, spec: Spec, into: bool) -> None:
        count = 4 * len(spec.operands)
        first, others = (0,), tuple(range(4, count, 4))
        more = (count,) if spec.stacked or spec.bias else ()  # offsets or bias
        rest = count + len(more)
        # As in `operands.flatten`: of each side the data, the scales, the tensor scales; results; offsets or bias.
        self._order = [i + part for side in (first, others) for part in range(3) for i in side]
        self._into, self._after = into, (*((-1,) if into else ()), *more)
        words = itemgetter(*range(3, count, 4), rest, rest + 1)
        self._look = self._lists(words) if spec.lists else self._singles(words)
        self._known: _Known = {}
        _dispatch.caches.append(self._known)
        self.take = self._taker()

    def _taker(self) -> Callable[[Sequence[Any]], Results | None]:
        look, alike = self._look, self._known.get

        def take(args: Sequence[Any]) -> Results | None:
            key, tensors = look(args)
            for fits, run in alike(key, ()):
                if fits(tensors):
                    return run(tensors)
            return None

        return take

    def remember(self, args: Sequence[Any], prepared: Prepared) -> None:
        """Let calls like that with `args`, which was validated, go the short way, if that is possible."""
        if prepared.again is None:
            return
        key, tensors = self._look(args)
        alike = self._known.get(key, [])
        if not any(fits(tensors) for fits, _ in alike):
            fits = _guard(tensors)
            if fits is not None:
                _dispatch.keep(self._known, key, [(fits, self._runner(prepared, tensors)), *alike[: _ALIKE - 1]])

    def _singles(self, words: itemgetter[Any]) -> Callable[[Sequence[Any]], tuple[Hashable, Tensors]]:
        """What takes from arguments something that tells most calls apart, and the tensors."""
        pick = itemgetter(*self._order, *self._after)
        return lambda args: ((args[0].numel(), args[4].numel(), words(args)), pick(args))

    def _lists(self, words: itemgetter[Any]) -> Callable[[Sequence[Any]], tuple[Hashable, Tensors]]:
        """The same for lists."""

        def look(args: Sequence[Any]) -> tuple[Hashable, Tensors]:
            tensors: list[Any] = []
            none = [None] * len(args[0])
            for i in self._order:
                tensors += args[i] or none
            if self._into:
                tensors += args[-1]
            sizes = [x.numel() for i in (0, 4) for x in args[i]]
            return (*[len(x) for x in args if type(x) is list], *sizes, *words(args)), tensors

        return look

    def _runner(self, prepared: Prepared, like: Tensors) -> _Run:
        """What computes calls that have tensors like those of `like`."""
        again, allocate, apart = prepared.again, prepared.allocate, prepared.apart
        assert again is not None
        into, parts = self._into, len(self._order)
        groups = (len(like) - len(self._after) + into) // (parts + into)
        inputs = groups * parts
        missing = sum(x is None for x in like[len(like) - len(self._after) + into :])  # at the end
        # A tensor scale is one number, wherever it lies; all else is read in whole units.
        read = [*range(2 * groups), *range(3 * groups, (3 + 2 * (parts // 3 - 1)) * groups), *range(inputs, len(like))]
        whole = [i for i in read if like[i] is not None]
        first, second, *others = whole  # A and B

        def run(tensors: Tensors) -> Results | None:
            addresses = [0 if x is None else x.data_ptr() for x in tensors]
            if missing:
                del addresses[-missing:]
            bits = addresses[first] | addresses[second]
            for i in others:
                bits |= addresses[i]
            if bits & _MISALIGNED:
                return None
            if into:
                results = (*tensors[inputs : inputs + groups],)
                return results if tuple(addresses) in apart and again(tensors, addresses) else None
            results = allocate()
            if groups == 1:
                addresses.insert(inputs, results[0].data_ptr())
            else:
                addresses[inputs:inputs] = [x.data_ptr() for x in results]
            return results if again(tensors, addresses) else None

        return run


def _guard(like: Tensors) -> _Fits | None:
    """What says whether tensors are as those of `like`, in all but memory; None where these cannot be told apart."""
    present, absent = ([i for i, x in enumerate(like) if (x is None) == none] for none in (False, True))
    pick = itemgetter(*present)
    given = pick(like)
    check = _guards.TensorGuards(
        *given,
        dynamic_dims_sizes=[list(x.shape) for x in given],
        dynamic_dims_strides=[list(x.stride()) for x in given],
    ).check
    # Validated with gradients off, or with none wanted.
    frozen = any(x.requires_grad for x in given)

    def fits(tensors: Tensors) -> bool:
        for i in absent:
            if tensors[i] is not None:
                return False
        return check(*pick(tensors)) and not (frozen and torch.is_grad_enabled())

    return fits if fits(like) else None  # guards reject a tensor that is passed twice
