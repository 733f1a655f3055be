"""The short way through a registered operator, for calls that differ from an earlier one in their memory only.

An operator is passed plain tensors. To look at each of them, and to put operands together again, takes longer than all
the rest of a call. So a call that was validated leaves a guard as torch.compile has them: one call into C++ compares
types, devices, sizes, strides and all else that decides about dispatch, of every tensor. Behind it addresses are
enough, and the tensors by which `Repeating.again` recognises weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch

from nvfp4.ops import _dispatch
from nvfp4.ops._call import Spec
from nvfp4.ops._prepare import Prepared
from nvfp4.tensor import ALIGNMENT

_MISALIGNED = ALIGNMENT - 1

_ALIKE = 8
"""Guards that are kept for calls alike at first glance, as of two layouts, or inside and outside of inference mode."""

_guards: Any = torch._C._dynamo.guards

Tensors = Sequence[Any]
Results = tuple[torch.Tensor, ...]
_Compute = Callable[[Tensors], "Results | None"]
_Pick = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class _Guard:
    """Tells whether tensors are as those that it was made of, in all but memory.

    Attributes:
        present: Takes those that are not None.
        absent: Where the others are.
        check: What torch.compile asks before it runs something again, of `present`.
        frozen: Whether calls may be repeated without gradients only: some tensor asks for them.
    """

    present: Callable[[Tensors], Tensors]
    absent: tuple[int, ...]
    check: Callable[..., bool]
    frozen: bool

    @staticmethod
    def of(like: Tensors) -> _Guard:
        """The guard made of `like`."""
        present = itemgetter(*[i for i, x in enumerate(like) if x is not None])
        given = present(like)
        check = _guards.TensorGuards(
            *given,
            dynamic_dims_sizes=[list(x.shape) for x in given],
            dynamic_dims_strides=[list(x.stride()) for x in given],
        ).check
        absent = tuple([i for i, x in enumerate(like) if x is None])
        return _Guard(present, absent, check, any(x.requires_grad for x in given))

    def __call__(self, tensors: Tensors) -> bool:
        """Whether they are; never if one of them is passed twice."""
        if any(tensors[i] is not None for i in self.absent):
            return False
        return self.check(*self.present(tensors)) and not (self.frozen and torch.is_grad_enabled())


class Shortcut:
    """What is remembered of the calls of one operator.

    Args:
        spec: The form of the operation.
        into: Whether this is the variant with ``out``.

    Attributes:
        take: The results of a call with the given arguments; None if it has to go the long way.
    """

    def __init__(self, spec: Spec, into: bool) -> None:
        count = 3 * len(spec.operands)
        first, others = (0,), tuple(range(3, count, 3))
        more = (count, count + 1) if spec.stacked else (count,) if spec.bias else ()  # offsets and rows, or bias
        rest = count + len(more)
        # As in `operands.flatten`: of each side the data, the scales, the tensor scales; results; offsets and rows, or
        # bias.
        self._order = [i + part for side in (first, others) for part in range(3) for i in side]
        self._into, self._after = into, (*((-1,) if into else ()), *more)
        words = itemgetter(rest, rest + 1)
        self._look = self._lists(words) if spec.lists else self._singles(words)
        self._known: dict[Hashable, list[tuple[_Guard, _Compute]]] = {}
        _dispatch.caches.append(self._known)
        self.take = self._taker(self._look) if spec.lists else self._single_taker(words)

    def _single_taker(self, words: itemgetter[Any]) -> Callable[[Sequence[Any]], Results | None]:
        """`_taker` of `_singles`, written out, because every call does this."""
        pick, alike = itemgetter(*self._order, *self._after), self._known.get

        def take(args: Sequence[Any]) -> Results | None:
            found = alike((args[0].numel(), args[3].numel(), words(args)))
            if found is not None:
                tensors = pick(args)
                for _, compute in found:
                    results = compute(tensors)
                    if results is not None:
                        return results
            return None

        return take

    def _taker(
        self, look: Callable[[Sequence[Any]], tuple[Hashable, Tensors]]
    ) -> Callable[[Sequence[Any]], Results | None]:
        alike = self._known.get

        def take(args: Sequence[Any]) -> Results | None:
            key, tensors = look(args)
            for _, compute in alike(key, ()):
                results = compute(tensors)
                if results is not None:
                    return results
            return None

        return take

    def remember(self, args: Sequence[Any], prepared: Prepared) -> None:
        """Let calls like that with `args`, which was validated, go the short way, if that is possible."""
        if prepared.again is None:
            return
        key, tensors = self._look(args)
        alike = self._known.get(key, [])
        if not any(fits(tensors) for fits, _ in alike):
            guard = _Guard.of(tensors)
            if guard(tensors):
                _dispatch.keep(
                    self._known, key, [(guard, self._computation(prepared, guard, tensors)), *alike[: _ALIKE - 1]]
                )

    def _singles(self, words: itemgetter[Any]) -> Callable[[Sequence[Any]], tuple[Hashable, Tensors]]:
        """What takes from arguments something that tells most calls apart, and the tensors."""
        pick = itemgetter(*self._order, *self._after)
        return lambda args: ((args[0].numel(), args[3].numel(), words(args)), pick(args))

    def _lists(self, words: itemgetter[Any]) -> Callable[[Sequence[Any]], tuple[Hashable, Tensors]]:
        """The same for lists."""

        def look(args: Sequence[Any]) -> tuple[Hashable, Tensors]:
            tensors: list[Any] = []
            none = [None] * len(args[0])
            for i in self._order:
                tensors += args[i] or none
            if self._into:
                tensors += args[-1]
            sizes = [x.numel() for i in (0, 3) for x in args[i]]
            return (*[len(x) for x in args if type(x) is list], *sizes, *words(args)), tensors

        return look

    def _computation(self, prepared: Prepared, guard: _Guard, like: Tensors) -> _Compute:
        """What computes calls that have tensors like those of `like`, and nothing for others."""
        again, allocate, apart = prepared.again, prepared.allocate, prepared.apart
        assert again is not None
        present, absent, check, frozen = guard.present, guard.absent, guard.check, guard.frozen
        into, parts = self._into, len(self._order)
        groups = (len(like) - len(self._after) + into) // (parts + into)
        inputs = groups * parts
        # What is missing behind the results takes no place among addresses; other nulls do.
        end = len(like)
        while like[end - 1] is None and end > inputs:
            end -= 1
        nulls = any(x is None for x in like[:end])
        # A tensor scale is one number, wherever it lies; all else is read in whole units.
        read = [*range(2 * groups), *range(3 * groups, (3 + 2 * (parts // 3 - 1)) * groups), *range(inputs, end)]
        first, second, *others = [i for i in read if like[i] is not None]  # A and B

        count = len(present(like))
        if groups == 1 and not into and 2 + len(others) == count in (3, 4):
            # One product without tensor scales. Where each address goes: the result's comes behind those of four
            # tensors (the last of three is taken twice), and then a null.
            given_at = iter(range(count))
            places = [5 if x is None else next(given_at) for x in like[:end]]
            places.insert(inputs, 4)
            at = [i for i, x in enumerate(like) if x is not None]
            return _few(guard, itemgetter(*at[:3], at[-1]), itemgetter(*places), prepared)

        def compute(tensors: Tensors) -> Results | None:
            for i in absent:
                if tensors[i] is not None:
                    return None
            given = present(tensors)
            if not check(*given) or (frozen and torch.is_grad_enabled()):
                return None
            if nulls:
                addresses = [0 if x is None else x.data_ptr() for x in tensors[:end]]
            else:
                addresses = [x.data_ptr() for x in given]
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

        return compute


def _few(guard: _Guard, four: _Pick, spread: _Pick, prepared: Prepared) -> _Compute:
    """`Shortcut._computation` for three or four tensors, written out, which takes a third less than loops.

    Args:
        guard: The guard of the tensors.
        four: Takes them, the last of three twice; all are read in whole units.
        spread: Takes the addresses of these, that of the result and null, and puts each in its places.
        prepared: The computation.
    """
    again, allocate = prepared.again, prepared.allocate
    assert again is not None
    present, absent, check, frozen = guard.present, guard.absent, guard.check, guard.frozen

    def compute(tensors: Tensors) -> Results | None:
        for i in absent:
            if tensors[i] is not None:
                return None
        if not check(*present(tensors)) or (frozen and torch.is_grad_enabled()):
            return None
        a, b, c, d = four(tensors)
        a, b, c, d = a.data_ptr(), b.data_ptr(), c.data_ptr(), d.data_ptr()
        if (a | b | c | d) & _MISALIGNED:
            return None
        results = allocate()
        return results if again(tensors, spread((a, b, c, d, results[0].data_ptr(), 0))) else None

    return compute
