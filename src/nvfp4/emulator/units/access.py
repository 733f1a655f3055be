"""What one operation reads and writes, for the engine's initialisation and race checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Space = Literal["shared", "tensor", "global"]
Spans = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Access:
    """Bytes of one memory that one operation touches.

    spans: int64 [n, 2] sorted disjoint half-open byte intervals for "shared" and "global"; int64 [n, 4] rectangles
    (lane0, lane1, column0, column1), half open, for "tensor". `cta` indexes the CTA pair (0: the even CTA, or the
    only one).
    """

    space: Space
    cta: int
    write: bool
    what: str
    spans: Spans

    @cached_property
    def words(self) -> NDArray[np.intp]:
        """Indices of the touched 4-byte words ("shared" and "global": address // 4; "tensor": lane * 512 + column),
        sorted.

        For operands in many pieces (a K block of a swizzled tile is one or two pieces a row) one gather through
        these is much
        faster than a loop over `spans`.
        """
        if self.space == "tensor":
            parts = [
                (np.arange(l0, l1)[:, None] * 512 + np.arange(c0, c1)[None, :]).reshape(-1)
                for l0, l1, c0, c1 in self.spans
            ]
            return np.unique(np.concatenate(parts)).astype(np.intp) if parts else np.empty(0, np.intp)
        if len(self.spans) == 1:
            return np.arange(int(self.spans[0, 0]) >> 2, (int(self.spans[0, 1]) + 3) >> 2)
        first, last = self.spans[:, 0] >> 2, (self.spans[:, 1] + 3) >> 2
        counts = last - first
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        words = np.repeat(first, counts) + offsets
        # Spans are disjoint and sorted; only spans that share a word make one appear twice.
        return words if (first[1:] >= last[:-1]).all() else np.unique(words)


def intervals_of_chunks(chunks: NDArray[Any], size: int) -> Spans:
    """Merge equally long pieces into sorted disjoint intervals.

    chunks: integer start addresses, any shape, in any order, possibly repeated or overlapping; size: bytes of each
    piece.
    """
    starts = np.unique(np.asarray(chunks, dtype=np.int64).reshape(-1))
    if starts.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    breaks = np.flatnonzero(np.diff(starts) > size) + 1
    first = starts[np.concatenate(([0], breaks))]
    last = starts[np.concatenate((breaks - 1, [starts.size - 1]))] + size
    return np.stack((first, last), axis=1)


def rectangles(rows: Iterable[tuple[int, int, int, int]]) -> Spans:
    """Tensor-memory rectangles (lane0, lane1, column0, column1) as an int64 array [n, 4]."""
    return np.array(list(rows), dtype=np.int64).reshape(-1, 4)
