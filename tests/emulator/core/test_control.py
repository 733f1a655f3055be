"""Divergence, warp-wide operations, barriers, schedules: legal programs make progress and illegal ones are told."""

# ruff: noqa: E501 - CUDA and PTX text
from __future__ import annotations

import numpy as np
import pytest
from cuda_text import module, ptx_module

from nvfp4.emulator import Checks, KernelFault, Report

LOOSE = Checks.all().but(stop_on_finding=False)


def test_nested_divergence() -> None:
    source = """extern "C" __global__ void k(const int* a, int* out) {
      int x = a[threadIdx.x], steps = 0;
      while (x != 1) { if (x & 1) { x = 3 * x + 1; if (x % 5 == 0) steps += 1000; } else x >>= 1; ++steps; if (steps > 5000) break; }
      switch (threadIdx.x % 5) { case 0: steps += 1; break; case 1: steps += 2; case 2: steps *= 2; break; case 3: return; default: steps = -steps; }
      out[threadIdx.x] = steps; }"""
    a = np.arange(1, 257, dtype=np.int32)
    out = np.full(256, -7, np.int32)
    module(source).launch("k", grid=1, block=256, args=[a, out])

    def want(t: int) -> int:
        x, steps = t + 1, 0
        while x != 1:
            if x & 1:
                x = 3 * x + 1
                steps += 1000 * (x % 5 == 0)
            else:
                x >>= 1
            steps += 1
            if steps > 5000:
                break
        return [steps + 1, (steps + 2) * 2, steps * 2, -7, -steps][t % 5]

    assert out.tolist() == [want(t) for t in range(256)]


@pytest.mark.parametrize("seed", range(4))
def test_locks_among_lanes_warps_and_ctas(seed: int) -> None:
    source = """extern "C" __global__ void k(int* lock, int* count) {
      for (int n = 0; n < 3; ++n) { bool done = false;
        while (!done) if (atomicCAS(lock, 0, 1) == 0) { __threadfence(); ++*(volatile int*)count; __threadfence(); atomicExch(lock, 0); done = true; } } }"""
    lock, count = np.zeros(1, np.int32), np.zeros(1, np.int32)
    module(source).launch("k", grid=4, block=64, args=[lock, count], seed=seed)
    assert count[0] == 4 * 64 * 3


@pytest.mark.parametrize("grid", [3, 40])
def test_ctas_that_wait_for_one_another(grid: int) -> None:
    """A chain: CTA i waits for CTA i + 1, which may start later."""
    source = """extern "C" __global__ void k(int* flag, int* data) {
      int b = blockIdx.x, last = gridDim.x - 1;
      if (threadIdx.x == 0) {
        int v = 1;
        if (b != last) { while (atomicAdd(flag + b + 1, 0) == 0) __nanosleep(20); __threadfence(); v += data[b + 1]; }
        data[b] = v; __threadfence(); atomicExch(flag + b, 1);
      } }"""
    flag, data = np.zeros(grid, np.int32), np.zeros(grid, np.int32)
    module(source).launch("k", grid=grid, block=32, args=[flag, data], seed=grid)
    assert data.tolist() == list(range(grid, 0, -1))


def test_missing_release_between_ctas_is_a_race() -> None:
    source = """extern "C" __global__ void k(int* flag, int* data) {
      if (blockIdx.x == 0) { data[threadIdx.x] = 5; __syncthreads(); if (threadIdx.x == 0) {
      #ifdef RELEASE
        __threadfence();
      #endif
        atomicExch(flag, 1); } }
      else { if (threadIdx.x == 0) while (atomicAdd(flag, 0) == 0); __syncthreads(); data[32 + threadIdx.x] = data[threadIdx.x] + 1; } }"""
    arrays = [np.zeros(1, np.int32), np.zeros(64, np.int32)]
    report = module(source, "90a").launch("k", grid=2, block=32, args=arrays, checks=LOOSE)
    assert report.kinds() == ["race"]
    assert "__threadfence" in report.findings_text()
    arrays = [np.zeros(1, np.int32), np.zeros(64, np.int32)]
    report = module(source, "90a", "RELEASE").launch("k", grid=2, block=32, args=arrays, checks=LOOSE)
    assert report.clean, str(report)
    assert arrays[1][32:].tolist() == [6] * 32


def test_writes_of_two_ctas_to_one_place_race() -> None:
    source = 'extern "C" __global__ void k(int* out) { out[threadIdx.x] = blockIdx.x; }'
    report = module(source).launch("k", grid=2, block=32, args=[np.zeros(32, np.int32)], checks=LOOSE)
    assert report.kinds() == ["race"]


