// hopper_2: the 128-byte swizzle.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        b_codes [N, K/2], b_scales [N, K/16]        c [M, N] fp16
//   M and N multiples of 128, K of 64
//
// Step over hopper_1: piece p of row r lies at piece p ^ (r % 8). Eight rows then have the same piece in eight different groups of
// banks, for the decoder's stores and for ldmatrix alike. Two expressions change.
#include "kernels/ladder/row.cuh"
#include "ptx/ld.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

constexpr int TILE = 128, THREADS = 256;

__shared__ __align__(1024) u8 tiles[2 * TILE * LINE];  // rows of A, then rows of B

// The address of piece `piece` of a row.
__device__ __forceinline__ u32 piece_address(u32 base, int row, int piece) {
    return base + row * LINE + (piece ^ row % 8) * 16;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    hopper_2(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c, i32, i32 n, i32 k) {
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const u32 base = shared_address(tiles), b_base = base + TILE * LINE;

    // Each thread decodes a row: of A, or of B.
    const bool of_a = thread < TILE;
    const i64 row = of_a ? row0 + thread : column0 + thread - TILE;
    const u8* codes = (of_a ? a_codes : b_codes) + row * (k / 2);
    const u8* scales = (of_a ? a_scales : b_scales) + row * (k / 16);

    // Warps 2 x 4, each 64 rows x 32 columns of C.
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
    float sums[4][4][4] = {};
    for (int chunk = 0; chunk < k / CHUNK; ++chunk) {
        const u8* from = codes + chunk * (CHUNK / 2);
        const Row64 raw = {{ld_global_v4_b32(from), ld_global_v4_b32(from + 16)},
                           ld_global_b32(scales + chunk * (CHUNK / 16))};
        decode_row(raw, base + thread * LINE, thread % 8);
        __syncthreads();
#pragma unroll
        for (int step = 0; step < CHUNK / 16; ++step) {
            u32 a[4][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = warp_row + 16 * i + lane % 16;
                ldmatrix_sync_aligned_m8n8_x4_shared_b16(a[i], piece_address(base, r, 2 * step + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int r = warp_column + 16 * j + lane % 8 + lane / 16 * 8;
                ldmatrix_sync_aligned_m8n8_x4_shared_b16(b[j], piece_address(b_base, r, 2 * step + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(sums[i][j], a[i], b[j / 2][j % 2 * 2],
                                                                      b[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const i64 r = row0 + warp_row + 16 * i + lane / 4;
            const int at = column0 + warp_column + 8 * j + lane % 4 * 2;
            store_two(c, r * n + at, sums[i][j][0], sums[i][j][1]);
            store_two(c, (r + 8) * n + at, sums[i][j][2], sums[i][j][3]);
        }
    }
}
