"""Settings from the environment. No other module reads environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """Settings of this process.

    Attributes:
        cache_dir: Where compiled kernels are kept (``NVFP4_CACHE_DIR``; default ``$XDG_CACHE_HOME/nvfp4``).
        cache_enabled: Whether that cache is used (``NVFP4_CACHE=0`` turns it off).
        backend: A backend to use for every call instead of choosing one (``NVFP4_BACKEND``).
        executor: ``driver`` or ``emulated`` instead of choosing one (``NVFP4_EXECUTOR``).
        lineinfo: Whether kernels carry source lines for debuggers and the emulator (``NVFP4_LINEINFO``).
    """

    cache_dir: Path
    cache_enabled: bool
    backend: str | None
    executor: str | None
    lineinfo: bool


def load() -> Config:
    """Read the configuration from the environment as it is now."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Config(
        cache_dir=Path(os.environ.get("NVFP4_CACHE_DIR") or Path(base) / "nvfp4"),
        cache_enabled=os.environ.get("NVFP4_CACHE", "1") != "0",
        backend=os.environ.get("NVFP4_BACKEND") or None,
        executor=os.environ.get("NVFP4_EXECUTOR") or None,
        lineinfo=os.environ.get("NVFP4_LINEINFO", "1") != "0",
    )


def toolkit_roots() -> tuple[Path, ...]:
    """Directories of CUDA toolkits that the environment names (``CUDA_HOME``, ``CUDA_PATH``)."""
    return tuple(Path(value) for value in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if value)


def executor_override() -> str | None:
    """`Config.executor` alone, because it is asked for at every call."""
    return os.environ.get("NVFP4_EXECUTOR") or None


def popcorn_descriptor() -> int | None:
    """Where the contest's platform wants an evaluator's report (``POPCORN_FD``), or None."""
    value = os.environ.get("POPCORN_FD", "")
    return int(value) if value.isdigit() else None


def popcorn_seed() -> int | None:
    """The seed that the contest's platform gives a run (``POPCORN_SEED``), or None."""
    value = os.environ.get("POPCORN_SEED", "")
    return int(value) if value.isdigit() else None


def python_path(first: Path) -> str:
    """``PYTHONPATH`` of a child that looks into `first` before what this process' variable names."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH", ""))))


def child_environment(changes: dict[str, str | None]) -> dict[str, str]:
    """This process's environment with `changes` for a child; None removes a variable."""
    merged: dict[str, str | None] = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}
