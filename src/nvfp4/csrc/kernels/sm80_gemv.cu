// y[l, v] = A[l] x[l, v] for N vectors, right on sm_80 and later: the first rung of GEMV.
//
//   A [L, M, K] NVFP4        x [L, N, K] NVFP4, fp16 or bf16 (X_KIND)
//   bias [M] (BIAS), or null: added to every vector's result
//   y [L, N, M] fp16, bf16 or fp32 (OUT)            K a multiple of GROUP (16 or 32); M, L any; N 1..16
//
// ROW_WARPS x K_WARPS warps a block; a warp computes ROWS rows of A, over every K_WARPS-th run of 32 * GROUP elements. The
// block first brings CHUNK elements of every vector to shared memory, decoded, then each lane streams GROUP codes (16 bytes for
// GROUP 32) of each of its rows.
//
// Arithmetic: NVFP4 x. A block of 16 products of codes is summed in fp16 exactly: each half of an f16x2 sums 8 products, multiples
// of 1/4 up to 36. The two halves, and the product with both block scales (20 significant bits), are exact in fp32; only the sum over
// blocks rounds. fp16 and bf16 x: code * x is exact in fp32, sums are fp32.
//
// Shared memory, dynamic: vectors [N][GROUP / 8][CHUNK / GROUP] pieces of 8 16-bit elements, so that the lanes of a load are 16
// bytes apart; then their scales fp32 [N][CHUNK / 16] (NVFP4 x); then partial sums fp32 [ROW_WARPS * K_WARPS][N * ROWS].
#include "decode/e2m1.cuh"
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "epilogue/bias.cuh"
#include "epilogue/store.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"

// Constants, defined by the launch.
constexpr int X_KIND = CONFIG_X_KIND;  // KIND_* of x
constexpr int A_LAYOUT = CONFIG_A_LAYOUT;  // SCALES_*
constexpr int X_LAYOUT = CONFIG_X_LAYOUT;
constexpr int OUT = CONFIG_OUT;  // OUT_*
constexpr int BIAS = CONFIG_BIAS;  // BIAS_*
constexpr int N = CONFIG_N;  // vectors
constexpr int ROWS = CONFIG_ROWS;  // rows of a warp
constexpr int ROW_WARPS = CONFIG_ROW_WARPS;
constexpr int K_WARPS = CONFIG_K_WARPS;
constexpr int GROUP = CONFIG_GROUP;  // elements of a lane's load
constexpr int CHUNK = CONFIG_CHUNK;  // elements of each vector in shared memory

static_assert(GROUP == 16 || GROUP == 32, "8 or 16 bytes of codes a lane");
static_assert(CHUNK % (32 * GROUP * K_WARPS) == 0, "a chunk is whole steps of the block");
static_assert(N >= 1 && N <= 16, "N");

constexpr int WARPS = ROW_WARPS * K_WARPS;
constexpr int THREADS = 32 * WARPS;
constexpr int WORDS = GROUP / 8;   // 32-bit words of codes a lane loads from a row, 8 codes each
constexpr int BLOCKS = GROUP / 16;  // block scales that belong to them
constexpr int PIECES = CHUNK / 8;   // 16-byte pieces of a vector's chunk
constexpr u32 SCALES_AT = N * PIECES * 16;
constexpr u32 PARTIAL_AT = SCALES_AT + (X_KIND == KIND_NVFP4 ? N * (CHUNK / 16) * 4 : 0);

// Codes of A are decoded times 2^-14, those of x times 2: products are multiples of 2^-15, sums of 8 below 2^-4, so that fp16
// still holds them exactly. The rest, 2^13, goes into the block scale of x.
constexpr u32 F16X2_2_POW_15 = 0x78007800u;
constexpr u32 F16X2_2_POW_14 = 0x74007400u;
constexpr float X_SCALE_FACTOR = 8192.0f;

constexpr int STEP = 32 * GROUP * K_WARPS;  // elements of K that the block takes at a time
constexpr int STEPS_PER_CHUNK = CHUNK / STEP;

extern __shared__ __align__(16) u8 shared_memory[];

// Where piece `word` (elements 8 word .. 8 word + 7 of the chunk) of vector v lies.
__device__ __forceinline__ u32 piece_offset(int v, int word) {
    return static_cast<u32>(v * PIECES + word % WORDS * (CHUNK / GROUP) + word / WORDS) * 16;
}

// The vectors of this l.
struct Vectors {
    const u8* data;
    const u8* scales;
    int k;
};

