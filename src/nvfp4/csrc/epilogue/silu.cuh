// SiLU in fp32.
#pragma once

// x * sigmoid(x), as x / (1 + exp(-x)). For large negative x the denominator is infinite and the result -0, as it should be;
// x * sigmoid(x) or x - x / (1 + exp(x)) would lose the digits, and tanh.approx has only 11 bits.
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }
