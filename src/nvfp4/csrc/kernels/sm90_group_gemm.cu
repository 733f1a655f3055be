// For many groups in one launch on Hopper: C_g = A_g B_g^T (MATRICES 1), or silu(A_g B1_g^T) * (A_g B2_g^T) (MATRICES 2). The way of one
// group is that of sm90_gemm.cu, or of sm90_dual_gemm.cu.
//
//   list form (nvfp4_sm90_group_gemm_list):       A_g [M_g, K_g], B_g [N_g, K_g] -> C_g [M_g, N_g], up to CAPACITY groups; sizes,
//       addresses and tensor maps are kernel parameters. Groups with a smaller K than the largest are padded with zeros.
//   stacked form (nvfp4_sm90_group_gemm_stacked): A [T, K], B [G, N, K], offsets int32 [G] in device memory, the end row of each
//       group in A -> C [T, N], G up to CAPACITY. Rows from offsets[G-1] on are not written.
//       INDEXED: A [R, K], and rows int32 [T] in device memory, the row of A that each row is.
//
// A NVFP4, fp16 or bf16; B NVFP4, or B1 and B2, in arrays where they take turns; C fp16, bf16 or fp32; K a multiple of 64.
//
// Each block first makes a table in shared memory: where the tiles of each group begin in the order of all tiles, and its rows.
// Tiles are ordered by group, within a group by weights, so that neighbours share them. A ragged group's last tile reads
// rows of the next group (or zeros beyond the last), which are multiplied and not stored.
//
// In the list form groups may have tiles of their own widths, as the host knows their sizes; whole ones, which it deals out (listed_tiles.cuh).
//
// Resources: Shape::SHARED_BYTES + 12 * CAPACITY + 16 (of a list 48 * CAPACITY + 32) + 1024 of dynamic shared memory, and 32 * (NOTED + 1) + 16 for tiles of their own widths, all registers of an SM: RESIDENT blocks an SM.
#include "epilogue/silu.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/listed_tiles.cuh"
#include "pipeline/sm90_roles.cuh"

// Constants: PLAN_TOKENS, PLAN_BLOCKS, PLAN_CHUNKS, PLAN_TILES, PLAN_ACTIVATIONS (their kind), PLAN_MAKES, PLAN_BEGINS, PLAN_A_LAYOUT, PLAN_B_LAYOUT,
// PLAN_OUT, PLAN_CAPACITY, PLAN_MATRICES, PLAN_STACKED (the form: only that is compiled), PLAN_INDEXED, PLAN_RESIDENT, PLAN_NARROWEST (list form: less than
// PLAN_TOKENS, where tiles are as wide as each group is told to have them, and each block is told its tiles), PLAN_ORDER (room for so many of
// them) and PLAN_EARLY_WEIGHTS: weights are not written by the kernel before in the queue, and may be read before it has ended. (The stacked form
// must first know the offsets: all of it waits for that kernel, and weights are never early.)
constexpr int TOKENS = PLAN_TOKENS, BLOCKS = PLAN_BLOCKS, CAPACITY = PLAN_CAPACITY, MATRICES = PLAN_MATRICES;
constexpr int ROWS = 128 * BLOCKS / MATRICES;  // of one matrix in a tile
constexpr int MAX_GRID = 144;                  // blocks that the host may give tiles
constexpr int A_LAYOUT = PLAN_A_LAYOUT, B_LAYOUT = PLAN_B_LAYOUT;
constexpr bool EARLY_WEIGHTS = PLAN_EARLY_WEIGHTS || PLAN_STACKED;
using S = Shape<TOKENS, PLAN_BLOCKS, PLAN_CHUNKS, PLAN_TILES, PLAN_ACTIVATIONS, B_LAYOUT, PLAN_MAKES, PLAN_BEGINS, PLAN_RESIDENT, PLAN_NARROWEST,
                PLAN_MATRICES == 2 && PLAN_BLOCKS == 1>;
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "output");
static_assert(CAPACITY <= 1024, "groups");
static_assert(!S::VARIABLE || !PLAN_STACKED, "the host does not know the groups of a stack");
static_assert(!PLAN_INDEXED || (PLAN_STACKED && S::TOGETHER), "an index is followed where all blocks make the operand together");
static_assert(MATRICES == 1 || MATRICES == 2, "a block or half of one of each of two matrices, or one or two of one");

// What a group has one of, or of its weights, or what there is of all weights.
template <class T, int COUNT = CAPACITY>
struct Array {
    T value[COUNT];
};
template <class T>
using WeightArray = Array<T, CAPACITY * MATRICES>;

