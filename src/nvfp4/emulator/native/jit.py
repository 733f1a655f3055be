"""LLVM: IR text to machine code in this process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from ..errors import EmulatorError

__all__ = ["NativeModule", "compile_ir", "host_features"]

_NEEDED = ("avx2", "fma", "f16c")
_lock = threading.Lock()
_ready = False
# Object files kept on disk: machine code depends only on the IR and the CPU, and the runtime alone takes over a second
# to compile.
_KEEP = 512


def _initialise() -> None:
    global _ready
    with _lock:
        if not _ready:
            features = llvm.get_host_cpu_features()
            if llvm.get_default_triple().startswith("x86_64"):
                missing = [name for name in _NEEDED if not features.get(name)]
                if missing:
                    # Without them LLVM calls library routines for halves that a process need not have.
                    raise EmulatorError(
                        f"the emulator needs an x86 CPU with {', '.join(_NEEDED)}; "
                        f"{llvm.get_host_cpu_name()} lacks {', '.join(missing)}"
                    )
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            _ready = True


def host_features() -> str:
    """The host's CPU features in LLVM's notation. 512-bit registers are preferred where they exist: a warp is two of
    them."""
    features = llvm.get_host_cpu_features()
    text = features.flatten()
    if features.get("avx512f"):
        text += ",-prefer-256-bit"
    return str(text)


class NativeModule:
    """Machine code; keeps the engine alive, hands out addresses and ctypes functions."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def address(self, name: str) -> int:
        """The address of a function."""
        found = int(self._engine.get_function_address(name))
        if not found:
            raise KeyError(name)
        return found

    def words(self, name: str, count: int) -> NDArray[np.uint64]:
        """A constant array of pointers in the module, copied."""
        where = int(self._engine.get_global_value_address(name))
        if not where:
            raise KeyError(name)
        found: NDArray[np.uint64] = np.ctypeslib.as_array((ctypes.c_uint64 * count).from_address(where)).copy()
        return found

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """A ctypes callable."""
        found: Any = ctypes.CFUNCTYPE(result, *arguments)(self.address(name))
        found.module = self  # the code lives as long as whoever may call it
        return found


def _directory() -> Path:
    return Path.home() / ".cache" / "nvfp4" / "emulator"


def _key(text: str, level: int, optimise: bool) -> str:
    digest = hashlib.sha256(text.encode())
    digest.update(f"{level}{optimise}{llvm.llvm_version_info}{llvm.get_host_cpu_name()}{host_features()}".encode())
    return digest.hexdigest()[:40]


def _load(key: str) -> bytes | None:
    """A stored object file; damaged or missing ones count as a miss."""
    try:
        raw = (_directory() / f"{key}.o").read_bytes()
    except OSError:
        return None
    digest, data = raw[:32], raw[32:]
    return data if hashlib.sha256(data).digest() == digest else None


def _store(key: str, data: bytes) -> None:
    """Keep an object file: written aside, then renamed, so that other processes see all of it or nothing."""
    try:
        folder = _directory()
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        os.replace(name, folder / f"{key}.o")
        files = sorted(folder.glob("*.o"), key=lambda p: p.stat().st_mtime)
        for old in files[:-_KEEP]:
            old.unlink(missing_ok=True)
    except OSError:
        return


def compile_ir(text: str, level: int, optimise: bool, symbols: dict[str, int] | None = None) -> NativeModule:
    """Compile IR text.

    level: code generation level 0..3. optimise: whether to run the middle-end pipeline at O2 first. symbols:
    addresses of external functions that the text declares.
    """
    _initialise()
    key = _key(text, level, optimise)
    stored = _load(key)
    if stored is not None:
        # An object file needs no IR behind it: an empty module carries the engine.
        text, optimise = "", False
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=level, cpu=llvm.get_host_cpu_name(), features=host_features(), jit=True
    )
    module.triple = llvm.get_default_triple()
    module.data_layout = str(machine.target_data)
    if optimise:
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = False
        options.slp_vectorization = False
        options.loop_unrolling = False
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
    for name, where in (symbols or {}).items():
        llvm.add_symbol(name, where)
    engine = llvm.create_mcjit_compiler(module, machine)
    if stored is not None:
        engine.add_object_file(llvm.ObjectFileRef.from_data(stored))
    else:
        engine.set_object_cache(lambda _, data: _store(key, data), lambda _: None)
    engine.finalize_object()
    return NativeModule(engine)