// Brings elements k0 .. k0 + CHUNK - 1 of every vector to shared memory, in pairs (0, 4), (1, 5), (2, 6), (3, 7) of each eight, as
// e2m1x8_to_f16x2_strided decodes A. Beyond K: zeros.
__device__ __forceinline__ void fill_vectors(const Vectors& x, int k0, u32 shared) {
    for (int i = threadIdx.x; i < N * PIECES; i += THREADS) {
        const int v = i / PIECES, word = i % PIECES;
        const int element = k0 + 8 * word;
        const i64 index = static_cast<i64>(v) * x.k + element;
        u32x4 piece{0, 0, 0, 0};
        if (element < x.k) {
            if constexpr (X_KIND == KIND_NVFP4) {
                const u32x4 codes = e2m1x8_to_f16x2_strided(ld_global_b32(x.data + index / 2));
                piece = {mul_rn_f16x2(codes.x, F16X2_2_POW_15), mul_rn_f16x2(codes.y, F16X2_2_POW_15),
                         mul_rn_f16x2(codes.z, F16X2_2_POW_15), mul_rn_f16x2(codes.w, F16X2_2_POW_15)};
            } else {
                piece = memory_to_strided_order(ld_global_v4_b32(x.data + index * 2));
            }
        }
        st_shared_v4_b32(shared + piece_offset(v, word), piece);
    }
    if constexpr (X_KIND == KIND_NVFP4) {
        constexpr int SCALES = CHUNK / 16;
        for (int i = threadIdx.x; i < N * SCALES; i += THREADS) {
            const int v = i / SCALES, block = k0 / 16 + i % SCALES;
            float scale = 0.0f;
            if (block < x.k / 16) {
                scale = e4m3_to_f32(ld_global_u8(x.scales + scale_offset<X_LAYOUT>(v, block, x.k / 16)));
            }
            st_shared_f32(shared + SCALES_AT + 4 * i, scale * X_SCALE_FACTOR);
        }
    }
}

// What a lane holds of its rows for one step.
struct Fragment {
    u32 codes[ROWS][WORDS];
    u32 scales[ROWS];  // BLOCKS bytes
};

// The rows of A that a warp multiplies.
struct Rows {
    const u8* codes[ROWS];
    const u8* scales;  // of the matrix
    int row[ROWS];
    int k;

    // This lane's codes and scales at element `element` of K; zeros beyond K.
    __device__ __forceinline__ void fetch(Fragment& to, int element) const {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const bool valid = element < k;
            const u8* at = codes[r] + element / 2;
            if constexpr (GROUP == 32) {
                const u32x4 v = valid ? ld_global_L1_no_allocate_v4_b32(at) : u32x4{0, 0, 0, 0};
                to.codes[r][0] = v.x;
                to.codes[r][1] = v.y;
                to.codes[r][2] = v.z;
                to.codes[r][3] = v.w;
            } else {
                const u32x2 v = valid ? ld_global_v2_b32(at) : u32x2{0, 0};
                to.codes[r][0] = v.x;
                to.codes[r][1] = v.y;
            }
            to.scales[r] = 0;
            if (valid) {
                const u8* scale = scales + scale_offset<A_LAYOUT>(row[r], element / 16, k / 16);
                to.scales[r] = GROUP == 32 ? ld_global_b16(scale) : ld_global_u8(scale);
            }
        }
    }
};

// Eight products of each half: a . x over a block's two words, exact (see above).
__device__ __forceinline__ float dot_codes(const u32x4 (&a)[2], const u32x4 (&x)[2]) {
    u32 sum = 0;
#pragma unroll
    for (int w = 0; w < 2; ++w) {
        sum = fma_rn_f16x2(a[w].x, x[w].x, sum);
        sum = fma_rn_f16x2(a[w].y, x[w].y, sum);
        sum = fma_rn_f16x2(a[w].z, x[w].z, sum);
        sum = fma_rn_f16x2(a[w].w, x[w].w, sum);
    }
    return cvt_f32_f16(sum) + cvt_f32_f16(sum >> 16);
}

// One 16-bit element of an activation pair as fp32.
template <int HALF>
__device__ __forceinline__ float activation(u32 pair) {
    if constexpr (X_KIND == KIND_FP16) {
        return cvt_f32_f16(pair >> (16 * HALF));
    } else {
        return __uint_as_float(HALF == 0 ? pair << 16 : pair & 0xFFFF0000u);
    }
}

__device__ __forceinline__ float dot_pair(u32 a, u32 x, float sum) {
    sum = fmaf(cvt_f32_f16(a), activation<0>(x), sum);
    return fmaf(cvt_f32_f16(a >> 16), activation<1>(x), sum);
}

// The same for activations: codes at their value, fp32 throughout.
__device__ __forceinline__ float dot_activations(const u32x4 (&a)[2], const u32x4 (&x)[2]) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < 2; ++w) {
        sum = dot_pair(mul_rn_f16x2(a[w].x, F16X2_2_POW_14), x[w].x, sum);
        sum = dot_pair(mul_rn_f16x2(a[w].y, F16X2_2_POW_14), x[w].y, sum);
        sum = dot_pair(mul_rn_f16x2(a[w].z, F16X2_2_POW_14), x[w].z, sum);
        sum = dot_pair(mul_rn_f16x2(a[w].w, F16X2_2_POW_14), x[w].w, sum);
    }
    return sum;
}