// Of part b of a tile's weights: the matrix that it is of, and its first row, counted from the tile's.
__device__ __forceinline__ constexpr int matrix_of(int b) { return b % MATRICES; }
__device__ __forceinline__ constexpr int row_of(int b) { return b / MATRICES * 128; }

// Of all groups, in shared memory.
struct Table {
    int* first_tile;  // [groups + 1]
    int* row;         // first row in A and C
    int* row_end;
    int* first_half;  // [groups + 1], of a list: of the halves of units of activations
    Activations* activations;  // [groups], of a list: 16-byte aligned

    __device__ __forceinline__ explicit Table(int* memory)
        : first_tile(memory), row(memory + CAPACITY + 1), row_end(row + CAPACITY), first_half(row_end + CAPACITY),
          activations(reinterpret_cast<Activations*>(memory + (4 * CAPACITY + 2 + 3) / 4 * 4)) {}

    // firsts[g] = what groups before g have, firsts[groups] what all have. By one warp.
    template <class Has>
    static __device__ __forceinline__ void add_up(int* firsts, int groups, Has has) {
        const int lane = threadIdx.x % 32;
        int before = 0;
        for (int base = 0; base < groups; base += 32) {
            const int g = base + lane, own = g < groups ? has(g) : 0;
            int sum = own;
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const int other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
                sum += lane >= step ? other : 0;
            }
            if (g < groups) firsts[g] = before + sum - own;
            before += __shfl_sync(0xFFFFFFFFu, sum, 31);
        }
        if (lane == 0) firsts[groups] = before;
    }

    // By one warp. `rows(g, begin, end)` gives the rows of group g, `width(g)` those of its tiles, `columns(g)` its tiles along N.
    template <class Rows, class Width, class Columns>
    __device__ __forceinline__ void fill(int groups, Rows rows, Width width, Columns columns) const {
        add_up(first_tile, groups, [&](int g) {
            int begin, end;
            rows(g, begin, end);
            row[g] = begin;
            row_end[g] = end;
            return (end - begin + width(g) - 1) / width(g) * columns(g);
        });
    }

    // The last group whose first one is `number` or before it; empty groups begin where the next one does.
    static __device__ __forceinline__ int group_of(const int* firsts, int number, int groups) {
        int low = 0, high = groups;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (firsts[middle] <= number) {
                low = middle;
            } else {
                high = middle;
            }
        }
        return low;
    }
    __device__ __forceinline__ int group_of(int tile, int groups) const { return group_of(first_tile, tile, groups); }
};

struct TileIndex {
    int group, row, token, token_end;  // row: first weight row
};

// `tile`, which is of group g, whose tiles have `width` rows of A.
__device__ __forceinline__ TileIndex find(const Table& table, int tile, int g, int width) {
    const int inside = tile - table.first_tile[g], begin = table.row[g], end = table.row_end[g];
    const int tiles_m = (end - begin + width - 1) / width;
    const int strip = tiles_m == 1 ? inside : inside / tiles_m;  // most often, and divisions are slow
    return {g, strip * ROWS, begin + (inside - strip * tiles_m) * width, end};
}

// What sums are multiplied with: the inverse of the power of two by which decoded operands are off, and tensor scales, those of A
// and of each matrix. Together they are one number where A has none.
struct Scales {
    float a, b[MATRICES];

    template <class ScaleB>
    static __device__ __forceinline__ Scales make(const float* scale_a, ScaleB scale_b) {
        Scales scales;
        scales.a = S::NVFP4 ? S::FACTOR * tensor_scale(scale_a, 0, 0) : 1.0f;
#pragma unroll
        for (int j = 0; j < MATRICES; ++j) scales.b[j] = (S::NVFP4 ? 1.0f : S::FACTOR) * scale_b(j);
        return scales;
    }

    __device__ __forceinline__ float apply(float sum, int matrix) const { return (S::NVFP4 ? sum * a : sum) * b[matrix]; }
};

// All tiles in equal ranges; computed anew, as registers are few. `k` is that of the deepest group.
__device__ __forceinline__ StreamK deal(const Table& table, int groups, int k) {
    asm volatile("" : "+r"(k), "+r"(groups));
    return StreamK(table.first_tile[groups], chunks_of(k));
}

// What multipliers know of a block's tiles, in shared memory, where they have widths of their own; `find(entry)` finds it.
template <class Find>
struct Notes {
    TileNote* notes;  // [NOTED + 1]
    Find find;

    __device__ __forceinline__ void make(int turn) const { notes[turn] = find(turn); }
    __device__ __forceinline__ const TileNote& operator()(u32 turn) const { return notes[turn]; }
};

