"""Fingerprints of tensors: one number that depends on every byte and its place, computed where the tensor lies."""

from __future__ import annotations

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX = -4658895280553007687  # 0xBF58476D1CE4E5B9


_known: dict[torch.device, torch.Tensor] = {}
"""The longest weights that were asked for on each device; shorter ones are their beginning."""


def _weights(count: int, device: torch.device) -> torch.Tensor:
    """`count` odd pseudo-random int64 weights, by the steps of splitmix64."""
    known = _known.get(device)
    if known is None or known.numel() < count:
        index = torch.arange(1, count + 1, dtype=torch.int64, device=device)
        mixed = index * _GOLDEN
        mixed = (mixed ^ ((mixed >> 30) & 0x3FFFFFFFF)) * _MIX
        known = _known[device] = mixed | 1
    return known[:count]


def fingerprint(tensor: torch.Tensor) -> int:
    """A 64-bit number of the elements of `tensor` in logical order, whatever its strides or device.

    A sum of elements times odd weights, modulo 2^64: one changed element always shows, and several that cancel do so
    by a chance of about 2^-64.
    """
    data = tensor.detach()
    # Copies of 4-bit and 8-bit floats are not supported everywhere; bytes are.
    data = (data.view(torch.uint8) if data.element_size() == 1 else data).contiguous()
    flat = data.flatten().view(torch.uint8) if data.numel() else torch.empty(0, dtype=torch.uint8)
    padding = -flat.numel() % 8
    if padding:
        flat = torch.nn.functional.pad(flat, (0, padding))
    words = flat.view(torch.int64)
    return int((words * _weights(words.numel(), words.device)).sum())
