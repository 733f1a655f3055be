"""The limits of the device at hand, measured: what copying, reading and multiplying reach when they do nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nvfp4.bench import floor, timing
from nvfp4.bench.roofline import Limits, datasheet
from nvfp4.bench.timing import CudaTimer, Protocol
from nvfp4.device import capability


@dataclass(frozen=True)
class Measured:
    """Measured limits of a device.

    Attributes:
        name: The device.
        copy: Bytes per second, read and written, of a large copy.
        read: Bytes per second of the read floor over a large buffer.
        half: FLOPs per second of a large fp16 product of random data in cuBLAS.
    """

    name: str
    copy: float
    read: float
    half: float

    def faults(self) -> tuple[str, ...]:
        """What exceeds the datasheet of the device, so that the measurement must be wrong."""
        sheet = datasheet(self.name)
        if sheet is None:
            return ()
        pairs = (
            ("copy", self.copy, sheet.bandwidth),
            ("read", self.read, sheet.bandwidth),
            ("half", self.half, sheet.half),
        )
        return tuple(f"{name}: {got:.3g} exceeds the datasheet's {most:.3g}" for name, got, most in pairs if got > most)

    def limits(self) -> Limits:
        """The same as `Limits`. The FP8 and FP4 rates scale the datasheet's like the measured 16-bit rate."""
        sheet = datasheet(self.name)
        scale = self.half / sheet.half if sheet else 0.0
        fp8, fp4 = (sheet.fp8 * scale, sheet.fp4 * scale) if sheet else (0.0, 0.0)
        source = "measured: read floor, cuBLAS fp16 8192^3 on random data"
        return Limits(f"{self.name} (measured)", source, max(self.copy, self.read), self.half, fp8, fp4)


def measure_limits(device: torch.device | str = "cuda", *, size: int = 1 << 30, edge: int = 8192) -> Measured:
    """Measure the limits of a GPU, in about a second.

    Args:
        device: The GPU.
        size: Bytes of the buffers that are read and copied.
        edge: Edge of the square matrices that are multiplied.
    """
    what = capability(device)
    timer = CudaTimer(device)
    generator = torch.Generator(device=device).manual_seed(1)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device, generator=generator)
    target = torch.empty_like(source)
    a, b = (
        torch.randn(edge, edge, device=device, dtype=torch.float16, generator=generator).contiguous() for _ in range(2)
    )
    product = torch.empty_like(a)
    protocol = Protocol("back-to-back", 2, warmup=1, max_samples=10, min_wall=0.02)
    taken = timing.compare(
        {
            "copy": [lambda: target.copy_(source)],
            # Each buffer once a sample: programmatic launches overlap, and one that reads a buffer again would find in
            # the cache what the other has just read (8.7 TB/s were seen that way on an H200).
            "read": floor.calls(floor.plan(what), [source, target], what.arch),
            "half": [lambda: torch.mm(a, b.t(), out=product)],
        },
        protocol,
        timer,
    )
    return Measured(
        what.name,
        copy=2 * size / taken["copy"].median,
        read=size / taken["read"].median,
        half=2 * edge**3 / taken["half"].median,
    )
