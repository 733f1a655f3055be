// Cache policies of L2 for loads and copies (PTX ISA 9.7.9.18): what createpolicy.fractional returns for the whole of a range.
#pragma once

#include "ptx/types.cuh"

constexpr u64 POLICY_EVICT_NORMAL = 0x1000000000000000ull;
constexpr u64 POLICY_EVICT_FIRST = 0x12F0000000000000ull;
constexpr u64 POLICY_EVICT_LAST = 0x14F0000000000000ull;
