"""Products of the tensor cores in tensor memory: decoding, scaling, exact sums, one rounding. Native code.

The arithmetic is that of units/accumulate.py: exact products summed in f64, added to the f32 accumulator with one
rounding to nearest even, every NaN 0x7FFFFFFF. `PRODUCT` describes one instruction; units/native_product.py fills it
in.
"""

# mypy: ignore-errors
# ruff: noqa: F821
from __future__ import annotations

from ..native.types import struct
from .library import library

__all__ = ["PRODUCT"]

native = library.native

OPERAND = struct(
    "Operand_",  # one matrix in shared memory
    """
    chunks: P[i64]      # index of every 16-byte chunk, [outer, inner]
    table: P[f64]       # values of the codes (4 bits: pairs of values of a byte)
    outer: u32          # K-major: rows; MN-major: k
    inner: u32          # chunks of one
    elements: u32       # of a chunk
    kind: u32           # 4 or 8: bits of a code; 16: f16; 17: bf16; 32: f32 without the low 13 bits
    outer_step: u32     # in the decoded matrix, in elements
    inner_step: u32
    limit: u32          # elements of one outer index that count
    pad: u32
    """,
)
PRODUCT = struct(
    "Product_",
    """
    ctas: u32           # 1, or 2: a pair, with half of B each
    rows: u32           # of A and D in each CTA
    columns: u32        # of D, that is N
    k: u32
    scales: u32         # scale factors of a row; 0: none
    scale_column_a: u32
    scale_column_b: u32
    scale_byte_a: u32   # first byte of a word that counts
    scale_byte_b: u32
    column: u32         # of D in tensor memory
    negate: u32
    runs: u32           # runs of lanes that hold D
    run_lane: u32[4]
    run_rows: u32[4]
    run_first: u32[4]   # row of A, and column of the product, with which the run begins
    run_column: u32[4]
    run_width: u32[4]
    scale_table: P[f64]
    work: P[f64]        # rows k of A, then twice k N of B, then scales
    smem: u64[2]
    words: u64[2]       # tensor memory [128, 512]
    init: u64[2]
    """,
)


@native
def decode_chunk(p: P[u8], kind: u32, elements: u32, table: P[f64], out: P[f64]) -> None:
    if kind == 4:
        for i in range(elements >> 1):
            pair = table + u32(p[i]) * 2
            out[2 * i] = pair[0]
            out[2 * i + 1] = pair[1]
    elif kind == 8:
        for i in range(elements):
            out[i] = table[p[i]]
    elif kind == 16:
        pointer(V[f64, 8], out)[0] = cast(V[f64, 8], pointer(V[f16, 8], p)[0])
    elif kind == 17:
        raw = cast(V[u32, 8], pointer(V[u16, 8], p)[0]) << 16
        pointer(V[f64, 8], out)[0] = cast(V[f64, 8], reinterpret(V[f32, 8], raw))
    else:
        word = pointer(V[u32, 4], p)[0] & 0xFFFFE000
        pointer(V[f64, 4], out)[0] = cast(V[f64, 4], reinterpret(V[f32, 4], word))


@native
def decode_operand(o: Operand_, smem: u64, out: P[f64]) -> None:
    held = local(f64, 32)
    chunks = o.chunks
    for r in range(o.outer):
        base = out + r * o.outer_step
        left = o.limit
        for c in range(o.inner):
            p = pointer(u8, smem + u64(chunks[c]) * 16)
            n = min(left, o.elements)
            if o.inner_step == 1 and n == o.elements:
                decode_chunk(p, o.kind, o.elements, o.table, base)
            else:
                decode_chunk(p, o.kind, o.elements, o.table, held)
                for i in range(n):
                    base[i * o.inner_step] = held[i]
            base = base + n * o.inner_step
            left -= n
        chunks = chunks + o.inner


@native
def read_scales(
    words: P[u32], column: u32, first: u32, count: u32, rows: u32, quarter: u32, table: P[f64], out: P[f64], by_row: u32
) -> None:
    """Scale factors of rows from tensor memory: row r is in lane r % 32 of column r / 32, of a quarter or of its own
    (quarter NONE). out: [rows, count] when by_row, else [count, rows]."""
    for r in range(rows):
        q = r >> 5 if quarter == NONE else quarter
        word = words[(32 * q + (r & 31)) * 512 + column + (r >> 5)] >> (8 * first)
        for c in range(count):
            at = r * count + c
            if by_row == 0:
                at = c * rows + r
            out[at] = table[word & 255]
            word = word >> 8


@native
def quarters_agree(words: P[u32], column: u32, first: u32, count: u32, rows: u32) -> u32:
    """Whether the four copies of scale factors are the same."""
    mask = u32(((u64(1) << (8 * count)) - 1) << (8 * first))
    for r in range(rows):
        at = (r & 31) * 512 + column + (r >> 5)
        mine = words[at]
        if ((mine ^ words[at + 32 * 512]) | (mine ^ words[at + 64 * 512]) | (mine ^ words[at + 96 * 512])) & mask:
            return 0
    return 1


@native
def round_exactly(total: f64, x: f64, y: f64) -> f32:
    """f32 nearest to x + y, of which total is the f64 rounding: where that lies half-way between two f32, the part
    that it lost decides (Knuth's two-sum)."""
    back = total - x
    error = (x - (total - back)) + (y - back)
    raw = bits(total)
    if error != 0.0 and error - error == 0.0:
        if (error > 0.0) == (total > 0.0):
            raw += 1
        else:
            raw -= 1
    return f32(bits(raw))


