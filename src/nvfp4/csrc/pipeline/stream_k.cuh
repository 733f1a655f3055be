// Stream-K: tiles x chunks (of K) are cut into one equal range for each block, wherever the cuts fall.
//
// A block's range touches at most one tile that begins in an earlier block, at its start, and at most one that a later block
// goes on with, at its end. The tokens of a shared tile are dealt out to the blocks that have a part of it: each leaves its sums of the
// others' tokens in device memory, and adds up the parts of its own. For the tile at the end of its range that happens at once, with
// its own part still in registers; for the one at the start after all else, as the earlier block comes to it last. Who adds what
// in which order follows from the sizes, so that results do not change from run to run. All blocks must be resident together: the
// grid is at most what the SMs hold at once, and at most the number of chunks.
//
// TEAM blocks in a row may have the same range, each of tiles of its own; for them all of this holds between teams.
#pragma once

#include "ptx/barrier.cuh"
#include "ptx/flag.cuh"
#include "ptx/ld.cuh"
#include "ptx/types.cuh"

// A part of one tile.
struct Segment {
    int tile;
    int begin, end;  // chunks along K
};

// The blocks that share one tile.
struct Sharers {
    int first, count;  // the first team, and how many have a part
    int index;         // of this one among them
};

// gridDim.x, read anew: the compiler would keep it in a register that multipliers lack.
__device__ __forceinline__ int grid_blocks() {
    int blocks;
    asm volatile("mov.u32 %0, %nctaid.x;" : "=r"(blocks));
    return blocks;
}

// threadIdx.x, read anew: what is computed from it is not kept in registers that multipliers lack.
__device__ __forceinline__ u32 thread_of_block() {
    u32 thread;
    asm volatile("mov.u32 %0, %tid.x;" : "=r"(thread));
    return thread;
}

// How many chunks each team gets: `each`, and one more the first `extra` teams.
struct Deal {
    int each, extra;
};

template <int TEAM>
struct StreamKTeams {
    Deal deal;
    int chunks;          // of one tile
    int position, last;  // of this team, counted over all tiles

    static __device__ __forceinline__ int team() { return static_cast<int>(blockIdx.x) / TEAM; }

    __device__ __forceinline__ int start(int team) const { return deal.each * team + min(team, deal.extra); }

    // The team whose range holds `chunk` (counted over all tiles).
    __device__ __forceinline__ int team_of(int chunk) const {
        const int longer = (deal.each + 1) * deal.extra;
        return chunk < longer ? chunk / (deal.each + 1) : deal.extra + (chunk - longer) / deal.each;
    }

    __device__ __forceinline__ StreamKTeams(const Deal& of_chunks, int chunks_of_tile)
        : deal(of_chunks), chunks(chunks_of_tile), position(start(team())), last(start(team() + 1)) {}

    __device__ __forceinline__ StreamKTeams(int tiles, int chunks_of_tile)
        : StreamKTeams(divided(tiles * chunks_of_tile), chunks_of_tile) {}

    static __device__ __forceinline__ Deal divided(int chunks_of_all) {
        const int teams = grid_blocks() / TEAM;
        return {chunks_of_all / teams, chunks_of_all % teams};
    }

    __device__ __forceinline__ bool next(Segment& segment) {
        if (position >= last) return false;
        cut(segment, position / chunks);
        return true;
    }

    // Before anything has been taken: where the part begins that other teams may share.
    __device__ __forceinline__ int shared_from() const { return position; }

    __device__ __forceinline__ int tile_of(int chunk) const { return chunk / chunks; }

    // Where along K a chunk of a segment lies.
    __device__ __forceinline__ int along_k(int chunk) const { return chunk; }

    // Takes the next segment, which is of `tile`.
    __device__ __forceinline__ void cut(Segment& segment, int tile) {
        segment.tile = tile;
        segment.begin = position - segment.tile * chunks;
        segment.end = min(segment.begin + last - position, chunks);
        position += segment.end - segment.begin;
    }

    __device__ __forceinline__ Sharers sharers(int tile) const {
        const int first = team_of(tile * chunks);
        return {first, team_of((tile + 1) * chunks - 1) - first + 1, team() - first};
    }
};

