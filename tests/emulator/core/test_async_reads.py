"""What the copy engine reads of device memory that threads of the same launch wrote: ordered, and fenced."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_text import module

from nvfp4.emulator import Checks, Output, Report

# The first block writes, the last one has the copy engine read. BEFORE and WRITES stand around the writes, READS before
# the copy.
HANDED_ON = """
#ifndef BEFORE
#define BEFORE
#endif
#ifndef WRITES
#define WRITES
#endif
#ifndef READS
#define READS
#endif
#define FENCE asm volatile("fence.proxy.async;" ::: "memory");
#define FENCE_GLOBAL asm volatile("fence.proxy.async.global;" ::: "memory");
#define FENCE_SHARED asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
extern "C" __global__ void k(float* between, unsigned* flag, float* out) {
  __shared__ alignas(128) float box[64]; __shared__ alignas(8) unsigned long long barrier;
  const unsigned t = threadIdx.x, b = __cvta_generic_to_shared(&barrier), to = __cvta_generic_to_shared(box);
  if (t == 0) asm volatile("mbarrier.init.shared.b64 [%0], 1; fence.mbarrier_init.release.cluster;" ::"r"(b) : "memory");
  __syncthreads();
  if (blockIdx.x == 0) {
    BEFORE
    between[t] = t + 1.0f;
    WRITES
    __syncthreads();
    if (t == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(flag) : "memory");
  }
  if (blockIdx.x != gridDim.x - 1) return;
  if (t == 0) {
#ifndef NO_WAIT
    for (unsigned seen = 0; seen == 0;) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
#endif
    READS
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], 256;" ::"r"(b) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" ::"r"(to), "l"(between), "r"(b) : "memory");
  }
  for (unsigned done = 0; done == 0;)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(b) : "memory");
  out[t] = box[t];
}
"""  # noqa: E501 - CUDA text


def run(defines: tuple[str, ...], blocks: int, seed: int, proxy: bool = True) -> tuple[Report, np.ndarray]:
    between, flag, out = np.zeros(64, np.float32), np.zeros(1, np.uint32), np.zeros(64, np.float32)
    report = module(HANDED_ON, "90a", *defines).launch(
        "k",
        grid=blocks,
        block=64,
        args=[between, flag, Output(out)],
        seed=seed,
        checks=Checks.all().but(stop_on_finding=False, proxy=proxy),
    )
    return report, out


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("fence", ["READS=FENCE", "READS=FENCE_GLOBAL", "WRITES=FENCE_GLOBAL", "WRITES=FENCE"])
def test_fenced_by_who_writes_or_who_reads(fence: str, blocks: int) -> None:
    for seed in range(5):
        report, out = run((fence,), blocks, seed)
        assert report.clean, f"seed {seed}: {report}"
        np.testing.assert_array_equal(out, np.arange(1, 65))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("fence", ["NOTHING", "READS=FENCE_SHARED", "WRITES=FENCE_SHARED", "BEFORE=FENCE_GLOBAL"])
def test_a_fence_that_is_missing_or_does_not_count(fence: str, blocks: int) -> None:
    for seed in range(5):
        report, _ = run((fence,), blocks, seed)
        assert report.kinds() == ["missing-proxy-fence"], f"seed {seed}: {report}"
        assert "async proxy to global memory" in report.findings_text()
        assert "st.global" in report.findings_text()
    assert run((fence,), blocks, 0, proxy=False)[0].clean


def test_a_copy_that_nothing_orders_behind_the_writes() -> None:
    reports = [run(("NO_WAIT", "READS=FENCE"), 2, seed)[0] for seed in range(8)]  # by luck the copy goes first
    assert {kind for report in reports for kind in report.kinds()} == {"race"}
