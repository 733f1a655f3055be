"""Run the programs of `unit_programs` on this machine's GPU and store what came out.

    python tests/hw/record_units.py tests/hw/data/units_sm90.npz [--commit HASH]

Needs cuda-bindings and a GPU of compute capability 9.0. Prints what each program did. ``--commit`` says which version
of the programs runs, where git cannot.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import unit_programs as up
from cuda.bindings import driver, nvrtc

from nvfp4.emulator.units.mma import parse_mma

TYPES = {
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "s32": "INT32",
    "u64": "UINT64",
    "s64": "INT64",
    "f16": "FLOAT16",
    "f32": "FLOAT32",
    "f64": "FLOAT64",
    "bf16": "BFLOAT16",
    "f32.ftz": "FLOAT32_FTZ",
    "tf32": "TFLOAT32",
    "tf32.ftz": "TFLOAT32_FTZ",
}


def ok(result: tuple[Any, ...]) -> Any:
    if int(result[0]):
        raise RuntimeError(str(result[0]))
    return result[1] if len(result) == 2 else result[1:]


class Gpu:
    """A module compiled from source, and launches that take NumPy arrays for buffers."""

    def __init__(self, source: str) -> None:
        ok(driver.cuInit(0))
        self.device = ok(driver.cuDeviceGet(0))
        self.context = ok(driver.cuDevicePrimaryCtxRetain(self.device))
        ok(driver.cuCtxSetCurrent(self.context))
        program = ok(nvrtc.nvrtcCreateProgram(source.encode(), b"units.cu", 0, [], []))
        flags = [b"-arch=sm_90a", b"--std=c++17", b"-diag-suppress=550"]
        code = nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]
        if int(code):
            log = b" " * ok(nvrtc.nvrtcGetProgramLogSize(program))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(log.decode())
        image = b" " * ok(nvrtc.nvrtcGetCUBINSize(program))
        ok(nvrtc.nvrtcGetCUBIN(program, image))
        self.module = ok(driver.cuModuleLoadData(image))

    def upload(self, array: np.ndarray) -> int:
        data = np.ascontiguousarray(array)
        pointer = int(ok(driver.cuMemAlloc(max(data.nbytes, 16))))
        ok(driver.cuMemcpyHtoD(pointer, data.ctypes.data, data.nbytes))
        return pointer

    def download(self, pointer: int, shape: Any, dtype: Any) -> np.ndarray:
        out = np.empty(shape, dtype)
        ok(driver.cuMemcpyDtoH(out.ctypes.data, pointer, out.nbytes))
        return out

    def launch(self, name: str, grid: int, threads: int, shared: int, values: list[np.ndarray]) -> None:
        function = ok(driver.cuModuleGetFunction(self.module, name.encode()))
        ok(
            driver.cuFuncSetAttribute(
                function, driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared
            )
        )
        keep = np.array([v.ctypes.data for v in values], np.uint64)
        ok(driver.cuLaunchKernel(function, grid, 1, 1, threads, 1, 1, shared, 0, keep.ctypes.data, 0))
        ok(driver.cuCtxSynchronize())


def u64(value: int) -> np.ndarray:
    return np.array([value], np.uint64)


def u32(value: int) -> np.ndarray:
    return np.array([value], np.uint32)


def encode(copy: up.Copy, address: int) -> np.ndarray:
    kinds, sw = driver.CUtensorMapDataType, driver.CUtensorMapSwizzle
    rank = len(copy.shape)
    swizzle = {0: "NONE", 32: "32B", 64: "64B", 128: "128B"}[copy.swizzle]
    fill = driver.CUtensorMapFloatOOBfill
    code, encoded = driver.cuTensorMapEncodeTiled(
        getattr(kinds, "CU_TENSOR_MAP_DATA_TYPE_" + TYPES[copy.dtype]),
        rank,
        address,
        [driver.cuuint64_t(s) for s in copy.shape],
        [driver.cuuint64_t(s) for s in (copy.strides or (16,))],  # one dimension has none, but wants the array
        [driver.cuuint32_t(s) for s in copy.box],
        [driver.cuuint32_t(s) for s in (copy.element_strides or (1,) * rank)],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(sw, "CU_TENSOR_MAP_SWIZZLE_" + swizzle),
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
        fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
        if copy.nan_fill
        else fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if int(code):
        raise RuntimeError(f"cuTensorMapEncodeTiled: {code}")
    raw = np.zeros(192, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start : start + 128] = np.array([int(x) for x in encoded.opaque], np.uint64).view(np.uint8)
    return raw[start : start + 128]


def head() -> str:
    """The commit that is checked out."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def main(path: str, commit: str) -> None:
    registers = {m.opcode: parse_mma(m.opcode).registers for m in up.MMA}
    gpu = Gpu(up.source(registers))
    out: dict[str, np.ndarray] = {}
    for w in up.WGMMA:
        image, a, d = w.inputs()
        buffers = [gpu.upload(x) for x in (image, a, d, d, np.zeros(4, np.uint32))]
        da = up.descriptor(w.a) if w.a else 0
        values = [u64(buffers[0]), u64(da), u64(up.descriptor(w.b)), *(u64(b) for b in buffers[1:])]
        gpu.launch(f"wgmma_{w.name}", 1, 128, up.IMAGE, values)
        base = int(gpu.download(buffers[4], 1, np.uint32)[0])
        if base % 1024:
            raise RuntimeError(f"shared memory starts at {base:#x}")
        out[f"wgmma/{w.name}"] = gpu.download(buffers[3], d.shape, np.uint32)
        print("wgmma", w.name, "base", hex(base))
    for m in up.MMA:
        a, b, c = m.inputs(registers[m.opcode])
        d = np.zeros((16, registers[m.opcode][3], 32), c.dtype)
        buffers = [gpu.upload(x) for x in (a, b, c, d)]
        gpu.launch(f"mma_{m.name}", 16, 32, 0, [u64(x) for x in buffers])
        out[f"mma/{m.name}/{m.spread}"] = gpu.download(buffers[3], d.shape, d.dtype)
        print("mma", m.opcode)
    for copy in up.COPIES:
        tensor, shared = copy.tensor(), copy.shared()
        buffer, image, status = gpu.upload(tensor), gpu.upload(shared), gpu.upload(np.zeros(4, np.uint32))
        rank = len(copy.shape)
        try:
            tmap = encode(copy, buffer)
        except RuntimeError as error:
            print("copy", copy.name, "refused:", error)
            out[f"copy/{copy.name}"] = np.zeros(0, np.uint8)
            continue
        steps = (1, *(copy.element_strides or (1,) * rank)[1:])
        count = int(np.prod([-(-b // s) for b, s in zip(copy.box, steps, strict=True)]))
        size = {"8": 1, "16": 2, "32": 4, "64": 8}[copy.dtype.split(".")[0].lstrip("usfbt")]
        coords = [np.array([c], np.int32) for c in (*copy.coords, *([0] * (5 - rank)))]
        if copy.op is None:
            dump = gpu.upload(np.zeros(up.DUMP, np.uint8))
            gpu.launch(
                f"load_{rank}",
                1,
                32,
                up.DUMP,
                [tmap, *coords, u32(copy.offset), u32(count * size), u64(dump), u64(status)],
            )
            out[f"copy/{copy.name}"] = gpu.download(dump, up.DUMP, np.uint8)
        else:
            gpu.launch(f"{copy.op}_{rank}", 1, 32, up.DUMP, [tmap, *coords, u32(copy.offset), u64(image), u64(status)])
            # What changed: mostly zeros, so that the file stays small.
            out[f"copy/{copy.name}"] = gpu.download(buffer, up.GLOBAL, np.uint8) ^ tensor
        base, done = (int(x) for x in gpu.download(status, 2, np.uint32))
        out[f"status/{copy.name}"] = np.array([base, done], np.uint32)
        print("copy", copy.name, "base", hex(base), "the barrier completed" if done else "THE BARRIER DID NOT COMPLETE")
    name = ok(driver.cuDeviceGetName(128, gpu.device)).decode(errors="replace").strip("\0 ")
    version = ok(driver.cuDriverGetVersion())
    compiler = ".".join(str(n) for n in ok(nvrtc.nvrtcVersion()))
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    out["provenance"] = np.array(
        f"{name}; CUDA driver {version}; NVRTC {compiler}; Python {platform.python_version()}; programs as of commit "
        f"{commit}; {today}"
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **out)
    print(path, Path(path).stat().st_size, "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--commit", default="")
    options = parser.parse_args()
    main(options.path, options.commit or head())
