"""The CUDA driver through ctypes: the few entry points that a launch needs, and their structures.

ctypes and not ``cuda.bindings.driver``: the binding builds Python objects for every launch, and a launch that is
prepared once has nothing left to build. Loading the library needs a driver; importing this module does not.

Names and numbers: CUDA driver API, ``cuda.h``.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nvfp4.errors import LaunchError, MissingDependencyError

SUCCESS = 0
INVALID_CONTEXT = 201

FUNC_LOCAL_BYTES = 3
FUNC_REGISTERS = 4
FUNC_MAX_DYNAMIC_SHARED = 8
FUNC_NON_PORTABLE_CLUSTER = 14

LAUNCH_CLUSTER_DIMENSION = 4
LAUNCH_PROGRAMMATIC = 6

CAPTURE_MODE_RELAXED = 2
CAPTURE_STATUS_ACTIVE = 1


class LaunchAttribute(ctypes.Structure):
    """``CUlaunchAttribute``: an id and a union of 64 bytes."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint32 * 16)]


class LaunchConfig(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("attribute_count", ctypes.c_uint32),
    ]


_VOID, _INT, _UINT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint

_SIGNATURES: dict[str, tuple[Any, ...] | None] = {
    "cuInit": (_UINT,),
    "cuDriverGetVersion": (_VOID,),
    "cuGetErrorName": (_INT, _VOID),
    "cuGetErrorString": (_INT, _VOID),
    "cuDevicePrimaryCtxRetain": (_VOID, _INT),
    "cuCtxGetCurrent": (_VOID,),
    "cuCtxSetCurrent": (_VOID,),
    "cuModuleLoadData": (_VOID, ctypes.c_char_p),
    "cuModuleGetFunction": (_VOID, _VOID, ctypes.c_char_p),
    "cuFuncGetAttribute": (_VOID, _INT, _VOID),
    "cuFuncSetAttribute": (_VOID, _INT, _INT),
    "cuThreadExchangeStreamCaptureMode": (_VOID,),
    "cuStreamGetCaptureInfo_v2": (_VOID, _VOID, _VOID, _VOID, _VOID, _VOID),
    "cuTensorMapEncodeTiled": (_VOID, _INT, _UINT, _VOID, _VOID, _VOID, _VOID, _VOID, _INT, _INT, _INT, _INT),
    # ctypes converts nothing for a function without types, so that a launch takes arguments that are C values already.
    "cuLaunchKernelEx": None,
}


@functools.cache
def library() -> Any:
    """The driver library, initialised.

    Raises:
        MissingDependencyError: There is no driver, or it is older than these kernels need.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        handle = ctypes.CDLL(name)
        for symbol, arguments in _SIGNATURES.items():
            function = getattr(handle, symbol)
            function.argtypes, function.restype = arguments, ctypes.c_int
    except (OSError, AttributeError) as error:
        raise MissingDependencyError(
            f"the CUDA driver cannot be used ({error}); install an NVIDIA driver of version 580 or later, or run on "
            "the CPU with executor='emulated'"
        ) from error
    status = handle.cuInit(0)
    if status != SUCCESS:
        raise MissingDependencyError(f"cuInit failed with error {status}; is an NVIDIA GPU visible to this process?")
    return handle


def error_text(status: int) -> str:
    """Name and description of a driver status."""
    parts = []
    for query in (library().cuGetErrorName, library().cuGetErrorString):
        text = ctypes.c_char_p()
        if query(status, ctypes.byref(text)) == SUCCESS and text.value:
            parts.append(text.value.decode())
    return ": ".join(parts) or f"error {status}"


def check(status: int, what: str) -> None:
    """Raise LaunchError unless `status` is success; `what` names the call and its object."""
    if status != SUCCESS:
        raise LaunchError(f"{what}: {error_text(status)}")


@contextmanager
def relaxed_capture() -> Iterator[None]:
    """Loading and allocating are forbidden while a queue of the process is being captured, unless a thread opts out."""
    mode = ctypes.c_int(CAPTURE_MODE_RELAXED)
    library().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    try:
        yield
    finally:
        library().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))


def capture_id(queue: int) -> int | None:
    """The number of the capture that `queue` (``CUstream``) is part of, unique in this process; None if it is not."""
    status, number = ctypes.c_int(), ctypes.c_uint64()
    asked = library().cuStreamGetCaptureInfo_v2(queue, ctypes.byref(status), ctypes.byref(number), None, None, None)
    check(asked, "cuStreamGetCaptureInfo")
    return number.value if status.value == CAPTURE_STATUS_ACTIVE else None