@native(inline=True)
def finish_row(total: V[f64, 8], d: P[u32], accumulate: u32) -> None:
    old = cast(V[f64, 8], 0.0)
    if accumulate:
        old = cast(V[f64, 8], pointer(V[f32, 8], d)[0])
    s = total + old
    near = cast(V[f32, 8], s)
    out = select(near == near, reinterpret(V[u32, 8], near), cast(V[u32, 8], 0x7FFFFFFF))
    half = (reinterpret(V[u64, 8], s) & 0x1FFFFFFF) == 0x10000000
    if accumulate and any(half):
        parts = local(f64, 24)
        pointer(V[f64, 8], parts)[0] = s
        pointer(V[f64, 8], parts)[1] = old
        pointer(V[f64, 8], parts)[2] = total
        m = mask_of(half)
        pointer(V[u32, 8], d)[0] = out
        while m:
            i = ctz(m)
            m = m & (m - 1)
            if parts[i] - parts[i] == 0.0:
                d[i] = bits(round_exactly(parts[i], parts[8 + i], parts[16 + i]))
    else:
        pointer(V[u32, 8], d)[0] = out


@native
def multiply(a: P[f64], b: P[f64], ldb: u32, rows: u32, columns: u32, k: u32, d: P[u32], accumulate: u32) -> None:
    """D (pitch 512) = or += A [rows, k] B [k, columns]; rows and columns are multiples of 8."""
    for j in range(columns >> 3):
        for r in range(rows >> 3):
            x = a + (r << 3) * k
            y = b + (j << 3)
            t0 = cast(V[f64, 8], 0.0)
            t1 = t0
            t2 = t0
            t3 = t0
            t4 = t0
            t5 = t0
            t6 = t0
            t7 = t0
            for i in range(k):
                v = pointer(V[f64, 8], y)[0]
                t0 = fma(cast(V[f64, 8], x[i]), v, t0)
                t1 = fma(cast(V[f64, 8], x[i + k]), v, t1)
                t2 = fma(cast(V[f64, 8], x[i + 2 * k]), v, t2)
                t3 = fma(cast(V[f64, 8], x[i + 3 * k]), v, t3)
                t4 = fma(cast(V[f64, 8], x[i + 4 * k]), v, t4)
                t5 = fma(cast(V[f64, 8], x[i + 5 * k]), v, t5)
                t6 = fma(cast(V[f64, 8], x[i + 6 * k]), v, t6)
                t7 = fma(cast(V[f64, 8], x[i + 7 * k]), v, t7)
                y = y + ldb
            out = d + (r << 3) * 512 + (j << 3)
            finish_row(t0, out, accumulate)
            finish_row(t1, out + 512, accumulate)
            finish_row(t2, out + 1024, accumulate)
            finish_row(t3, out + 1536, accumulate)
            finish_row(t4, out + 2048, accumulate)
            finish_row(t5, out + 2560, accumulate)
            finish_row(t6, out + 3072, accumulate)
            finish_row(t7, out + 3584, accumulate)


@native
def tensor_product(p: Product_, a: Operand_, b: Operand_, accumulate: u32) -> u32:
    """One tcgen05.mma. 0: copies of scale factors differ, so that the rows of D need products of their own; nothing
    has been written."""
    n = p.columns
    k = p.k
    at = p.work
    raw = at + p.rows * k
    scaled = raw + n * k
    scale = scaled + n * k
    if p.scales:
        for c in range(p.ctas):
            words = pointer(u32, p.words[c])
            if quarters_agree(words, p.scale_column_b, p.scale_byte_b, p.scales, n) == 0:
                return 0
    decode_operand(b, p.smem[0], raw)
    if p.ctas == 2:
        decode_operand(b, p.smem[1], raw + (n >> 1))
    if p.negate:
        for i in range(n * k >> 3):
            pointer(V[f64, 8], raw)[i] = -pointer(V[f64, 8], raw)[i]
    for c in range(p.ctas):
        decode_operand(a, p.smem[c], at)
        words = pointer(u32, p.words[c])
        factors = raw
        if p.scales:
            block = k // p.scales
            read_scales(words, p.scale_column_a, p.scale_byte_a, p.scales, p.rows, NONE, p.scale_table, scale, 1)
            for i in range(p.rows * p.scales):
                by = cast(V[f64, 8], scale[i])
                part = pointer(V[f64, 8], at + i * block)
                for j in range(block >> 3):
                    part[j] = part[j] * by
            read_scales(words, p.scale_column_b, p.scale_byte_b, p.scales, n, 0, p.scale_table, scale, 0)
            for i in range(k):
                by_column = pointer(V[f64, 8], scale + (i // block) * n)
                source = pointer(V[f64, 8], raw + i * n)
                target = pointer(V[f64, 8], scaled + i * n)
                for j in range(n >> 3):
                    target[j] = source[j] * by_column[j]
            factors = scaled
        for r in range(p.runs):
            lane = p.run_lane[r]
            d = words + lane * 512 + p.column
            multiply(
                at + p.run_first[r] * k,
                factors + p.run_column[r],
                n,
                p.run_rows[r],
                p.run_width[r],
                k,
                d,
                accumulate,
            )
            init = pointer(u8, p.init[c]) + lane * 512 + p.column
            for i in range(p.run_rows[r]):
                fill(init + i * 512, 1, p.run_width[r])
    return 1


@native
def tensor_copy(
    smem: P[u8], chunks: P[i64], rows: u32, inner: u32, lanes: P[i64], copies: u32, words: P[u32], init: P[u8]
) -> None:
    """tcgen05.cp without decompression: each row of 16-byte chunks to its lanes. words, init: at the first column."""
    for copy_index in range(copies):
        for r in range(rows):
            at = lanes[copy_index * rows + r] * 512
            for c in range(inner):
                copy(pointer(u8, words + at + 4 * c), smem + chunks[r * inner + c] * 16, 16)
            fill(init + at, 1, 4 * inner)
