"""Machine code of kernels, read back: instructions with the cycles that the compiler makes the next one wait."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\d+)\s+)?(\S+)\s*([^;]*);\s*/\* 0x([0-9a-f]{16}) \*/")
_SECOND = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/")
_REGISTER = re.compile(r"\bR(\d+)(\.64)?")
_NO_RESULT = ("ST", "RED", "BAR", "BRA", "R2UR", "ISETP", "FSETP", "PLOP", "LDGSTS", "SYNCS", "ARRIVES", "UTMA", "EXIT")
_STALL = 41  # of the second word: four bits

ZERO_CYCLES = 6
"""Cycles from CS2R, which zeroes two registers, until they may be read: after 5 an H200 read what was there before."""


def disassembler() -> str | None:
    """`cuobjdump` on the path, or the one that comes with Triton."""
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        beside = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(beside) if beside.exists() else None
    return found


def listing(cubin: Path, tool: str) -> str:
    """What `tool` prints of `cubin`."""
    return subprocess.run([tool, "-sass", cubin], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        address: Bytes from the kernel's start.
        guard: The predicate that it depends on, with its ``@``; empty for none.
        name, operands: Its text.
        cycles: Until the next one of the warp is issued, at least.
    """

    address: int
    guard: str
    name: str
    operands: tuple[str, ...]
    cycles: int

    def __str__(self) -> str:
        return f"{self.address:#x}: {self.guard} {self.name} {', '.join(self.operands)}"

    @property
    def has_result(self) -> bool:
        """Whether the first operand is what it writes."""
        return not self.name.startswith(_NO_RESULT)

    @property
    def written(self) -> frozenset[int]:
        """Registers that it writes; of those whose number depends on the kind, what the kinds below take."""
        found = _REGISTER.match(self.operands[0]) if self.operands and self.has_result else None
        if found is None:
            return frozenset()
        wide = ".WIDE" in self.name or self.name == "CS2R" or ".64" in self.name
        count = 4 if self.name.startswith("LD") and ".128" in self.name else 2 if wide else 1
        return frozenset(range(int(found[1]), int(found[1]) + count))

    @property
    def read(self) -> frozenset[int]:
        """Registers that it reads."""
        registers: set[int] = set()
        for operand in self.operands[1:] if self.has_result else self.operands:
            for found in _REGISTER.finditer(operand):
                registers.update({int(found[1]), int(found[1]) + 1} if found[2] else {int(found[1])})
        if ".WIDE" in self.name and (last := _REGISTER.match(self.operands[-1])) is not None:
            registers.add(int(last[1]) + 1)
        if self.name.startswith("ST") and (data := _REGISTER.match(self.operands[-1])) is not None:
            count = 4 if ".128" in self.name else 2 if ".64" in self.name else 1
            registers.update(range(int(data[1]), int(data[1]) + count))
        return frozenset(registers)


def instructions(text: str) -> list[Instruction]:
    """The instructions of a listing by ``cuobjdump -sass``, whose second lines hold how they are scheduled."""
    found, lines = [], text.splitlines()
    for line, after in itertools.pairwise(lines):
        first, second = _LINE.search(line), _SECOND.match(after)
        if first is None or second is None:
            continue
        address, guard, name, operands, _ = first.groups()
        parts = tuple(part.strip() for part in operands.split(",") if part.strip())
        found.append(Instruction(int(address, 16), guard or "", name, parts, int(second[1], 16) >> _STALL & 15))
    return found


def early_readers(code: Sequence[Instruction], cycles: int = ZERO_CYCLES) -> Iterator[tuple[Instruction, Instruction]]:
    """Each CS2R that zeroes registers, with what reads one of them less than `cycles` later.

    ptxas 13.0 overlooks the distance where an instruction with a predicate writes the register in between: with the
    predicate false, the reader sees what was there before the zero. Only code without jumps is followed.
    """
    for start, zero in enumerate(code):
        if zero.name != "CS2R" or "SRZ" not in zero.operands:
            continue
        for register in zero.written:
            passed, over = zero.cycles, set()
            for later in code[start + 1 :]:
                if passed >= cycles or (not later.guard and later.name in ("BRA", "EXIT", "RET", "CALL")):
                    break
                # Behind a write under the same predicate the zero is not what is read.
                if register in later.read and not (later.guard and later.guard in over):
                    yield zero, later
                    break
                if register in later.written:
                    if not later.guard:
                        break
                    over.add(later.guard)
                passed += later.cycles


WAIT = "ACQBULK"  # griddepcontrol.wait

# Device memory is touched by:
LOADS = ("LDG.", "LD.E")
COPIES = ("LDGSTS", "UTMALDG", "UBLKCP")  # into shared memory; prefetches into L2 are not among them
STORES = ("STG", "ST.E", "UTMASTG", "UTMAREDG", "ATOMG", "ATOM.", "RED")


def before_the_wait(code: Sequence[Instruction], kinds: tuple[str, ...]) -> list[Instruction]:
    """Instructions of some kinds in front of the first wait for the kernel before; all of them, if there is no wait.

    ptxas moves ``ld.global.nc`` there, as it takes its data to be constant while the kernel runs: that of the kernel
    before is not, where launches overlap. Where roles have waits of their own, those of the others are not looked at.
    """
    waits = [i for i, each in enumerate(code) if each.name == WAIT]
    return [each for each in code[: waits[0] if waits else None] if each.name.startswith(kinds)]
