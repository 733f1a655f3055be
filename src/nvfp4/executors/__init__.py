"""Executors run Launches: `driver` on an NVIDIA GPU, `emulated` on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from nvfp4 import config
from nvfp4.errors import InputError
from nvfp4.executors.launch import Launch


class Executor(Protocol):
    """A way to run Launches; the modules `driver` and `emulated` are the two there are."""

    @property
    def name(self) -> str:
        """What `config.Config.executor` calls it."""
        ...

    def run(self, launches: Sequence[Launch], /) -> None:
        """Run `launches` in order; on a GPU, without waiting for them."""
        ...


def choose(device: torch.device | str) -> Executor:
    """The executor for tensors on `device`: `driver` for CUDA, `emulated` for the CPU.

    Raises:
        InputError: ``NVFP4_EXECUTOR`` names another one than can work there, or `device` is of another kind.
    """
    kind = torch.device(device).type
    wanted = {"cuda": "driver", "cpu": "emulated"}.get(kind)
    if wanted is None:
        raise InputError("executors.choose", "device", "cuda or cpu", device, "Move the tensors to a CPU or a GPU.")
    override = config.executor_override()
    if override is not None and override != wanted:
        remedy = "Unset NVFP4_EXECUTOR, or move the tensors: driver takes those on a GPU, emulated those on the CPU."
        raise InputError("executors.choose", "NVFP4_EXECUTOR", f"{wanted} for tensors on {kind}", override, remedy)
    if wanted == "driver":
        from nvfp4.executors import driver

        return driver
    from nvfp4.executors import emulated

    return emulated
