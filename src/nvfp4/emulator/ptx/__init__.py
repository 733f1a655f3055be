"""PTX text to a typed syntax tree."""

from .ast import Entry, Instruction, PtxModule
from .parser import parse

__all__ = ["Entry", "Instruction", "PtxModule", "parse"]
