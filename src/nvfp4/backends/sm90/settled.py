"""Weights that may be read before the previous kernel has ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from nvfp4.backends.base import Operands, Repeating, Steady, Weight
from nvfp4.backends.operands import Addresses, addresses_like
from nvfp4.backends.operands import addresses as addresses_of
from nvfp4.tensor import NVFP4Tensor

_KNOWN = 4096  # weights that are remembered
_WATCHED = 2  # weights of one call; looking after more of them takes longer than it saves


def when_settled(side: Literal["a", "b"], late: Repeating, soon: Repeating) -> Repeating:
    """`late` for the first call with some weights, `soon` for later ones.

    The first call waits for the previous kernel before it touches anything, because that kernel may be the one that
    writes the weights. Later calls with the same weights, as long as torch has not seen them change, load them while
    the previous kernel still runs: whatever wrote them had finished when the first call began. Weights that are
    changed behind torch's back, by a raw pointer, by the kernel directly before this one, need new tensor objects.

    Args:
        side: Which operands are weights, that is, do not depend on the previous kernel.
        late, soon: The computation, without and with early loads.
    """
    return _WhenSettled(side, late, soon)


class _WhenSettled:
    """See `when_settled`."""

    __slots__ = ("_addresses", "_count", "_first", "_known", "_late", "_left", "_run", "_soon")

    def __init__(self, side: Literal["a", "b"], late: Repeating, soon: Repeating) -> None:
        self._late, self._soon, self._left = late, soon, side == "a"
        self._known: dict[int, tuple[Weight, ...]] = {}
        # Where codes of weights lie among the tensors of a call, and how many; as many scales follow them.
        self._first = self._count = 0
        self._addresses: Addresses = addresses_of
        # What `soon` runs, once it needs no operands.
        self._run: Callable[[Sequence[int]], None] | None = None

    def __call__(self, operands: Operands) -> None:
        chosen: Any = operands.a if self._left else operands.b
        one = chosen[0]
        codes = one.codes
        seen = self._known.get(id(codes))
        if seen is not None:
            found = operands.addresses or self._addresses(operands)
            first = self._first
            scales = first + self._count
            if _unchanged(seen[0], codes, one.scales, found[first], found[scales]) and (
                len(seen) == 1
                or _unchanged(seen[1], chosen[1].codes, chosen[1].scales, found[first + 1], found[scales + 1])
            ):
                run = self._run
                if run is not None:
                    run(found)
                    return
                self._soon(operands)
                steady = self._soon.steady(())
                self._run = None if steady is None else steady.run
                return
        # Torch does not count the changes of tensors that are made in inference mode.
        if len(chosen) <= _WATCHED and not any(x.codes.is_inference() or x.scales.is_inference() for x in chosen):
            if len(self._known) > _KNOWN:
                self._known.clear()
            self._known[id(codes)] = tuple([_weight(x) for x in chosen])
        self._first, self._count = 0 if self._left else 3 * len(operands.a), len(chosen)
        self._addresses = addresses_like(operands)
        self._late(operands)

    def again(self, tensors: Sequence[Any], addresses: Sequence[int]) -> bool:
        """See `Repeating`."""
        first, count = self._first, self._count
        if not count:
            return False
        if count > _WATCHED:
            return self._late.again(tensors, addresses)
        scales = first + count
        seen = self._known.get(id(tensors[first]))
        if seen is None:
            # Weights that cannot be watched are late every time; others are here for the first time.
            watched = not any(x.is_inference() for x in tensors[first : first + 2 * count])
            return not watched and self._late.again(tensors, addresses)
        for i, weight in enumerate(seen):
            at, beside = first + i, scales + i
            if not _unchanged(weight, tensors[at], tensors[beside], addresses[at], addresses[beside]):
                return False
        return self._soon.again(tensors, addresses)

    def steady(self, tensors: Sequence[Any]) -> Steady | None:
        """See `Repeating`."""
        run, seen = self._run, self._known.get(id(tensors[self._first]))
        return None if run is None or seen is None else Steady(run, seen, self._first)


def _weight(x: NVFP4Tensor) -> Weight:
    """`x`, as it is now."""
    places = x.codes.data_ptr(), x.scales.data_ptr()
    return Weight(weakref.ref(x.codes), places, x.codes._version + x.scales._version)


def _unchanged(seen: Weight, codes: torch.Tensor, scales: torch.Tensor, at: int, beside: int) -> bool:
    """Whether `codes` and `scales`, which lie at `at` and `beside`, are what was seen."""
    ref, (place, scales_place), version = seen
    try:
        return ref() is codes and place == at and scales_place == beside and version == codes._version + scales._version
    except RuntimeError:  # made in inference mode: they have no version, which takes less time than to ask
        return False
