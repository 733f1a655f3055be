"""Which checks are on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ..runtime.layout import Check

__all__ = ["Checks"]


@dataclass(frozen=True)
class Checks:
    """Switches of the checks, on by default but for ``strict`` and ``implicit_waits``. Bounds and alignment are
    never off: they protect the host process.

    initialisation: reads of registers, shared, local, tensor memory and ``Output`` buffers that nothing wrote.
    races: unordered conflicting accesses, missing waits, fences and cluster barriers.
    lanes: races between lanes of one warp in shared memory (a missing ``__syncwarp``).
    proxy: missing ``fence.proxy.async`` between generic writes and asynchronous reads.
    strict: the letter of the ISA also where compilers rely on less. Off, (1) an acquiring wait orders tcgen05
        operations as ``tcgen05.fence::after_thread_sync`` does (9.7.16.6.3 admits the standard mechanisms); (2)
        cp.async data and overwritten generic data need no ``fence.proxy.async``; (3) a commit may arrive on an
        mbarrier that has been invalidated, and passes on what a fence of its thread has released; (4) unordered
        writes of one value are no race. The output of Triton and CuTe DSL needs them.
    implicit_waits: a warp goes on only when its ``tcgen05.ld`` has read tensor memory. By the ISA only uses of the
        registers wait for it (9.7.16.6.4.5): before the columns are written or freed, ``tcgen05.wait::ld`` is needed,
        which CuTe DSL leaves out.
    deadlock: blocked warps are explained (otherwise the launch only says that it is stuck).
    outputs: bytes of ``Output`` buffers that nothing wrote.
    leaks: tensor memory that is never freed, mbarriers or copies left in flight at exit.
    unkind: adversarial schedules and completion times; off gives round robin with immediate completion.
    count: bytes, sectors and bank conflicts in the report.
    timeline: waits at barriers, for `Report.timeline`.
    stop_on_finding: raise `KernelFault` at the end when there is a finding; off only records it in the report.
    step_limit: warp instructions after which a launch is given up as endless.
    """

    initialisation: bool = True
    races: bool = True
    lanes: bool = True
    proxy: bool = True
    strict: bool = False
    implicit_waits: bool = False
    deadlock: bool = True
    outputs: bool = True
    leaks: bool = True
    unkind: bool = True
    count: bool = True
    timeline: bool = True
    stop_on_finding: bool = True
    step_limit: int = 4_000_000_000

    @classmethod
    def all(cls) -> Checks:
        """Everything on."""
        return cls()

    @classmethod
    def none(cls) -> Checks:
        """Everything that can be off is off."""
        off = {f.name: False for f in fields(cls) if f.type == "bool"}
        return cls(**off)

    def but(self, **changes: Any) -> Checks:
        """A copy with some switches changed."""
        return replace(self, **changes)

    @property
    def bits(self) -> int:
        """The native runtime's view."""
        pairs = (
            (self.initialisation, Check.INIT),
            (self.races, Check.RACES),
            (self.count, Check.COUNT),
            (self.timeline, Check.TRACE),
            (self.proxy and self.races, Check.PROXY),
            (self.unkind, Check.SPURIOUS),
            (self.strict, Check.STRICT),
            (self.lanes and self.races, Check.LANES),
        )
        return sum(int(bit) for on, bit in pairs if on)
