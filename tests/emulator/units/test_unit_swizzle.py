"""Swizzles against the tables of PTX ISA 5.5.7 and against CuTe's Swizzle<B, M, S>."""

from __future__ import annotations

import numpy as np
import pytest
from cute_layout import swizzle as cute_swizzle

from nvfp4.emulator.units import swizzle as sw

# Rows of eight 16-byte cells as printed in the ISA: the logical cell that lies at each physical place.
TABLES = {
    sw.B32: ["01234567", "10325476"],
    sw.B64: ["01234567", "10325476", "23016745", "32107654"],
    sw.B128: [
        "01234567", "10325476", "23016745", "32107654", "45670123", "54761032", "67452301", "76543210",
    ],
    sw.B128_ATOM32: ["01234567", "23016745", "45670123", "67452301"],
    sw.B128_ATOM64: ["01234567", "45670123"],
}  # fmt: skip


@pytest.mark.parametrize("mode", TABLES, ids=lambda m: m.name)
def test_isa_tables(mode: sw.Swizzle) -> None:
    for row, text in enumerate(TABLES[mode]):
        for place, cell in enumerate(text):
            physical = sw.swizzle_address(mode, row * 128 + int(cell) * 16)
            assert physical == row * 128 + place * 16


@pytest.mark.parametrize(
    ("mode", "cute"),
    [(sw.NONE, (0, 4, 3)), (sw.B32, (1, 4, 3)), (sw.B64, (2, 4, 3)), (sw.B128, (3, 4, 3)), (sw.B128_ATOM32, (2, 5, 2))],
)
def test_cute(mode: sw.Swizzle, cute: tuple[int, int, int]) -> None:
    address = np.arange(0, 8192)
    np.testing.assert_array_equal(mode.apply(address), cute_swizzle(address, *cute))


@pytest.mark.parametrize("mode", [*TABLES, sw.NONE, sw.B128_ATOM32_FLIP8], ids=lambda m: m.name)
def test_permutation_that_repeats(mode: sw.Swizzle) -> None:
    address = np.arange(0, 4096)
    out = mode.apply(address)
    np.testing.assert_array_equal(np.sort(out), address)
    np.testing.assert_array_equal(mode.apply(address + mode.repeat), out + mode.repeat)
    np.testing.assert_array_equal(mode.apply(out), address)
    # Atoms stay whole.
    np.testing.assert_array_equal(
        out.reshape(-1, mode.atom) - out.reshape(-1, mode.atom)[:, :1],
        np.tile(np.arange(mode.atom), (4096 // mode.atom, 1)),
    )