// The roles, once the table is there. `work()` deals out segments, `width(group)` are the rows of A in a group's tiles, `operands(index)`
// describes a tile; `store(count, index, scales, from, begin, end, sum, warpgroup)` finishes it; `scales(group)` are those of a group.
template <class Work, class Width, class Describe, class Share, class ScalesOf, class Store, class Notes = NoNotes>
__device__ __forceinline__ void run(const Stages<S>& stages, const Table& table, int groups, Work work, Width width, const Workspace& workspace,
                                    Describe operands, const Share& share, ScalesOf scales, Store store, Notes notes = {}) {
    const auto index_of = [&](int tile, int group) { return find(table, tile, group, width(group)); };
    const auto width_of = [&](int tile) {
        // The same for the warp, as the compiler should know.
        return S::VARIABLE ? __shfl_sync(0xFFFFFFFFu, width(table.group_of(tile, groups)), 0) : TOKENS;
    };
    // Of the group that a multiplier has come to: neither searched for nor loaded anew for each of its tiles, if there are registers.
    int known = -1;
    Scales known_scales{};
    run_roles<S, A_LAYOUT, EARLY_WEIGHTS>(
        stages, work, workspace, [&](int tile) { return operands(index_of(tile, table.group_of(tile, groups))); }, share,
        [&](auto count, const auto& tile, int from, int begin, int end, auto& sum, int warpgroup) {
            if constexpr (S::VARIABLE) {
                const int group = static_cast<int>(tile.group & 0xFFFF);
                if (group != known) known_scales = scales(group);
                known = group;
                store(count, TileIndex{group, tile.row, tile.token, tile.token_end}, known_scales, from, begin, end, sum, warpgroup, tile.out, tile.columns);
            } else if constexpr (S::ROOMY) {
                if (known < 0 || tile < table.first_tile[known] || tile >= table.first_tile[known + 1]) {
                    known = table.group_of(tile, groups);
                    known_scales = scales(known);
                }
                store(count, index_of(tile, known), known_scales, from, begin, end, sum, warpgroup);
            } else {
                const int group = table.group_of(tile, groups);
                store(count, index_of(tile, group), scales(group), from, begin, end, sum, warpgroup);
            }
        },
        width_of, notes);
}

// Sums of a tile to `out` [.., columns].
template <int N, class Sum>
__device__ __forceinline__ void store_rows(const Stages<S>& stages, const TileIndex& index, int from, int begin, int end, const Sum& sum,
                                           int warpgroup, u8* out, int columns, const Scales& scales) {
    const u32 thread = (S::ROOMY ? threadIdx.x : thread_of_block()) % 128;
    constexpr int COLUMNS = S::PAIRED ? 32 : 64;  // of a warpgroup
    const auto store = [&](int b, auto value) {
        store_tile_transposed<N, PLAN_OUT, S::STAGED_TOKENS, COLUMNS>(out, index.token + from, index.token + begin,
                                                             min(index.token + end, index.token_end),
                                                             index.row + row_of(b) + warpgroup * COLUMNS, columns, stages.staging(warpgroup),
                                                             1 + warpgroup, value, thread);
    };
    const auto product = [&](int b, int i) { return scales.apply(sum[b][i], matrix_of(b)); };
    if constexpr (S::PAIRED) {
        store(0, [&](int i) {
            return silu_of_pair(sum[0], i, [&](float x) { return scales.apply(x, 0); }, [&](float x) { return scales.apply(x, 1); });
        });
    } else if constexpr (MATRICES == 2) {
        store(0, [&](int i) { return silu(product(0, i)) * product(1, i); });
    } else {
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) store(b, [&](int i) { return product(b, i); });
    }
}

extern __shared__ u8 shared_memory[];

__device__ __forceinline__ Stages<S> stages_of_block() { return {(shared_address(shared_memory) + 1023u) & ~1023u}; }

// Behind the stages: notes, if there are any, then the table.
constexpr int NOTES = (S::SHARED_BYTES + 15) / 16 * 16;
constexpr int TABLE = NOTES + (S::VARIABLE ? (NOTED + 1) * static_cast<int>(sizeof(TileNote)) : 0);

__device__ __forceinline__ u8* behind_stages(const Stages<S>& stages, int offset) {
    return shared_memory + (stages.base - shared_address(shared_memory)) + offset;
}
__device__ __forceinline__ Table table_of_block(const Stages<S>& stages) { return Table(reinterpret_cast<int*>(behind_stages(stages, TABLE))); }
__device__ __forceinline__ TileNote* notes_of_block(const Stages<S>& stages) { return reinterpret_cast<TileNote*>(behind_stages(stages, NOTES)); }

