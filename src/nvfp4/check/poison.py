"""Outputs that tell: filled with a NaN that no kernel computes, between guard zones that nobody may touch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GUARD_BYTES = 4096
"""Bytes of guard on either side of an output; a multiple of every alignment that kernels use."""

# A NaN with a payload in each format: arithmetic gives the canonical NaN, so a poisoned element was never written.
_POISON = {
    torch.float16: (torch.int16, 0x7D5A),
    torch.bfloat16: (torch.int16, 0x7FA5),
    torch.float32: (torch.int32, 0x7FA5A5A5),
}
_GUARD = 0xC3


@dataclass(frozen=True, eq=False)
class Poisoned:
    """An output tensor inside a larger allocation.

    Attributes:
        tensor: What to pass as `out`: contiguous, every element the poison NaN.
        storage: uint8, the whole allocation with its guard zones.
    """

    tensor: torch.Tensor
    storage: torch.Tensor

    def unwritten(self) -> torch.Tensor:
        """Bool mask of the elements that still hold the poison."""
        integer, value = _POISON[self.tensor.dtype]
        return self.tensor.view(integer) == value

    def guard_damage(self) -> str | None:
        """Which guard byte was overwritten first, or None."""
        size = self.tensor.numel() * self.tensor.element_size()
        for where, zone in (("before", self.storage[:GUARD_BYTES]), ("behind", self.storage[GUARD_BYTES + size :])):
            touched = (zone != _GUARD).nonzero()
            if touched.numel():
                index = int(touched[-1] if where == "before" else touched[0])
                distance = GUARD_BYTES - index if where == "before" else index
                return (
                    f"{touched.numel()} bytes {where} the output were overwritten, the nearest at distance {distance}"
                )
        return None


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str | torch.device) -> Poisoned:
    """A poisoned output of `shape`, 16-byte aligned, with guard zones around it."""
    integer, value = _POISON[dtype]
    size = torch.Size(shape).numel() * dtype.itemsize
    storage = torch.full((size + 2 * GUARD_BYTES + 16,), _GUARD, dtype=torch.uint8, device=device)
    tensor = storage[GUARD_BYTES : GUARD_BYTES + size].view(dtype).view(shape)
    tensor.view(integer).fill_(value)
    return Poisoned(tensor, storage)
