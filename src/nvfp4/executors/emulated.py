"""The emulated executor: the same Launches in `nvfp4.emulator`, on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from nvfp4.executors.launch import Launch

name = "emulated"


def run(launches: Sequence[Launch]) -> None:
    """Run `launches` in order on tensors that lie on the CPU."""
    raise NotImplementedError
