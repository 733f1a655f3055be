"""Clusters: distributed shared memory, multicast, cluster barriers, remote mbarriers, cluster launch control."""

# ruff: noqa: E501 - CUDA and PTX text
from __future__ import annotations

import numpy as np
import pytest
from cuda_text import module

from nvfp4.emulator import Checks, Report, TensorMap

LOOSE = Checks.all().but(stop_on_finding=False)

REMOTE = """
__device__ unsigned rank() { unsigned r; asm("mov.u32 %0, %cluster_ctarank;" : "=r"(r)); return r; }
__device__ void arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ void wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
extern "C" __global__ void k(int* out) {
  __shared__ int s[64]; int t = threadIdx.x; unsigned peer, r = rank();
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"((unsigned)__cvta_generic_to_shared(s + 63 - t)), "r"(r ^ 1));
  s[t] = 100 * r + t;
#ifndef NO_FIRST
  arrive(); wait();
#endif
  int v; asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(peer) : "memory");
  out[blockIdx.x * 64 + t] = v;
#ifdef AS_OWN
  asm volatile("ld.shared::cta.u32 %0, [%1];" : "=r"(v) : "r"(peer) : "memory");
#endif
#ifdef ARRIVE_TWICE
  arrive(); arrive();
#endif
#ifndef NO_LAST
  arrive(); wait();
#endif
}
"""


def remote(*defines: str, seed: int = 0) -> tuple[Report, np.ndarray]:
    out = np.zeros(8 * 64, np.int32)
    return module(REMOTE, "90a", *defines).launch(
        "k", grid=8, block=64, cluster=2, args=[out], seed=seed, checks=LOOSE
    ), out


@pytest.mark.parametrize("seed", range(10))
def test_distributed_shared_memory(seed: int) -> None:
    report, out = remote(seed=seed)
    assert report.clean, str(report)
    want = [100 * ((c & 1) ^ 1) + 63 - t for c in range(8) for t in range(64)]
    assert out.tolist() == want


@pytest.mark.parametrize(
    ("define", "kind", "text"),
    [
        ("NO_FIRST", "race|uninitialised-shared", "shared memory"),
        ("NO_LAST", "cluster-exit", "cluster barrier"),
        ("AS_OWN", "out-of-bounds", ".shared::cluster"),
        ("ARRIVE_TWICE", "barrier", "arrive twice"),
    ],
)
def test_broken_clusters(define: str, kind: str, text: str) -> None:
    for seed in range(12):
        report, _ = remote(define, seed=seed)
        if set(report.kinds()) & set(kind.split("|")) and text in report.findings_text():
            return
    pytest.fail(str(report))


MULTICAST = """
struct alignas(64) CUtensorMap { unsigned long long opaque[16]; };
extern "C" __global__ void __cluster_dims__(4, 1, 1) k(const __grid_constant__ CUtensorMap map, float* out) {
  __shared__ __align__(128) float tile[256]; __shared__ unsigned long long bar;
  unsigned b = (unsigned)__cvta_generic_to_shared(&bar), d = (unsigned)__cvta_generic_to_shared(tile), r; int t = threadIdx.x;
  asm("mov.u32 %0, %cluster_ctarank;" : "=r"(r));
  if (t == 0) { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(b)); asm volatile("fence.mbarrier_init.release.cluster;");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" ::"r"(b) : "memory"); }
#ifndef NO_CLUSTER_SYNC
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
  // Every CTA loads a quarter of the tile into all four.
  if (t == 0) asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {0, %2}], [%3], %4;"
    ::"r"(d + r * 256), "l"(&map), "r"(blockIdx.x / 4 * 16 + r * 4), "r"(b), "h"((unsigned short)15) : "memory");
  asm volatile("{ .reg .pred p;\\nagain: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\\n@!p bra again; }" ::"r"(b) : "memory");
  out[blockIdx.x * 256 + t] = tile[t];
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
"""


