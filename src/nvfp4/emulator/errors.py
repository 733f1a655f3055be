"""Errors of the emulator. Every message says where, what, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report

__all__ = ["EmulatorError", "KernelFault", "LaunchError", "PtxSyntaxError", "UnsupportedPtx"]


class EmulatorError(Exception):
    """Base class of everything that the emulator raises on purpose."""


class PtxSyntaxError(EmulatorError):
    """Malformed PTX: carries the line number and the offending text."""

    def __init__(self, message: str, line: int, text: str = "") -> None:
        self.line = line
        self.text = text.strip()
        shown = f"\n    {self.text}" if self.text else ""
        super().__init__(f"PTX line {line}: {message}{shown}")


class UnsupportedPtx(EmulatorError):
    """The module uses opcodes that the emulator cannot run; ``opcodes`` maps each to its first line."""

    def __init__(self, opcodes: dict[str, int]) -> None:
        self.opcodes = dict(opcodes)
        listed = "\n".join(f"    line {line}: {opcode}" for opcode, line in sorted(opcodes.items(), key=lambda x: x[1]))
        super().__init__(
            f"{len(opcodes)} opcode(s) that the emulator does not run:\n{listed}\n"
            "Nothing was executed. Rewrite the kernel without them, or add them under nvfp4/emulator/compile."
        )


class LaunchError(EmulatorError):
    """A launch that a driver would refuse: wrong arguments, illegal grid, block, cluster or shared size."""


class KernelFault(EmulatorError):
    """The kernel did something illegal; ``report`` holds every finding and the counters up to that point."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(report.findings_text())
