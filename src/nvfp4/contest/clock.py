"""The device under the evaluator: flushing caches, taking samples, and noticing work that goes on behind its back.

`CudaClock` times with events of torch's C++ base class, whose methods a submission cannot replace; `CpuClock` is the
same interface on wall-clock time, so that the evaluator's own tests need no GPU.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nvfp4.executors import libcuda

Call = Callable[[], object]
Capture = Callable[[int, object], None]
"""Called with (number of the call, its result) in queue order; copies what it wants to look at later."""

_LIMIT_PERSISTING_L2 = 6  # CU_LIMIT_PERSISTING_L2_CACHE_SIZE, cuda.h
_TICKS = 2.0e9
"""Ticks of a GPU's clock in a second, or more: the device is held at least as long as asked for."""
_FIRST_HOLD, _LONGEST_HOLD = 200e-6, 20e-3
"""Seconds that the device is held at first, and at most: a submission that waits for it would wait as long."""


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        seconds: Between the two events, for all calls.
        wall: From the first call to the end of the work, as the host sees it.
        tail: Seconds that the device went on working after everything in our queue had ended.
    """

    seconds: float
    wall: float
    tail: float


class Clock(Protocol):
    """What the evaluator needs of a device."""

    device: torch.device

    def synchronize(self) -> None:
        """Wait for all work of the device."""
        ...

    def sample(self, calls: Sequence[Call], capture: Capture, *, probe: bool) -> Sample:
        """One cold sample of `calls`.

        Args:
            calls: What is timed, one after another.
            capture: Given each result, behind the second event; with `probe` right behind its call.
            probe: Whether results are captured as soon as they are returned. Such a sample is not a time.
        """
        ...

    def disturbances(self) -> tuple[str, ...]:
        """Settings of the device or the process that differ from what they were when this object was made."""
        ...


class _Threads:
    """The threads of the process, and waiting for those that were started since."""

    def __init__(self) -> None:
        self._sleep, self._count = time.sleep, threading.active_count
        self._at_start = self._count()

    def settle(self) -> None:
        """Give work in other threads time to end, up to a second."""
        for _ in range(100):
            if self._count() <= self._at_start:
                break
            self._sleep(0.01)


class CpuClock:
    """Wall-clock time on the CPU."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._now = time.perf_counter
        self._threads = _Threads()
        self._flush = torch.empty(4 << 20, dtype=torch.uint8)

    def synchronize(self) -> None:
        """Give work in other threads time to end: there is no queue to wait for."""
        self._threads.settle()

    def sample(self, calls: Sequence[Call], capture: Capture, *, probe: bool) -> Sample:
        """See `Clock.sample`; the tail is unknown here, and 0."""
        self._flush.fill_(1)
        begin = self._now()
        results = []
        for number, call in enumerate(calls):
            results.append(call())
            if probe:
                capture(number, results[-1])
        end = self._now()
        if not probe:
            for number, result in enumerate(results):
                capture(number, result)
        return Sample(end - begin, end - begin, 0.0)

    def disturbances(self) -> tuple[str, ...]:
        """None: nothing of a CPU is set from here."""
        return ()


class CudaClock:
    """Events on a CUDA device, in the queue that is current when this object is made."""

    def __init__(self, device: torch.device | str = "cuda") -> None:
        self.device = torch.device(device)
        self._base: Any = torch._C._CudaEventBase
        self._now = time.perf_counter
        self._queue: Any = torch.cuda.current_stream(self.device)
        self._raw: Any = torch._C._cuda_getCurrentRawStream
        self._spin: Any = torch.cuda._sleep
        self._wait: Any = torch._C._cuda_synchronize
        self._threads = _Threads()
        self._index = int(torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(self.device)
        # Four times the L2 cache: whatever was left there is gone, on any card.
        self._flush = torch.empty(max(4 * int(properties.L2_cache_size), 64 << 20), dtype=torch.uint8, device=device)
        self._hold = _FIRST_HOLD
        self._library = libcuda.library()
        self._persisting = self._persisting_l2()
        self._default = self._raw(self._index)

    def _persisting_l2(self) -> int:
        """Bytes of L2 that are set aside for persisting accesses."""
        size = ctypes.c_size_t()
        query = self._library.cuCtxGetLimit
        query.argtypes, query.restype = (ctypes.c_void_p, ctypes.c_int), ctypes.c_int
        return size.value if query(ctypes.byref(size), _LIMIT_PERSISTING_L2) == libcuda.SUCCESS else 0

    def synchronize(self) -> None:
        """Wait for all work of the device, and for threads that may give it more."""
        self._wait()
        self._threads.settle()
        self._wait()

    def _event(self) -> Any:
        return self._base(enable_timing=True)

    def sample(self, calls: Sequence[Call], capture: Capture, *, probe: bool) -> Sample:
        """See `Clock.sample`. The device is held back until the host is ahead of it, as the contest's flush does."""
        begin, end, last = self._event(), self._event(), self._event()
        base = self._base
        self._wait()
        # Lines that were marked as persisting survive a flush by writing.
        self._library.cuCtxResetPersistingL2Cache()
        self._flush.fill_(1)
        self._spin(int(self._hold * _TICKS))
        started = self._now()
        base.record(begin, self._queue)
        results = []
        if probe:
            for number, call in enumerate(calls):
                results.append(call())
                capture(number, results[-1])
        else:
            for call in calls:
                results.append(call())  # noqa: PERF401 (a result must not be dropped while others are queued)
        base.record(end, self._queue)
        host = self._now() - started
        if not probe:
            for number, result in enumerate(results):
                capture(number, result)
        base.record(last, self._queue)
        base.synchronize(end)
        wall = self._now() - started
        base.synchronize(last)
        ended = self._now()
        self._wait()
        tail = self._now() - ended
        self._hold = min(max(self._hold, 1.5 * host), _LONGEST_HOLD)
        return Sample(base.elapsed_time(begin, end) * 1e-3, wall, tail)

    def disturbances(self) -> tuple[str, ...]:
        """See `Clock.disturbances`."""
        found = []
        if self._persisting_l2() != self._persisting:
            found.append("set a part of the L2 cache aside (cudaLimitPersistingL2CacheSize)")
        if self._raw(self._index) != self._default:
            found.append("left another queue current than it found")
        if int(torch._C._cuda_getDevice()) != self._index:
            found.append("left another device current than it found")
        return tuple(found)


def make(device: str) -> Clock:
    """The clock of ``"cpu"`` or ``"cuda"``."""
    return CpuClock() if device == "cpu" else CudaClock(device)
