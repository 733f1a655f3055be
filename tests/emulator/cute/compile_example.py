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
    """The module of one example (which imports others by names that start at the examples' root)."""
    sys.path.insert(0, str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pointer(dtype: Any, align: int) -> Any:
    """A pointer argument; its value is never used."""
    return make_ptr(dtype, 1 << 20, cute.AddressSpace.gmem, assumed_align=align)


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

    def tensor(dtype: Any, major: str) -> Any:
        order = (0, 1, 2) if major == "m" else (1, 0, 2)
        shape = [cute.sym_int(), cute.sym_int(), cute.sym_int()]
        shape[order.index(0)] = cute.sym_int(divisibility=16)
        return make_fake_compact_tensor(dtype, tuple(shape), stride_order=order, assumed_align=16)

    tensors = (tensor(data, majors[0]), tensor(data, "m" if majors[1] == "n" else "k"), tensor(result, majors[2]))
    clusters = () if name.endswith("dynamic") else (4,)
    cute.compile(kernel, *tensors, *clusters, cuda.CUstream(0))


def hopper(tile: list[int], cluster: list[int]) -> None:
    """The dense WGMMA GEMM in bf16."""
    module = example("cute/hopper/kernel/dense_gemm/dense_gemm.py")
    kernel = module.HopperWgmmaGemmKernel(cutlass.Float32, tuple(tile), tuple(cluster))

    def tensor() -> Any:
        shape = (cute.sym_int(), cute.sym_int(divisibility=8), cute.sym_int())
        return make_fake_compact_tensor(cutlass.BFloat16, shape, stride_order=(1, 0, 2), assumed_align=16)

    cute.compile(kernel, tensor(), tensor(), tensor(), cuda.CUstream(0))


if __name__ == "__main__":
    kernels = {"tutorial": tutorial, "persistent": persistent, "dense": dense, "hopper": hopper}
    kernels[sys.argv[2]](**json.loads(sys.argv[3]))
