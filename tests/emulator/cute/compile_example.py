"""Compiles an example of CUTLASS's CuTe DSL to PTX, without a GPU: python compile_example.py CUTLASS KERNEL SETTINGS.

Run in a process of its own, as the DSL reads its target from the environment when it is imported. CUTE_DSL_ARCH,
CUTE_DSL_KEEP=ptx,ir-debug and CUTE_DSL_DUMP_DIR say for what and where to.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import cuda.bindings.driver as cuda
import cutlass
from cutlass import cute, utils
from cutlass.cute.nvgpu import OperandMajorMode
from cutlass.cute.runtime import make_fake_compact_tensor, make_ptr

EXAMPLES = Path(sys.argv[1]) / "examples/python/CuTeDSL"
FORMATS = {
    "nvfp4": (cutlass.Float4E2M1FN, cutlass.Float8E4M3FN, 16),
    "mxfp4": (cutlass.Float4E2M1FN, cutlass.Float8E8M0FNU, 32),
    "mxfp8": (cutlass.Float8E4M3FN, cutlass.Float8E8M0FNU, 32),
}


def example(path: str) -> Any:
    """The module of one example (which imports others by their names)."""
    sys.path[:0] = [str(EXAMPLES), str((EXAMPLES / path).parent)]
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pointer(dtype: Any, align: int) -> Any:
    """A pointer argument; its value is never used."""
    return make_ptr(dtype, 1 << 20, cute.AddressSpace.gmem, assumed_align=align)


def tensor(dtype: Any, major: str = "k", multiple: int = 16) -> Any:
    """A matrix argument of unknown size, contiguous along rows (m) or columns, which are a multiple of ``multiple``."""
    order = (0, 1, 2) if major == "m" else (1, 0, 2)
    shape = [cute.sym_int(), cute.sym_int(), cute.sym_int()]
    shape[order.index(0)] = cute.sym_int(divisibility=multiple)
    return make_fake_compact_tensor(dtype, tuple(shape), stride_order=order, assumed_align=16)


def tutorial(number: int) -> None:
    """blackwell/tutorial/tutorial_gemm/nvfp4_gemm_{0,1}.py: one CTA, and a pair."""
    module = example(f"cute/blackwell/tutorial/tutorial_gemm/nvfp4_gemm_{number}.py")
    data, scales = (pointer(module.ab_dtype, 16) for _ in "ab"), (pointer(module.sf_dtype, 32) for _ in "ab")
    sizes = (512, 512, 1024, 1)
    kernel = module.Sm100BlockScaledDenseGemmKernel()
    cute.compile(kernel, *data, *scales, pointer(module.c_dtype, 32), sizes, cuda.CUstream(0))


def persistent(tile: list[int], cluster: list[int], kind: str) -> None:
    """The warp-specialised, persistent block-scaled GEMM."""
    module = example("cute/blackwell/kernel/blockscaled_gemm/dense_blockscaled_gemm_persistent.py")
    data, scale, vector = FORMATS[kind]
    kernel = module.Sm100BlockScaledPersistentDenseGemmKernel(vector, tuple(tile), tuple(cluster))
    operands = (pointer(data, 16), pointer(data, 16), pointer(scale, 32), pointer(scale, 32))
    majors = (OperandMajorMode.K, OperandMajorMode.K, utils.LayoutEnum.ROW_MAJOR)
    sizes = tuple(cutlass.Int32(0) for _ in range(4))
    cute.compile(kernel, *operands, pointer(cutlass.BFloat16, 16), majors, sizes, 4, cuda.CUstream(0))


def dense(name: str, tile: list[int], cluster: list[int], types: list[str], majors: str) -> None:
    """blackwell/kernel/dense_gemm/{name}.py: ``types`` of operands, accumulator and result; ``majors`` as in "kkn"."""
    module = example(f"cute/blackwell/kernel/dense_gemm/{name}.py")
    data, accumulator, result = (getattr(cutlass, t) for t in types)
    kernel = module.PersistentDenseGemmKernel(accumulator, tile[0] == 256, tuple(tile), tuple(cluster), True)

    tensors = (tensor(data, majors[0]), tensor(data, "m" if majors[1] == "n" else "k"), tensor(result, majors[2]))
    clusters = () if name.endswith("dynamic") else (4,)
    cute.compile(kernel, *tensors, *clusters, cuda.CUstream(0))


def hopper(tile: list[int], cluster: list[int]) -> None:
    """The dense WGMMA GEMM in bf16."""
    module = example("cute/hopper/kernel/dense_gemm/dense_gemm.py")
    kernel = module.HopperWgmmaGemmKernel(cutlass.Float32, tuple(tile), tuple(cluster))

    cute.compile(kernel, *(tensor(cutlass.BFloat16) for _ in "abc"), cuda.CUstream(0))


def mixed() -> None:
    """Int8 widened to bf16 on its way to tensor memory, times bf16."""
    module = example("cute/blackwell/kernel/mixed_input_gemm/mixed_input_gemm.py")
    kernel = module.MixedInputGemmKernel(0, 0, cutlass.Float32, False, (128, 128, 128), (1, 1), True, False)
    a, b, c = tensor(cutlass.Int8), tensor(cutlass.BFloat16), tensor(cutlass.BFloat16)
    cute.compile(kernel, a, None, b, c, 4, cuda.CUstream(0))


def grouped(groups: int, tiles: int, update: str) -> None:
    """Several bf16 products in one launch; tensor maps are rewritten on the device, in shared or global memory."""
    module = example("cute/blackwell/kernel/grouped_gemm/grouped_gemm.py")
    mode = getattr(utils.TensorMapUpdateMode, update)
    kernel = module.GroupedGemmKernel(cutlass.Float32, False, (128, 128), (1, 1), mode)

    def table(dtype: Any, *shape: int) -> Any:
        return make_fake_compact_tensor(dtype, shape, stride_order=(*reversed(range(len(shape))),), assumed_align=16)

    initial = [tensor(cutlass.BFloat16) for _ in "abc"]
    shapes, strides = table(cutlass.Int32, groups, 4), table(cutlass.Int32, groups, 3, 2)
    addresses, maps = table(cutlass.Int64, groups, 3), table(cutlass.Int64, 4, 3, 16)
    cute.compile(kernel, *initial, groups, shapes, strides, addresses, tiles, maps, 4, cuda.CUstream(0))


def geforce() -> None:
    """NVFP4 on sm_120: mma.sync with block scaling."""
    name = "dense_blockscaled_gemm_persistent_cooperative.py"
    module = example(f"cute/blackwell_geforce/kernel/blockscaled_gemm/{name}")
    kernel = module.Sm120BlockScaledGemmKernel(cutlass.Float32, 16, (128, 128, 128), (64, 32))
    data = [tensor(cutlass.Float4E2M1FN, multiple=32) for _ in "ab"]
    scales = [tensor(cutlass.Float8E4M3FN, multiple=1) for _ in "ab"]
    cute.compile(kernel, *data, *scales, tensor(cutlass.BFloat16), 4, cuda.CUstream(0))


if __name__ == "__main__":
    kernels = (tutorial, persistent, dense, hopper, mixed, grouped, geforce)
    {kernel.__name__: kernel for kernel in kernels}[sys.argv[2]](**json.loads(sys.argv[3]))
