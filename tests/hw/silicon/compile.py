"""CUDA C++ text to PTX or a cubin with NVRTC: what `nvfp4.jit` does for the package's own kernels, for a text."""

from __future__ import annotations

import functools
from typing import Any

from nvfp4.jit import toolkit


class CompileFailed(Exception):
    """The compiler's log."""


@functools.lru_cache(maxsize=256)
def compile_text(
    source: str, arch: str, target: str, name: str = "program.cu", defines: tuple[str, ...] = (), header: str = ""
) -> bytes:
    """PTX (without the closing zero) or a cubin, with line information.

    Args:
        source: CUDA C++.
        arch: Such as ``"sm_90a"``.
        target: ``"ptx"`` or ``"cubin"``.
        name: What line information calls the text.
        defines: Macros, ``NAME`` or ``NAME=VALUE``.
        header: A text that the source may include as ``ptx.cuh``.
    """
    nvrtc: Any = toolkit.nvrtc()

    def check(result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise CompileFailed(str(result[0]))
        return result[1] if len(result) > 1 else None

    program = check(
        nvrtc.nvrtcCreateProgram(
            source.encode(), name.encode(), bool(header), [header.encode()] * bool(header), [b"ptx.cuh"] * bool(header)
        )
    )
    number = arch.removeprefix("sm_")
    options = [f"--gpu-architecture={'compute_' if target == 'ptx' else 'sm_'}{number}", "-std=c++17"]
    options += ["--generate-line-info", *(f"-D{d}" for d in defines)]
    options += [f"--include-path={path}" for path in toolkit.include_directories()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    if int(status) != 0:
        log = bytes(check(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise CompileFailed(log.decode(errors="replace"))
    kind = "PTX" if target == "ptx" else "CUBIN"
    code = bytes(check(getattr(nvrtc, f"nvrtcGet{kind}Size")(program)))
    check(getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
    nvrtc.nvrtcDestroyProgram(program)
    return code.rstrip(b"\0") if target == "ptx" else code
