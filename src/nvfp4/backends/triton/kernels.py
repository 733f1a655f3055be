# mypy: ignore-errors
"""The Triton kernels. Importing this needs triton, but no GPU.

Both kernels split packed bytes into their low and high nibbles and multiply even elements with even ones and odd with
odd: a sum over K may take its terms in any order, and no value has to change its place.

Decoding is arithmetic on bits. Shifted into the exponent and mantissa of an fp16 number, a code is its value times
2^-14 and an E4M3 scale its value times 2^-8, subnormals included, so one exact multiplication gives the value. A code
times its block scale has 6 significant bits and lies in 2^-10 .. 2688: exact in fp16 and in bf16. Sums are fp32, and
tensor scales are applied to them.

K is a compile-time constant: weights have few, and masks along K vanish where it fills whole tiles.

An operand is (data, scales, tensor scale): data and scales are bytes, or data is 16-bit activations and the others
None.
"""

from __future__ import annotations

import triton
import triton.language as tl

E2M1_SCALE = tl.constexpr(2.0**14)
E4M3_SCALE = tl.constexpr(2.0**8)


@triton.jit
def decode_e2m1(codes):
    """Codes 0..15 (uint8) as fp16."""
    bits = ((codes & 7).to(tl.uint16) << 9) | ((codes & 8).to(tl.uint16) << 12)
    return bits.to(tl.float16, bitcast=True) * E2M1_SCALE


@triton.jit
def decode_e4m3(scales):
    """E4M3 bytes (never NaN) as fp16."""
    bits = ((scales & 0x7F).to(tl.uint16) << 7) | ((scales & 0x80).to(tl.uint16) << 8)
    return bits.to(tl.float16, bitcast=True) * E4M3_SCALE


