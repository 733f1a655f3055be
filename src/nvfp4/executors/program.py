"""`Program`: launches that were prepared once and run again with other memory of the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nvfp4.errors import InputError
from nvfp4.executors import driver, parameters
from nvfp4.executors.launch import Launch
from nvfp4.executors.scratch import Scratch, kept

Tensors = Sequence[torch.Tensor | None]


class Program:
    """Launches on one GPU, with every address traced back to a tensor of the call. Holds no tensor.

    A backend builds the launches of a problem once, and gives them here with the list of tensors that they were built
    from. A later call passes the addresses of a list in the same order, and costs little more than the driver's time.

    Args:
        launches: What `LaunchBackend.launches` gave for `tensors` and `extra`.
        tensors: All operands that the launches refer to, distinct; None where an optional one is absent. A later call
            must have tensors of the same shapes and alignment, and null at the same places.
        scratch: What else the launches need. A call takes it from what is kept for its thread and queue; one that
            needs much from an allocation of its own, one that is captured from the graph's.
        extra: The tensors of `scratch` that the launches were built with.

    Attributes:
        run: Runs them in torch's current queue. Takes the address of each operand, 0 for None, in the order of
            `tensors`.

    Raises:
        InputError: A launch refers to memory that is not the start of one of these tensors, or two of them share it.
    """

    def __init__(
        self, launches: Sequence[Launch], tensors: Tensors, scratch: Scratch | None = None, extra: Tensors = ()
    ) -> None:
        every = [*tensors, *extra]
        if aliased(every):
            raise InputError("Program", "tensors", "distinct memory", "shared memory", "Run these launches once.")
        index = driver.device_index(launches)
        sources = [_sources(launch, every) for launch in launches]
        prepared = driver.Prepared(launches, sources, len(every), index)
        self.run = _runner(prepared, scratch, index)


def _runner(prepared: driver.Prepared, scratch: Scratch | None, index: int) -> Callable[[Sequence[int]], None]:
    """`Program.run` of launches that are prepared on CUDA device `index`."""
    run = prepared.run if scratch is None else _with_scratch(prepared.run, scratch, index)
    if torch.cuda.device_count() <= 1:
        return run  # there is no other device that could be current
    current = torch._C._cuda_getDevice

    def on_device(addresses: Sequence[int]) -> None:
        if current() == index:
            run(addresses)
            return
        with torch.cuda.device(index):
            run(addresses)

    return on_device


def _with_scratch(run: Callable[..., None], scratch: Scratch, index: int) -> Callable[[Sequence[int]], None]:
    """`run`, with the addresses of scratch memory behind those of the call."""
    current, capturing = torch._C._cuda_getCurrentRawStream, torch._C._cuda_isCurrentStreamCapturing  # type: ignore[attr-defined, unused-ignore]
    keeps, device = scratch.keepable, torch.device("cuda", index)

    def with_scratch(addresses: Sequence[int]) -> None:
        queue = current(index)
        if capturing():
            # Freed when this returns, which in torch means: free for what is queued later.
            memory, places = scratch.of_graph(index, queue)
            run((*addresses, *places), queue)
            del memory
        elif keeps:
            run((*addresses, *kept(scratch, index, queue)), queue)
        else:
            pieces = scratch.allocate(device)
            run((*addresses, *[tensor.data_ptr() for tensor in pieces]), queue)

    return with_scratch


def _sources(launch: Launch, tensors: Tensors) -> parameters.Sources:
    """Which of `tensors` each address of `launch` is; None is null."""
    # By address and not by identity: a launch may hold a view of a tensor, such as its bytes.
    where = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if tensor is not None}
    sources: list[int | None] = []
    for tensor in parameters.tensors(launch.args):
        if tensor is not None and tensor.data_ptr() not in where:
            got = f"memory of a tensor of shape {tuple(tensor.shape)}"
            raise InputError("Program", "launches", "the start of a given tensor", got, "Pass every tensor in use.")
        sources.append(None if tensor is None else where[tensor.data_ptr()])
    return sources


def aliased(tensors: Tensors) -> bool:
    """Whether two of `tensors` start at the same memory, so that an address does not tell which is meant."""
    addresses = [tensor.data_ptr() for tensor in tensors if tensor is not None and tensor.numel()]
    return len(set(addresses)) != len(addresses)
