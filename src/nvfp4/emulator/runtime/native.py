"""The compiled runtime: built once per process (and kept as an object file, see native/jit.py)."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from ..native.jit import NativeModule, compile_ir
from . import (
    atomics,
    barriers,
    clocks,
    copies,
    engines,
    faults,
    matrix,
    mbarriers,
    memory,
    products,
    scheduler,
    shadow,
    shadow_global,
    shadow_lanes,
    warpops,
)
from .library import library

__all__ = ["Runtime", "runtime"]

_MODULES = (
    faults,
    memory,
    shadow,
    shadow_lanes,
    shadow_global,
    clocks,
    engines,
    atomics,
    barriers,
    mbarriers,
    copies,
    matrix,
    products,
    scheduler,
    warpops,
)


class Runtime:
    """The native functions of runtime/*.py."""

    def __init__(self, code: NativeModule) -> None:
        self.code = code
        self._addresses: dict[str, int] | None = None

    def names(self) -> list[str]:
        """Functions that kernels may call."""
        return [n for n, s in library.signatures.items() if not s.inline]

    def declaration(self, name: str) -> str:
        """LLVM declaration of one function."""
        return library.declaration(name)

    def addresses(self) -> dict[str, int]:
        """Where each function lies."""
        if self._addresses is None:
            self._addresses = {n: self.code.address(n) for n in self.names()}
        return self._addresses

    @functools.cache  # noqa: B019 - one runtime lives as long as the process
    def function(self, name: str) -> Any:
        """A ctypes callable."""
        kinds: dict[str, Any] = {
            "i32": ctypes.c_int32,
            "i64": ctypes.c_int64,
            "ptr": ctypes.c_uint64,
            "i8": ctypes.c_uint8,
            "i16": ctypes.c_uint16,
            "float": ctypes.c_float,
            "double": ctypes.c_double,
        }
        unsigned = {"i32": ctypes.c_uint32, "i64": ctypes.c_uint64}

        def ctype(kind: Any) -> Any:
            return unsigned.get(kind.llvm, kinds[kind.llvm]) if not getattr(kind, "signed", True) else kinds[kind.llvm]

        signature = library.signatures[name]
        result = ctype(signature.result) if signature.result is not None else None
        arguments = [ctype(kind) for _, kind in signature.parameters]
        return self.code.function(name, result, *arguments)


@functools.lru_cache(maxsize=1)
def runtime() -> Runtime:
    """Compile the runtime on first use."""
    return Runtime(compile_ir(library.compile(), 2, True))