#if !PLAN_STACKED  // parameters have no room for as many groups as a stack may have

extern "C" __global__ void __launch_bounds__(S::THREADS, S::RESIDENT)
    nvfp4_sm90_group_gemm_list(const __grid_constant__ Array<ActivationMaps<S>> a_maps, const __grid_constant__ WeightArray<TensorMap> b_maps,
                               const __grid_constant__ Array<const u8*> a_data, const __grid_constant__ Array<const u8*> a_scales,
                               const __grid_constant__ WeightArray<const u8*> b_scales,
                               const __grid_constant__ Array<const float*> a_tensor_scale,
                               const __grid_constant__ WeightArray<const float*> b_tensor_scale,
                               const __grid_constant__ Array<u8*> out, const __grid_constant__ Array<u8*> operand,
                               const __grid_constant__ Array<int> m,
                               const __grid_constant__ Array<int> n, const __grid_constant__ Array<int> k, float* sums,
                               u32* counters, int groups, int largest_k
#if PLAN_NARROWEST < PLAN_TOKENS
                               , const __grid_constant__ Array<int> widths, const __grid_constant__ Array<int, MAX_GRID + 1> starts,
                               const __grid_constant__ Array<int, PLAN_ORDER> order
#endif
    ) {
    const Stages<S> stages = stages_of_block();
    const Table table = table_of_block(stages);
#if PLAN_NARROWEST < PLAN_TOKENS
    const auto width = [&](int g) { return widths.value[g]; };
#else
    const auto width = [](int) { return TOKENS; };
#endif
    const auto activations_of = [&](int g) {
        return Activations{a_data.value[g], a_scales.value[g], operand.value[g], static_cast<u32>(m.value[g]),
                           static_cast<u32>(k.value[g] / UNIT)};
    };
    if (threadIdx.x == 0) stages.init();
    if (threadIdx.x < 32) {
        const auto rows = [&](int g, int& begin, int& end) { begin = 0, end = m.value[g]; };
        table.fill(groups, rows, width, [&](int g) { return (n.value[g] + ROWS - 1) / ROWS; });
    } else if (S::TOGETHER && threadIdx.x < 64) {
        // In shared memory: each lane looks up several groups, and constants that not all lanes of a warp ask for are slow.
        Table::add_up(table.first_half, groups, [&](int g) {
            table.activations[g] = activations_of(g);
            return m.value[g] * (k.value[g] / UNIT) * static_cast<int>(HALVES);
        });
    }
    __syncthreads();
    const auto operands = [&](const TileIndex& index) {
        const int g = index.group;
        Operands<S::PARTS> o;
#pragma unroll
        for (int b = 0; b < S::PARTS; ++b) {
            o.weight_codes[b] = &b_maps.value[g * MATRICES + matrix_of(b)];
            o.weight_scales[b] = b_scales.value[g * MATRICES + matrix_of(b)];
            o.weight_row[b] = index.row + row_of(b);
        }
        o.weight_rows = n.value[g];
        o.weight_batch = 0;
        o.activations = a_maps.value[g].operand();
        o.raw = a_maps.value[g].raw();
        o.token = index.token;
        o.width = width(g);
        o.activation_batch = 0;
        o.source = activations_of(g);
        o.units = k.value[g] / UNIT;
        return o;
    };
    const auto scales = [&](int g) {
        return Scales::make(a_tensor_scale.value[g], [&](int j) { return tensor_scale(b_tensor_scale.value[g * MATRICES + j], 0, 0); });
    };
    const auto store = [&](auto count, const TileIndex& index, const Scales& factors, int from, int begin, int end, auto& sum, int warpgroup,
                           auto... known) {
        if constexpr (sizeof...(known) > 0) {  // where it goes
            store_rows<decltype(count)::VALUE>(stages, index, from, begin, end, sum, warpgroup, known..., factors);
        } else {
            const int g = index.group;
            store_rows<decltype(count)::VALUE>(stages, index, from, begin, end, sum, warpgroup, out.value[g], n.value[g], factors);
        }
    };
    const auto locate = [&](u32& index) {
        const int g = Table::group_of(table.first_half, static_cast<int>(index), groups);
        index -= table.first_half[g];
        return table.activations[g];
    };
    const auto share = activation_share<S::NVFP4, A_LAYOUT>(S::TOGETHER ? table.first_half[groups] : 0, counters, locate);
    const auto work = [&] {
#if PLAN_NARROWEST < PLAN_TOKENS
        return ListedTiles(order.value, starts.value, chunks_of(largest_k));
#else
        return deal(table, groups, largest_k);
#endif
    };
#if PLAN_NARROWEST < PLAN_TOKENS
    const auto note = [&](int turn) {
        TileNote made{NO_ENTRY};
        const ListedTiles listed = work();
        if (listed.entry + turn < listed.end) {
            const u32 word = listed.word(listed.entry + turn);
            const int tile = segment_of_entry(word, 0).tile, g = table.group_of(tile, groups), rows = width(g);
            const TileIndex index = find(table, tile, g, rows);
            made = {word, static_cast<u32>(g | rows << 16), index.row, index.token, index.token_end, n.value[g], out.value[g]};
        }
        return made;
    };
    const Notes<decltype(note)> notes{notes_of_block(stages), note};
#else
    const NoNotes notes;
#endif
    run(stages, table, groups, work, width, Workspace{sums, counters}, operands, share, scales, store, notes);
}

