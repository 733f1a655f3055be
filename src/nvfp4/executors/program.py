"""`Program`: launches that were prepared once and run again with other memory of the same shapes."""

from __future__ import annotations

from collections.abc import Sequence

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

    Raises:
        InputError: A launch refers to memory that is not the start of one of these tensors, or two of them share it.
    """

    def __init__(
        self, launches: Sequence[Launch], tensors: Tensors, scratch: Scratch | None = None, extra: Tensors = ()
    ) -> None:
        every = [*tensors, *extra]
        if aliased(every):
            raise InputError("Program", "tensors", "distinct memory", "shared memory", "Run these launches once.")
        self.index = driver.device_index(launches)
        sources = [_sources(launch, every) for launch in launches]
        self._prepared = driver.Prepared(launches, sources, len(every), self.index)
        self._scratch = scratch
        self._keeps = scratch is not None and scratch.keepable
        self._device = torch.device("cuda", self.index)

    def run(self, addresses: Sequence[int]) -> None:
        """Run in torch's current queue. A method, because calling an object takes longer than calling its method.

        Args:
            addresses: That of each operand, 0 for None, in the order of the list that the program was made from.
        """
        index = self.index
        if torch._C._cuda_getDevice() != index:
            with torch.cuda.device(index):
                self.run(addresses)
            return
        # What torch.cuda.current_stream(index).cuda_stream returns, without building the object: 0.1 us instead of 1.
        queue = torch._C._cuda_getCurrentRawStream(index)  # type: ignore[attr-defined, unused-ignore]
        if self._scratch is None:
            self._prepared.run(addresses, queue)
        elif torch._C._cuda_isCurrentStreamCapturing():
            # Freed when this returns, which in torch means: free for what is queued later.
            memory, places = self._scratch.of_graph(index, queue)
            self._prepared.run([*addresses, *places], queue)
            del memory
        elif self._keeps:
            self._prepared.run([*addresses, *kept(self._scratch, index, queue)], queue)
        else:
            pieces = self._scratch.allocate(self._device)
            self._prepared.run([*addresses, *(tensor.data_ptr() for tensor in pieces)], queue)


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
