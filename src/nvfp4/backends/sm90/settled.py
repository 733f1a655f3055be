"""Weights that may be read before the previous kernel has ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch

from nvfp4.backends.base import Operands
from nvfp4.tensor import NVFP4Tensor

_KNOWN = 4096  # weights that are remembered
_WATCHED = 2  # weights of one call; looking after more of them takes longer than it saves

_Seen = list[tuple[weakref.ref[torch.Tensor], int, int]]
"""Of each weight the codes, the address of the scales, and the sum of the versions of both: only ever growing, they
have the same sum only if both are the same."""


def when_settled(
    weights: Callable[[Operands], Sequence[NVFP4Tensor]],
    late: Callable[[Operands], None],
    soon: Callable[[Operands], None],
) -> Callable[[Operands], None]:
    """`late` for the first call with some weights, `soon` for later ones.

    The first call waits for the previous kernel before it touches anything, because that kernel may be the one that
    writes the weights. Later calls with the same weights, as long as torch has not seen them change, load them while
    the previous kernel still runs: whatever wrote them had finished when the first call began. Weights that are
    changed behind torch's back, by a raw pointer, by the kernel directly before this one, need new tensor objects.

    Args:
        weights: What does not depend on the previous kernel, of a call's operands.
        late, soon: The computation, without and with early loads.
    """
    known: dict[int, _Seen] = {}

    def run(operands: Operands) -> None:
        chosen = weights(operands)
        if len(chosen) <= _WATCHED:
            seen = known.get(id(chosen[0].codes))
            if (
                seen is not None
                and _unchanged(seen[0], chosen[0])
                and (len(seen) == 1 or _unchanged(seen[1], chosen[1]))
            ):
                soon(operands)
                return
            # Torch does not count the changes of tensors that are made in inference mode.
            if not any(x.codes.is_inference() or x.scales.is_inference() for x in chosen):
                if len(known) > _KNOWN:
                    known.clear()
                known[id(chosen[0].codes)] = [
                    (weakref.ref(x.codes), x.scales.data_ptr(), x.codes._version + x.scales._version) for x in chosen
                ]
        late(operands)

    return run


def _unchanged(seen: tuple[weakref.ref[torch.Tensor], int, int], x: NVFP4Tensor) -> bool:
    ref, place, version = seen
    codes, scales = x.codes, x.scales
    return ref() is codes and place == scales.data_ptr() and version == codes._version + scales._version
