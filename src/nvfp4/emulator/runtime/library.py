"""The library that the runtime's native functions join, with their constants."""

from __future__ import annotations

from ..native.language import Library
from .layout import (
    LOCAL_BASE,
    NONE,
    PAGE_BITS,
    PIPES,
    SHARED_BASE,
    SYNC_LOCAL,
    SYNC_OBJECTS,
    VA_BASE,
    Atom,
    Check,
    Counter,
    Fault,
    Space,
    State,
    Status,
)

__all__ = ["library"]

library = Library()
library.constant(
    SHARED_BASE=SHARED_BASE,
    LOCAL_BASE=LOCAL_BASE,
    VA_BASE=VA_BASE,
    PAGE_BITS=PAGE_BITS,
    NONE=NONE,
    PIPES=PIPES,
    SYNC_OBJECTS=SYNC_OBJECTS,
    SYNC_LOCAL=SYNC_LOCAL,
)
for _prefix, _enum in (
    ("F_", Fault),
    ("SP_", Space),
    ("ST_", State),
    ("S_", Status),
    ("CK_", Check),
    ("N_", Counter),
    ("AT_", Atom),
):
    library.constant(**{_prefix + member.name: int(member) for member in _enum})
