"""Finds CUDA headers and the NVRTC binding: in the nvidia wheels, or in an installed toolkit."""

from __future__ import annotations

import functools
import re
import site
import sys
from pathlib import Path
from types import ModuleType

from nvfp4 import config
from nvfp4.errors import MissingDependencyError

# Where wheels keep headers below site-packages: CUDA 13 has one tree, CUDA 12 one for each component.
_WHEEL_LAYOUTS = ("nvidia/cu13/include", "nvidia/cuda_runtime/include", "nvidia/cuda_cccl/include")


def _site_directories() -> list[Path]:
    found = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
    return list(dict.fromkeys(Path(entry) for entry in found if entry))


@functools.cache
def include_directories() -> tuple[Path, ...]:
    """Directories that hold the CUDA headers, best first; empty when there are none.

    The wheels of this environment come first, because they match the compiler that is used; then a toolkit named by
    ``CUDA_HOME`` or ``CUDA_PATH``, then ``/usr/local/cuda``.
    """
    candidates = [base / layout for base in _site_directories() for layout in _WHEEL_LAYOUTS]
    candidates += [root / "include" for root in (*config.toolkit_roots(), Path("/usr/local/cuda"))]
    present = [path for path in dict.fromkeys(candidates) if (path / "cuda.h").is_file() or (path / "cuda").is_dir()]
    return tuple(present)


@functools.cache
def header_version() -> str:
    """``CUDA_VERSION`` of the headers that are found first, such as ``"13050"``; empty when there are none."""
    for directory in include_directories():
        header = directory / "cuda.h"
        if header.is_file():
            match = re.search(r"^#define CUDA_VERSION (\d+)", header.read_text(errors="replace"), re.MULTILINE)
            if match:
                return match.group(1)
    return ""


@functools.cache
def nvrtc() -> ModuleType:
    """The NVRTC binding, with the library loaded.

    Raises:
        MissingDependencyError: The binding or the library is not installed.
    """
    try:
        from cuda.bindings import nvrtc as binding

        binding.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"NVRTC cannot be loaded ({error}). Install it with: "
            "pip install 'cuda-bindings>=13,<14' 'nvidia-cuda-nvrtc>=13,<14' 'nvidia-cuda-runtime>=13,<14'"
        ) from error
    return binding  # type: ignore[no-any-return]


@functools.cache
def nvrtc_version() -> str:
    """Version of the compiler, such as ``"13.5"``."""
    _, major, minor = nvrtc().nvrtcVersion()
    return f"{major}.{minor}"
