"""ldmatrix, stmatrix and movmatrix against the ISA's 8x8 figure and the LDSM/STSM traits of
cute/atom/copy_traits_sm100.hpp."""

from __future__ import annotations

import numpy as np
import pytest
from cute_layout import Layout

from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.matrix_moves import ldmatrix, movmatrix, spans, stmatrix


def scattered(count: int, seed: int) -> np.ndarray:
    """Distinct 16-byte aligned row addresses, 32 of them, in random order."""
    rng = np.random.default_rng(seed)
    return np.resize(rng.permutation(200)[:count] * 16, 32).astype(np.uint32)


@pytest.mark.parametrize("num", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_8x8(num: int, trans: bool) -> None:
    smem = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)
    rows = scattered(8 * num, 1)
    regs = ldmatrix(smem, rows, num, trans)
    for i in range(num):
        for lane in range(32):
            for e in range(2):
                row, column = lane // 4, 2 * (lane % 4) + e
                if trans:
                    row, column = column, row
                at = int(rows[8 * i + row]) + 2 * column
                assert (int(regs[i, lane]) >> (16 * e)) & 0xFFFF == int(smem[at]) | int(smem[at + 1]) << 8
    out = np.zeros(4096, np.uint8)
    stmatrix(out, rows, regs, trans)
    want = np.zeros(4096, np.uint8)
    for lo, hi in spans(rows, "m8n8", num):
        want[lo:hi] = smem[lo:hi]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("num", [1, 2])
def test_16x16_bytes_transposed_as_cute(num: int) -> None:
    """SM100_U8x8_LDSM_T and SM100_U8x16_LDSM_T: source (thread, bit) and destination (thread, value) over one bit
    space."""
    smem = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)
    rows = scattered(16 * num, 2)
    source = Layout(((2, 2, 4, 2), 128), ((128, 1024, 256, 2048), 1))
    target = Layout(((4, 8), (8, 2, 2, 2 * num)), ((256, 8), (1, 128, 64, 1024)))
    space = np.zeros(256 * num, np.uint8)
    for thread in range(16 * num):
        for byte in range(16):
            space[source(thread, 8 * byte) // 8] = smem[int(rows[thread]) + byte]
    regs = np.ascontiguousarray(ldmatrix(smem, rows, num, True, "m16n16").T).view(np.uint8).reshape(32, -1)
    for thread in range(32):
        for byte in range(8 * num):
            assert regs[thread, byte] == space[target(thread, 8 * byte) // 8]


@pytest.mark.parametrize("num", [1, 2, 4])
def test_16x8_bytes_stored_as_cute(num: int) -> None:
    """SM100_U8x4_STSM_T and its x2, x4 forms."""
    rows = scattered(8 * num, 3)
    regs = np.random.default_rng(1).integers(0, 1 << 32, (num, 32), dtype=np.uint32)
    smem = np.zeros(4096, np.uint8)
    stmatrix(smem, rows, regs, True, "m16n8")
    source = Layout(((4, 8), (8, 2, 2, num)), ((256, 8), (1, 128, 64, 1024)))
    for thread in range(32):
        for byte in range(4 * num):
            bit = source(thread, 8 * byte)
            value = (int(regs[byte // 4, thread]) >> (8 * (byte % 4))) & 0xFF
            assert smem[int(rows[bit // 128]) + bit % 128 // 8] == value


@pytest.mark.parametrize(("source", "width"), [("b4x16_p64", 4), ("b6x16_p32", 6)])
def test_sub_byte_rows_expand_to_low_bits(source: str, width: int) -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 1 << width, (8, 16))
    smem = rng.integers(0, 256, 128, dtype=np.uint8)
    for row in range(8):
        packed = sum(int(c) << (width * i) for i, c in enumerate(codes[row])).to_bytes(2 * width, "little")
        smem[16 * row : 16 * row + 2 * width] = np.frombuffer(packed, np.uint8)
    regs = ldmatrix(smem, np.resize(np.arange(8) * 16, 32), 1, False, "m8n16", source)
    for lane in range(32):
        got = [(int(regs[0, lane]) >> (8 * i)) & 0xFF for i in range(4)]
        assert got == codes[lane // 4, 4 * (lane % 4) : 4 * (lane % 4) + 4].tolist()


def test_movmatrix_transposes() -> None:
    matrix = np.arange(64, dtype=np.uint16).reshape(8, 8)
    got = movmatrix(matrix.view(np.uint32).reshape(32)).view(np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(got, matrix.T)


def test_refusals() -> None:
    smem = np.zeros(256, np.uint8)
    good = np.zeros(32, np.uint32)
    with pytest.raises(UnitError, match="lane 1 gives row address 0x8"):
        ldmatrix(smem, good + np.arange(32) * 8, 1)
    with pytest.raises(UnitError, match="x8"):
        ldmatrix(smem, good, 8)
    with pytest.raises(UnitError, match="shared memory has 0x100 bytes"):
        ldmatrix(smem, good + 256, 1)
    with pytest.raises(UnitError, match="trans"):
        ldmatrix(smem, good, 1, False, "m16n16")
    with pytest.raises(UnitError, match="m16n8"):
        stmatrix(smem, good, np.zeros((1, 32), np.uint32), False, "m16n8")
