"""Bounds, alignment, initialisation, and the kinds of memory."""

# ruff: noqa: E501 - CUDA and PTX text
from __future__ import annotations

import numpy as np
import pytest
from cuda_text import module, ptx_module

from nvfp4.emulator import Checks, KernelFault, Output
from nvfp4.emulator.runtime.native import runtime

BUGS = """
extern "C" __global__ void k(float* a, float* b, int n) {
  __shared__ float s[64]; int t = threadIdx.x; float keep[8];
#ifdef PAST_END
  b[t + n] = 1;
#elif defined(BEFORE_START)
  b[t - 64] = 1;
#elif defined(FAR)
  *(float*)0x1234560 = 1;
#elif defined(NULLPTR)
  b[t] = *(float*)(long long)(n - 32);
#elif defined(MISALIGNED)
  b[t] = *(float*)((char*)a + 2);
#elif defined(VECTOR)
  *(float4*)(b + 1) = make_float4(1, 2, 3, 4);
#elif defined(SHARED_PAST)
  ((volatile float*)s)[(t & 63) + n * 10] = 1;
#elif defined(SHARED_UNINIT)
  if (t < 16) s[t] = 1; __syncwarp(); b[t] = s[t];
#elif defined(LOCAL_UNINIT)
  for (int i = 0; i < 4; ++i) keep[(t + i) & 7] = i; b[t] = keep[(t * 3 + n) & 7];
#elif defined(OUTPUT_READ)
  b[t] = a[t] + 1;
#elif defined(PARTLY)
  if (t < 20) b[t] = 1;
#elif defined(TRAP)
  if (t == 5) __trap();
#elif defined(CONSTANT_WRITE)
  asm volatile("{ .reg .b64 p; cvta.param.u64 p, k_param_0; }");
#endif
}
"""


@pytest.mark.parametrize(
    ("bug", "kind", "text"),
    [
        ("PAST_END", "out-of-bounds", "0 bytes past the end of argument 1 (128 bytes)"),
        ("BEFORE_START", "out-of-bounds", "before the start of argument 1"),
        ("FAR", "out-of-bounds", "no buffer is anywhere near"),
        ("NULLPTR", "out-of-bounds", "reads 4 bytes at 0x0"),
        ("MISALIGNED", "misaligned", "not a multiple of 4"),
        ("VECTOR", "misaligned", "not a multiple of 16"),
        ("SHARED_PAST", "out-of-bounds", "shared address"),
        ("SHARED_UNINIT", "uninitialised-shared", "nothing has written"),
        ("LOCAL_UNINIT", "uninitialised-local", "local memory"),
        ("OUTPUT_READ", "uninitialised-global", "argument 0"),
        ("PARTLY", "output-not-written", "48 of 128 bytes of argument 1"),
        ("TRAP", "trap", "0x00000020"),
    ],
)
def test_bugs(bug: str, kind: str, text: str) -> None:
    a, b = np.ones(32, np.float32), np.zeros(32, np.float32)
    arguments = [
        Output(a) if bug == "OUTPUT_READ" else a,
        Output(b) if bug == "PARTLY" else b,
        32 if bug != "SHARED_PAST" else 64,
    ]
    with pytest.raises(KernelFault) as caught:
        module(BUGS, "90a", bug).launch("k", grid=1, block=32, args=arguments)
    report = caught.value.report
    assert report.kinds() == [kind], str(report)
    assert text in report.findings_text()
    if kind != "output-not-written":
        assert "test.cu:" in report.findings[0].source
        assert report.findings[0].cta == 0


def test_host_memory_is_never_touched_outside_buffers() -> None:
    """A buffer in the middle of a larger array: its neighbours survive whatever the kernel does."""
    whole = np.full(4096, 7.0, np.float32)
    with pytest.raises(KernelFault):
        module(BUGS, "90a", "PAST_END").launch("k", grid=1, block=32, args=[whole[:32], whole[2048:2080], 32])
    assert (whole == 7.0).all()


def test_uninitialised_register() -> None:
    m = ptx_module(
        """.reg .b32 %r<4>; .reg .pred %p; .reg .b64 %q;
        mov.u32 %r0, %laneid; setp.lt.u32 %p, %r0, 8; @%p mov.u32 %r1, 3; add.u32 %r2, %r1, 1;
        ld.param.u64 %q, [out]; st.global.u32 [%q], %r2;""",
        ".param .u64 out",
    )
    out = np.zeros(1, np.uint32)
    with pytest.raises(KernelFault, match=r"register %r1, which nothing has written in lanes 0xffffff00"):
        m.launch("k", grid=1, block=32, args=[out])
    m.launch("k", grid=1, block=32, args=[out], checks=Checks.all().but(initialisation=False, races=False))


