"""Host operations without data: griddepcontrol, setmaxnreg, printf, cluster launch control."""

from __future__ import annotations

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
