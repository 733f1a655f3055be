"""ldmatrix, stmatrix and movmatrix (PTX ISA 9.7.14.5.15 to 9.7.14.5.17).

A matrix is given by the addresses of its rows of 16 bytes, which the lanes supply in order: 8 a matrix (16 for
.m16n16). With g = lane / 4
and t = lane % 4 a register of a lane holds

    m8n8.b16            row g, columns 2 t and 2 t + 1;   .trans: rows 2 t and 2 t + 1 of column g
    m8n16.b8x16.*       row g, columns 4 t to 4 t + 3 after expansion to bytes
    m16n16.b8.trans     register h: rows 4 t + 2 h and the next of column g, then of column g + 8
    m16n8.b8.trans (st) rows 2 t and 2 t + 1 of column g, then of column g + 8

The byte forms follow the LDSM/STSM traits in cute/atom/copy_traits_sm100.hpp (the ISA's figures say the same in
pictures).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units.access import Spans, intervals_of_chunks
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.operand import unpack_six

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


def _rows(addresses: NDArray[Any], shape: str, num: int, what: str) -> NDArray[np.int64]:
    """Row addresses [matrices, rows]; `UnitError` for shapes and alignments that do not exist."""
    per = {"m8n8": 8, "m8n16": 8, "m16n16": 16, "m16n8": 8}.get(shape, 0)
    if not per or num not in (1, 2, 4) or per * num > 32:
        raise UnitError(
            f"{what}.{shape}.x{num}", "shapes are .m8n8, .m8n16 (x1, x2, x4), .m16n16 (x1, x2), and .m16n8 for stmatrix"
        )
    rows = np.asarray(addresses, dtype=np.int64)[: per * num].reshape(num, per)
    bad = np.flatnonzero(rows.reshape(-1) % 16)
    if bad.size:
        raise UnitError(
            f"{what}.{shape}: lane {bad[0]} gives row address {rows.reshape(-1)[bad[0]]:#x}",
            "rows must be 16-byte aligned",
        )
    return rows


def spans(addresses: NDArray[Any], shape: str, num: int, what: str = "ldmatrix") -> Spans:
    """Shared bytes that the instruction touches, [n, 2]."""
    return intervals_of_chunks(_rows(addresses, shape, num, what), 16)


def _expand(data: U8, source: str) -> U8:
    """Rows [..., 16] bytes of a packed source format as 16 bytes of codes in their low bits."""
    if not source:
        return data
    if source == "b4x16_p64":
        out = np.empty_like(data)
        out[..., 0::2], out[..., 1::2] = data[..., :8] & 15, data[..., :8] >> 4
        return out
    if source == "b6x16_p32":
        return unpack_six(np.ascontiguousarray(data[..., :12]))
    raise UnitError(f"ldmatrix source format .{source}", "formats are .b4x16_p64 and .b6x16_p32")


def ldmatrix(
    smem: U8, addresses: NDArray[Any], num: int, trans: bool = False, shape: str = "m8n8", source: str = ""
) -> U32:
    """Destination registers uint32 [registers, 32].

    smem: shared memory; addresses: shared addresses of 32 lanes; num: 1, 2, 4; source: "", "b4x16_p64" or "b6x16_p32".
    """
    rows = _rows(addresses, shape, num, "ldmatrix")
    if int(rows.max()) + 16 > smem.size:
        raise UnitError(f"ldmatrix row at {int(rows.max()):#x}", f"shared memory has {smem.size:#x} bytes")
    data = smem[rows[..., None] + np.arange(16)]  # [matrices, rows, 16]
    if shape == "m8n8":
        cells = data.view(np.uint16)  # [matrices, 8, 8]
        if trans:
            cells = np.ascontiguousarray(cells.transpose(0, 2, 1))
        words: U32 = cells.view(np.uint32).reshape(num, 32)
        return words
    data = _expand(data, source)
    if shape == "m8n16":
        if trans:
            raise UnitError("ldmatrix.m8n16.trans", "only .m8n8 and .m16n16 can be transposed")
        return np.ascontiguousarray(data).view(np.uint32).reshape(num, 32)
    if shape != "m16n16" or not trans:
        raise UnitError(f"ldmatrix.{shape}{'.trans' if trans else ''}", ".m16n16 needs .trans; .m16n8 is for stmatrix")
    # rows = 4 t + 2 h + v0, columns = g + 8 v1  ->  register h of lane 4 g + t, bytes v0 + 2 v1
    split = data.reshape(num, 4, 2, 2, 2, 8)  # matrix, t, h, v0, v1, g
    packed = np.ascontiguousarray(split.transpose(0, 2, 5, 1, 4, 3))  # matrix, h, g, t, v1, v0
    return packed.reshape(-1, 4).view(np.uint32).reshape(2 * num, 32)


def stmatrix(smem: U8, addresses: NDArray[Any], regs: U32, trans: bool = False, shape: str = "m8n8") -> None:
    """Store uint32 [num, 32] registers as matrices into shared memory, in place."""
    num = regs.shape[0]
    rows = _rows(addresses, shape, num, "stmatrix")
    if int(rows.max()) + 16 > smem.size:
        raise UnitError(f"stmatrix row at {int(rows.max()):#x}", f"shared memory has {smem.size:#x} bytes")
    source = np.ascontiguousarray(regs)
    if shape == "m8n8":
        cells = source.view(np.uint16).reshape(num, 8, 8)
        if trans:
            cells = np.ascontiguousarray(cells.transpose(0, 2, 1))
        data = cells.view(np.uint8).reshape(num, 8, 16)
    elif shape == "m16n8" and trans:
        split = source.view(np.uint8).reshape(num, 8, 4, 2, 2)  # matrix, g, t, v1, v0
        data = np.ascontiguousarray(split.transpose(0, 2, 4, 3, 1)).reshape(num, 8, 16)  # row 2 t + v0, column 8 v1 + g
    else:
        raise UnitError(f"stmatrix.{shape}{'.trans' if trans else ''}", "shapes are .m8n8 and .m16n8.trans")
    smem[rows[..., None] + np.arange(16)] = data


def movmatrix(regs: U32) -> U32:
    """movmatrix.m8n8.trans.b16: the transpose of an 8x8 matrix of 16-bit elements, uint32 [..., 32]."""
    head = regs.shape[:-1]
    cells = np.ascontiguousarray(regs).view(np.uint16).reshape(*head, 8, 8)
    turned: U32 = np.ascontiguousarray(cells.swapaxes(-1, -2)).view(np.uint32).reshape(*head, 32)
    return turned
