"""The compiled runtime: built once per process (and kept as an object file, see native/jit.py)."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from ..native.jit import NativeModule, compile_ir
from . import atomics, barriers, clocks, matrix, memory, scheduler, warpops
from .library import library

__all__ = ["Runtime", "runtime"]

_MODULES = (memory, clocks, atomics, barriers, matrix, scheduler, warpops)


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
        kinds = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "ptr": ctypes.c_uint64, "i8": ctypes.c_uint8, "i16": ctypes.c_uint16,
                 "float": ctypes.c_float, "double": ctypes.c_double}  # fmt: skip
        signature = library.signatures[name]
        result = None
        if signature.result is not None:
            result = kinds[signature.result.llvm]
            if not getattr(signature.result, "signed", True):
                result = {ctypes.c_int32: ctypes.c_uint32, ctypes.c_int64: ctypes.c_uint64}.get(result, result)
        arguments = []
        for _, kind in signature.parameters:
            found: Any = kinds[kind.llvm]
            if not getattr(kind, "signed", True):
                found = {ctypes.c_int32: ctypes.c_uint32, ctypes.c_int64: ctypes.c_uint64}.get(found, found)
            arguments.append(found)
        return self.code.function(name, result, *arguments)


@functools.lru_cache(maxsize=1)
def runtime() -> Runtime:
    """Compile the runtime on first use."""
    return Runtime(compile_ir(library.compile(), 2, True))
