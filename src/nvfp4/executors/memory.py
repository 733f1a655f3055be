"""Filling memory on a device from Python, cheaply."""

from __future__ import annotations

import torch

from nvfp4.executors import libcuda
from nvfp4.executors.driver import current_queue


def fill_zero(out: torch.Tensor) -> None:
    """Write zeros to a contiguous `out`, in torch's current queue of its device.

    On a GPU the driver is called directly, which takes the host a third of the time of ``out.zero_()``.
    """
    if out.is_cuda and out.numel():
        queue = current_queue(out.get_device())
        if libcuda.library().cuMemsetD8Async(out.data_ptr(), 0, out.nbytes, queue) == libcuda.SUCCESS:
            return
    # On a CPU; or this thread has no context of that device yet, which torch then makes.
    out.zero_()
