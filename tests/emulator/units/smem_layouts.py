"""The canonical shared-memory layouts of cute/arch/mma_sm100_desc.hpp, to place test operands element by element.

In units of elements, T of them in 16 bytes:

    K-major    swizzle none  ((8,m),(T,2)) : ((1T,SBO),(1,LBO))          32/64/128  ((8,m),(T,2)) : ((2/4/8
    T,SBO),(1,T))
    MN-major   swizzle none  ((T,1,m),(8,k)) : ((1,T,SBO),(1T,LBO))      32/64/128  ((T,P,m),(8,k)) :
    ((1,T,LBO),(PT,SBO))
               128B, 32B atoms  ((T,8,m),(4,k)) : ((1,T,LBO),(8T,SBO))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cute_layout import Layout, swizzle
from numpy.typing import NDArray

from nvfp4.emulator.units import swizzle as sw

CUTE_SWIZZLE = {sw.NONE: (0, 4, 3), sw.B32: (1, 4, 3), sw.B64: (2, 4, 3), sw.B128: (3, 4, 3), sw.B128_ATOM32: (2, 5, 2)}


def canonical(mode: sw.Swizzle, mn_major: bool, per: int, lbo: int, sbo: int, rows: int, k: int) -> Layout:
    """The layout (mn, k) -> element offset; LBO and SBO in elements, `per` elements in 16 bytes."""
    cells = mode.span // 16
    if not mn_major:
        if mode is sw.NONE:
            return Layout(((8, rows // 8), (per, k // per)), ((per, sbo), (1, lbo)))
        return Layout(((8, rows // 8), (per, k // per)), ((cells * per, sbo), (1, per)))
    if mode is sw.NONE:
        return Layout(((per, 1, max(rows // per, 1)), (8, max(k // 8, 1))), ((1, per, sbo), (per, lbo)))
    lines = 4 if mode is sw.B128_ATOM32 else 8
    outer = max(rows // (per * cells), 1)
    return Layout(((per, cells, outer), (lines, max(k // lines, 1))), ((1, per, lbo), (cells * per, sbo)))


def store(smem: NDArray[np.uint8], codes: NDArray[Any], bits: int, layout: Layout, mode: sw.Swizzle, base: int) -> None:
    """Write codes [mn, k] where layout and swizzle say, element by element."""
    for (row, column), code in np.ndenumerate(codes):
        bit = layout(row, column) * bits
        place = int(swizzle(base + bit // 8, *CUTE_SWIZZLE[mode]))
        if bits >= 8:
            smem[place : place + bits // 8] = np.frombuffer(int(code).to_bytes(bits // 8, "little"), np.uint8)
        else:
            shift = bit % 8
            smem[place] = (int(smem[place]) & ~(((1 << bits) - 1) << shift)) | int(code) << shift


def strides(mode: sw.Swizzle, mn_major: bool, rows: int, bits: int, k: int) -> tuple[int, int]:
    """Roomy (LBO, SBO) in bytes that keep all parts apart, multiples of the pattern."""
    if not mn_major:
        return (rows * 32, 144) if mode is sw.NONE else (0, 8 * mode.span * 2)
    atom = mode.span * (4 if mode is sw.B128_ATOM32 else 8)
    if mode is sw.NONE:
        return 256 * (rows * bits // 128) + 512, 256
    return atom * max(1, k // 4) * 2, atom * 2
