"""The forms of mma.sync that native code leaves to the units: integers, f64, f16 accumulators, block scaling (PTX ISA
9.7.14.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ptx.ast import Instruction
from ..runtime.layout import Counter
from ..units.mma import mma_sync, parse_mma
from .registry import register
from .state import HostCall

__all__: list[str] = []


@register("mma")
def _mma(call: HostCall) -> bool:
    if call.mask != int(call.warp["alive"]) and not call.warp["retry"]:
        return False
    call.aligned()
    i: Instruction = call.instruction
    spec = parse_mma(i.opcode)
    wide = spec.a_type == "f64"

    def registers(index: int) -> NDArray[Any]:
        values = np.stack([call.values(item) for item in call.items(i.operands[index])])
        return values if wide else values.astype(np.uint32)

    operands = (registers(1), registers(2), registers(3))
    scales = None
    selectors = (0, 0, 0, 0)
    if spec.scales:
        data_a, select_a, data_b, select_b = i.operands[4:8]
        # One register, with or without braces.
        scale_a, scale_b = (call.values(call.items(x)[0]).astype(np.uint32) for x in (data_a, data_b))
        scales = (scale_a, scale_b)
        byte_a, thread_a = (call.value(x) for x in call.items(select_a))
        byte_b, thread_b = (call.value(x) for x in call.items(select_b))
        selectors = (byte_a, thread_a, byte_b, thread_b)
    out = mma_sync(spec, operands, scales, selectors)
    for item, values in zip(call.items(i.operands[0]), out, strict=True):
        call.write(item, values)
    call.launch.count(Counter.MMA_FLOPS, 2 * spec.m * 8 * spec.k)
    return True
