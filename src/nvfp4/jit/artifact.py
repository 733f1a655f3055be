"""`Artifact`: what a compilation gives, with the resources that the kernel takes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor, as ptxas reports it.

    Attributes:
        registers: Registers of a thread.
        shared_bytes: Static shared memory of a block.
        stack_bytes: Local memory of a thread for arrays that could not stay in registers.
        spill_store_bytes, spill_load_bytes: Local memory traffic for registers that did not fit.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int

    @property
    def local_bytes(self) -> int:
        """Everything that went to local memory; 0 is what a kernel of ours should have."""
        return self.stack_bytes + self.spill_store_bytes + self.spill_load_bytes


@dataclass(frozen=True)
class Artifact:
    """One compiled kernel.

    Attributes:
        target: ``"ptx"`` or ``"cubin"``.
        code: PTX text (UTF-8, without the closing zero byte) or a cubin.
        log: Everything that the compiler said.
        resources: The resource report of the kernel's entry; None for PTX, which ptxas has not seen.
        key: Content address: hexadecimal SHA-256 of all that decides the code.
        cached: Whether the code came from the cache.
    """

    target: str
    code: bytes
    log: str
    resources: Resources | None
    key: str
    cached: bool = False


_SECTION = re.compile(r"Compiling entry function '([^']+)'")
_LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse_resources(log: str, entry: str) -> Resources | None:
    """Read the report of `entry` out of a log of ``ptxas -v``; None when it has none."""
    parts = _SECTION.split(log)
    for name, text in zip(parts[1::2], parts[2::2], strict=False):
        if name != entry:
            continue
        local, registers, shared = _LOCAL.search(text), _REGISTERS.search(text), _SHARED.search(text)
        if local and registers:
            return Resources(
                registers=int(registers.group(1)),
                shared_bytes=int(shared.group(1)) if shared else 0,
                stack_bytes=int(local.group(1)),
                spill_store_bytes=int(local.group(2)),
                spill_load_bytes=int(local.group(3)),
            )
    return None
