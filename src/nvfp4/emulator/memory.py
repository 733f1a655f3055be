"""Device memory: host buffers at virtual addresses with guard zones, so that no access can leave them unnoticed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import LaunchError
from .runtime.layout import BUFFER, GCELL, PAGE_BITS, VA_BASE

__all__ = ["AddressSpace", "Buffer", "Output", "byte_span"]

_PAGE = 1 << PAGE_BITS
# Empty pages between buffers: an overrun of up to 64 KiB hits nobody.
_GUARD_PAGES = 1


@dataclass(frozen=True)
class Output:
    """Marks an argument whose old contents mean nothing: reading it before writing, or leaving bytes unwritten, is
    reported."""

    array: Any


def byte_span(value: Any) -> tuple[int, int, int]:
    """(host address of the first element, lowest address, bytes) of a NumPy array or a tensor with ``data_ptr``.

    Raises:
        LaunchError: if it is neither, or does not lie in host memory.
    """
    if isinstance(value, np.ndarray):
        first = int(value.ctypes.data)
        if value.size == 0:
            return first, first, 0
        low = high = 0
        for n, s in zip(value.shape, value.strides, strict=True):
            low += min(0, (n - 1) * s)
            high += max(0, (n - 1) * s)
        return first, first + low, high - low + value.itemsize
    if hasattr(value, "data_ptr") and hasattr(value, "element_size"):
        device = str(getattr(value, "device", "cpu"))
        if not device.startswith("cpu"):
            raise LaunchError(f"a tensor on {device} cannot be emulated: copy it to the CPU first (.cpu())")
        first = int(value.data_ptr())
        size = int(value.element_size())
        shape = tuple(int(n) for n in value.shape)
        if 0 in shape:
            return first, first, 0
        high = sum((n - 1) * int(s) * size for n, s in zip(shape, value.stride(), strict=True))
        return first, first, high + size
    raise LaunchError(
        f"{type(value).__name__} is not a buffer: pass a NumPy array, a CPU tensor, a number, bytes or a TensorMap"
    )


@dataclass
class Buffer:
    """A registered buffer: ``va`` is its device address, ``host`` its address here."""

    index: int
    va: int
    host: int
    size: int
    keep: Any
    name: str = ""
    read_only: bool = False
    output: bool = False
    cells: NDArray[np.uint8] | None = None
    init: NDArray[np.uint8] | None = None

    @property
    def bytes(self) -> NDArray[np.uint8]:
        """The buffer's memory as bytes (an alias)."""
        if self.size == 0:
            return np.zeros(0, np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.host))


class AddressSpace:
    """Virtual device addresses. Buffers start on pages of their own; the pages between are never mapped."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.pages: NDArray[np.uint32] = np.zeros(1024, np.uint32)
        self.next_page = 1
        self.free_indices: list[int] = []
        self.free_ranges: dict[int, list[int]] = {}

    def map(self, value: Any, name: str = "", read_only: bool = False) -> Buffer:
        """Register a buffer (or find the one that already holds it)."""
        output = isinstance(value, Output)
        if output:
            value = value.array
        _, low, size = byte_span(value)
        return self.map_range(low, size, value, name, read_only, output)

    def find_host(self, low: int, size: int) -> Buffer | None:
        """The registered buffer that contains a host range."""
        for buffer in self.buffers:
            if buffer.size and buffer.host <= low and low + size <= buffer.host + buffer.size:
                return buffer
        return None

    def map_range(
        self, low: int, size: int, keep: Any, name: str, read_only: bool = False, output: bool = False
    ) -> Buffer:
        """Register ``size`` bytes at host address ``low``."""
        pages = max(1, -(-size // _PAGE))
        recycled = self.free_ranges.get(pages)
        if recycled:
            start = recycled.pop()
        else:
            start = self.next_page
            self.next_page += pages + _GUARD_PAGES
        while self.next_page > self.pages.size:
            self.pages = np.concatenate((self.pages, np.zeros_like(self.pages)))
        if self.free_indices:
            index = self.free_indices.pop()
        else:
            index = len(self.buffers)
            self.buffers.append(Buffer(index, 0, 0, 0, None))
        buffer = Buffer(index, VA_BASE + (start << PAGE_BITS), low, size, keep, name, read_only, output)
        self.buffers[index] = buffer
        self.pages[start : start + pages] = index + 1
        return buffer

    def unmap(self, buffer: Buffer) -> None:
        """Forget a buffer; its addresses may be used again."""
        pages = max(1, -(-buffer.size // _PAGE))
        start = (buffer.va - VA_BASE) >> PAGE_BITS
        self.pages[start : start + pages] = 0
        self.free_ranges.setdefault(pages, []).append(start)
        self.buffers[buffer.index] = Buffer(buffer.index, 0, 0, 0, None)
        self.free_indices.append(buffer.index)

    def find(self, address: int) -> Buffer | None:
        """The buffer at a device address."""
        page = (address - VA_BASE) >> PAGE_BITS
        if not 0 <= page < self.pages.size or not self.pages[page]:
            return None
        buffer = self.buffers[int(self.pages[page]) - 1]
        return buffer if buffer.va <= address < buffer.va + buffer.size else None

    def describe(self, address: int) -> str:
        """Where an address lies relative to what is mapped, for messages."""
        inside = self.find(address)
        if inside is not None:
            return f"byte {address - inside.va} of {inside.name or 'a buffer'} ({inside.size} bytes)"
        best: tuple[int, str] | None = None
        for buffer in self.buffers:
            if not buffer.va:
                continue
            what = buffer.name or "a buffer"
            if address >= buffer.va + buffer.size:
                gap = address - (buffer.va + buffer.size)
                text = f"{gap} bytes past the end of {what} ({buffer.size} bytes)"
            else:
                gap = buffer.va - address
                text = f"{gap} bytes before the start of {what} ({buffer.size} bytes)"
            if best is None or gap < best[0]:
                best = gap, text
        if best is None or best[0] > 1 << 40:
            return "no buffer is anywhere near: the address was not derived from an argument"
        return best[1]

    def native(self, races: bool, initialisation: bool) -> NDArray[Any]:
        """The table for native code, with fresh shadow memory."""
        table = np.zeros(max(1, len(self.buffers)), BUFFER.dtype)
        for buffer in self.buffers:
            if not buffer.va:
                continue
            row = table[buffer.index]
            row["va"], row["size"], row["host"] = buffer.va, buffer.size, buffer.host
            row["flags"] = 1 if buffer.read_only else 0
            buffer.cells = buffer.init = None
            if races and not buffer.read_only:
                # calloc: pages that no store touches cost nothing.
                buffer.cells = np.zeros((buffer.size + 3) // 4 * GCELL.size, np.uint8)
                row["cells"] = buffer.cells.ctypes.data
            if buffer.output and initialisation:
                buffer.init = np.zeros(buffer.size, np.uint8)
                row["init"] = buffer.init.ctypes.data
        return table
