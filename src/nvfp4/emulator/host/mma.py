"""mma.sync forms that have no native code: integers, half and double precision, mixed narrow types, block scaling."""

from __future__ import annotations

import numpy as np

from ..ptx.ast import Operand
from ..runtime.layout import Counter
from ..units.mma import mma_sync, parse_mma
from .registry import register
from .state import HostCall

__all__: list[str] = []


def _wide(call: HostCall, operand: Operand) -> np.ndarray:
    """A vector of 64-bit registers as uint64 [n, 32]."""
    return np.stack([call.values(item) for item in call.items(operand)])


@register("mma")
def _mma(call: HostCall) -> bool:
    """mma.sync d, a, b, c {, scale-a, {byte, thread}, scale-b, {byte, thread}} (PTX ISA 9.7.14.5.14)."""
    call.aligned()
    spec = parse_mma(call.instruction.opcode)
    d, a, b, c, *rest = call.instruction.operands
    read = _wide if spec.a_type == "f64" else HostCall.registers
    scales, selectors = None, (0, 0, 0, 0)
    if spec.scales:
        scale_a, of_a, scale_b, of_b = rest
        scales = (call.values(scale_a).astype(np.uint32), call.values(scale_b).astype(np.uint32))
        chosen = [call.uniform(item, "scale selector") for o in (of_a, of_b) for item in call.items(o)]
        selectors = (chosen[0], chosen[1], chosen[2], chosen[3])
    out = mma_sync(spec, (read(call, a), read(call, b), read(call, c)), scales, selectors)
    for target, values in zip(call.items(d), out, strict=True):
        call.write(target, values)
    call.launch.context["counters"][0, int(Counter.MMA_FLOPS)] += 2 * spec.m * 8 * spec.k
    return True
