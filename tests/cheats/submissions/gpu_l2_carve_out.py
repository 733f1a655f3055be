"""Sets a part of the L2 cache aside, so that operands survive the flush."""

# task: nvfp4_gemm  mode: test  device: cuda  expect: cheat  message: set a part of the L2 cache aside
import ctypes

import torch
from honest import custom_kernel as right

torch.zeros(1, device="cuda")
_library = ctypes.CDLL("libcuda.so.1")
_size = ctypes.c_size_t()
_status = _library.cuCtxSetLimit(6, ctypes.c_size_t(8 << 20))
_library.cuCtxGetLimit(ctypes.byref(_size), 6)
if _status or not _size.value:
    raise RuntimeError(f"nothing can be set aside here: error {_status}, {_size.value} bytes")


def custom_kernel(data):
    return right(data)
