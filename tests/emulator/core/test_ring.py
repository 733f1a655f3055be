"""A TMA ring, sound and broken: the sound kernel is clean and right whatever the schedule, each mutant is diagnosed as
what it is."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_text import file_module

from nvfp4.emulator import Checks, KernelFault, Output, Report, TensorMap

TILES, GRID, STAGES = 7, 2, 3
SHARED = 2 * STAGES * 4096 + 16 * STAGES


def run(*defines: str, seed: int = 0, checks: Checks | None = None) -> tuple[Report, np.ndarray, np.ndarray]:
    kernel = file_module("ring.cu", "90a", *defines)
    rows = TILES * GRID * 16
    source = np.random.default_rng(1).standard_normal((rows, 64)).astype(np.float32)
    target = np.zeros_like(source)
    maps = [TensorMap(a, "f32", (64, rows), (256,), (64, 16)) for a in (source, target)]
    policy = (checks or Checks.all()).but(stop_on_finding=False)
    report = kernel.launch(
        "ring", grid=GRID, block=160, args=[*maps, TILES], shared_bytes=SHARED, seed=seed, checks=policy
    )
    return report, source, target


@pytest.mark.parametrize("seed", range(25))
def test_sound_for_every_schedule(seed: int) -> None:
    report, source, target = run(seed=seed)
    assert report.clean, str(report)
    np.testing.assert_array_equal(target, 2 * source)


def test_sound_when_kind() -> None:
    report, source, target = run(checks=Checks.all().but(unkind=False))
    assert report.clean, str(report)
    np.testing.assert_array_equal(target, 2 * source)


MUTANTS = {
    "NO_FULL_WAIT": ("race", "cp.async.bulk.tensor"),
    "NO_EMPTY_WAIT": ("race|mbarrier", ""),
    "SHORT_TX": ("mbarrier|race|deadlock", ""),
    "LONG_TX": ("deadlock", "16 bytes pending"),
    "WRONG_PARITY": ("race|deadlock", ""),
    "WAIT_ONCE": ("race|mbarrier", ""),
    "EMPTY_COUNT=5": ("deadlock", "1 of 5 arrivals"),
    "EMPTY_COUNT=3": ("mbarrier|race", ""),
    "NO_EMPTY_ARRIVE": ("deadlock", "4 of 4 arrivals"),
    "NO_PROXY_FENCE": ("missing-proxy-fence", "fence.proxy.async"),
    "NO_STORE_SYNC": ("race", ""),
    "NO_STORE_READ_WAIT": ("race", "bulk copies"),
    "NO_INIT_SYNC": ("race|mbarrier", "mbarrier"),
    "NO_FINAL_WAIT": ("exit-in-flight", "wait_group"),
    "READ_PAST": ("out-of-bounds", "shared address"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_diagnosed(mutant: str) -> None:
    kinds, text = MUTANTS[mutant]
    for seed in range(6):
        report, _, _ = run(mutant, seed=seed)
        if mutant in ("WAIT_ONCE", "NO_FINAL_WAIT") and report.clean:
            # By luck every wait found its phase over; another schedule shows it.
            continue
        assert set(report.kinds()) & set(kinds.split("|")), f"seed {seed}: {report}"
        assert text in report.findings_text(), report.findings_text()
        assert "ring.cu:" in report.findings_text() or "exit-in-flight" in report.kinds()
        return
    pytest.fail(f"{mutant} was never diagnosed")


def test_output_not_written() -> None:
    kernel = file_module("ring.cu", "90a")
    rows = TILES * GRID * 16
    source, target = np.ones((rows, 64), np.float32), np.zeros((rows, 64), np.float32)
    kernel.address_of(Output(target))
    maps = [TensorMap(a, "f32", (64, rows), (256,), (64, 16)) for a in (source, target)]
    report = kernel.launch(
        "ring",
        grid=GRID,
        block=160,
        args=[*maps, TILES - 1],
        shared_bytes=SHARED,
        checks=Checks.all().but(stop_on_finding=False),
    )
    assert report.kinds() == ["output-not-written"], str(report)


def test_a_finding_raises_by_default() -> None:
    kernel = file_module("ring.cu", "90a", "NO_PROXY_FENCE")
    a = np.zeros((16 * GRID, 64), np.float32)
    maps = [TensorMap(x, "f32", (64, 16 * GRID), (256,), (64, 16)) for x in (a, a.copy())]
    with pytest.raises(KernelFault, match=r"fence\.proxy\.async") as caught:
        kernel.launch("ring", grid=GRID, block=160, args=[*maps, 1], shared_bytes=SHARED)
    assert caught.value.report.findings[0].line > 0
