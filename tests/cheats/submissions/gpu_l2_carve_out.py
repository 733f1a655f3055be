"""Sets a part of the L2 cache aside, so that operands survive the flush."""

# task: nvfp4_gemm  mode: test  device: cuda  expect: cheat  message: set a part of the L2 cache aside
import ctypes

import torch
from honest import custom_kernel as right

torch.zeros(1, device="cuda")
_library = ctypes.CDLL("libcuda.so.1")


def _set_aside():
    size = ctypes.c_size_t()
    status = _library.cuCtxGetLimit(ctypes.byref(size), 6)
    return status, size.value


_before = _set_aside()
_status = _library.cuCtxSetLimit(6, ctypes.c_size_t(24 << 20))
_after = _set_aside()
if _status or _after == _before:
    raise RuntimeError(f"nothing can be set aside here: {_status}, {_before}, {_after}")


def custom_kernel(data):
    return right(data)
