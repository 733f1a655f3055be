// Stream-K: tiles x units are cut into one equal range for each block, wherever the cuts fall.
//
// A block's range touches at most one tile that begins in an earlier block, at its start, and at most one that a later block
// goes on with, at its end. The block with a tile's first unit owns the tile; the others leave their sums in device memory, and the
// owner adds them in the order of the blocks, so that results do not change from run to run. As the owner comes to its
// shared tile last and the others to theirs first, it rarely waits. All blocks must be resident together: the grid is at most
// the number of SMs.
#pragma once

#include "ptx/barrier.cuh"
#include "ptx/flag.cuh"
#include "ptx/types.cuh"

// A part of one tile.
struct Segment {
    int tile;
    int begin, end;  // units along K
};

struct StreamK {
    int share, extra;  // units of a block; the first `extra` blocks have one more
    int units;         // of one tile
    int blocks;        // of the grid
    int position, last;

    // Where the range of `block` begins. A cut a few units from a tile's edge is moved there: a part so short costs more to
    // hand over than to compute.
    __device__ __forceinline__ int start(int block) const {
        const int cut = share * block + min(block, extra);
        const int inside = cut % units, least = units < 16 ? units / 4 : 4;
        if (inside < least) return cut - inside;
        return units - inside < least ? cut - inside + units : cut;
    }

    __device__ __forceinline__ StreamK(int tiles, int units_of_tile)
        : share(tiles * units_of_tile / gridDim.x),
          extra(tiles * units_of_tile % gridDim.x),
          units(units_of_tile),
          blocks(gridDim.x) {
        position = start(blockIdx.x);
        last = start(blockIdx.x + 1);
    }

    __device__ __forceinline__ bool next(Segment& segment) {
        if (position >= last) return false;
        segment.tile = position / units;
        segment.begin = position % units;
        segment.end = min(segment.begin + last - position, units);
        position += segment.end - segment.begin;
        return true;
    }
};

// Device memory for handing over: `sums` holds REGISTERS floats of each of the 128 threads of each of the two warpgroups of
// each block; `flags` a word for each warpgroup of each block, zero before the launch and after it.
struct Workspace {
    float* sums;
    u32* flags;
};

template <int REGISTERS>
__device__ __forceinline__ float4* workspace_slot(const Workspace& workspace, int block, int group) {
    return reinterpret_cast<float4*>(workspace.sums) + static_cast<i64>(2 * block + group) * 128 * (REGISTERS / 4) +
           threadIdx.x % 128;
}

// Warpgroup `group` leaves its sums of a tile that an earlier block owns. `number` is a free barrier of the warpgroup.
template <int BLOCKS, int REGISTERS>
__device__ __forceinline__ void leave_sums(const float (&sums)[BLOCKS][REGISTERS], const Workspace& workspace, int group,
                                           u32 number) {
    float4* slot = workspace_slot<BLOCKS * REGISTERS>(workspace, blockIdx.x, group);
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
        for (int i = 0; i < REGISTERS; i += 4) {
            *slot = make_float4(sums[b][i], sums[b][i + 1], sums[b][i + 2], sums[b][i + 3]);
            slot += 128;
        }
    }
    barrier_sync(number, 128);
    if (threadIdx.x % 128 == 0) st_release_gpu_global_b32(workspace.flags + 2 * blockIdx.x + group, 1);
}

// The owner adds what the later blocks have left of the tile that `segment` begins.
template <int BLOCKS, int REGISTERS>
__device__ __forceinline__ void add_sums(float (&sums)[BLOCKS][REGISTERS], const Workspace& workspace,
                                         const StreamK& work, const Segment& segment, int group, u32 number) {
    const int tile_end = (segment.tile + 1) * work.units;
    for (int block = blockIdx.x + 1; block < work.blocks; ++block) {
        const int from = work.start(block);
        if (from >= tile_end) break;
        if (from == work.start(block + 1)) continue;
        u32* flag = workspace.flags + 2 * block + group;
        if (threadIdx.x % 128 == 0) {
            while (ld_acquire_gpu_global_b32(flag) == 0) {
            }
            *flag = 0;
        }
        barrier_sync(number, 128);
        const float4* slot = workspace_slot<BLOCKS * REGISTERS>(workspace, block, group);
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
            for (int i = 0; i < REGISTERS; i += 4) {
                const float4 part = __ldcg(slot);
                sums[b][i] += part.x;
                sums[b][i + 1] += part.y;
                sums[b][i + 2] += part.z;
                sums[b][i + 3] += part.w;
                slot += 128;
            }
        }
    }
}
