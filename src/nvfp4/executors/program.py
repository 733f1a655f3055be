"""`Program`: launches that were prepared once and run again with other tensors of the same shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

import torch

from nvfp4.errors import InputError
from nvfp4.executors import driver, parameters
from nvfp4.executors.launch import Launch

Tensors = Sequence[torch.Tensor | None]


class Program:
    """Launches on one GPU, with every address traced back to a tensor of the call. Holds no tensor.

    A backend builds the launches of a problem once, and gives them here with the list of tensors that they were built
    from. A later call passes a list in the same order, and costs an address each and the driver's time.

    Args:
        launches: What `LaunchBackend.launches` gave for `tensors`.
        tensors: All tensors that the launches refer to; None where an optional one is absent. A later call must have
            tensors of the same shapes, and None at the same places.

    Raises:
        InputError: A launch refers to memory that is not the start of one of `tensors`, or two of them share it.
    """

    def __init__(self, launches: Sequence[Launch], tensors: Tensors) -> None:
        self.index = driver.device_index(launches)
        if aliased(tensors):
            raise InputError("Program", "tensors", "distinct memory", "shared memory", "Run these launches once.")
        # By address and not by identity: a launch may hold a view of a tensor, such as its bytes.
        where = {tensor.data_ptr(): i for i, tensor in enumerate(tensors) if tensor is not None}
        count = len(tensors)
        self._steps: list[tuple[driver.Prepared, Any, bool]] = []
        for launch in launches:
            picks = []
            for tensor in parameters.tensors(launch.args):
                if tensor is not None and tensor.data_ptr() not in where:
                    got = f"memory at {tensor.data_ptr():#x} of shape {tuple(tensor.shape)}"
                    raise InputError("Program", "launches", "addresses of the given tensors", got, "Pass every tensor.")
                picks.append(count if tensor is None else where[tensor.data_ptr()])
            # itemgetter of a single index gives the item itself, not a tuple.
            pick = itemgetter(*picks) if picks else None
            self._steps.append((driver.prepare(launch, self.index), pick, len(picks) > 1))

    def __call__(self, tensors: Tensors) -> None:
        """Run with `tensors`, in torch's current queue of their device."""
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        addresses.append(0)
        if torch._C._cuda_getDevice() == self.index:
            self._launch(addresses)
        else:
            with torch.cuda.device(self.index):
                self._launch(addresses)

    def _launch(self, addresses: list[int]) -> None:
        queue = driver.current_queue(self.index)
        for prepared, pick, several in self._steps:
            prepared(() if pick is None else pick(addresses) if several else (pick(addresses),), queue)


def aliased(tensors: Tensors) -> bool:
    """Whether two of `tensors` start at the same memory, so that an address does not tell which is meant."""
    addresses = [tensor.data_ptr() for tensor in tensors if tensor is not None and tensor.numel()]
    return len(set(addresses)) != len(addresses)


class Programs:
    """The programs of a backend, by everything that decides its launches; the oldest go first.

    Args:
        capacity: How many are kept.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, Program] = OrderedDict()

    def run(self, key: Hashable, tensors: Tensors, build: Callable[[], Sequence[Launch]]) -> None:
        """Run the program of `key` with `tensors`; `build` gives its launches the first time.

        Args:
            key: Problem, plan, device and whatever else decides the launches, but no memory.
            tensors: What the launches refer to, in an order that depends on `key` alone.
            build: The launches for `tensors`.
        """
        program = self._kept.get(key)
        if program is not None:
            program(tensors)
            return
        launches = build()
        if aliased(tensors):  # Such as gemm(a, a): right, but no program can be made of it.
            driver.run(launches)
            return
        program = Program(launches, tensors)
        program(tensors)
        self._kept[key] = program
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
