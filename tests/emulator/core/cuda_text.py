"""CUDA text to an emulator module, with NVRTC."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from cuda.bindings import nvrtc

from nvfp4.emulator import Module

HERE = Path(__file__).parent


def _ok(result: tuple[Any, ...]) -> Any:
    assert int(result[0]) == 0, result[0]
    return result[1] if len(result) == 2 else result[1:]


def _include() -> bytes:
    import nvidia.cu13 as toolkit

    return b"-I" + str(Path(next(iter(toolkit.__path__))) / "include").encode()


def to_ptx(source: str, arch: str, name: str, defines: tuple[str, ...]) -> str:
    """PTX of CUDA C++ text."""
    program = _ok(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []))
    flags = [
        f"-arch=compute_{arch}".encode(),
        b"--std=c++17",
        b"-lineinfo",
        _include(),
        *(f"-D{d}".encode() for d in defines),
    ]
    status = nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]
    if int(status):
        log = b" " * _ok(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    text = b" " * _ok(nvrtc.nvrtcGetPTXSize(program))
    _ok(nvrtc.nvrtcGetPTX(program, text))
    return text.decode().rstrip("\0")


@functools.cache
def module(source: str, arch: str = "90a", *defines: str) -> Module:
    """A module from CUDA text."""
    return Module(to_ptx(source, arch, "test.cu", defines))


@functools.cache
def file_module(name: str, arch: str = "90a", *defines: str) -> Module:
    """A module from a .cu file beside this one."""
    return Module(to_ptx((HERE / name).read_text(), arch, name, defines))


def ptx_module(body: str, parameters: str = "", arch: str = "sm_100a", declarations: str = "") -> Module:
    """A module with one entry ``k`` around PTX statements."""
    return Module(
        f".version 8.8\n.target {arch}\n.address_size 64\n{declarations}\n.visible .entry "
        f"k({parameters})\n{{\n{body}\nret;\n}}\n"
    )