// Adds a step's products; `group` is this lane's group of GROUP elements in the chunk.
__device__ __forceinline__ void accumulate(float (&sum)[ROWS][N], const Fragment& from, int group, u32 shared) {
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
        u32x4 a[ROWS][2];
        float scale[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            a[r][0] = e2m1x8_to_f16x2_strided(from.codes[r][2 * b]);
            a[r][1] = e2m1x8_to_f16x2_strided(from.codes[r][2 * b + 1]);
            scale[r] = cvt_f32_f16(e4m3x2_to_f16x2(from.scales[r]) >> (16 * b));
        }
#pragma unroll
        for (int v = 0; v < N; ++v) {
            const int word = group * WORDS + 2 * b;
            const u32x4 x[2] = {ld_shared_v4_b32(shared + piece_offset(v, word)),
                                ld_shared_v4_b32(shared + piece_offset(v, word + 1))};
            if constexpr (X_KIND == KIND_NVFP4) {
                const float x_scale = ld_shared_f32(shared + SCALES_AT + 4 * (v * (CHUNK / 16) + group * BLOCKS + b));
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    sum[r][v] = fmaf(dot_codes(a[r], x), scale[r] * x_scale, sum[r][v]);
                }
            } else {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sum[r][v] = fmaf(dot_activations(a[r], x), scale[r], sum[r][v]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    nvfp4_sm80_gemv(const u8* a_data, const u8* a_scales, const float* a_tensor_scale, int a_tensor_stride,
                    const u8* x_data, const u8* x_scales, const float* x_tensor_scale, int x_tensor_stride, u8* out,
                    const u8* bias, int m, int k) {
    griddepcontrol_wait();  // on sm_90 and later, this starts while the previous kernel still runs
    constexpr int BLOCK_ROWS = ROW_WARPS * ROWS;
    const int row_blocks = (m + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int l = blockIdx.x / row_blocks, row0 = blockIdx.x % row_blocks * BLOCK_ROWS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int k_warp = warp % K_WARPS, row_warp = warp / K_WARPS;
    const u32 shared = shared_address(shared_memory);
    const int blocks = k / 16;

    constexpr int X_BLOCK_BYTES = X_KIND == KIND_NVFP4 ? 8 : 32;
#ifdef CONFIG_X_PITCH
    const i64 x_pitch = CONFIG_X_PITCH;  // bytes from one matrix's vectors to the next one's, where they lie apart
#else
    const i64 x_pitch = static_cast<i64>(N) * blocks * X_BLOCK_BYTES;
#endif
    const Vectors x{x_data + l * x_pitch,
                    x_scales + l * scale_matrix_bytes<X_LAYOUT>(N, blocks), k};
    Rows a;
    a.scales = a_scales + l * scale_matrix_bytes<A_LAYOUT>(m, blocks);
    a.k = k;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        // Rows beyond M repeat the last one, so that no lane diverges; they are not stored.
        a.row[r] = min(row0 + row_warp * ROWS + r, m - 1);
        a.codes[r] = a_data + (static_cast<i64>(l) * m + a.row[r]) * (k / 2);
    }

    float sum[ROWS][N] = {};
    Fragment current, next;
    const int group0 = k_warp * 32 + lane;
    const int steps = (k + STEP - 1) / STEP;
    a.fetch(current, group0 * GROUP);
    for (int step = 0; step < steps; ++step) {
        if (step % STEPS_PER_CHUNK == 0) {
            __syncthreads();
            fill_vectors(x, step * STEP, shared);
            __syncthreads();
        }
        a.fetch(next, (step + 1) * STEP + group0 * GROUP);
        accumulate(sum, current, step % STEPS_PER_CHUNK * (32 * K_WARPS) + group0, shared);
        current = next;
    }

    // Sums over lanes, then over the warps that share rows, always in the same order.
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int v = 0; v < N; ++v) {
            float total = sum[r][v];
#pragma unroll
            for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, distance);
            if (lane == 0) st_shared_f32(shared + PARTIAL_AT + 4 * (warp * (ROWS * N) + r * N + v), total);
        }
    }
    __syncthreads();
    const float scale_a = tensor_scale(a_tensor_scale, a_tensor_stride, l);
    const float scale_x = tensor_scale(x_tensor_scale, x_tensor_stride, l);
    for (int i = threadIdx.x; i < BLOCK_ROWS * N; i += THREADS) {
        const int v = i / BLOCK_ROWS, r = i % BLOCK_ROWS;
        if (row0 + r >= m) continue;
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < K_WARPS; ++w) {
            const int from = (r / ROWS * K_WARPS + w) * (ROWS * N) + r % ROWS * N + v;
            total += ld_shared_f32(shared + PARTIAL_AT + 4 * from);
        }
        const float result = add_bias<BIAS>(total * scale_a * scale_x, bias, row0 + r);
        store_one<OUT>(out, (static_cast<i64>(l) * N + v) * m + row0 + r, result);
    }
}
