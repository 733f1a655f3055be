"""How fast could it be: bytes and FLOPs of a problem against the limits of a device.

The bytes and FLOPs come from `Problem` alone, the limits from a datasheet or from a measurement; times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.contest.tasks import case_of
from nvfp4.errors import InputError
from nvfp4.problem import Problem


@dataclass(frozen=True)
class Limits:
    """What a device can do at most.

    Attributes:
        name: The device, and whose figures these are.
        source: Where they come from.
        bandwidth: Bytes per second of device memory.
        half: Dense fp16/bf16 matrix FLOPs per second with fp32 accumulation.
        fp8: Dense FP8 matrix FLOPs per second; 0 where there are no FP8 matrix units.
        fp4: Dense NVFP4 matrix FLOPs per second; 0 where there are none, and NVFP4 runs at `half`.
    """

    name: str
    source: str
    bandwidth: float
    half: float
    fp8: float = 0.0
    fp4: float = 0.0

    def rate(self, problem: Problem) -> float:
        """FLOPs per second of the fastest matrix unit that keeps the products of this problem exact.

        NVFP4 times NVFP4 runs on FP4 units where there are some. A product of code and block scale has up to 6
        significant bits, which fp16 and bf16 hold and FP8 does not: everything else runs at the 16-bit rate.
        """
        both = problem.a.kind == problem.b.kind == "nvfp4"
        return self.fp4 if both and self.fp4 else self.half


@dataclass(frozen=True)
class Light:
    """The speed of light of a problem: the later of its two clocks.

    Attributes:
        memory: Seconds to move its bytes once.
        compute: Seconds to do its FLOPs.
    """

    memory: float
    compute: float

    @property
    def seconds(self) -> float:
        """The time that nothing beats."""
        return max(self.memory, self.compute)

    @property
    def bound(self) -> str:
        """``"memory"`` or ``"compute"``, whichever takes longer."""
        return "memory" if self.memory >= self.compute else "compute"

    def fraction(self, seconds: float) -> float:
        """Which part of the speed of light a measured time reaches; above 1 the measurement is at fault."""
        return self.seconds / seconds

    def is_fault(self, seconds: float) -> bool:
        """Whether a measured time is under the speed of light, so that the measurement must be wrong."""
        return seconds < self.seconds


_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet; dense figures are half of the sparse ones"
_BLACKWELL = "NVIDIA HGX platform datasheet; dense figures for one of eight GPUs"

# Names as the driver reports them, the longer before the shorter that it contains.
DATASHEETS: tuple[Limits, ...] = (
    Limits("NVIDIA A100-SXM4-80GB", _AMPERE, 2.039e12, 312e12),
    Limits("NVIDIA A100-SXM4-40GB", _AMPERE, 1.555e12, 312e12),
    Limits("NVIDIA A100 80GB PCIe", _AMPERE, 1.935e12, 312e12),
    Limits("NVIDIA A10", "NVIDIA A10 Tensor Core GPU datasheet", 0.6e12, 125e12),
    Limits("NVIDIA L40S", "NVIDIA L40S GPU datasheet", 0.864e12, 362e12, 733e12),
    Limits("NVIDIA H100 NVL", _HOPPER, 3.9e12, 835e12, 1671e12),
    Limits("NVIDIA H100 PCIe", _HOPPER, 2.0e12, 756e12, 1513e12),
    Limits("NVIDIA H100", _HOPPER, 3.35e12, 989e12, 1979e12),
    Limits("NVIDIA H200", "NVIDIA H200 Tensor Core GPU datasheet", 4.8e12, 989e12, 1979e12),
    Limits("NVIDIA B200", _BLACKWELL, 8.0e12, 2250e12, 4500e12, 9000e12),
    Limits("NVIDIA B300", _BLACKWELL, 8.0e12, 2250e12, 4500e12, 13500e12),
)


def datasheet(device: str) -> Limits | None:
    """The datasheet limits of a device by the name that its driver reports; None for one that is not listed."""
    for limits in DATASHEETS:
        if device == limits.name or device.startswith((limits.name + " ", limits.name + "-")):
            return limits
    return None


def limits_of(device: str) -> Limits:
    """The datasheet limits of a device.

    Raises:
        InputError: The device is not listed.
    """
    found = datasheet(device)
    if found is None:
        known = ", ".join(limits.name for limits in DATASHEETS)
        remedy = "Measure its limits with nvfp4.bench.measure.measure_limits, or add its datasheet to roofline.py."
        raise InputError("roofline", "device", f"one of {known}", repr(device), remedy)
    return found


def light(problem: Problem, limits: Limits, active: int | None = None) -> Light:
    """The speed of light of a problem within some limits.

    Args:
        problem: What is computed.
        limits: Of the device.
        active: How many of the stacked groups have rows, where that is known; None: all of them.
    """
    moved = problem.bytes if active is None else problem.bytes_of(active)
    return Light(moved / limits.bandwidth, problem.flops / limits.rate(problem))


def official_light(problem: Problem) -> float | None:
    """The contest's published speed of light on a B200 in seconds; None unless the problem is one of its benchmarks."""
    case = case_of(problem)
    return None if case is None or case.light_us is None else case.light_us * 1e-6


def intensity(problem: Problem) -> float:
    """FLOPs for each byte that must be moved: where the problem stands on the roofline's horizontal axis."""
    return problem.flops / problem.bytes