@pytest.mark.parametrize("seed", range(6))
def test_multicast(seed: int) -> None:
    source = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    out = np.zeros((8, 256), np.float32)
    tensor = TensorMap(source, "f32", (16, 32), (64,), (16, 4))
    report = module(MULTICAST).launch("k", grid=8, block=256, args=[tensor, out], seed=seed, checks=LOOSE)
    assert report.clean, str(report)
    for cta in range(8):
        np.testing.assert_array_equal(out[cta], source[cta // 4 * 16 : cta // 4 * 16 + 16].reshape(-1))


def test_multicast_before_the_peers_are_ready() -> None:
    source, out = np.zeros((32, 16), np.float32), np.zeros((8, 256), np.float32)
    tensor = TensorMap(source, "f32", (16, 32), (64,), (16, 4))
    for seed in range(8):
        report = module(MULTICAST, "90a", "NO_CLUSTER_SYNC").launch(
            "k", grid=8, block=256, args=[tensor, out], seed=seed, checks=LOOSE
        )
        assert set(report.kinds()) & {"race", "mbarrier"}, str(report)


REMOTE_BARRIER = """
extern "C" __global__ void __cluster_dims__(2, 1, 1) k(int* out) {
  __shared__ int box[32]; __shared__ unsigned long long bar;
  unsigned b = (unsigned)__cvta_generic_to_shared(&bar), r, far, far_box; int t = threadIdx.x;
  asm("mov.u32 %0, %cluster_ctarank;" : "=r"(r));
  if (t == 0) { asm volatile("mbarrier.init.shared::cta.b64 [%0], COUNT;" ::"r"(b)); asm volatile("fence.mbarrier_init.release.cluster;"); }
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(b), "r"(r ^ 1));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far_box) : "r"((unsigned)__cvta_generic_to_shared(box + t)), "r"(r ^ 1));
#ifdef ASYNC
  if (t == 0) asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 128;" ::"r"(b) : "memory");
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(far_box), "r"(r * 50 + t), "r"(far) : "memory");
#else
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(far_box), "r"(r * 50 + t) : "memory");
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(far) : "memory");
#endif
  asm volatile("{ .reg .pred p;\\nagain: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0;\\n@!p bra again; }" ::"r"(b) : "memory");
  out[blockIdx.x * 32 + t] = box[t];
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
"""


@pytest.mark.parametrize("mode", ["", "ASYNC"])
@pytest.mark.parametrize("seed", range(4))
def test_remote_arrivals_and_stores(mode: str, seed: int) -> None:
    source = REMOTE_BARRIER.replace("COUNT", "1" if mode else "32")
    out = np.zeros(64, np.int32)
    report = module(source, "90a", *([mode] if mode else [])).launch(
        "k", grid=2, block=32, args=[out], seed=seed, checks=LOOSE
    )
    assert report.clean, str(report)
    assert out.tolist() == [50 + t for t in range(32)] + list(range(32))


STEAL = """
extern "C" __global__ void k(int* out) {
  __shared__ __align__(16) unsigned long long answer[2]; __shared__ unsigned long long bar;
  unsigned b = (unsigned)__cvta_generic_to_shared(&bar), a = (unsigned)__cvta_generic_to_shared(answer);
  if (threadIdx.x == 0) { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(b)); asm volatile("fence.mbarrier_init.release.cluster;"); }
  __syncthreads();
  int block = blockIdx.x, phase = 0;
  while (true) {
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 16;" ::"r"(b) : "memory");
      asm volatile("clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%0], [%1];" ::"r"(a), "r"(b) : "memory");
      atomicAdd(out + block, 1 + blockIdx.x * 0);
    }
    asm volatile("{ .reg .pred p;\\nagain: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\\n@!p bra again; }" ::"r"(b), "r"(phase & 1) : "memory");
    phase++;
    int ok, x;
    asm volatile("{ .reg .pred p; .reg .b128 h; ld.shared.b128 h, [%2]; clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 p, h; selp.b32 %0, 1, 0, p;\\n"
                 "mov.b32 %1, 0; @p clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %1, h; }" : "=r"(ok), "=r"(x) : "r"(a) : "memory");
    __syncthreads();
    if (!ok) break;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    block = x;
  }
}
"""


@pytest.mark.parametrize("seed", range(4))
def test_cluster_launch_control(seed: int) -> None:
    out = np.zeros(40, np.int32)
    report = module(STEAL, "100a").launch("k", grid=40, block=64, args=[out], seed=seed, checks=LOOSE)
    assert report.clean, str(report)
    assert out.tolist() == [1] * 40
