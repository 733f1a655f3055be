// Tiled block scales of weights, on their way to shared memory.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "ptx/cp_async_bulk.cuh"

// In device memory, of one or more matrices of `rows` rows and `units` units of K: [batch, ceil(rows / 128), units, TILE_SCALES_BYTES].
struct TiledScales {
    const u8* data;
    int rows, units;
};

// Those of the 128 rows from `row` on, of the chunk of K from `unit` on. One thread; the copies arrive at the barrier `full`.
// A block of rows beyond the matrix has none; its rows are dropped, whatever they multiply. Units beyond K have none either; their
// codes are zeros, and so must be the products: any finite scales will do.
__device__ __forceinline__ void load_tiled_scales(u32 to, const TiledScales& scales, int batch, int row, int unit, u32 full) {
    const int first = min(row, (scales.rows - 1) / 128 * 128);
    const u8* from = scales.data + batch * scale_matrix_bytes<SCALES_TILED>(scales.rows, 4 * scales.units) +
                     static_cast<i64>(first / 128) * scales.units * TILE_SCALES_BYTES;
    if (unit + CHUNK <= scales.units) {
        cp_async_bulk_shared_global_mbarrier(to, from + static_cast<i64>(unit) * TILE_SCALES_BYTES, WEIGHT_SCALES_BYTES, full);
    } else {
#pragma unroll 1
        for (int u = 0; u < CHUNK; ++u) {
            const i64 there = min(unit + u, scales.units - 1);
            cp_async_bulk_shared_global_mbarrier(to + u * TILE_SCALES_BYTES, from + there * TILE_SCALES_BYTES, TILE_SCALES_BYTES, full);
        }
    }
}
