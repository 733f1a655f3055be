"""`Program`: launches that were prepared once and run again with other memory of the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import torch

from nvfp4.errors import InputError
from nvfp4.executors import driver, parameters
from nvfp4.executors.launch import Launch

Tensors = Sequence[torch.Tensor | None]

_Pick = Callable[[Sequence[int]], Sequence[int]]


class Program:
    """Launches on one GPU, with every address traced back to a tensor of the call. Holds no tensor.

    A backend builds the launches of a problem once, and gives them here with the list of tensors that they were built
    from. A later call passes the addresses of a list in the same order, and costs little more than the driver's time.

    Args:
        launches: What `LaunchBackend.launches` gave for `tensors`.
        tensors: All tensors that the launches refer to, distinct; None where an optional one is absent. A later call
            must have tensors of the same shapes and alignment, and null at the same places.

    Raises:
        InputError: A launch refers to memory that is not the start of one of `tensors`, or two of them share it.
    """

    def __init__(self, launches: Sequence[Launch], tensors: Tensors) -> None:
        if aliased(tensors):
            raise InputError("Program", "tensors", "distinct memory", "shared memory", "Run these launches once.")
        self.index = driver.device_index(launches)
        self._steps = [(driver.prepare(launch, self.index), _picks(launch, tensors)) for launch in launches]

    def __call__(self, addresses: Sequence[int]) -> None:
        """Run in torch's current queue.

        Args:
            addresses: That of each tensor, 0 for None, in the order of the list that the program was made from.
        """
        if torch._C._cuda_getDevice() == self.index:
            self._launch(addresses)
        else:
            with torch.cuda.device(self.index):
                self._launch(addresses)

    def _launch(self, addresses: Sequence[int]) -> None:
        queue = driver.current_queue(self.index)
        for prepared, pick in self._steps:
            prepared(addresses if pick is None else pick(addresses), queue)


def _picks(launch: Launch, tensors: Tensors) -> _Pick | None:
    """What takes the addresses of `launch` out of those of `tensors`; None when they are the same in the same order."""
    # By address and not by identity: a launch may hold a view of a tensor, such as its bytes.
    where = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if tensor is not None}
    picks: list[int] = []
    for i, tensor in enumerate(parameters.tensors(launch.args)):
        if tensor is None:
            picks.append(i if i < len(tensors) and tensors[i] is None else -1)
        elif tensor.data_ptr() in where:
            picks.append(where[tensor.data_ptr()])
        else:
            got = f"memory of a tensor of shape {tuple(tensor.shape)}"
            raise InputError("Program", "launches", "the start of a given tensor", got, "Pass every tensor in use.")
    if picks == list(range(len(tensors))):
        return None
    if len(picks) < 2 or -1 in picks:  # itemgetter gives a lone item itself and not a tuple of it, and knows no null
        return lambda addresses: [addresses[i] if i >= 0 else 0 for i in picks]
    return itemgetter(*picks)


def aliased(tensors: Tensors) -> bool:
    """Whether two of `tensors` start at the same memory, so that an address does not tell which is meant."""
    addresses = [tensor.data_ptr() for tensor in tensors if tensor is not None and tensor.numel()]
    return len(set(addresses)) != len(addresses)
