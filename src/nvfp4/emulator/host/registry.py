"""Which Python function carries out which instruction."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from ..ptx.ast import Instruction

if TYPE_CHECKING:
    from .state import HostCall

__all__ = ["HANDLERS", "find", "register", "supports"]

Handler = Callable[["HostCall"], bool]
HANDLERS: list[tuple[str, Handler]] = []


def register(prefix: str) -> Callable[[Handler], Handler]:
    """Decorator: the function runs opcodes that begin with ``prefix``. It returns False to be tried again later."""

    def wrap(function: Handler) -> Handler:
        HANDLERS.append((prefix, function))
        return function

    return wrap


def find(i: Instruction) -> Handler | None:
    """The handler with the longest matching prefix."""
    return _find(i.opcode)


@lru_cache(maxsize=4096)
def _find(opcode: str) -> Handler | None:
    from . import bulk, control, mma, tcgen05, tensor, wgmma  # noqa: F401 - importing registers

    best: tuple[int, Handler] | None = None
    for prefix, handler in HANDLERS:
        if (opcode == prefix or opcode.startswith(prefix + ".")) and (best is None or len(prefix) > best[0]):
            best = len(prefix), handler
    return best[1] if best else None


def supports(i: Instruction) -> bool:
    """Whether some handler runs the instruction."""
    return find(i) is not None