def test_shuffles_votes_matches() -> None:
    source = """extern "C" __global__ void k(const int* a, int* out) {
      int t = threadIdx.x, v = a[t]; unsigned all = ~0u;
      out[t] = __shfl_sync(all, v, (t * 7) & 31); out[32 + t] = __shfl_up_sync(all, v, 3); out[64 + t] = __shfl_down_sync(all, v, 5, 16);
      out[96 + t] = __shfl_xor_sync(all, v, 9); out[128 + t] = __ballot_sync(all, v & 1); out[160 + t] = __any_sync(all, v == 3) * 2 + __all_sync(all, v < 100);
      out[192 + t] = __match_any_sync(all, v % 4); out[224 + t] = __reduce_add_sync(all, v); out[256 + t] = __reduce_max_sync(all, v);
      if (t % 3 == 0) out[288 + t] = __shfl_sync(__activemask(), v, 6); }"""
    a = np.random.default_rng(0).integers(0, 50, 32).astype(np.int32)
    out = np.zeros(320, np.int32)
    module(source).launch("k", grid=1, block=32, args=[a, out])
    t = np.arange(32)
    assert (out[:32] == a[t * 7 & 31]).all()
    assert (out[32:64] == np.where(t >= 3, a[t - 3], a)).all()
    assert (out[64:96] == np.where(t % 16 + 5 < 16, a[(t + 5) & 31], a)).all()
    assert (out[96:128] == a[t ^ 9]).all()
    ballot = int(sum(int(v & 1) << i for i, v in enumerate(a)))
    assert (out[128:160].view(np.uint32) == ballot).all()
    assert (out[160:192] == int((a == 3).any()) * 2 + 1).all()
    assert (out[192:224].view(np.uint32) == [sum(int(b % 4 == v % 4) << i for i, b in enumerate(a)) for v in a]).all()
    assert (out[224:256] == a.sum()).all()
    assert (out[256:288] == a.max()).all()
    assert (out[288:320][t % 3 == 0] == a[6]).all()


def test_shuffle_waits_for_its_members() -> None:
    """Both halves of the warp reach one shuffle at different times through a branch."""
    m = ptx_module(
        """.reg .b32 %t, %v, %w; .reg .pred %p; .reg .b64 %o, %q;
        mov.u32 %t, %laneid; setp.lt.u32 %p, %t, 16; mov.u32 %v, %t;
        @%p bra low; mov.u32 %v, 0; loop: add.u32 %v, %v, 1; setp.lt.u32 %p, %v, 40; @%p bra loop; add.u32 %v, %v, %t;
        low: shfl.sync.bfly.b32 %w, %v, 16, 31, -1;
        mul.wide.u32 %o, %t, 4; ld.param.u64 %q, [out]; add.s64 %q, %q, %o; st.global.u32 [%q], %w;""",
        ".param .u64 out",
    )
    out = np.zeros(32, np.uint32)
    m.launch("k", grid=1, block=32, args=[out])
    assert out.tolist() == [t + 16 + 40 for t in range(16)] + list(range(16))


LANES = """
extern "C" __global__ void k(int* out) {
  __shared__ int s[2][32]; int t = threadIdx.x;
#ifdef SAME_PLACE
  asm volatile("st.shared.u32 [%0], %1;" ::"r"((unsigned)__cvta_generic_to_shared(s[1])), "r"(VALUE) : "memory");
#endif
  s[0][t] = t;
#ifndef NO_SYNC
  __syncwarp();
#endif
  int v = ((volatile int*)s[0])[(t + 1) & 31];
#ifdef UPDATE
#ifndef NO_SECOND
  __syncwarp();
#endif
  s[0][t] = v; __syncwarp(); v = s[0][t ^ 5];
#endif
  out[t] = v; }
"""


@pytest.mark.parametrize(
    ("defines", "text"),
    [
        ((), ""),
        (("UPDATE",), ""),
        (("SAME_PLACE", "VALUE=7"), ""),
        (("NO_SYNC",), "lane 1 of the same warp wrote"),
        (("UPDATE", "NO_SECOND"), "of the same warp read"),
        (("SAME_PLACE", "VALUE=t"), "of the same warp wrote"),
    ],
)
def test_races_between_lanes(defines: tuple[str, ...], text: str) -> None:
    report = module(LANES, "90a", *defines).launch("k", grid=1, block=32, args=[np.zeros(32, np.int32)], checks=LOOSE)
    if not text:
        assert report.clean, str(report)
        return
    assert report.kinds() == ["race"], str(report)
    assert text in report.findings_text(), report.findings_text()
    assert "__syncwarp" in report.findings_text()
    off = module(LANES, "90a", *defines).launch(
        "k", grid=1, block=32, args=[np.zeros(32, np.int32)], checks=LOOSE.but(lanes=False)
    )
    assert off.clean, str(off)


