"""What a device can do, as plain data: choosing a backend needs no device, only a `Capability`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from nvfp4.errors import InputError


@dataclass(frozen=True)
class Capability:
    """What choosing a plan may depend on.

    Attributes:
        arch: ``"cpu"`` or the compilation target, such as ``"sm_90a"``.
        sms: Streaming multiprocessors; 0 for a CPU.
        shared_bytes: Largest dynamic shared memory of a block, in bytes.
        name: What the driver calls the device.
    """

    arch: str
    sms: int
    shared_bytes: int
    name: str

    @property
    def compute(self) -> tuple[int, int]:
        """Compute capability, such as (9, 0); (0, 0) for a CPU."""
        if self.arch == "cpu":
            return (0, 0)
        digits = self.arch.removeprefix("sm_").rstrip("af")
        return int(digits[:-1]), int(digits[-1])


# SMs and opt-in shared memory per block: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability",
# and the datasheets of the named products. What a plan is made for when the device itself is not at hand.
KNOWN: dict[str, Capability] = {
    "cpu": Capability("cpu", 0, 0, "CPU"),
    "sm_80": Capability("sm_80", 108, 163 * 1024, "NVIDIA A100"),
    "sm_86": Capability("sm_86", 84, 99 * 1024, "NVIDIA A10"),
    "sm_89": Capability("sm_89", 142, 99 * 1024, "NVIDIA L40S"),
    "sm_90a": Capability("sm_90a", 132, 227 * 1024, "NVIDIA H200"),
    "sm_100a": Capability("sm_100a", 148, 227 * 1024, "NVIDIA B200"),
    "sm_103a": Capability("sm_103a", 148, 227 * 1024, "NVIDIA B300"),
    "sm_120a": Capability("sm_120a", 188, 99 * 1024, "NVIDIA RTX PRO 6000 Blackwell"),
}


def arch_of(major: int, minor: int) -> str:
    """Compilation target of a compute capability: with its architecture-specific features from 9.0 on."""
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


def known(arch: str) -> Capability:
    """The capability of a representative device of `arch`, for planning without that device."""
    try:
        return KNOWN[arch]
    except KeyError:
        raise InputError("device", "arch", "one of " + ", ".join(KNOWN), repr(arch), "Name a listed target.") from None


@functools.cache
def _cuda_capability(index: int) -> Capability:
    properties = torch.cuda.get_device_properties(index)
    shared = int(getattr(properties, "shared_memory_per_block_optin", 99 * 1024))
    arch = arch_of(properties.major, properties.minor)
    return Capability(arch, int(properties.multi_processor_count), shared, str(properties.name))


def capability(device: torch.device | str) -> Capability:
    """The capability of a torch device (``cpu`` or ``cuda[:i]``)."""
    device = torch.device(device)
    if device.type == "cpu":
        return KNOWN["cpu"]
    if device.type == "cuda":
        return _cuda_capability(device.index if device.index is not None else torch.cuda.current_device())
    raise InputError("device", "device", "a cpu or cuda device", device, "Move the tensors to a CPU or an NVIDIA GPU.")
