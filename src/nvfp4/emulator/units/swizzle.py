"""Shared-memory swizzles as functions of the byte address (PTX ISA 5.5.7 "Swizzling modes").

A swizzle XORs address bits, so it does not depend on where a tile starts: the pattern repeats every 256 (32-byte
mode), 512 (64-byte)
or 1024 bytes (128-byte modes) of the address, which is why tiles should be aligned to that. In CuTe's notation the
modes are
Swizzle<1,4,3>, <2,4,3>, <3,4,3>, and <2,5,2> for 128 bytes with 32-byte atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Swizzle:
    """XOR of `bits` address bits at `base` with those `shift` places higher.

    name: for messages; span: bytes of the row within which chunks move; repeat: bytes after which the pattern repeats;
    atom: bytes that stay together; flip8: additionally swap the 8-byte halves of every 16 bytes in odd 128-byte lines.
    """

    name: str
    bits: int
    base: int
    shift: int
    span: int
    repeat: int
    flip8: bool = False

    @property
    def atom(self) -> int:
        """Bytes that are never separated."""
        return 8 if self.flip8 else (1 << self.base if self.bits else 16)

    def apply(self, address: NDArray[Any]) -> NDArray[np.int64]:
        """Physical byte addresses of linear byte addresses, same shape, int64."""
        a = np.asarray(address, dtype=np.int64)
        if not self.bits:
            return a
        mask = ((1 << self.bits) - 1) << (self.base + self.shift)
        out = a ^ ((a & mask) >> self.shift)
        if self.flip8:
            out = out ^ (((a >> 7) & 1) << 3)
        return out


NONE = Swizzle("no swizzle", 0, 4, 3, 16, 16)
B32 = Swizzle("32-byte swizzle", 1, 4, 3, 32, 256)
B64 = Swizzle("64-byte swizzle", 2, 4, 3, 64, 512)
B128 = Swizzle("128-byte swizzle", 3, 4, 3, 128, 1024)
B128_ATOM32 = Swizzle("128-byte swizzle with 32-byte atoms", 2, 5, 2, 128, 512)
B128_ATOM32_FLIP8 = Swizzle("128-byte swizzle with 32-byte atoms and 8-byte flip", 2, 5, 2, 128, 512, flip8=True)
B128_ATOM64 = Swizzle("128-byte swizzle with 64-byte atoms", 1, 6, 1, 128, 256)


def swizzle_address(mode: Swizzle, address: int) -> int:
    """Physical byte address of one linear byte address."""
    return int(mode.apply(np.array(address, dtype=np.int64)))
