// Integer types by width. No standard header: NVRTC then needs none of the toolkit's files, and compiles faster.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

struct alignas(8) u32x2 {
    u32 x, y;
};

struct alignas(16) u32x4 {
    u32 x, y, z, w;
};

// What PTX calls an address in the .shared window ("State Spaces", 5.1).
__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}
