"""The short way through a registered operator, for calls that differ from an earlier one in their memory only.

An operator is passed plain tensors. To look at each of them, and to put operands together again, takes longer than all
the rest of a call. So a call that was validated leaves a guard as torch.compile has them: one call into C++ compares
types, devices, sizes, strides and all else that decides about dispatch, of every tensor. Behind it addresses are
enough, and the tensors by which `Repeating.again` recognises weights.

Calls with the same weights are most of all. The first of them that went that way leaves what `Repeating.steady` says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from nvfp4.backends.operands import defined
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


_Compute = Callable[..., Any]
"""Takes the arguments of a call (of lists: its tensors); returns None where these are not as it needs them."""


class _Way(NamedTuple):
    """How calls of one kind are computed.

    Attributes:
        fits: Tells them from others.
        compute: Looks at all arguments.
        steady: Takes the arguments of a call that `compute` computed. Returns the same for this call's weights, which
            is faster; None where there is nothing faster.
    """

    fits: _Guard
    compute: _Compute
    steady: Callable[[Sequence[Any]], _Compute | None]


class _Shortcut:
    """What is remembered of the calls of one operator.

    Args:
        spec: The form of the operation.
        into: Whether this is the variant with ``out``.
    """

    def __init__(self, spec: Spec, into: bool) -> None:
        count = 3 * len(spec.operands)
        self._others = tuple(range(3, count, 3))  # where right operands begin
        more = (count, count + 1) if spec.stacked else (count,) if spec.bias else ()  # offsets and rows, or bias
        rest = count + len(more)
        self._count = rest + 2 + into
        # As in `operands.flatten`: of each side the data, the scales, the tensor scales; results; offsets and rows, or
        # bias.
        self._order = [i + part for side in ((0,), self._others) for part in range(3) for i in side]
        self._into, self._after = into, (*((rest + 2,) if into else ()), *more)
        self._words = itemgetter(rest, rest + 1)
        # By something that tells most calls apart.
        self._known: dict[Hashable, list[_Way]] = {}
        _dispatch.caches.append(self._known)

    def remember(self, args: Sequence[Any], prepared: Prepared) -> None:
        """Let calls like that with `args`, which was validated, go the short way, if that is possible."""
        if prepared.repeating is None:
            return
        key, tensors = self._look(args)
        alike = self._known.get(key, [])
        if not any(way.fits(tensors) for way in alike):
            guard = _Guard.of(tensors)
            if guard(tensors):
                way = self._way(prepared, guard, tensors, args)
                _dispatch.keep(self._known, key, [way, *alike[: _ALIKE - 1]])

    def implementation(self, long_way: Callable[[Sequence[Any]], Any]) -> Callable[..., Any]:
        """What the operator does: the short way, or `long_way` with the arguments where that does not lead anywhere."""
        raise NotImplementedError

    def instead_of(
        self, dispatched: Callable[..., Any], prepared: Callable[[Sequence[Any]], Prepared | None]
    ) -> Callable[..., Any]:
        """What is called in place of an operator's way through torch's dispatcher: the short way, while nobody watches.

        This must not be the shortcut of the implementation, too: within it, tensors look different to guards.

        Args:
            dispatched: The way through the dispatcher. It gets all calls that are not as the schema says.
            prepared: What was prepared for calls with these arguments, once one of them was dispatched.
        """

        def long_way(args: Sequence[Any]) -> Any:
            result = dispatched(*args)
            found = prepared(args)
            if found is not None:
                self.remember(args, found)
            return result

        short = self.implementation(long_way)
        count, into = self._count, self._into

        def call(*args: Any, **named: Any) -> Any:
            if named or len(args) != count or not _dispatch.direct():
                return dispatched(*args, **named)
            result = short(*args)
            return None if into else result

        return call

    def _look(self, args: Sequence[Any]) -> tuple[Hashable, Tensors]:
        """The key of `_known`, and the tensors."""
        raise NotImplementedError

    def _way(self, prepared: Prepared, guard: _Guard, like: Tensors, args: Sequence[Any]) -> _Way:
        """How calls with arguments like `args` are computed, whose tensors are `like`."""
        raise NotImplementedError


class Singles(_Shortcut):
    """`_Shortcut` of an operator whose operands are single tensors."""

    def __init__(self, spec: Spec, into: bool) -> None:
        super().__init__(spec, into)
        self._weights = 3 * spec.weights
        # By the identity of the weights. Another object in their place does no harm: every computation looks at all
        # arguments.
        self._recent: dict[Hashable, _Compute] = {}
        _dispatch.caches.append(self._recent)

    def implementation(self, long_way: Callable[[Sequence[Any]], Any]) -> Callable[..., Any]:
        """See `_Shortcut`."""

        def others(args: Sequence[Any]) -> Any:
            try:
                alike = self._known.get(self._key(args), ())
            except AttributeError:  # no tensors
                alike = ()
            for way in alike:
                result = way.compute(*args)
                if result is not None:
                    _dispatch.keep(self._recent, id(args[self._weights]), way.steady(args) or way.compute)
                    return result
            return long_way(args)

        args = ", ".join(_names(self._count))
        make = defined(
            "make",
            "def make(recent, others):",
            f" def run({args}):",
            f"  compute = recent(id(x{self._weights}))",
            "  if compute is not None:",
            f"   result = compute({args})",
            "   if result is not None: return result",
            f"  return others(({args}))",
            " return run",
        )
        run: Callable[..., Any] = make(self._recent.get, others)
        return run

    def _key(self, args: Sequence[Any]) -> Hashable:
        return args[0].numel(), args[3].numel(), self._words(args)

    def _look(self, args: Sequence[Any]) -> tuple[Hashable, Tensors]:
        return self._key(args), [args[i] for i in (*self._order, *self._after)]

    def _way(self, prepared: Prepared, guard: _Guard, like: Tensors, args: Sequence[Any]) -> _Way:
        repeating, order = prepared.repeating, tuple(self._order)
        assert repeating is not None
        pattern = tuple([x is not None for x in args]), order, self._after, self._into, guard.frozen
        words = [x for x in self._words(args) if x is not None]
        known = guard.check, prepared.new, prepared.apart, torch.is_grad_enabled, words

        def steady(args: Sequence[Any]) -> _Compute | None:
            found = repeating.steady([args[i] for i in order])
            if found is None:
                return None
            count = len(found.weights)
            codes, scales = order[found.first :], order[found.first + count :]
            # Places of weights are not looked at again.
            if any(place & _MISALIGNED for weight in found.weights for place in weight.places):
                return None
            watched = tuple(zip(codes[:count], scales[:count], strict=True))
            return _written(*pattern, watched)(*known, found.run, found.weights)

        return _Way(guard, _written(*pattern)(*known, repeating.again), steady)


def _names(count: int) -> list[str]:
    """What the arguments of an operator are called in written functions."""
    return [f"x{i}" for i in range(count)]


@functools.cache
def _written(
    given: tuple[bool, ...],
    order: tuple[int, ...],
    after: tuple[int, ...],
    into: bool,
    frozen: bool,
    weights: tuple[tuple[int, int], ...] | None = None,
) -> Callable[..., _Compute]:
    """What makes the computation of a `_Way`, written out argument by argument: half the time of loops over arguments.

    Args:
        given: For each argument of the operator, whether it is there.
        order: Where operands are, in the order of `operands.flatten`.
        after: Where ``out`` is, if `into`, and other tensors.
        into: Whether the last argument is ``out``.
        frozen: Whether calls may be repeated without gradients only.
        weights: Where codes and scales of `Steady.weights` are; None to leave all to `Repeating.again`.
    """
    names = _names(len(given))
    tensors = [i for i in (*order, *after) if given[i]]
    words = [i for i in range(len(given)) if given[i] and i not in tensors]
    addresses = {i: f"{names[i]}.data_ptr()" for i in tensors}
    # A tensor scale is one number, wherever it lies; all else is read in whole units, and its address looked at before.
    whole = [i for i in tensors if i in after or i % 3 < 2]
    addresses |= {i: f"p{i}" for i in whole}
    where = [addresses.get(i, "0") for i in order]
    # What is missing behind the results takes no place among addresses.
    where += [] if into else ["result.data_ptr()"]
    where += [addresses[i] for i in after if given[i]]
    wrong = [f"{names[i]} is not None" for i in range(len(given)) if not given[i]]
    wrong += [f"{names[i]} != w{i}" for i in words]
    wrong += ["grad()"] if frozen else []
    wrong += [f"weight{i}() is not {names[i]}" for i, _ in weights or ()]
    wrong += [f"not check({', '.join(names[i] for i in tensors)})"]
    placed = [i for pair in weights or () for i in pair]
    elsewhere = [f"p{i} != place{i}" for i in placed]
    elsewhere += [f"p{i} % {ALIGNMENT}" for i in whole if i not in placed]
    # The guard keeps out tensors that have no version.
    elsewhere += [f"{names[i]}._version + {names[j]}._version != version{i}" for i, j in weights or ()]
    passed = ", ".join(names[i] for i in order)
    run = f"if not run(({passed}), where): return None" if weights is None else "run(where)"
    return defined(
        "make",
        "def make(check, new, apart, grad, words, run, weights=()):",
        f" {''.join(f'w{i}, ' for i in words)} = words",
        *[f" weight{i}, (place{i}, place{j}), version{i} = weights[{n}]" for n, (i, j) in enumerate(weights or ())],
        *([] if into else [" allocate, like = new"]),
        f" def compute({', '.join(names)}):",
        f"  if {' or '.join(wrong)}: return None",
        *[f"  p{i} = {names[i]}.data_ptr()" for i in whole],
        f"  if {' or '.join(elsewhere)}: return None",
        f"  result = {names[-1] if into else 'allocate(*like)'}",
        f"  where = ({', '.join(where)})",
        *(["  if where not in apart: return None"] if into else []),
        f"  {run}",
        "  return result",
        " return compute",
    )


class Lists(_Shortcut):
    """`_Shortcut` of an operator whose operands are lists of tensors."""

    def implementation(self, long_way: Callable[[Sequence[Any]], Any]) -> Callable[..., Any]:
        """See `_Shortcut`."""
        look, known = self._look, self._known.get

        def run(*args: Any) -> Any:
            try:
                key, tensors = look(args)
                alike = known(key, ())
            except (AttributeError, TypeError, IndexError):  # no lists of as many tensors
                alike = ()
            for way in alike:
                results = way.compute(tensors)
                if results is not None:
                    return results
            return long_way(args)

        return run

    def _look(self, args: Sequence[Any]) -> tuple[Hashable, Tensors]:
        tensors: list[Any] = []
        none = [None] * len(args[0])
        for i in self._order:
            tensors += args[i] or none
        if self._into:
            tensors += args[-1]
        sizes = [x.numel() for i in (0, 3) for x in args[i]]
        return (*[len(x) for x in args if type(x) is list], *sizes, *self._words(args)), tensors

    def _way(self, prepared: Prepared, guard: _Guard, like: Tensors, args: Sequence[Any]) -> _Way:
        assert prepared.repeating is not None
        again, allocate, apart = prepared.repeating.again, prepared.allocate, prepared.apart
        present, absent, check, frozen = guard.present, guard.absent, guard.check, guard.frozen
        into, groups = self._into, len(args[0])
        inputs = groups * len(self._order)
        nulls = any(x is None for x in like)
        # A tensor scale is one number, wherever it lies; all else is read in whole units.
        rights = groups * len(self._others)
        read = [*range(2 * groups), *range(3 * groups, 3 * groups + 2 * rights), *range(inputs, len(like))]
        first, second, *others = [i for i in read if like[i] is not None]  # A and B

        def compute(tensors: Tensors) -> list[torch.Tensor] | None:
            for i in absent:
                if tensors[i] is not None:
                    return None
            given = present(tensors)
            if not check(*given) or (frozen and torch.is_grad_enabled()):
                return None
            if nulls:
                addresses = [0 if x is None else x.data_ptr() for x in tensors]
            else:
                addresses = [x.data_ptr() for x in given]
            bits = addresses[first] | addresses[second]
            for i in others:
                bits |= addresses[i]
            if bits & _MISALIGNED:
                return None
            if into:
                return [] if tuple(addresses) in apart and again(tensors, addresses) else None
            results = list(allocate())
            addresses += [x.data_ptr() for x in results]
            return results if again(tensors, addresses) else None

        return _Way(guard, compute, lambda args: None)
