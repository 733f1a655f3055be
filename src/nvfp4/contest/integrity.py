"""Whether a submission replaced what measures and checks it: functions by identity, before and after.

The evaluator holds the originals that it uses, so a replaced function misleads nobody; replacing one is a verdict by
itself. What is watched: clocks, events, synchronisation, comparison, copies, output channels, and every function of
this package that is loaded in the process.
"""

from __future__ import annotations

import builtins
import gc
import os
import random
import sys
import time
from types import FunctionType, ModuleType

import torch

_CUDA = ("Event", "Stream", "CUDAGraph", "graph", "synchronize", "current_stream", "set_stream", "_sleep", "stream")
_EVENT = ("__new__", "record", "elapsed_time", "synchronize", "query", "wait")
_TENSOR = (
    "clone", "copy_", "cpu", "cuda", "to", "view", "data_ptr", "sum", "item", "tolist", "equal", "zero_", "fill_",
    "untyped_storage", "contiguous", "permute", "stride", "numpy", "__eq__", "__mul__",
)  # fmt: skip
_TORCH = ("equal", "allclose", "isclose", "empty", "zeros", "randint", "rand", "randn", "arange", "Generator", "Tensor")
_WATCHED: tuple[tuple[object, str, tuple[str, ...]], ...] = (
    (time, "time", ("time", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time_ns", "process_time")),
    (torch, "torch", _TORCH),
    (torch.Tensor, "torch.Tensor", _TENSOR),
    (torch.cuda, "torch.cuda", _CUDA),
    (torch.cuda.Event, "torch.cuda.Event", _EVENT),
    (torch.testing, "torch.testing", ("assert_close",)),
    (os, "os", ("write", "read", "dup", "dup2", "pipe", "open", "fork", "_exit", "getenv", "kill")),
    (sys, "sys", ("exit", "settrace", "setprofile")),
    (gc, "gc", ("collect", "disable", "enable")),
    (random, "random", ("SystemRandom", "randrange", "random")),
    (builtins, "builtins", ("id", "open", "print", "hash", "min", "max", "sum", "abs", "len", "isinstance", "type")),
)


def _own_functions() -> dict[str, object]:
    """Functions and methods of the loaded modules of this package."""
    found: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        if not (name in ("nvfp4", "__main__") or name.startswith("nvfp4.")) or not isinstance(module, ModuleType):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, FunctionType):
                found[f"{name}.{attribute}"] = (value, value.__code__)
            elif isinstance(value, type) and value.__module__ == name:
                for method, function in list(vars(value).items()):
                    if isinstance(function, FunctionType):
                        found[f"{name}.{attribute}.{method}"] = (function, function.__code__)
    return found


class Snapshot:
    """The watched functions as they are now."""

    def __init__(self) -> None:
        self._builtin = self._watched()
        self._own = _own_functions()

    @staticmethod
    def _watched() -> dict[str, object]:
        return {f"{title}.{name}": getattr(owner, name, None) for owner, title, names in _WATCHED for name in names}

    def changes(self) -> tuple[str, ...]:
        """Names of what is no longer what it was; modules that were loaded since do not count."""
        changed = [name for name, value in self._watched().items() if value is not self._builtin[name]]
        own = _own_functions()
        for name, (function, code) in ((n, v) for n, v in self._own.items() if isinstance(v, tuple)):
            now = own.get(name)
            if not isinstance(now, tuple) or now[0] is not function or now[1] is not code:
                changed.append(name)
        return tuple(changed)
