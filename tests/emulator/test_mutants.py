"""Proof of the checks: every broken twin is reported as what it is, every sound kernel is clean for every seed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mutants.catalogue import KERNELS, MUTANTS, Mutant, line_of, tensor_copy
from nvfp4.emulator import KernelFault, LaunchError

SEEDS = (0, 1, 2)


def _check(mutant: Mutant, seed: int) -> None:
    with pytest.raises(KernelFault) as caught:
        mutant.run(seed)
    findings = caught.value.report.findings
    text = caught.value.report.findings_text()
    right = [
        f for f in findings if re.fullmatch(mutant.kind, f.kind) and re.search(mutant.says, f"{f.message} {f.remedy}")
    ]
    assert right, f"wanted {mutant.kind}: {mutant.says}\n{text}"
    assert all(f.remedy for f in findings)
    if mutant.at:
        kernel = KERNELS[mutant.kernel]
        wanted = set().union(*(kernel.lines(marker) for marker in mutant.at.split("|")))
        named = {line_of(f.source) for f in right}
        assert named & {(f"{mutant.kernel}.cu", line) for line in wanted}, (
            f"wanted line {sorted(wanted)} of {named}\n{text}"
        )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_reported_as_what_it_is(mutant, seed):
    _check(mutant, seed)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_reported_whatever_the_interleaving(mutant):
    for seed in range(3, 30):
        _check(mutant, seed)


def _sound(name: str, seed: int) -> None:
    launch = KERNELS[name].launch()
    report = KERNELS[name].run(seed=seed, launch=launch)
    assert report.clean
    assert launch.verify(), (name, seed)


@pytest.mark.parametrize("name", KERNELS)
def test_a_sound_kernel_is_clean(name):
    for seed in range(5):
        _sound(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_a_sound_kernel_is_clean_for_a_hundred_seeds(name):
    for seed in range(5, 105):
        _sound(name, seed)


def test_limits_of_a_launch():
    from mutants.catalogue import _module

    module = _module("memory", "sm_80", ())
    data = np.zeros(2048, np.uint32)
    for geometry, says in (
        (((1, 1, 1), 2048), "1024"),
        (((1, 1, 1), (1, 1, 128)), "64 in z"),
        (((0, 1, 1), 32), "positive"),
    ):
        with pytest.raises(LaunchError, match=says):
            module.launch("kernel", *geometry, [data, data.copy(), 128])
    with pytest.raises(LaunchError, match="bytes of shared memory"):
        module.launch("kernel", 1, 128, [data, data.copy(), 128], shared_bytes=200_000)
    with pytest.raises(LaunchError, match="clusters need sm_90"):
        module.launch("kernel", 2, 128, [data, data.copy(), 128], cluster=2)
    with pytest.raises(LaunchError, match="multiple of the cluster"):
        _module("ring", "sm_90", ()).launch("kernel", 3, 64, [data, data.copy()], cluster=2)
    with pytest.raises(LaunchError, match="16"):
        _module("ring", "sm_90", ()).launch("kernel", 32, 64, [data, data.copy()], cluster=32)
    with pytest.raises(LaunchError, match="takes 3 arguments"):
        module.launch("kernel", 1, 128, [data])
    with pytest.raises(LaunchError, match=r"\.u32"):
        module.launch("kernel", 1, 128, [data, data.copy(), data])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"strides": (120,)}, "stride of dimension 1 is 120"),
        ({"swizzle": 32}, "wider than the 32-byte swizzle"),
        ({"box": (512, 1)}, "box size of dimension 0 is 512"),
        ({"box": (3, 8)}, "12 bytes"),
        ({"offset": 8}, "aligned"),
        ({"shape": (32, 32, 1, 1, 1, 1), "strides": (128,) * 5, "box": (16, 8, 1, 1, 1, 1)}, "rank|dimensions"),
        ({"nan_fill": True}, "NaN fill"),
    ],
)
def test_tensor_maps_that_the_driver_would_refuse(fields, says):
    with pytest.raises(LaunchError, match=says):
        KERNELS["tensor_copy"].run(launch=tensor_copy(**fields))


def test_every_check_is_proved():
    """Each sort of finding that the specification lists has a mutant that shows it."""
    shown = "|".join(m.kind for m in MUTANTS)
    kinds = """
        out-of-bounds misaligned read-only uninitialised-register uninitialised-shared uninitialised-local trap
        uninitialised-tensor-memory output-not-written race missing-proxy-fence missing-wgmma-fence barrier divergence
        missing-tcgen05-fence exit-in-flight cluster-exit tensor-memory-leak deadlock mbarrier illegal-instruction
        step-limit
    """
    for kind in kinds.split():
        assert re.search(rf"(^|\|){kind}(\||$)", shown), kind
