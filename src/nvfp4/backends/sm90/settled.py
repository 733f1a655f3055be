"""Weights that may be read before the previous kernel has ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal

import torch

from nvfp4.backends.base import Operands, Repeating
from nvfp4.backends.operands import addresses as addresses_of
from nvfp4.tensor import NVFP4Tensor

_KNOWN = 4096  # weights that are remembered
_WATCHED = 2  # weights of one call; looking after more of them takes longer than it saves

_Weight = tuple[weakref.ref[torch.Tensor], int, int]
"""The codes of a weight, the address of the scales, and the sum of the versions of both: only ever growing, they
have the same sum only if both are the same."""


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

    __slots__ = ("_count", "_first", "_known", "_late", "_left", "_soon", "_weights")

    def __init__(self, side: Literal["a", "b"], late: Repeating, soon: Repeating) -> None:
        self._weights: Callable[[Operands], tuple[NVFP4Tensor, ...]] = attrgetter(side)
        self._late, self._soon, self._left = late, soon, side == "a"
        self._known: dict[int, list[_Weight]] = {}
        # Where codes of weights lie among the tensors of a call, and how many; as many scales follow them.
        self._first = self._count = 0

    def __call__(self, operands: Operands) -> None:
        chosen = self._weights(operands)
        seen = self._known.get(id(chosen[0].codes))
        if seen is not None:
            found = operands.addresses or addresses_of(operands)
            one, place = chosen[0], self._first + self._count
            if _unchanged(seen[0], one.codes, one.scales, found[place]) and (
                len(seen) == 1 or _unchanged(seen[1], chosen[1].codes, chosen[1].scales, found[place + 1])
            ):
                if not self._soon.again((), found):
                    self._soon(operands)
                return
        # Torch does not count the changes of tensors that are made in inference mode.
        if len(chosen) <= _WATCHED and not any(x.codes.is_inference() or x.scales.is_inference() for x in chosen):
            if len(self._known) > _KNOWN:
                self._known.clear()
            self._known[id(chosen[0].codes)] = [
                (weakref.ref(x.codes), x.scales.data_ptr(), x.codes._version + x.scales._version) for x in chosen
            ]
        self._first, self._count = 0 if self._left else 3 * len(operands.a), len(chosen)
        self._late(operands)

    def again(self, tensors: Sequence[Any], addresses: Sequence[int]) -> bool:
        """See `Repeating`."""
        first, count = self._first, self._count
        if not count:
            return False
        if count > _WATCHED:
            return self._late.again(tensors, addresses)
        codes: torch.Tensor = tensors[first]
        scales: torch.Tensor = tensors[first + count]
        seen = self._known.get(id(codes))
        if seen is None:
            # Weights that cannot be watched are late every time; others are here for the first time.
            watched = not any(x.is_inference() for x in tensors[first : first + 2 * count])
            return not watched and self._late.again(tensors, addresses)
        if not _unchanged(seen[0], codes, scales, addresses[first + count]):
            return False
        if count > 1 and not _unchanged(seen[1], tensors[first + 1], tensors[first + 3], addresses[first + 3]):
            return False
        return self._soon.again(tensors, addresses)


def _unchanged(seen: _Weight, codes: torch.Tensor, scales: torch.Tensor, place: int) -> bool:
    """Whether `codes`, and `scales` that lie at `place`, are what was seen."""
    ref, before, version = seen
    try:
        return ref() is codes and place == before and version == codes._version + scales._version
    except RuntimeError:  # made in inference mode: they have no version, which takes less time than to ask
        return False
