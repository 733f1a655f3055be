// Which tensor maps the loading thread of a Blackwell product kernel uses.
#pragma once

#include "pipeline/sm100_work.cuh"
#include "ptx/tensormap.cuh"

// Those that `describe` names.
struct ParameterMaps {
    template <class S>
    __device__ __forceinline__ void choose(const Storage<S>&, int, Tile<S::PRODUCTS>&, const Ring<S::STAGES>&, u32) {}
};

// One operand of a group.
struct GroupOperand {
    const u8 *codes, *scales;
    int rows, k;
};

constexpr int PATCHED_MAPS = 4;   // codes and scales of X and Y
constexpr int PATCHED_SLOTS = 2;  // sets of maps of a block

// Maps made by the loading thread itself, from one of each kind, when it comes to another group: so that parameters need not hold four for each
// group. A set must not change while copies may read it, so two take turns, and a set is written again only when the last
// chunk that was copied with it is known to have been multiplied.
//
// `group_of(tile)` gives the group, `x_of(group)` and `y_of(group)` its operands.
template <class S, class GroupOf, class XOf, class YOf>
struct PatchedMaps {
    const TensorMap *x_codes, *x_scales, *y_codes, *y_scales;  // one of each kind
    TensorMap* slots;                                          // of this block, in device memory
    GroupOf group_of;
    XOf x_of;
    YOf y_of;
    int group = -1;
    u32 slot = 0;
    Ring<S::STAGES> old;  // stage of the last chunk that used the other set
    u32 old_issued = 0;   // chunks that were issued up to then; 0 if it has not been used

    // ISSUED: chunks so far; RING: where the next one goes.
    __device__ __forceinline__ void choose(const Storage<S>& memory, int tile, Tile<1>& made, const Ring<S::STAGES>& ring, u32 issued) {
        const int wanted = group_of(tile);
        if (wanted != group) {
            // A stage that has been filled anew since then has been waited for already.
            if (old_issued > 0 && issued - old_issued < S::STAGES) wait_barrier(memory.empty(old.index), old.parity);
            old = ring.index > 0 ? Ring<S::STAGES>{ring.index - 1, ring.parity} : Ring<S::STAGES>{S::STAGES - 1, ring.parity ^ 1};
            old_issued = issued;
            slot ^= 1;
            group = wanted;
            patch<S::X_SCALES>(0, x_codes, x_scales, x_of(wanted));
            patch<S::Y_SCALES>(2, y_codes, y_scales, y_of(wanted));
            fence_proxy_tensormap_generic_release_gpu();
#pragma unroll
            for (int i = 0; i < PATCHED_MAPS; ++i) fence_proxy_tensormap_generic_acquire_gpu(at(i));
        }
        made.x.codes = at(0), made.x.scales = at(1);
        made.y[0].codes = at(2), made.y[0].scales = at(3);
    }

    __device__ __forceinline__ TensorMap* at(int map) const { return slots + slot * PATCHED_MAPS + map; }

    // The maps of codes [1, rows, K/2] and of tiled scales [K/64, row tiles, 256] (backends/sm100/gemm.py).
    template <int MODE>
    __device__ __forceinline__ void patch(int first, const TensorMap* codes, const TensorMap* scales, const GroupOperand& operand) const {
        TensorMap* map = at(first);
        *map = *codes;
        tensormap_replace_global_address(map, operand.codes);
        tensormap_replace_global_dim<0>(map, operand.k / 2);
        tensormap_replace_global_dim<1>(map, operand.rows);
        tensormap_replace_global_stride<0>(map, operand.k / 2);
        tensormap_replace_global_stride<1>(map, static_cast<u64>(operand.rows) * (operand.k / 2));
        map = at(first + 1);
        *map = *scales;
        if constexpr (MODE == SCALES_BY_TENSOR_MAP) {
            const u32 columns = (operand.k + STEP - 1) / STEP;
            tensormap_replace_global_address(map, operand.scales);
            tensormap_replace_global_dim<1>(map, (operand.rows + 127) / 128);
            tensormap_replace_global_dim<2>(map, columns);
            tensormap_replace_global_stride<0>(map, static_cast<u64>(columns) * SCALE_TILE_BYTES);
        }
    }
};