BARRIERS = """
extern "C" __global__ void k(int* out) {
  __shared__ int s[128]; int t = threadIdx.x;
  s[t] = t;
#ifndef NO_SYNC
  __syncthreads();
#endif
  int v = s[(t + 37) & 127];
#ifdef DIVERGED
  if (t < 40) asm volatile("bar.sync 1, 64;");
#endif
#ifdef STUCK
  if (t < 64) asm volatile("bar.sync 2, 96;");
#endif
#ifdef ODD
  asm volatile("bar.sync 3, 50;");
#endif
  int n = __syncthreads_count(v & 1), all = __syncthreads_and(v >= 0), any = __syncthreads_or(v == 500);
  out[t] = v + 1000 * n + 100000 * all + 1000000 * any; }
"""


def barriers(*defines: str, seed: int = 0) -> tuple[Report, np.ndarray]:
    out = np.zeros(128, np.int32)
    return module(BARRIERS, "90a", *defines).launch(
        "k", grid=2, block=128, args=[out], checks=LOOSE.but(races=True), seed=seed
    ), out


def test_barriers() -> None:
    source = BARRIERS.replace("out[t] =", "if (blockIdx.x == 0) out[t] =")
    out = np.zeros(128, np.int32)
    report = module(source).launch("k", grid=2, block=128, args=[out])
    assert report.clean
    assert out.tolist() == [(t + 37) % 128 + 64000 + 100000 for t in range(128)]


@pytest.mark.parametrize(
    ("define", "kind", "text"),
    [
        ("NO_SYNC", "race", "shared memory"),
        ("DIVERGED", "divergence", ".aligned"),
        ("STUCK", "deadlock", "barrier 2, 64 of 96 threads"),
        ("ODD", "barrier", "not a multiple of the warp size"),
    ],
)
def test_broken_barriers(define: str, kind: str, text: str) -> None:
    found = ""
    for seed in range(5):
        report, _ = barriers(define, seed=seed)
        found = report.findings_text()
        if kind in report.kinds() and text in found:
            assert "test.cu:" in found
            return
    pytest.fail(found)


def test_endless_loops_end_with_a_report() -> None:
    spin = 'extern "C" __global__ void k(volatile int* flag) { while (*flag == 0); }'
    with pytest.raises(KernelFault, match="step-limit"):
        module(spin).launch(
            "k", grid=1, block=32, args=[np.zeros(1, np.int32)], checks=Checks.all().but(step_limit=200_000)
        )


def test_same_seed_same_run() -> None:
    source = 'extern "C" __global__ void k(int* n, int* out) { if (threadIdx.x % 32 == 0) out[atomicAdd(n, 1)] = blockIdx.x * 8 + threadIdx.x / 32; }'
    runs = {}
    for seed in (1, 1, 2, 3):
        out = np.zeros(64, np.int32)
        module(source).launch("k", grid=8, block=256, args=[np.zeros(1, np.int32), out], seed=seed)
        assert sorted(out.tolist()) == list(range(64))
        runs.setdefault(seed, []).append(out.tolist())
    assert runs[1][0] == runs[1][1]
    assert len({tuple(r[0]) for r in runs.values()}) == 3


def test_counters_profile_and_timeline(tmp_path: object) -> None:
    source = """extern "C" __global__ void k(const float* a, float* out) {
      __shared__ float s[1024]; int t = threadIdx.x;
      s[t * 32 & 1023] = a[t];
      __syncthreads();
      out[t] = s[t * 32 & 1023]; }"""
    report = module(source).launch(
        "k", grid=1, block=32, args=[np.ones(32, np.float32), np.zeros(32, np.float32)], checks=LOOSE
    )
    assert report.counts["global_load_bytes"] == 128
    assert report.counts["global_store_bytes"] == 128
    assert report.counts["global_sectors"] == 8
    assert report.counts["shared_requests"] == 2
    assert report.counts["shared_wavefronts"] == 64
    assert report.instructions["bar"] == 1
    assert "test.cu:" in report.profile()
    png = report.timeline_png(tmp_path / "t.png")  # type: ignore[operator]
    assert png.read_bytes()[:4] == b"\x89PNG"