@triton.jit
def scale_bytes(scales, rows, blocks, row_mask, block_count: tl.constexpr, TILED: tl.constexpr):
    """Bytes of the scales at rows [R] (int64) and blocks [C] along K: uint8 [R, C]; zero beyond the ends.

    `TILED` scales are 128x4 tiles, see `nvfp4.layouts`.
    """
    mask = row_mask[:, None] & (blocks < block_count)[None, :]
    if TILED:
        tile = (rows // 128)[:, None] * ((block_count + 3) // 4) + (blocks // 4)[None, :]
        inside = (rows % 32 * 16 + rows % 128 // 32 * 4)[:, None] + (blocks % 4)[None, :]
        offsets = tile * 512 + inside
    else:
        offsets = rows[:, None] * block_count + blocks[None, :]
    return tl.load(scales + offsets, mask=mask, other=0)


@triton.jit
def code_bytes(data, rows, k, row_mask, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """Packed codes of `rows` from element `k` on: uint8 [R, BLOCK_K / 2]; zero beyond the ends."""
    columns = k // 2 + tl.arange(0, BLOCK_K // 2)
    mask = row_mask[:, None] & (columns < K // 2)[None, :]
    return tl.load(data + rows[:, None] * (K // 2) + columns[None, :], mask=mask, other=0)


@triton.jit
def even_and_odd(
    data,
    scales,
    rows,
    k,
    row_mask,
    K: tl.constexpr,
    R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILED: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Even and odd elements of `rows` from element `k` on, times block scales: two [R, BLOCK_K / 2] of `TYPE`."""
    if scales is None:
        columns = k + tl.arange(0, BLOCK_K)
        mask = row_mask[:, None] & (columns < K)[None, :]
        values = tl.load(data + rows[:, None] * K + columns[None, :], mask=mask, other=0.0)
        even, odd = tl.split(tl.reshape(values.to(TYPE), (R, BLOCK_K // 2, 2)))
    else:
        packed = code_bytes(data, rows, k, row_mask, K, BLOCK_K)
        blocks = k // 16 + tl.arange(0, BLOCK_K // 16)
        scale = decode_e4m3(scale_bytes(scales, rows, blocks, row_mask, K // 16, TILED))
        wide = tl.reshape(tl.broadcast_to(scale[:, :, None], (R, BLOCK_K // 16, 8)), (R, BLOCK_K // 2))
        even = (decode_e2m1(packed & 15) * wide).to(TYPE)
        odd = (decode_e2m1(packed >> 4) * wide).to(TYPE)
    return even, odd


@triton.jit
def scales_start(scales, batch, rows, K: tl.constexpr, TILED: tl.constexpr):
    """Where the scales of matrix `batch` (int64) of `rows` rows begin."""
    if TILED:
        size = ((rows.to(tl.int64) + 127) // 128) * ((K // 16 + 3) // 4) * 512
    else:
        size = rows.to(tl.int64) * (K // 16)
    return scales + batch * size


@triton.jit
def tensor_scaled(sums, scale, index, STRIDE: tl.constexpr):
    """`sums` times a tensor scale; `STRIDE` is 1 when each matrix has its own."""
    return sums * tl.load(scale + index * STRIDE)


@triton.jit
def biased(sums, bias, index, mask):
    """`sums` plus the bias of each of their last axis, in fp32."""
    return sums + tl.load(bias + index, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def accumulate(
    acc,
    a_even,
    a_odd,
    data,
    scales,
    rows,
    k,
    row_mask,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILED: tl.constexpr,
    TYPE: tl.constexpr,
):
    """acc += A B^T for one block along K, B decoded."""
    even, odd = even_and_odd(data, scales, rows, k, row_mask, K, BLOCK_N, BLOCK_K, TILED, TYPE)
    acc = tl.dot(a_even, tl.trans(even), acc, out_dtype=tl.float32)
    return tl.dot(a_odd, tl.trans(odd), acc, out_dtype=tl.float32)


@triton.jit
def native_loop(
    a,
    a_scales,
    b,
    b_scales,
    rows,
    columns,
    row_mask,
    column_mask,
    K: tl.constexpr,
    acc,
    A_TILED: tl.constexpr,
    B_TILED: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """acc += A B^T over the whole of K by the block-scaled matrix instruction, which takes packed operands."""
    for k in range(0, K, BLOCK_K):
        blocks = k // 16 + tl.arange(0, BLOCK_K // 16)
        left = code_bytes(a, rows, k, row_mask, K, BLOCK_K)
        right = code_bytes(b, columns, k, column_mask, K, BLOCK_K)
        left_scale = scale_bytes(a_scales, rows, blocks, row_mask, K // 16, A_TILED)
        right_scale = scale_bytes(b_scales, columns, blocks, column_mask, K // 16, B_TILED)
        acc = tl.dot_scaled(
            left,
            left_scale.to(tl.float8e4nv, bitcast=True),
            "e2m1",
            tl.trans(right),
            right_scale.to(tl.float8e4nv, bitcast=True),
            "e2m1",
            acc,
        )
    return acc


@triton.jit
def gemm_kernel(
    a,
    a_scales,
    a_tensor_scale,
    b,
    b_scales,
    b_tensor_scale,
    b2,
    b2_scales,
    b2_tensor_scale,
    offsets,
    bias,
    out,
    M,
    N,
    K: tl.constexpr,
    A_TILED: tl.constexpr,
    B_TILED: tl.constexpr,
    A_STRIDE: tl.constexpr,
    B_STRIDE: tl.constexpr,
    B2_STRIDE: tl.constexpr,
    TYPE: tl.constexpr,
    NATIVE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A [M, K] times B [N, K] transposed; silu of it times A B2^T where there is a B2.

    Grid: (tiles of M * tiles of N, batches or groups). With `offsets`, group g multiplies the rows of A from
    offsets[g - 1] (0 for the first) to offsets[g] with matrix g of B; programs of tiles that a group does not have end
    at once. Without, program axis 1 counts the matrices of a batch. A bias [N] is the same for all of them.
    """
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile_m = tl.program_id(0) % tiles_m
    tile_n = tl.program_id(0) // tiles_m
    batch = tl.program_id(1).to(tl.int64)
    begin = 0
    end = M
    if offsets is not None:
        if batch > 0:
            begin = tl.maximum(tl.load(offsets + batch - 1), 0)
        end = tl.minimum(tl.load(offsets + batch), M)
        if begin + tile_m * BLOCK_M >= end:
            return
    else:
        if a_scales is None:
            a += batch * M * K
        else:
            a += batch * M * (K // 2)
            a_scales = scales_start(a_scales, batch, M, K, A_TILED)
        out += batch * M * N
    b += batch * N * (K // 2)
    b_scales = scales_start(b_scales, batch, N, K, B_TILED)
    if b2 is not None:
        b2 += batch * N * (K // 2)
        b2_scales = scales_start(b2_scales, batch, N, K, B_TILED)

    rows = (begin + tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    row_mask = rows < end
    column_mask = columns < N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    acc2 = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if NATIVE:
        acc = native_loop(
            a, a_scales, b, b_scales, rows, columns, row_mask, column_mask, K, acc, A_TILED, B_TILED, BLOCK_K
        )
        if b2 is not None:
            # A loop of its own: with two block-scaled products in one, triton 3.6 fails to compile (InsertTmemAref).
            acc2 = native_loop(
                a, a_scales, b2, b2_scales, rows, columns, row_mask, column_mask, K, acc2, A_TILED, B_TILED, BLOCK_K
            )
    else:
        for k in range(0, K, BLOCK_K):
            even, odd = even_and_odd(a, a_scales, rows, k, row_mask, K, BLOCK_M, BLOCK_K, A_TILED, TYPE)
            acc = accumulate(acc, even, odd, b, b_scales, columns, k, column_mask, K, BLOCK_N, BLOCK_K, B_TILED, TYPE)
            if b2 is not None:
                acc2 = accumulate(
                    acc2, even, odd, b2, b2_scales, columns, k, column_mask, K, BLOCK_N, BLOCK_K, B_TILED, TYPE
                )

    if a_tensor_scale is not None:
        acc = tensor_scaled(acc, a_tensor_scale, batch, A_STRIDE)
        acc2 = tensor_scaled(acc2, a_tensor_scale, batch, A_STRIDE)
    if b_tensor_scale is not None:
        acc = tensor_scaled(acc, b_tensor_scale, batch, B_STRIDE)
    if b2_tensor_scale is not None:
        acc2 = tensor_scaled(acc2, b2_tensor_scale, batch, B2_STRIDE)
    if b2 is not None:
        acc = acc / (1.0 + tl.exp(-acc)) * acc2
    if bias is not None:
        acc = biased(acc, bias, columns, column_mask)
    result = acc.to(out.dtype.element_ty)
    tl.store(out + rows[:, None] * N + columns[None, :], result, mask=row_mask[:, None] & column_mask[None, :])


@triton.jit
def gemv_kernel(
    a,
    a_scales,
    a_tensor_scale,
    x,
    x_scales,
    x_tensor_scale,
    bias,
    out,
    M,
    K: tl.constexpr,
    A_TILED: tl.constexpr,
    X_TILED: tl.constexpr,
    A_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A [M, K] times one vector [K], plus a bias [M]. Grid: (tiles of M, batches).

    Every thread keeps its partial sums over the whole of K; they are added once, at the end.
    """
    batch = tl.program_id(1).to(tl.int64)
    a += batch * M * (K // 2)
    a_scales = scales_start(a_scales, batch, M, K, A_TILED)
    if x_scales is None:
        x += batch * K
    else:
        x += batch * (K // 2)
        x_scales = scales_start(x_scales, batch, tl.full((), 1, tl.int32), K, X_TILED)
    rows = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    row_mask = rows < M
    first = tl.zeros((1,), dtype=tl.int64)
    always = first == 0
    acc = tl.zeros((BLOCK_M, BLOCK_K // 2), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        even, odd = even_and_odd(a, a_scales, rows, k, row_mask, K, BLOCK_M, BLOCK_K, A_TILED, TYPE)
        x_even, x_odd = even_and_odd(x, x_scales, first, k, always, K, 1, BLOCK_K, X_TILED, TYPE)
        acc += even.to(tl.float32) * x_even.to(tl.float32)
        acc += odd.to(tl.float32) * x_odd.to(tl.float32)
    sums = tl.sum(acc, axis=1)
    if a_tensor_scale is not None:
        sums = tensor_scaled(sums, a_tensor_scale, batch, A_STRIDE)
    if x_tensor_scale is not None:
        sums = tensor_scaled(sums, x_tensor_scale, batch, X_STRIDE)
    if bias is not None:
        sums = biased(sums, bias, rows, row_mask)
    tl.store(out + batch * M + rows, sums.to(out.dtype.element_ty), mask=row_mask)
