// Which tiles a block computes, and what a tile is made of.
#pragma once

#include "pipeline/sm100_shape.cuh"
#include "ptx/clusterlaunchcontrol.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/fence.cuh"

// One operand of a tile.
struct Source {
    const TensorMap* codes;   // u8 [batch, rows, K/2], boxes of 128 bytes
    const TensorMap* scales;  // u16 [K/64, row tiles, 256], if they are copied as they are
    const u8* scale_bytes;    // of the matrix, if the scale warps rearrange them
    int row, rows;            // first row of the tile; rows of the matrix
    int batch;
    int scale_tile;           // row tile of the scales that holds the first row of the matrix
};

// Scales of matrix `batch` of several, if the scale warps read them.
template <int MODE>
__device__ __forceinline__ const u8* scales_of(const u8* scales, int batch, int rows, int blocks) {
    if constexpr (MODE == SCALES_BY_TENSOR_MAP) return nullptr;
    constexpr int LAYOUT = MODE == SCALES_FROM_LINEAR ? SCALES_LINEAR : SCALES_TILED;
    return scales + batch * scale_matrix_bytes<LAYOUT>(rows, blocks);
}

template <int PRODUCTS>
struct Tile {
    Source x, y[PRODUCTS];
    int k;
};

// A part of K of one tile.
struct Work {
    int tile = 0, split = 0;
};

// Items are dealt out in turn: cluster c takes items c, c + clusters, ... An item is one of SPLITS parts of a tile.
template <int SPLITS>
struct StaticSchedule {
    int item, step, items;

    __device__ __forceinline__ bool next(Work& work) {
        if (item >= items) return false;
        work = {item / SPLITS, item % SPLITS};
        item += step;
        return true;
    }
};

// A cluster begins with the item of its own number, and goes on with those of clusters that have not started, until there are none: the grid
// has a cluster for each item, and those that are late find less to do. A thread in each block asks (`ask_for_work`); every role reads the
// answers by itself. ALONE: the role is one thread, not a warp.
template <class S, int SPLITS, bool ALONE>
struct TakeoverSchedule {
    Storage<S> memory;
    int item, items;
    Ring<ANSWERS> slot;
    bool first = true;

    __device__ __forceinline__ bool next(Work& work) {
        if (first) {
            first = false;
        } else {
            item = next_item();
        }
        // The grid may have more clusters than there are items (groups that the host does not know).
        while (item >= items) item = next_item();
        if (item < 0) return false;
        work = {item / SPLITS, item % SPLITS};
        return true;
    }

    __device__ __forceinline__ int next_item() {
        wait_barrier_cluster(memory.answered(slot.index), slot.parity);
        const int block = clusterlaunchcontrol_query_cancel_x(memory.answer(slot.index));
        fence_proxy_async_shared_cta();  // the answer has been read before the next one is written there
        if constexpr (!ALONE) __syncwarp();
        if (ALONE || threadIdx.x % 32 == 0) memory.template arrive_at_first<(S::BLOCKS > 1)>(memory.taken(slot.index));
        slot.advance();
        return block < 0 ? -1 : block / S::BLOCKS;
    }
};

// The scheduling thread of a block. Only that of the first block asks, and the answer comes to all of the cluster.
template <class S, int SPLITS>
__device__ __forceinline__ void ask_for_work(const Storage<S>& memory, TakeoverSchedule<S, SPLITS, true> schedule) {
    Ring<ANSWERS> ring;
    for (;; ring.advance()) {
        mbarrier_arrive_expect_tx_shared_b64(memory.answered(ring.index), 16);
        if (memory.rank == 0) {
            wait_barrier_cluster(memory.taken(ring.index), ring.parity ^ 1);
            if constexpr (S::BLOCKS > 1) {
                clusterlaunchcontrol_try_cancel_multicast(memory.answer(ring.index), memory.answered(ring.index));
            } else {
                clusterlaunchcontrol_try_cancel(memory.answer(ring.index), memory.answered(ring.index));
            }
        }
        if (schedule.next_item() < 0) return;
    }
}

// Chunks [begin, end) of a part of K.
template <int SPLITS>
struct Chunks {
    int begin, end;

    __device__ __forceinline__ Chunks(int k, int split) {
        const int chunks = (k + CHUNK - 1) / CHUNK;
        begin = chunks * split / SPLITS;
        end = chunks * (split + 1) / SPLITS;
    }
};

// Steps of 64 elements in a chunk; the last of K may be a part of one.
__device__ __forceinline__ int steps_of(int k, int chunk) {
    const int steps = (k + STEP - 1) / STEP - chunk * STEPS;
    return steps < STEPS ? steps : STEPS;
}
