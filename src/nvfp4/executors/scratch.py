"""Memory that launches need beside the operands of a call: described as data, and kept from call to call.

Kept memory belongs to one queue and one thread. Kernels of a queue follow each other, so the next call of the thread
may overwrite what the one before used; another thread could queue its kernels between the two launches of a call. What
is captured in a graph gets memory of its own, because the graph may be replayed in any queue, beside any other work:
of the graph's pool, but for zeros. Those are counters, and sums that say themselves that they have arrived, up to some
megabytes that all calls of a captured queue share, made when nothing is captured, so that no kernel of the graph waits
for memory to be set.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from nvfp4.executors import libcuda

_T = TypeVar("_T")

ALIGNMENT = 1024
"""Bytes: where a piece of kept memory may start."""

KEPT_BYTES = 64 << 20
"""Calls that need more allocate it: they are long, and their memory is too much to hold on to."""

_ZEROS = 1024  # counters that a queue gets at once
_SPACES = 64  # queues that a thread keeps memory for; with more of them all is given back
_KNOWN = 8192  # calls whose addresses are remembered
_GRAPH_ZEROS = 4096  # bytes of counters that a queue of a capture gets, unless it needs more
_GRAPH_ZEROS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Piece:
    """One tensor.

    Attributes:
        shape, dtype: Of the tensor.
        zeroed: Zeros that launches leave as they find them; other memory is not initialised.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    zeroed: bool = False

    @property
    def bytes(self) -> int:
        """Size, rounded up to where the next piece may start."""
        return -(-math.prod(self.shape) * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, eq=False)
