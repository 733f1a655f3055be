"""LLVM: IR text to machine code in this process."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import llvmlite.binding as llvm

__all__ = ["NativeModule", "compile_ir", "host_features"]

_lock = threading.Lock()
_ready = False


def _initialise() -> None:
    global _ready
    with _lock:
        if not _ready:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            _ready = True


def host_features() -> str:
    """The host's CPU features in LLVM's notation. 512-bit registers are preferred where they exist: a warp is two of them."""
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

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """A ctypes callable."""
        return ctypes.CFUNCTYPE(result, *arguments)(self.address(name))


def compile_ir(text: str, level: int, optimise: bool, symbols: dict[str, int] | None = None) -> NativeModule:
    """Compile IR text.

    level: code generation level 0..3. optimise: whether to run the middle-end pipeline at O2 first. symbols: addresses of external
    functions that the text declares.
    """
    _initialise()
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
    engine.finalize_object()
    return NativeModule(engine)
