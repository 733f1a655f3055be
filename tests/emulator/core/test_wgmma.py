"""wgmma in a kernel: the product, and what happens when a wait, a fence or a descriptor bit is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_text import file_module

from nvfp4.emulator import Checks, Output, Report, TensorMap


def run(*defines: str, seed: int = 0) -> tuple[Report, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, (64, 64)).astype(np.float16) for _ in range(2))
    out = np.zeros((64, 64), np.float32)
    maps = [TensorMap(x, "f16", (64, 64), (128,), (64, 64), swizzle=128) for x in (a, b)]
    policy = Checks.all().but(stop_on_finding=False)
    report = file_module("wgmma.cu", "90a", *defines).launch(
        "k", grid=1, block=128, args=[*maps, Output(out)], seed=seed, checks=policy
    )
    left = a.astype(np.float32)
    if "GENERIC_WRITE" in defines:
        left[0] = -left[0]
    return report, out, left @ b.astype(np.float32).T


@pytest.mark.parametrize("seed", range(15))
def test_product(seed: int) -> None:
    report, out, want = run(seed=seed)
    assert report.clean, str(report)
    np.testing.assert_array_equal(out, want)
    assert report.counts["mma_flops"] == 2 * 64 * 64 * 64


def test_generic_writes_need_a_proxy_fence() -> None:
    report, out, want = run("GENERIC_WRITE", "PROXY_FENCE")
    assert report.clean, str(report)
    np.testing.assert_array_equal(out, want)
    report, _, _ = run("GENERIC_WRITE")
    assert report.kinds() == ["missing-proxy-fence"], str(report)
    assert "matrix A" in report.findings_text()


@pytest.mark.parametrize(
    ("define", "kind", "text"),
    [
        ("NO_WAIT", "uninitialised-register", "wait_group"),
        ("NO_FENCE", "missing-wgmma-fence", "wgmma.fence"),
        ("NO_COPY_WAIT", "race", "matrix"),
        ("BAD_DESCRIPTOR", "illegal-instruction", "reserved bits 0x8000"),
        ("PAST_END", "uninitialised-shared|out-of-bounds", "matrix B"),
    ],
)
def test_mutants(define: str, kind: str, text: str) -> None:
    for seed in range(4):
        report, _, _ = run(define, seed=seed)
        assert set(report.kinds()) & set(kind.split("|")), str(report)
        assert text in report.findings_text(), report.findings_text()


def test_wrong_swizzle_gives_a_wrong_product() -> None:
    report, out, want = run("BAD_SWIZZLE")
    assert not report.clean or not np.array_equal(out, want)