class Scratch:
    """What the launches of one kind of call need.

    Attributes:
        pieces: In the order in which launches are built with them.
    """

    pieces: tuple[Piece, ...]

    def allocate(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """New memory for one call."""
        return tuple(
            (torch.zeros if piece.zeroed else torch.empty)(piece.shape, dtype=piece.dtype, device=device)
            for piece in self.pieces
        )

    def of_graph(self, index: int, queue: int) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Memory for one call that is being captured, and the addresses of the pieces.

        Args:
            index: The current CUDA device.
            queue: ``cudaStream_t`` of the current queue.

        Returns:
            What must not be freed before all launches of the call are queued.
        """
        memory = torch.empty(self.bytes(False), dtype=torch.uint8, device=torch.device("cuda", index))
        zeros = _graph_zeros(self.bytes(True), index, queue)
        return memory, tuple(self.places(memory.data_ptr(), zeros))

    @functools.cached_property
    def keepable(self) -> bool:
        """Whether this is little enough to be kept."""
        return self.bytes(False) + self.bytes(True) <= KEPT_BYTES

    def bytes(self, zeroed: bool) -> int:
        """Bytes of all pieces that are zeroed, or of all others."""
        return sum(piece.bytes for piece in self.pieces if piece.zeroed == zeroed)

    def places(self, memory: int, zeros: int) -> Iterator[int]:
        """The address of each piece, where those of each kind lie one behind another from these addresses on."""
        ends = {False: memory, True: zeros}
        for piece in self.pieces:
            yield ends[piece.zeroed]
            ends[piece.zeroed] += piece.bytes


class _Space:
    """The memory of a queue, and where each kind of call finds its pieces there."""

    def __init__(self) -> None:
        self.memory = self.zeros = torch.empty(0, dtype=torch.uint8)
        self.known: dict[Scratch, tuple[int, ...]] = {}


class _Spaces(threading.local):
    """Of this thread, by (device, queue)."""

    def __init__(self) -> None:
        self.by_queue: dict[tuple[int, int], _Space] = {}


_spaces = _Spaces()


def kept(scratch: Scratch, index: int, queue: int) -> tuple[int, ...]:
    """The addresses of the pieces for a call in `queue`, in memory that later calls of this thread use again.

    Args:
        scratch: What is needed; `Scratch.keepable`.
        index: The current CUDA device.
        queue: ``cudaStream_t`` of the current queue, which is not being captured.
    """
    space = _spaces.by_queue.get((index, queue))
    if space is not None:
        found = space.known.get(scratch)
        if found is not None:
            return found
    return _reserve(scratch, index, queue)


def _reserve(scratch: Scratch, index: int, queue: int) -> tuple[int, ...]:
    spaces = _spaces.by_queue
    key = (index, queue)
    if key not in spaces:
        if len(spaces) >= _SPACES:
            spaces.clear()
        spaces[key] = _Space()
    space = spaces[key]
    needs = scratch.bytes(False), max(scratch.bytes(True), 4 * _ZEROS)
    if needs[0] > space.memory.nbytes or needs[1] > space.zeros.nbytes:
        sizes = max(needs[0], space.memory.nbytes), max(needs[1], space.zeros.nbytes)
        space.known.clear()
        # What is given up here is used again only behind the kernels that are in the queue now: torch sees to that.
        device = torch.device("cuda", index)
        space.memory, space.zeros = _outside_pools(lambda: _of_queue(sizes, device, queue))
    if len(space.known) >= _KNOWN:
        space.known.clear()
    found = space.known[scratch] = tuple(scratch.places(space.memory.data_ptr(), space.zeros.data_ptr()))
    return found


def _outside_pools(allocate: Callable[[], _T]) -> _T:
    """What `allocate` returns, called in a thread of its own.

    Where torch sends all that a thread allocates to the pool of a graph (as it does when torch.compile warms one up),
    memory that outlives the call would be taken for a leak, and be overwritten.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(allocate).result()


def _of_queue(sizes: tuple[int, int], device: torch.device, queue: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many bytes, and so many zeroed, of `queue`."""
    memory, zeros = sizes
    with _current(device, queue):
        return (
            torch.empty(memory, dtype=torch.uint8, device=device),
            torch.zeros(zeros, dtype=torch.uint8, device=device),
        )


def _current(device: torch.device, queue: int) -> torch.cuda.StreamContext:
    """`queue` as the current one."""
    # A handle of zero, the default queue, would make torch choose one from its pool.
    if not queue:
        return torch.cuda.stream(torch.cuda.default_stream(device))
    return torch.cuda.stream(torch.cuda.ExternalStream(queue, device=device))  # type: ignore[no-untyped-call]


class _GraphZeros:
    """Zeros of a device for what is captured. They are not given back: nobody says when a graph is gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory: list[torch.Tensor] = []
        self.free = self.end = 0  # addresses
        self.known: dict[tuple[int | None, int], tuple[int, int]] = {}  # address and size, by capture and queue


_graphs: dict[int, _GraphZeros] = {}


def _graph_zeros(size: int, index: int, queue: int) -> int:
    """The address of so many zeroed bytes, which calls of the same capture in the same queue share.

    Kernels leave them as they find them, and those of a captured queue follow each other whenever the graph runs.
    """
    graphs = _graphs.setdefault(index, _GraphZeros())
    key = (libcuda.capture_id(queue), queue)
    with graphs.lock:
        address, room = graphs.known.get(key, (0, 0))
        if room >= size:
            return address
        room = max(size, _GRAPH_ZEROS)
        if graphs.end - graphs.free < room:
            total, device = max(room, _GRAPH_ZEROS_AT_ONCE), torch.device("cuda", index)
            memory = _outside_pools(lambda: _zeros_now(total, device))
            graphs.memory.append(memory)
            graphs.free, graphs.end = memory.data_ptr(), memory.data_ptr() + memory.nbytes
        address, graphs.free = graphs.free, graphs.free + room
        if len(graphs.known) >= _SPACES:  # of captures that have ended, most of them; the others get new zeros
            graphs.known.clear()
        graphs.known[key] = (address, room)
        return address


def _zeros_now(size: int, device: torch.device) -> torch.Tensor:
    """So many zeroed bytes, that are zero when this returns, also while queues are captured."""
    with libcuda.relaxed_capture():
        queue = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(queue):
            memory = torch.zeros(size, dtype=torch.uint8, device=device)
        queue.synchronize()
        return memory


def release() -> None:
    """Give back the memory that this thread keeps."""
    _spaces.by_queue.clear()