using StreamK = StreamKTeams<1>;

// The same, divided beforehand. What this gives is computed from parameters without a division, so that it lies in uniform
// registers, and with it all that loops over ranges count: places in rings, descriptors. With ANY_NUMBER there may be 2^31 chunks in all; else
// less than 2^32 / `chunks`.
template <int TEAM, bool ANY_NUMBER = false>
struct DealtStreamK : StreamKTeams<TEAM> {
    u32 reciprocal;  // of `chunks`: 2^32 / chunks, rounded up

    __device__ __forceinline__ DealtStreamK(const Deal& of_chunks, int chunks_of_tile, u32 reciprocal_of_chunks)
        : StreamKTeams<TEAM>(of_chunks, chunks_of_tile), reciprocal(reciprocal_of_chunks) {}

    // The tile of a chunk counted over all. Rounding up makes the product too large by less than chunk / 2^32: by one tile at most.
    __device__ __forceinline__ int tile_of(int chunk) const {
        if (this->chunks == 1) return chunk;
        const int tile = static_cast<int>(__umulhi(static_cast<u32>(chunk), reciprocal));
        return ANY_NUMBER && static_cast<u32>(tile) * static_cast<u32>(this->chunks) > static_cast<u32>(chunk) ? tile - 1 : tile;
    }

    __device__ __forceinline__ bool next(Segment& segment) {
        if (this->position >= this->last) return false;
        this->cut(segment, tile_of(this->position));
        return true;
    }
};