#else

extern "C" __global__ void __launch_bounds__(S::THREADS, S::RESIDENT)
    nvfp4_sm90_group_gemm_stacked(const __grid_constant__ ActivationMaps<S> a_maps, const __grid_constant__ Array<TensorMap, MATRICES> b_maps,
                                  const u8* a_data, const u8* a_scales, const __grid_constant__ Array<const u8*, MATRICES> b_scales,
                                  const float* a_tensor_scale,
                                  const __grid_constant__ Array<const float*, MATRICES> b_tensor_scale,
                                  const __grid_constant__ Array<int, MATRICES> b_tensor_stride, const int* offsets, u8* out,
                                  u8* operand, float* sums, u32* counters, int groups, int tokens, int n, int k
#if PLAN_INDEXED
                                  , const int* row_index, int rows_of_a
#endif
    ) {
#if !PLAN_INDEXED
    constexpr const int* row_index = nullptr;
    const int rows_of_a = tokens;
#endif
    const Stages<S> stages = stages_of_block();
    const Table table = table_of_block(stages);
    const int units = k / UNIT;
    if (threadIdx.x == 0) stages.init();
    griddepcontrol_wait();  // the kernel before may write the offsets
    if (threadIdx.x < 32) {
        // Clamped, so that no value of theirs can lead outside of A or C. A row belongs to the first group that ends after it.
        const auto end_of = [&](int g) { return min(max(offsets[g], 0), tokens); };
        const auto rows = [&](int g, int& begin, int& end) {
            begin = g > 0 ? end_of(g - 1) : 0;
            end = max(end_of(g), begin);
        };
        table.fill(groups, rows, [](int) { return TOKENS; }, [&](int) { return (n + ROWS - 1) / ROWS; });
    }
    __syncthreads();
    const Activations all{a_data, a_scales, operand, static_cast<u32>(rows_of_a), static_cast<u32>(units)};
    const auto operands = [&](const TileIndex& index) {
        Operands<S::PARTS> o;
#pragma unroll
        for (int b = 0; b < S::PARTS; ++b) {
            o.weight_codes[b] = &b_maps.value[matrix_of(b)];
            o.weight_scales[b] = b_scales.value[matrix_of(b)] + index.group * scale_matrix_bytes<B_LAYOUT>(n, 4 * units);
            o.weight_row[b] = index.row + row_of(b);
        }
        o.weight_rows = n;
        o.weight_batch = index.group;
        o.activations = a_maps.operand();
        o.raw = a_maps.raw();
        o.token = index.token;
        o.activation_batch = 0;
        o.source = all;
        o.units = units;
        return o;
    };
    const auto scales = [&](int g) {
        return Scales::make(a_tensor_scale, [&](int j) { return tensor_scale(b_tensor_scale.value[j], b_tensor_stride.value[j], g); });
    };
    const auto store = [&](auto count, const TileIndex& index, const Scales& factors, int from, int begin, int end, auto& sum, int warpgroup) {
        store_rows<decltype(count)::VALUE>(stages, index, from, begin, end, sum, warpgroup, out, n, factors);
    };
    const u32 halves = static_cast<u32>(tokens) * units * HALVES;
    const auto share = activation_share<S::NVFP4, A_LAYOUT, PLAN_INDEXED>(halves, counters,
                                                                          [&](u32&) { return all; }, row_index);
    run(stages, table, groups, [&] { return deal(table, groups, k); }, [](int) { return TOKENS; }, Workspace{sums, counters}, operands,
        share, scales, store);
}

#endif
