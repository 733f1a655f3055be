"""`compile`: a Kernel to PTX or a cubin with NVRTC. Needs no GPU, driver or toolkit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nvfp4 import config
from nvfp4.errors import CompileError, InputError
from nvfp4.executors.launch import Kernel
from nvfp4.jit import cache, source, toolkit
from nvfp4.jit.artifact import Artifact, parse_resources

TARGETS = ("ptx", "cubin")

# Part of the cache key: raise it when the same inputs must compile to something else.
_RECIPE = 1

# What line information calls our sources. Absolute, because the compiler puts the working directory before others.
_SOURCE_ROOT = "/nvfp4/csrc"


def _flags(kernel: Kernel, target: str, lineinfo: bool) -> list[str]:
    number = kernel.arch.removeprefix("sm_")
    flags = [f"--gpu-architecture={'compute_' if target == 'ptx' else 'sm_'}{number}", "-std=c++17"]
    flags += ["--generate-line-info"] if lineinfo else []
    flags += ["--ptxas-options=-v"] if target == "cubin" else []
    # NVRTC keeps cubins of its own beside the driver's, and gives them back without the log that has the resources.
    flags += ["--no-cache"]
    # A default constructor or a variable of static storage in a header would silently become host code.
    flags += ["--device-as-default-execution-space"]
    flags += [f"-D{name}={value}" for name, value in kernel.constants]
    return flags


def _key(kernel: Kernel, flags: list[str], texts: dict[str, str]) -> str:
    toolchain = {"recipe": _RECIPE, "nvrtc": toolkit.nvrtc_version(), "headers": toolkit.header_version()}
    content = {"toolchain": toolchain, "entry": kernel.entry, "flags": flags, "texts": list(texts.items())}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _check(result: tuple[Any, ...], what: str) -> Any:
    """Unwrap the binding's (status, values...) tuple."""
    status, *values = result
    if int(status) != 0:
        raise CompileError(what, f"NVRTC: {status.name}")
    return values[0] if values else None


def _read(nvrtc: Any, program: Any, what: str, kind: str) -> bytes:
    """One of the program's outputs: ``ProgramLog``, ``PTX`` or ``CUBIN``."""
    size = _check(getattr(nvrtc, f"nvrtcGet{kind}Size")(program), what)
    buffer = bytes(size)  # The binding writes into it; a fresh object, as the interpreter shares only b"\0".
    _check(getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer), what)
    return buffer


def _named(name: str, text: str) -> bytes:
    return f'#line 1 "{_SOURCE_ROOT}/{name}"\n{text}'.encode()


def _compile(kernel: Kernel, target: str, flags: list[str], texts: dict[str, str], key: str) -> Artifact:
    nvrtc = toolkit.nvrtc()
    (name, main), *headers = texts.items()
    program = _check(
        nvrtc.nvrtcCreateProgram(
            _named(name, main),
            name.encode(),
            len(headers),
            [_named(header, text) for header, text in headers],
            [header.encode() for header, _ in headers],
        ),
        str(kernel),
    )
    try:
        options = [*flags, *(f"--include-path={path}" for path in toolkit.include_directories())]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _read(nvrtc, program, str(kernel), "ProgramLog").rstrip(b"\0 ").decode(errors="replace")
        if int(status) != 0:
            raise CompileError(str(kernel), log or f"NVRTC: {status.name}")
        code = _read(nvrtc, program, str(kernel), "PTX" if target == "ptx" else "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    code = code.rstrip(b"\0") if target == "ptx" else code
    return Artifact(target, code, log, parse_resources(log, kernel.entry), key)


def compile(kernel: Kernel, target: str = "cubin", *, lineinfo: bool | None = None) -> Artifact:
    """Compile `kernel`, or take it from the cache (`config.Config.cache_dir`).

    Args:
        kernel: Source below ``csrc/kernels``, constants and architecture.
        target: ``"ptx"`` (for the emulator) or ``"cubin"`` (for the GPU).
        lineinfo: Whether the code carries source lines; `config.Config.lineinfo` when None.

    Raises:
        CompileError: The compiler rejected it; `CompileError.log` is its full output.
        InputError: Unknown `target`.
        MissingDependencyError: NVRTC is not installed.
    """
    if target not in TARGETS:
        raise InputError("jit.compile", "target", "ptx or cubin", repr(target), "Ask for one of these.")
    settings = config.load()
    texts = source.closure(f"kernels/{kernel.source}")
    flags = _flags(kernel, target, settings.lineinfo if lineinfo is None else lineinfo)
    key = _key(kernel, flags, texts)
    if settings.cache_enabled:
        found = cache.load(settings.cache_dir, key, target)
        if found is not None:
            return found
    artifact = _compile(kernel, target, flags, texts, key)
    if settings.cache_enabled:
        cache.store(settings.cache_dir, artifact)
    return artifact
