"""Host operations without data: griddepcontrol, setmaxnreg, printf, cluster launch control."""

from __future__ import annotations

import ctypes
import re
import struct

import numpy as np

from ..ptx.ast import Reg
from .registry import register
from .state import HostCall

__all__: list[str] = []


@register("griddepcontrol")
def _griddepcontrol(call: HostCall) -> bool:
    """One launch at a time: the grids before have finished, and nothing waits behind (PTX ISA 9.7.13.14)."""
    return True


@register("setmaxnreg")
def _setmaxnreg(call: HostCall) -> bool:
    """The count is checked; registers here are as many as the kernel has (PTX ISA 9.7.19.5)."""
    call.aligned()
    count = call.value(call.instruction.operands[0])
    if count % 8 or not 24 <= count <= 256:
        call.fatal(
            "illegal-instruction", f"setmaxnreg with {count} registers", "it takes a multiple of 8 from 24 to 256"
        )
    return True


@register("clusterlaunchcontrol.try_cancel")
def _try_cancel(call: HostCall) -> bool:
    """Takes over a cluster that has not started (PTX ISA 9.7.13.17). The response: 1 in the top word when cancelled,
    ctaid in the others."""
    from ..pending import AsyncOp
    from .bulk import mbarrier_of

    i, launch = call.instruction, call.launch
    everyone = i.has("multicast::cluster::all")
    for lane in call.lanes:
        dst, bar = (call.shared_address(call.value(o, lane)) for o in i.operands[:2])
        taken = launch.cancel()
        response = np.zeros(4, np.uint32)
        if taken is not None:
            response[:] = (*taken, 1)
        ranks = range(launch.cluster_size) if everyone else [dst >> 24]
        for rank in ranks:
            r, offset = call.locate((rank << 24) | (dst & 0xFFFFFF), 16, "the response", lane)
            signal = mbarrier_of(call, (rank << 24) | (bar & 0xFFFFFF), lane)
            call.access(np.arange(offset >> 2, (offset >> 2) + 4), r, "the response", signal[2], signal[3], True)
            target = call.smem(r)

            def run(t: object = target, o: int = offset, s: tuple[int, int] = signal[:2], v: object = response) -> None:
                t[o : o + 16] = v.view(np.uint8)  # type: ignore[index, attr-defined]
                call.arrive(s[0], s[1], 16, 0)

            due = launch.steps_now() + launch.delay()
            launch.schedule(call.cluster, AsyncOp(run, due, "a response to shared memory", "", i.line))
    return True


@register("clusterlaunchcontrol.query_cancel")
def _query_cancel(call: HostCall) -> bool:
    i = call.instruction
    source = i.operands[1]
    assert isinstance(source, Reg)
    words = np.ascontiguousarray(call.register_view(source.name)).view(np.uint32).reshape(32, 4)
    if i.has("is_canceled"):
        call.write(i.operands[0], words[:, 3] != 0)
        return True
    targets = call.items(i.operands[0])
    if len(targets) == 1:
        axis = "xyz".index(i.parts[2][-1])
        call.write(targets[0], words[:, axis])
        return True
    for k, target in enumerate(targets):
        call.write(target, words[:, min(k, 2)])
    return True


@register("call")
def _call(call: HostCall) -> bool:
    """Calls of functions without a body: vprintf and __assertfail; others are an error."""
    target = getattr(call.instruction.operands[1], "name", "?")
    if target == "vprintf":
        return _printf(call)
    if target == "__assertfail":
        call.fatal("trap", "an assertion of the kernel failed", "see the source line")
    call.fatal(
        "illegal-instruction", f"call of {target}, which has no body in the module", "link it in, or remove the call"
    )
    return True


def _local(call: HostCall, name: str, lane: int, size: int) -> bytes:
    layout = call.launch.kernel.layout
    base = int(call.warp["local"]) + lane * layout.local_size * 2 + layout.local[name]
    return ctypes.string_at(base, size)


def _text(call: HostCall, address: int) -> str:
    buffer = call.launch.space.find(address)
    if buffer is None:
        return "?"
    raw = buffer.bytes[address - buffer.va :].tobytes()
    return raw.split(b"\0")[0].decode("utf-8", "replace")


def _printf(call: HostCall) -> bool:
    arguments = call.instruction.operands[2]
    names = [getattr(a, "name", "") for a in call.items(arguments)]
    for lane in call.lanes:
        fmt, values = (struct.unpack("<Q", _local(call, n, lane, 8))[0] for n in names[:2])
        text = _text(call, fmt)
        layout = call.launch.kernel.layout
        at = (values & 0xFFFFFFFFFF) if values >> 56 == 2 else 0
        out: list[object] = []
        for flags, kind in re.findall(r"%([-+ #0-9.]*(?:hh|h|ll|l|z)?)([a-zA-Z%])", text):
            if kind == "%":
                continue
            wide = kind in "fFeEgGsp" or "l" in flags or "z" in flags
            at = -(-at // (8 if wide else 4)) * (8 if wide else 4)
            raw = ctypes.string_at(int(call.warp["local"]) + lane * layout.local_size * 2 + at, 8 if wide else 4)
            at += len(raw)
            if kind in "fFeEgG":
                out.append(struct.unpack("<d", raw)[0])
            elif kind == "s":
                out.append(_text(call, struct.unpack("<Q", raw)[0]))
            else:
                out.append(int.from_bytes(raw, "little", signed=kind in "di"))
        clean = re.sub(r"(hh|h|ll|l|z)(?=[diouxXc])", "", text).replace("%p", "%#x").replace("%u", "%d")
        call.launch.report.output.append(clean % tuple(out))
        for name in (getattr(r, "name", "") for r in call.items(call.instruction.operands[0])):
            # The result: how many arguments were printed, as written bytes of the caller's parameter slot.
            base = int(call.warp["local"]) + lane * layout.local_size * 2 + layout.local[name]
            ctypes.memmove(base, struct.pack("<i", len(out)), 4)
            ctypes.memset(base + layout.local_size, 1, 4)
    return True
