// Small kernels that show that launches work: parameters, clusters, programmatic launch, tensor maps. For tests and `doctor`.
#include "ptx/griddepcontrol.cuh"
#include "ptx/types.cuh"

// Constants, defined by the launch.
constexpr int CAPACITY = CONFIG_CAPACITY;

template <class T>
struct Array {
    T value[CAPACITY];
};

// out[0..4] = the numbers; out[5..] = *pointers[i], or -1 for a null pointer, + numbers[i].
extern "C" __global__ void probe_parameters(i64* out, int a, u32 b, i64 c, u64 d, float e,
                                            const __grid_constant__ Array<const i64*> pointers,
                                            const __grid_constant__ Array<int> numbers) {
    if (threadIdx.x != 0) return;
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = static_cast<i64>(d);
    out[4] = static_cast<i64>(e * 4.0f);
    for (int i = 0; i < CAPACITY; ++i) {
        out[5 + i] = (pointers.value[i] == nullptr ? -1 : *pointers.value[i]) + numbers.value[i];
    }
}

// out[0] += 1 after everything before it in order.
extern "C" __global__ void probe_increment(i64* out) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (threadIdx.x == 0 && blockIdx.x == 0) out[0] += 1;
}

#if __CUDA_ARCH__ >= 900

struct alignas(64) TensorMap {
    u64 words[16];
};

// out[block] = rank of the block in its cluster * 100 + blocks of the cluster.
extern "C" __global__ void probe_cluster(i64* out) {
    u32 rank, count;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    if (threadIdx.x == 0) out[blockIdx.x] = rank * 100 + count;
}

// out[0 .. rows * 16 bytes) = the box of `map` at (x, y), as it lies in shared memory; BYTES of it.
extern "C" __global__ void probe_tensor_map(u8* out, const __grid_constant__ TensorMap map, int x, int y, int bytes) {
    extern __shared__ __align__(1024) u8 tile[];
    __shared__ u64 barrier;
    const u32 bar = shared_address(&barrier), to = shared_address(tile);
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
                "r"(to), "l"(&map), "r"(x), "r"(y), "r"(bar)
            : "memory");
    }
    __syncthreads();
    u32 done = 0;
    while (done == 0) {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(bar)
            : "memory");
    }
    for (int i = threadIdx.x; i < bytes; i += blockDim.x) out[i] = tile[i];
}

#endif