// As `min`, which is no instruction of uniform registers.
__device__ __forceinline__ int least(int a, int b) {
    int result;
    asm("{.reg .pred less; setp.lt.s32 less, %1, %2; selp.s32 %0, %1, %2, less;}" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

// Teams first take `rounds` whole tiles each, in turn, and share what is left. Fewer teams than there are may share it: the last ones get
// nothing. Positions before a team's range stand for its whole tiles, so that what it has done is one number.
template <int TEAM>
struct LateStreamK : DealtStreamK<TEAM> {
    int teams, rounds, begin;

    __device__ __forceinline__ LateStreamK(const Deal& of_chunks, int chunks_of_tile, u32 reciprocal_of_chunks, int teams_, int rounds_, int tiles)
        : DealtStreamK<TEAM>(of_chunks, chunks_of_tile, reciprocal_of_chunks), teams(teams_), rounds(rounds_) {
        const int behind = rounds * teams * chunks_of_tile, end = tiles * chunks_of_tile;
        begin = least(behind + this->position, end);
        this->position = begin - rounds * chunks_of_tile;
        this->last = least(behind + this->last, end);
    }

    __device__ __forceinline__ int shared_from() const { return begin; }

    __device__ __forceinline__ bool next(Segment& segment) {
        if (this->position >= this->last) return false;
        const bool late = this->position >= begin;
        const int at = this->tile_of(late ? this->position : begin - this->position);
        segment.tile = late ? at : this->team() + (rounds - at) * teams;
        segment.begin = late ? this->position - at * this->chunks : 0;
        segment.end = late ? least(segment.begin + this->last - this->position, this->chunks) : this->chunks;
        this->position += segment.end - segment.begin;
        return true;
    }

    __device__ __forceinline__ Sharers sharers(int tile) const { return DealtStreamK<TEAM>::sharers(tile - rounds * teams); }
};

// Device memory for shared tiles, of the blocks that have the same place in their teams: `sums` holds, for each of them, two slots
// (0: the tile that an earlier block began; 1: the tile that a later block goes on with) of REGISTERS floats for each thread of each of
// two warpgroups; `counters` a word for each warpgroup of each block, zero before the launch and after it.
struct Workspace {
    float* sums;
    u32* counters;
};

constexpr int WORKSPACE_GROUPS = 2;
constexpr int MANY_SUMS = 192;  // weight blocks x tokens of a tile: with more, multipliers have registers for hardly anything but their sums
template <int REGISTERS>
constexpr int WORKSPACE_SUMS = 2 * WORKSPACE_GROUPS * 128 * REGISTERS;  // floats of a block

// The thread's first group of four sums; groups are 128 apart.
template <int REGISTERS>
__device__ __forceinline__ float4* workspace_slot(const Workspace& workspace, int block, int slot, int warpgroup) {
    return reinterpret_cast<float4*>(workspace.sums) +
           static_cast<i64>((2 * block + slot) * WORKSPACE_GROUPS + warpgroup) * 128 * (REGISTERS / 4) + threadIdx.x % 128;
}

// Of GROUPS groups of eight tokens, those of one sharer.
struct Share {
    int begin, end;

    __device__ __forceinline__ Share(const Sharers& sharers, int groups)
        : begin(groups * sharers.index / sharers.count), end(groups * (sharers.index + 1) / sharers.count) {}

    __device__ __forceinline__ bool has(int group) const { return group >= begin && group < end; }
};

// Warpgroup `warpgroup` leaves its part of a shared tile, except the groups of `kept`. `number` is a free barrier of the warpgroup.
template <int BLOCKS, int REGISTERS>
__device__ __forceinline__ void leave_sums(const float (&sums)[BLOCKS][REGISTERS], const Workspace& workspace,
                                           bool begins_tile, int team, int first_sharer, int warpgroup, u32 number, const Share& kept) {
    float4* slot = workspace_slot<BLOCKS * REGISTERS>(workspace, team, begins_tile, warpgroup);
#pragma unroll
    for (int i = 0; i < REGISTERS; i += 4) {
        if (kept.has(i / 4)) continue;
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            __stcg(slot + (i / 4 * BLOCKS + b) * 128,
                   make_float4(sums[b][i], sums[b][i + 1], sums[b][i + 2], sums[b][i + 3]));
        }
    }
    barrier_sync(number, 128);
    if (threadIdx.x % 128 == 0) {
        red_release_gpu_global_add_u32(workspace.counters + WORKSPACE_GROUPS * first_sharer + warpgroup, 1);
    }
}

// Of `leaving` that have seen that all `count` have counted at a counter, one goes on; the last one leaves it as it was found. Orders nothing.
__device__ __forceinline__ void leave_counter(u32* counter, u32 count, u32 leaving) {
    if (atom_relaxed_gpu_global_add_u32(counter, 1) == count + leaving - 1) st_relaxed_gpu_global_b32(counter, 0);
}
__device__ __forceinline__ void leave_counter(u32* counter, u32 count) { leave_counter(counter, count, count); }

// Waits until every part of a shared tile is there. Whoever has waited calls `depart_from_sums` later.
__device__ __forceinline__ void await_sums(const Workspace& workspace, const Sharers& sharers, int warpgroup, u32 number) {
    u32* counter = workspace.counters + WORKSPACE_GROUPS * sharers.first + warpgroup;
    if (threadIdx.x % 128 == 0) {
        while (ld_acquire_gpu_global_b32(counter) < sharers.count) {
        }
    }
    barrier_sync(number, 128);
}

// When sums have been added up and stored, as the answer takes as long as a part of them.
__device__ __forceinline__ void depart_from_sums(const Workspace& workspace, const Sharers& sharers, int warpgroup) {
    if (threadIdx.x % 128 == 0) leave_counter(workspace.counters + WORKSPACE_GROUPS * sharers.first + warpgroup, sharers.count);
}

// Adds four sums of another block to group `group` of a weight block's.
template <int COUNT>
__device__ __forceinline__ void add_part(float (&sums)[COUNT], int group, const float4& part) {
    sums[4 * group] += part.x;
    sums[4 * group + 1] += part.y;
    sums[4 * group + 2] += part.z;
    sums[4 * group + 3] += part.w;
}

// The same of four that lie in shared memory.
template <int COUNT>
__device__ __forceinline__ void add_shared_part(float (&sums)[COUNT], int group, u32 address) {
    const u32x4 part = ld_shared_v4_b32(address);
    add_part(sums, group, make_float4(__uint_as_float(part.x), __uint_as_float(part.y), __uint_as_float(part.z), __uint_as_float(part.w)));
}

// Adds the other sharers' parts of the groups of `share` to this block's, which are in registers.
template <int BLOCKS, int REGISTERS>
__device__ __forceinline__ void add_other_parts(float (&sums)[BLOCKS][REGISTERS], const Workspace& workspace,
                                                const Sharers& sharers, int warpgroup, const Share& share) {
#pragma unroll 1
    for (int i = 0; i < sharers.count; ++i) {
        if (i == sharers.index) continue;
        const float4* slot = workspace_slot<BLOCKS * REGISTERS>(workspace, sharers.first + i, i == 0, warpgroup);
#pragma unroll
        for (int g = 0; g < REGISTERS / 4; ++g) {
            if (g % 8 == 0) __syncwarp();  // keeps the compiler from loading all parts at once, for which there are no registers
            if (!share.has(g)) continue;
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) {
                add_part(sums[b], g, __ldcg(slot + (g * BLOCKS + b) * 128));
            }
        }
    }
}

