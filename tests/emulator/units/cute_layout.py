"""CuTe's layout algebra in a few lines: an independent way to state where matrix units keep their elements.

A layout is a nested shape and a stride of the same profile; an integer coordinate counts the first mode fastest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Nested = Any  # an integer, or a tuple of nested shapes


def size(shape: Nested) -> int:
    if isinstance(shape, int):
        return shape
    return int(np.prod([size(s) for s in shape], dtype=np.int64))


def evaluate(index: Any, shape: Nested, stride: Nested) -> Any:
    """Offset of coordinate `index`: an integer (or integer array) for a mode, or a tuple with one entry for each
    sub-mode."""
    if isinstance(shape, int):
        return index * stride
    assert isinstance(stride, tuple)
    if isinstance(index, tuple):
        return sum(evaluate(i, s, d) for i, s, d in zip(index, shape, stride, strict=True))
    total: Any = 0
    for s, d in zip(shape, stride, strict=True):
        total = total + evaluate(index % size(s), s, d)
        index = index // size(s)
    return total


class Layout:
    def __init__(self, shape: Nested, stride: Nested) -> None:
        self.shape, self.stride = shape, stride

    def __call__(self, *coordinate: Any) -> Any:
        index = coordinate[0] if len(coordinate) == 1 else tuple(coordinate)
        return evaluate(index, self.shape, self.stride)


def swizzle(offset: Any, bits: int, base: int, shift: int) -> Any:
    """Swizzle<bits, base, shift>."""
    mask = ((1 << bits) - 1) << (base + shift)
    return offset ^ ((offset & mask) >> shift)
