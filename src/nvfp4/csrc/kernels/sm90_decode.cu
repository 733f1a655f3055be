// NVFP4 activations to fp16, times 2^-14, for the Hopper GEMM kernels: X [L, M, K] -> [L, M, K], exact.
//
// Each 64 elements of a row come out in ORDER_LANE (decode/wgmma_operand.cuh), the order in which WGMMA's register operand is cheapest to
// decode on the other side of the product. Activations are few and every tile of weights reads them: decoded once here, they
// cost the GEMM's warps nothing. K a multiple of 64.
//
// A thread writes 16 bytes; eight threads share a unit of 64 elements, so that L * M * K / 8 threads cover X. The list form decodes
// up to CAPACITY matrices [M_g, K_g]; blockIdx.y counts them, and blocks beyond the end of theirs leave.
#include "decode/wgmma_operand.cuh"
#include "ptx/griddepcontrol.cuh"

// Constants: PLAN_A_LAYOUT, PLAN_CAPACITY.
constexpr int CAPACITY = PLAN_CAPACITY;

template <class T>
struct Array {
    T value[CAPACITY];
};

__device__ __forceinline__ void decode(const u8* codes, const u8* scales, u8* out, int m, int k, int l) {
    const i64 index = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int units = k / UNIT;
    const i64 unit_of_all = index / 8;
    if (unit_of_all >= static_cast<i64>(l) * m * units) return;
    const i64 row_of_all = unit_of_all / units;
    const int unit = static_cast<int>(unit_of_all - row_of_all * units), row = static_cast<int>(row_of_all % m);
    const u8* matrix_scales = scales + row_of_all / m * scale_matrix_bytes<PLAN_A_LAYOUT>(m, 4 * units);
    const u32 word = ld_global_nc_b32(matrix_scales + scale_offset<PLAN_A_LAYOUT>(row, 4 * unit, 4 * units));

    const u32 piece = static_cast<u32>(index % 8), v = piece / 4;
    const u8* from = codes + unit_of_all * UNIT_BYTES + 4 * v;
    u32 words[4];
#pragma unroll
    for (int block = 0; block < 4; ++block) words[block] = ld_global_nc_b32(from + 8 * block);
    u32x4 value;
    switch (piece % 4) {
        case 0: value = decode_piece<0>(words, word); break;
        case 1: value = decode_piece<1>(words, word); break;
        case 2: value = decode_piece<2>(words, word); break;
        default: value = decode_piece<3>(words, word);
    }
    st_global_v4_b32(out + index * 16, value);
}

extern "C" __global__ void __launch_bounds__(256)
    nvfp4_sm90_decode(const u8* codes, const u8* scales, u8* out, int m, int k, int l) {
    griddepcontrol_wait();  // the kernel before may write X, or still read what this one overwrites
    griddepcontrol_launch_dependents();
    decode(codes, scales, out, m, k, l);
}

extern "C" __global__ void __launch_bounds__(256)
    nvfp4_sm90_decode_list(const __grid_constant__ Array<const u8*> codes, const __grid_constant__ Array<const u8*> scales,
                           const __grid_constant__ Array<u8*> out, const __grid_constant__ Array<int> m,
                           const __grid_constant__ Array<int> k) {
    griddepcontrol_wait();
    griddepcontrol_launch_dependents();
    const int g = blockIdx.y;
    decode(codes.value[g], scales.value[g], out.value[g], m.value[g], k.value[g], 1);
}