// Moves groups of sums down, so that group `first` (less than 2 * STEP) becomes the first. The last ones stay where they were, too.
template <int STEP, int BLOCKS, int REGISTERS>
__device__ __forceinline__ void move_down(float (&sums)[BLOCKS][REGISTERS], int first) {
    if constexpr (STEP > 0) {
        if constexpr (4 * STEP < REGISTERS) {
            if (first & STEP) {
#pragma unroll
                for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
                    for (int i = 0; i < REGISTERS - 4 * STEP; ++i) sums[b][i] = sums[b][i + 4 * STEP];
                }
            }
        }
        move_down<STEP / 2>(sums, first);
    }
}

// As above, with only the sums of groups [group, group + COUNT), of which those from `end` on are not there, and the parts of AHEAD sharers
// on their way at once.
template <int BLOCKS, int REGISTERS, int COUNT, int AHEAD>
__device__ __forceinline__ void add_few_groups(float (&sums)[BLOCKS][4 * COUNT], const Workspace& workspace, const Sharers& sharers, int warpgroup,
                                               int group, int end) {
#pragma unroll 1
    for (int first = 0; first + 1 < sharers.count; first += AHEAD) {
        float4 parts[AHEAD][COUNT][BLOCKS] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int other = first + i + (first + i >= sharers.index);
            if (other >= sharers.count) continue;
            const float4* slot = workspace_slot<BLOCKS * REGISTERS>(workspace, sharers.first + other, other == 0, warpgroup) + group * BLOCKS * 128;
#pragma unroll
            for (int g = 0; g < COUNT; ++g) {
                if (group + g >= end) continue;
#pragma unroll
                for (int b = 0; b < BLOCKS; ++b) parts[i][g][b] = __ldcg(slot + (g * BLOCKS + b) * 128);
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (first + i + 1 >= sharers.count) continue;  // adding zero would make zeros of negative ones
#pragma unroll
            for (int g = 0; g < COUNT; ++g) {
#pragma unroll
                for (int b = 0; b < BLOCKS; ++b) {
                    add_part(sums[b], g, parts[i][g][b]);
                }
            }
        }
    }
}

// Adds up groups [group, group + COUNT) of four sums of each weight block; those from `end` on are not there.
template <int BLOCKS, int REGISTERS, int COUNT>
__device__ __forceinline__ void add_parts(float (&sums)[BLOCKS][COUNT * 4], const Workspace& workspace,
                                          const Sharers& sharers, int warpgroup, int group, int end) {
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
        for (int i = 0; i < COUNT * 4; ++i) sums[b][i] = 0.0f;
    }
    constexpr int ALL = BLOCKS * REGISTERS;
    constexpr int STEP = WORKSPACE_SUMS<ALL> / 4;  // from block to block
    const float4* slot = workspace_slot<ALL>(workspace, sharers.first, 1, warpgroup) + group * BLOCKS * 128;
    const float4* later = workspace_slot<ALL>(workspace, sharers.first + 1, 0, warpgroup) + group * BLOCKS * 128;
#pragma unroll 2
    for (int i = 0; i < sharers.count; ++i) {
#pragma unroll
        for (int g = 0; g < COUNT; ++g) {
            if (group + g >= end) continue;
#pragma unroll
            for (int b = 0; b < BLOCKS; ++b) {
                add_part(sums[b], g, __ldcg(slot + (g * BLOCKS + b) * 128));
            }
        }
        slot = later;
        later += STEP;
    }
}
