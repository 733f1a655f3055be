"""Runs a `Program` on the GPU that is present. Needs torch with CUDA and NVRTC."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from nvfp4.executors import launch as nvfp4_launch
from nvfp4.executors import libcuda, tensor_map

from .compile import compile_text
from .program import Array, In, Int, Map, Out, Program


def _function(program: Program) -> ctypes.c_void_p:
    cuda = libcuda.library()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    code = compile_text(program.source, program.arch, "cubin")
    libcuda.check(cuda.cuModuleLoadData(ctypes.byref(module), code), f"cuModuleLoadData of {program.name}")
    libcuda.check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"kernel"), program.name)
    return function


def _parameter(argument: Any, buffers: dict[str, torch.Tensor]) -> bytes:
    if isinstance(argument, (In, Out)):
        return int(buffers[argument.name].data_ptr()).to_bytes(8, "little")
    if isinstance(argument, Int):
        return argument.value.to_bytes(4, "little")
    assert isinstance(argument, Map)
    fields = {
        f: getattr(argument, f)
        for f in ("dtype", "shape", "strides", "box", "element_strides", "swizzle", "nan_fill", "offset")
    }
    described = nvfp4_launch.TensorMap(buffers[argument.name], **fields)
    return tensor_map.encode(described, buffers[argument.name].data_ptr())


def run(program: Program) -> dict[str, Array]:
    """The recorded buffers after one launch.

    Raises:
        nvfp4.errors.LaunchError, RuntimeError: The driver or the device refuses.
    """
    torch.cuda.init()
    arrays = program.buffers()
    buffers = {name: torch.from_numpy(a.reshape(-1).view(np.uint8)).cuda() for name, a in arrays.items()}
    torch.cuda.synchronize()
    function = _function(program)
    cuda = libcuda.library()
    if program.shared_bytes > 48 * 1024:
        libcuda.check(
            cuda.cuFuncSetAttribute(function, libcuda.FUNC_MAX_DYNAMIC_SHARED, program.shared_bytes), program.name
        )
    data = [_parameter(a, buffers) for a in program.args]
    # Tensor maps must lie at multiples of 64 bytes on the host, too.
    store = ctypes.create_string_buffer(sum(128 + 64 for _ in data) + 64)
    at = -ctypes.addressof(store) % 64 + ctypes.addressof(store)
    pointers = (ctypes.c_void_p * len(data))()
    for i, d in enumerate(data):
        ctypes.memmove(at, d, len(d))
        pointers[i] = at
        at += 192
    attribute = libcuda.LaunchAttribute(id=libcuda.LAUNCH_CLUSTER_DIMENSION)
    attribute.value[0], attribute.value[1], attribute.value[2] = program.cluster
    clustered = program.cluster != (1, 1, 1)
    config = libcuda.LaunchConfig(
        grid=program.grid, block=program.block, shared_bytes=program.shared_bytes, stream=0,
        attributes=ctypes.pointer(attribute), attribute_count=int(clustered),
    )  # fmt: skip
    status = cuda.cuLaunchKernelEx(ctypes.byref(config), function, ctypes.byref(pointers), None)
    libcuda.check(status, f"launch of {program.name}")
    torch.cuda.synchronize()
    return {
        name: buffers[name].cpu().numpy().view(arrays[name].dtype).reshape(arrays[name].shape)
        for name in program.outputs
    }