def test_vectors_up_to_256_bits_and_cache_hints() -> None:
    m = ptx_module(
        """.reg .b32 %r<8>; .reg .b64 %p, %q, %o; .reg .b32 %t;
        mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 32; ld.param.u64 %p, [a]; add.s64 %p, %p, %o; ld.param.u64 %q, [b]; add.s64 %q, %q, %o;
        ld.global.nc.L1::evict_last.L2::evict_last.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%p];
        st.global.L1::no_allocate.v8.b32 [%q], {%r7, %r6, %r5, %r4, %r3, %r2, %r1, %r0};""",
        ".param .u64 a, .param .u64 b",
    )
    a = np.arange(256, dtype=np.uint32)
    b = np.zeros_like(a)
    m.launch("k", grid=1, block=32, args=[a, b])
    np.testing.assert_array_equal(b.reshape(32, 8), a.reshape(32, 8)[:, ::-1])


def test_atomics_of_all_kinds() -> None:
    source = """
    #include <cuda_fp16.h>
    #include <cuda_bf16.h>
    extern "C" __global__ void k(int* i, unsigned* u, unsigned long long* l, float* f, double* d, __half2* h, __nv_bfloat162* b) {
      __shared__ int s; int t = threadIdx.x; if (t == 0) s = 0; __syncthreads();
      atomicAdd(i, t); atomicMin(i + 1, -t); atomicMax(i + 2, t); atomicXor(i + 3, t * 77); atomicAnd(i + 4, ~(1 << (t & 31))); atomicOr(i + 5, 1 << (t & 31));
      atomicInc(u, 9); atomicDec(u + 1, 5); atomicAdd(l, 1ull << 33); atomicAdd(f, 0.5f); atomicAdd(d, 0.25);
      atomicAdd(h, __floats2half2_rn(1.f, 2.f)); atomicAdd(b, __floats2bfloat162_rn(1.f, -1.f)); atomicAdd(&s, 2); __syncthreads(); if (t == 0) i[6] = s; }"""
    i, u = np.array([0, 0, 0, 0, -1, 0, 0], np.int32), np.array([0, 3], np.uint32)
    l, f, d = np.zeros(1, np.uint64), np.zeros(1, np.float32), np.zeros(1, np.float64)
    h, b = np.zeros(2, np.float16), np.zeros(2, np.uint16)
    module(source).launch("k", grid=1, block=64, args=[i, u, l, f, d, h, b])
    x = 0
    for t in range(64):
        x ^= t * 77
    assert i.tolist() == [2016, -63, 63, x, 0, -1, 128]
    assert u.tolist() == [64 % 10, [3, 2, 1, 0, 5, 4][64 % 6]]
    assert (int(l[0]), float(f[0]), float(d[0])) == (64 << 33, 32.0, 16.0)
    assert h.tolist() == [64.0, 128.0]
    assert (b.astype(np.uint32) << 16).view(np.float32).tolist() == [64.0, -64.0]


def test_cp_async_group_and_early_read() -> None:
    source = """
    extern "C" __global__ void k(const float4* a, float4* out) {
      __shared__ float4 s[2][64]; int t = threadIdx.x; unsigned d = (unsigned)__cvta_generic_to_shared(&s[0][t]);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16; cp.async.commit_group;" ::"r"(d), "l"(a + t) : "memory");
      asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2; cp.async.commit_group;" ::"r"(d + 1024), "l"(a + 64 + t), "r"(t & 1 ? 16 : 8) : "memory");
    #ifndef EARLY
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    #endif
      out[t] = s[0][t];
      asm volatile("cp.async.wait_all;" ::: "memory");
      out[64 + t] = s[1][t]; }"""
    a = np.arange(512, dtype=np.float32).reshape(128, 4)
    out = np.zeros_like(a)
    module(source).launch("k", grid=1, block=64, args=[a, out])
    want = a.copy()
    want[64::2, 2:] = 0
    np.testing.assert_array_equal(out, want)
    with pytest.raises(KernelFault, match=r"race.*cp\.async issued by warp"):
        module(source, "90a", "EARLY").launch("k", grid=1, block=64, args=[a, out])


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_wavefronts_count_words_of_the_worst_bank(size: int) -> None:
    """Against the definition: per 128 bytes' worth of lanes, the most distinct words that one of 32 banks serves."""
    rng = np.random.default_rng(size)
    wavefronts = runtime().function("wavefronts")
    per_phase = 32 * 4 // max(4, size)
    for case in range(200):
        spread = int(rng.choice([32, 64, 512, 4096]))
        addresses = rng.integers(0, spread, 32).astype(np.uint64) * np.uint64(size)
        if case % 4 == 0:
            addresses = rng.permutation(32).astype(np.uint64) * np.uint64(size)
        mask = int(rng.choice([0xFFFFFFFF, 0xFF, 0x80000001, int(rng.integers(1, 1 << 32))]))
        want = 0
        for start in range(0, 32, per_phase):
            banks: dict[int, list[int]] = {}
            for lane in range(start, start + per_phase):
                if mask >> lane & 1:
                    for k in range((size + 3) // 4):
                        word = int(addresses[lane]) // 4 + k
                        held = banks.setdefault(word % 32, [])
                        # As before: a word counts again when another one of its bank came between.
                        if not held or held[-1] != word:
                            held.append(word)
            want += max((len(words) for words in banks.values()), default=0)
        assert wavefronts(mask, addresses.ctypes.data, size) == want, (mask, addresses)
