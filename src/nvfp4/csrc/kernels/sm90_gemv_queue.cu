// y[l, m] = sum over k of A[l, m, k] * x[l, k], both NVFP4, for large matrices: A passes through shared memory
// (pipeline/sm90_gemv.cuh: operands, arithmetic).
//
// Each warp has a queue of DEPTH segments (ROWS rows x CHUNKS chunks) that it fills with cp.async and that only it reads;
// codes even by the lane that copied them. The only synchronisation is cp.async.wait_group and, for scales, __syncwarp.
//
//     rows of A:  segment 0 | segment 1 | ...   of ROWS rows, WARPS_R in a row for each block, dealt to the blocks in turn
//
// so that all blocks together read one part of A after the other.
//
// A is read once, so its lines leave L2 first. In a call by itself others would have to be written back to memory before they
// could be replaced: whatever the kernels before this one have left there.
//
// A segment is in registers only while it is computed: 20 a chunk for x, 5 a row and chunk for A, 64 with 4 rows and 1
// chunk, so that twice as many warps hide each other's waits as with loads into registers.

#include "pipeline/sm90_gemv_lanes.cuh"
#include "ptx/cache_policy.cuh"
#include "ptx/clock.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/cp_async_small.cuh"
#include "ptx/griddepcontrol.cuh"

constexpr int DEPTH = CONFIG_DEPTH;       // segments in flight
constexpr int UNIT = ROWS * WARPS_R;      // rows that a block takes at a time
// Cycles from the start of a block until it asks for x. In a chain they have long passed when the wait returns; in a call by
// itself, whose blocks all start at once, x would else be asked for while it is on its way from memory.
constexpr u32 X_AFTER = 3000;
constexpr bool RAGGED = WARPS_K * CHUNKS * 1024 != K;  // some lanes lie beyond the end of a row

// How scales of A travel: SCALES_16, 16 bytes a copy, where rows of scales are aligned; SCALES_4, each lane the 4 bytes
// around its own two; SCALES_HAND, byte by byte through registers.
constexpr int SCALES_16 = 0, SCALES_4 = 1, SCALES_HAND = 2;
constexpr int SCALE_COPY = A_LAYOUT == SCALES_LINEAR && K % 256 == 0                                ? SCALES_16
                           : WHOLE_VECTORS && (A_LAYOUT == SCALES_TILED || K % 64 == 0) ? SCALES_4
                                                                                        : SCALES_HAND;
constexpr int PIECE_SCALES = SCALE_COPY == SCALES_16 ? 2 : 4;  // bytes of a lane's two scales in a segment
constexpr int PIECES = ROWS * CHUNKS;
constexpr int CODE_BYTES = PIECES * 512;
constexpr int SLOT_BYTES = CODE_BYTES + PIECES * 32 * PIECE_SCALES;
// Dynamic shared memory: a queue for each warp, then partial sums [row][warp along K].

// Where the next segment of a warp comes from.
struct Source {
    const u8* codes;   // of the lane, in the segment's first row
    const u8* scales;  // with SCALES_16 likewise, for the lane's first copy; else of the matrix
    int row, end;      // first row of the segment; end of the matrix

    __device__ __forceinline__ Source(const Arguments& args, int l, int first, int warp_k, int lane)
        : row(first), end(args.m) {
        codes = args.a_codes + (static_cast<i64>(l) * args.m + first) * (K / 2) + chunk_element(0, warp_k, lane) / 2;
        scales = args.a_scales + l * scale_matrix_bytes<A_LAYOUT>(args.m, BLOCKS);
        if constexpr (SCALE_COPY == SCALES_16) {
            const int piece = lane / 4;
            scales += static_cast<i64>(first + piece / CHUNKS) * BLOCKS + scale_block(piece, warp_k, lane);
        }
    }

    // SCALES_16: four lanes copy the scales of a piece.
    static __device__ __forceinline__ int scale_block(int piece, int warp_k, int lane) {
        return (piece % CHUNKS * WARPS_K + warp_k) * 64 + lane % 4 * 16;
    }

    // WHOLE: all rows of the segment exist; else nothing is read beyond the end.
    template <bool WHOLE>
    __device__ __forceinline__ void copy(u32 slot, int warp_k, int lane) const {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                const int element = chunk_element(chunk, warp_k, lane);
                const bool valid = (WHOLE || row + r < end) && (!RAGGED || element < K);
                const u8* address = codes + r * (K / 2) + chunk * WARPS_K * 512;
                const u32 to = slot + (r * CHUNKS + chunk) * 512 + lane * 16;
                if constexpr (WHOLE_VECTORS) {
                    cp_async_cg_shared_global_L2_cache_hint_L2_128B_16(to, address, valid, POLICY_EVICT_FIRST);
                } else {
                    cp_async_ca_shared_global_8(to, address, valid);
                    cp_async_ca_shared_global_8(to + 8, address + 8, valid && element + 16 < K);
                }
            }
        }
        if constexpr (SCALE_COPY == SCALES_16) {
#pragma unroll
            for (int first = 0; first < PIECES; first += 8) {
                const int piece = first + lane / 4;
                const bool valid = (WHOLE || row + piece / CHUNKS < end) &&
                                   (!RAGGED || scale_block(piece, warp_k, lane) < BLOCKS);
                static_assert(8 % CHUNKS == 0 || PIECES <= 8, "the next 8 pieces are the same chunks of other rows");
                if (first + 8 <= PIECES || piece < PIECES) {
                    cp_async_cg_shared_global_L2_cache_hint_L2_128B_16(slot + CODE_BYTES + first * 64 + lane * 16,
                                                                       scales + first / CHUNKS * BLOCKS, valid,
                                                                       POLICY_EVICT_FIRST);
                }
            }
        } else {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; chunk++) {
                    const int block = chunk_element(chunk, warp_k, lane) / 16;
                    const bool valid = (WHOLE || row + r < end) && block < BLOCKS;
                    const u32 to = slot + CODE_BYTES + ((r * CHUNKS + chunk) * 32 + lane) * 4;
                    const u8* address = scales + scale_offset<A_LAYOUT>(row + r, block, BLOCKS);
                    if constexpr (SCALE_COPY == SCALES_4) {
                        cp_async_ca_shared_global_4(to, address - block % 4, valid);
                    } else {
                        st_shared_b32(to, valid ? load_scales(address, block) : 0);
                    }
                }
            }
        }
    }

    // Rows of all blocks' units together: from a segment of the warp to its next.
    static __device__ __forceinline__ int round() { return UNIT * gridDim.x; }

    // Starts the copies of the next segment into `slot`, if there is one, and moves on.
    __device__ __forceinline__ void copy_next(u32 slot, int warp_k, int lane) {
        if (row + ROWS <= end) {
            copy<true>(slot, warp_k, lane);
        } else if (row < end) {
            copy<false>(slot, warp_k, lane);
        }
        row += round();
        codes += static_cast<i64>(round()) * (K / 2);
        if constexpr (SCALE_COPY == SCALES_16) scales += static_cast<i64>(round()) * BLOCKS;
        cp_async_commit_group();
    }
};

__device__ __forceinline__ Piece read_piece(u32 slot, int r, int chunk, int lane) {
    const int piece = r * CHUNKS + chunk;
    u32 scales_at = slot + CODE_BYTES + (piece * 32 + lane) * PIECE_SCALES;
    if constexpr (SCALE_COPY == SCALES_4) scales_at += lane % 2 * 2;
    return {ld_shared_v4_b32(slot + piece * 512 + lane * 16), ld_shared_b16(scales_at)};
}

// grid (blocks, L); WARPS * DEPTH * SLOT_BYTES bytes of dynamic shared memory, and WARPS_K * 4 for each row of a block, of which
// it has ceil(M / (UNIT * blocks)) times UNIT
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS)
    nvfp4_sm90_gemv_queue(const u8* a_codes, const u8* a_scales, const float* a_tensor, i32 a_stride, const u8* x_codes,
                      const u8* x_scales, const float* x_tensor, i32 x_stride, void* y, const u8* bias, i32 m) {
    const Arguments args = {a_codes, a_scales, x_codes, x_scales, a_tensor, x_tensor, y, a_stride, x_stride, m, bias};
    extern __shared__ __align__(128) u8 memory[];
    const u32 began = clock_u32();
    griddepcontrol_launch_dependents();
    if (!EARLY) griddepcontrol_wait();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_k = warp % WARPS_K, warp_r = warp / WARPS_K;
    const int l = blockIdx.y, block = blockIdx.x;
    const int first = block * UNIT;
    const u32 queue = shared_address(memory) + warp * (DEPTH * SLOT_BYTES);
    float* const partial = reinterpret_cast<float*>(memory + WARPS * DEPTH * SLOT_BYTES);

    if (warp == WARPS - 1) prefetch_share(args, l, block, lane);
    Source from(args, l, first + warp_r * ROWS, warp_k, lane);
#pragma unroll 1
    for (int i = 0; i < DEPTH; i++) from.copy_next(queue + i * SLOT_BYTES, warp_k, lane);
    while (clock_u32() - began < X_AFTER) {
    }
    if (EARLY) griddepcontrol_wait();
    Lane x;
    decode_x(x, load_x(args, l, warp_k, lane), e2m1_table());

    u32 slot = queue;
    int turn = 0;
#pragma unroll 1
    for (int row = first + warp_r * ROWS; row < m; row += Source::round(), turn++) {
        cp_async_wait_group<DEPTH - 1>();
        __syncwarp();
        Piece pieces[ROWS][CHUNKS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) pieces[r][chunk] = read_piece(slot, r, chunk, lane);
        }
        // The slot is free as soon as all lanes have read it.
        __syncwarp();
        from.copy_next(slot, warp_k, lane);
        slot = slot + SLOT_BYTES == queue + DEPTH * SLOT_BYTES ? queue : slot + SLOT_BYTES;
        float sums[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            sums[r] = 0.0f;
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++) sums[r] = add_piece<false>(sums[r], pieces[r][chunk], x, chunk);
        }
        const float sum = reduce_lanes(sums, lane);
        const int index = (turn * WARPS_R + warp_r) * ROWS + lane / LANES_PER_ROW;
        if (lane % LANES_PER_ROW == 0 && row + lane / LANES_PER_ROW < m) partial[index * WARPS_K + warp_k] = sum;
    }
    __syncthreads();
    const float a_scale = tensor_scale(args.a_tensor, args.a_tensor_stride, l);
    const float x_scale = tensor_scale(args.x_tensor, args.x_tensor_stride, l);
    const int count = (m - first + Source::round() - 1) / Source::round() * UNIT;
    for (int i = threadIdx.x; i < count; i += 32 * WARPS) {
        const int row = first + i / UNIT * Source::round() + i % UNIT;
        if (row < m) finish_row(partial + i * WARPS_K, row, l, a_scale, x_scale, args);
    }
}
