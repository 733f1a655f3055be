"""The driver executor: Launches on an NVIDIA GPU.

A kernel is compiled to a cubin, loaded once for each device, and launched with ``cuLaunchKernelEx`` in torch's current
queue. `prepare` does everything that does not depend on addresses, so that a `Prepared` launch only writes addresses
and calls the driver: no allocation and no synchronisation, hence usable under CUDA graph capture.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from nvfp4 import jit
from nvfp4.errors import InputError, LaunchError
from nvfp4.executors import libcuda, parameters, tensor_map
from nvfp4.executors.launch import Kernel, Launch
from nvfp4.executors.parameters import TENSOR_MAP_BYTES, MapSlot

name = "driver"

# Dynamic shared memory that each loaded function may take (CUDA C++ Programming Guide, "Shared Memory", compute
# capability 7.0 on): only ever raised, because launches share functions.
_shared_allowed: dict[int, int] = {}
# Larger clusters need the function's consent (CUDA driver API, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED).
_PORTABLE_CLUSTER = 8
# Encoded tensor maps that one parameter keeps: serving alternates between few buffers.
_KEPT_MAPS = 256
# Stands for the tensor of a map that is kept: a map in a cache must not keep an operand alive.
_NOTHING = torch.empty(0)


@dataclass(frozen=True)
class Function:
    """A kernel that is loaded on a device.

    Attributes:
        handle: ``CUfunction``.
        registers: Registers of a thread.
        local_bytes: Local memory of a thread.
    """

    handle: int
    registers: int
    local_bytes: int


def _make_current(index: int) -> None:
    """Make torch's context of device `index` current in this thread, where nothing has done so yet."""
    cuda = libcuda.library()
    context = ctypes.c_void_p()
    libcuda.check(cuda.cuCtxGetCurrent(ctypes.byref(context)), "cuCtxGetCurrent")
    if not context.value:
        libcuda.check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), index), "cuDevicePrimaryCtxRetain")
        libcuda.check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")


def _get(function: ctypes.c_void_p, attribute: int) -> int:
    value = ctypes.c_int()
    libcuda.check(libcuda.library().cuFuncGetAttribute(ctypes.byref(value), attribute, function), "cuFuncGetAttribute")
    return value.value


_load_lock = threading.Lock()


def load(kernel: Kernel, index: int) -> Function:
    """Compile `kernel` and load it on CUDA device `index`; done once for each."""
    with _load_lock:
        return _load(kernel, index)


@functools.cache
def _load(kernel: Kernel, index: int) -> Function:
    artifact = jit.compile(kernel, "cubin")
    cuda = libcuda.library()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    with torch.cuda.device(index), libcuda.relaxed_capture():
        _make_current(index)
        libcuda.check(cuda.cuModuleLoadData(ctypes.byref(module), artifact.code), f"cuModuleLoadData of {kernel}")
        status = cuda.cuModuleGetFunction(ctypes.byref(function), module, kernel.entry.encode())
        libcuda.check(status, f"cuModuleGetFunction of {kernel}")
        # The queries also make the driver load the code now, and not in the first launch.
        registers, local = _get(function, libcuda.FUNC_REGISTERS), _get(function, libcuda.FUNC_LOCAL_BYTES)
    assert function.value is not None
    return Function(function.value, registers, local)


class _MapWriter:
    """Keeps one tensor map among the parameters up to date."""

    __slots__ = ("_address", "_encoded", "_map", "_target")

    def __init__(self, slot: MapSlot, block: int) -> None:
        self._map = replace(slot.map, tensor=_NOTHING)
        self._target = block + slot.offset
        self._address = -1
        self._encoded: dict[int, bytes] = {}

    def write(self, address: int) -> None:
        if address == self._address:
            return
        data = self._encoded.get(address)
        if data is None:
            if len(self._encoded) >= _KEPT_MAPS:
                self._encoded.clear()
            data = self._encoded[address] = tensor_map.encode(self._map, address)
        ctypes.memmove(self._target, data, TENSOR_MAP_BYTES)
        self._address = address


def _attributes(launch: Launch) -> list[libcuda.LaunchAttribute]:
    found = []
    if launch.cluster != (1, 1, 1):
        attribute = libcuda.LaunchAttribute(id=libcuda.LAUNCH_CLUSTER_DIMENSION)
        attribute.value[0], attribute.value[1], attribute.value[2] = launch.cluster
        found.append(attribute)
    if launch.programmatic:
        attribute = libcuda.LaunchAttribute(id=libcuda.LAUNCH_PROGRAMMATIC)
        attribute.value[0] = 1
        found.append(attribute)
    return found


def _allow_shared(function: Function, launch: Launch) -> None:
    """Let `function` take the dynamic shared memory of `launch`; without asking, dynamic and static end at 48 KB."""
    key = function.handle
    if launch.shared_bytes > _shared_allowed.get(key, 0):
        status = libcuda.library().cuFuncSetAttribute(
            function.handle, libcuda.FUNC_MAX_DYNAMIC_SHARED, launch.shared_bytes
        )
        libcuda.check(status, f"{launch.shared_bytes} bytes of shared memory for {launch.kernel}")
        _shared_allowed[key] = launch.shared_bytes


_Arguments = tuple[object, ...]
"""Of ``cuLaunchKernelEx``: as a tuple that ctypes takes as it is."""


class _Step:
    """One launch, laid out: what the driver is called with, and the memory that this refers to."""

    __slots__ = ("_attributes", "_offsets", "arguments", "config", "description")

    def __init__(self, launch: Launch, function: Function, offsets: Sequence[int]) -> None:
        cuda = libcuda.library()
        _allow_shared(function, launch)
        cluster = launch.cluster[0] * launch.cluster[1] * launch.cluster[2]
        if cluster > _PORTABLE_CLUSTER:
            status = cuda.cuFuncSetAttribute(function.handle, libcuda.FUNC_NON_PORTABLE_CLUSTER, 1)
            libcuda.check(status, f"clusters of {cluster} for {launch.kernel}")
        self.description = str(launch)
        self._offsets = (ctypes.c_void_p * max(len(offsets), 1))(*offsets)
        attributes = _attributes(launch)
        self._attributes = (libcuda.LaunchAttribute * max(len(attributes), 1))(*attributes)
        self.config = libcuda.LaunchConfig(
            grid=launch.grid,
            block=launch.block,
            shared_bytes=launch.shared_bytes,
            stream=0,
            attributes=self._attributes,
            attribute_count=len(attributes),
        )
        self.arguments: _Arguments = (
            ctypes.byref(self.config),
            ctypes.c_void_p.from_param(function.handle),
            ctypes.byref(self._offsets),
            None,
        )


class _Block:
    """Parameters of all launches of a `Prepared`, laid out, for one call at a time.

    Attributes:
        write: Takes the addresses of a call.
        calls: The arguments of each launch.
        first: Those of the first one, if there is one.
        queue: The queue that these go to, as `follow` says.
        encoded: The addresses that its tensor maps have.
    """

    __slots__ = ("_memory", "_steps", "_writers", "calls", "encoded", "first", "queue", "write")

    def __init__(self, layouts: Sequence[_Layout], table: parameters.AddressTable) -> None:
        self._memory, bases = _lay_out(table, [layout.block for layout in layouts])
        # "N", an unsigned number of the machine's word size, packs twice as fast as "Q".
        pack = struct.Struct(f"{table.count + len(table.copies)}N").pack_into
        start = bases[0] + 8 * table.nulls - ctypes.addressof(self._memory)
        self.write = functools.partial(pack, self._memory, start)
        self._steps: list[_Step] = []
        self._writers: list[_MapWriter] = []
        for layout, starts, base in zip(layouts, table.starts, bases[1:], strict=True):
            offsets = [base + offset for offset in layout.block.offsets]
            for run, begin in zip(layout.block.runs, starts, strict=True):
                offsets[run.parameter] = bases[0] + 8 * begin
            self._steps.append(_Step(layout.launch, layout.function, offsets))
            self._writers += [_MapWriter(slot, base) for slot in layout.block.maps]
        self.calls = [step.arguments for step in self._steps]
        self.first: _Arguments = next(iter(self.calls), ())
        self.queue = 0
        self.encoded: tuple[int, ...] = ()

    def follow(self, queue: int) -> None:
        """Go to another queue from now on."""
        for step in self._steps:
            step.config.stream = queue
        self.queue = queue

    def encode(self, addresses: tuple[int, ...]) -> None:
        """Bring tensor maps up to date."""
        self.encoded = ()  # as long as only some are
        for writer, address in zip(self._writers, addresses, strict=True):
            writer.write(address)
        self.encoded = addresses

    def recover(self, call: _Arguments, status: int, index: int) -> None:
        """A thread that has not used CUDA yet has no context: give it one and try again; the rest are errors."""
        if status == libcuda.INVALID_CONTEXT:
            with torch.cuda.device(index):
                _make_current(index)
                status = libcuda.library().cuLaunchKernelEx(*call)
        libcuda.check(status, f"launch of {self._steps[self.calls.index(call)].description}")


class _Layout(NamedTuple):
    """What blocks of parameters are made of. Holds no tensor.

    Attributes:
        launch: Without arguments.
        function: Its kernel.
        block: Its parameters.
    """

    launch: Launch
    function: Function
    block: parameters.ParameterBlock

    @staticmethod
    def of(launch: Launch, index: int) -> _Layout:
        """That of a launch on CUDA device `index`."""
        block = parameters.build(launch.args)
        maps = tuple(replace(slot, map=replace(slot.map, tensor=_NOTHING)) for slot in block.maps)
        return _Layout(replace(launch, args=()), load(launch.kernel, index), replace(block, maps=maps))


_Run = Callable[..., None]


class Prepared:
    """Launches that only wait for addresses. Made by `prepare`, and by `program.Program`.

    It holds no tensor of the launches that it was made from, so that it can be kept.

    Args:
        launches: In order.
        sources: For each launch, which address of a call goes to each of its `parameters.tensors`; None is null.
        count: Addresses of a call.
        index: CUDA device.

    Attributes:
        description: The launches, for people.
        index: CUDA device.
        run: Launches with other memory of the same shapes; see `_runner`.
    """

    def __init__(
        self, launches: Sequence[Launch], sources: Sequence[parameters.Sources], count: int, index: int
    ) -> None:
        for launch in launches:
            _check(launch, index)
        self.description = "; ".join(map(str, launches))
        self.index = index
        layouts = [_Layout.of(launch, index) for launch in launches]
        table = parameters.share([layout.block for layout in layouts], sources, count)
        mapped: list[int] = []
        for layout, source in zip(layouts, sources, strict=True):
            for address in source[len(source) - len(layout.block.maps) :]:
                assert address is not None, "tensor maps have tensors"
                mapped.append(address)
        # The address behind those of a call stands for null.
        copies = [count if source is None else source for source in table.copies]
        self.run = _runner(functools.partial(_Block, layouts, table), _getter(copies), _getter(mapped), index)


_Pick = Callable[[Sequence[int]], tuple[int, ...]]


def _runner(make: Callable[[], _Block], copies: _Pick | None, mapped: _Pick | None, index: int) -> _Run:
    """What launches with other memory of the same shapes.

    A function with variables of its own, because those of objects take longer to look up. It takes

    - as many addresses as were counted: of first elements, 0 for null;
    - ``cudaStream_t`` of this device, which is current; without one torch's current queue.

    Thread-safe: a call takes a block out of a list, and lays out another where there is none, because other threads
    are launching. (Two operations of a list, which are atomic, take a fifth of the time of a lock.)

    Args:
        make: Makes a block.
        copies: Takes from addresses, and a null behind them, those that are written once more.
        mapped: Takes from addresses those of tensor maps.
        index: CUDA device.
    """
    free = [make()]
    take, give_back = free.pop, free.append
    current = torch._C._cuda_getCurrentRawStream  # type: ignore[attr-defined, unused-ignore]
    launch: Callable[..., int] = libcuda.library().cuLaunchKernelEx
    # One launch that takes nothing but the addresses as they come: most of them.
    plain = copies is None and mapped is None and len(free[0].calls) == 1

    def run(addresses: Sequence[int], queue: int | None = None) -> None:
        if queue is None:
            queue = current(index)
        try:
            block = take()
        except IndexError:
            block = make()
        try:
            if queue != block.queue:
                block.follow(queue)
            if plain:
                block.write(*addresses)
                status = launch(*block.first)
                if status:
                    block.recover(block.first, status, index)
                return
            if copies is None:
                block.write(*addresses)
            else:
                block.write(*addresses, *copies((*addresses, 0)))
            if mapped is not None:
                encoded = mapped(addresses)
                if encoded != block.encoded:
                    block.encode(encoded)
            for call in block.calls:
                status = launch(*call)
                if status:
                    block.recover(call, status, index)
        finally:
            give_back(block)

    return run


def _lay_out(
    table: parameters.AddressTable, blocks: Sequence[parameters.ParameterBlock]
) -> tuple[ctypes.Array[ctypes.c_char], list[int]]:
    """Memory with the table and a copy of each block, and the address of each."""
    alignment = parameters.TENSOR_MAP_ALIGNMENT
    sizes = [8 * (table.nulls + table.count + len(table.copies)), *(len(block.data) for block in blocks)]
    memory = ctypes.create_string_buffer(sum(sizes) + (len(sizes) + 1) * alignment)
    end, bases = ctypes.addressof(memory), []
    for size in sizes:
        bases.append(-(-end // alignment) * alignment)
        end = bases[-1] + size
    for base, block in zip(bases[1:], blocks, strict=True):
        ctypes.memmove(base, block.data, len(block.data))
    return memory, bases


def _getter(indices: Sequence[int]) -> Callable[[Sequence[int]], tuple[int, ...]] | None:
    """What takes the values at `indices` out of a sequence; None when there are none to take."""
    if not indices:
        return None
    if len(indices) == 1:  # itemgetter gives a lone item itself, and not a tuple of it
        (only,) = indices
        return lambda values: (values[only],)
    return operator.itemgetter(*indices)


def _check(launch: Launch, index: int) -> None:
    if any(size < 1 for size in (*launch.grid, *launch.block, *launch.cluster)):
        raise InputError("launch", "grid, block, cluster", "sizes of at least 1", str(launch), "Skip empty launches.")
    if any(grid % cluster for grid, cluster in zip(launch.grid, launch.cluster, strict=True)):
        raise InputError("launch", "grid", "a multiple of the cluster", str(launch), "Round the grid up.")
    major, _ = torch.cuda.get_device_capability(index)
    if major < 9 and (launch.programmatic or launch.cluster != (1, 1, 1)):
        raise LaunchError(f"clusters and programmatic launches need compute capability 9.0: {launch}")


def current_queue(index: int) -> int:
    """``cudaStream_t`` of torch's current queue on device `index`."""
    # What torch.cuda.current_stream(index).cuda_stream returns, without building the object (0.1 us instead of 1).
    return torch._C._cuda_getCurrentRawStream(index)  # type: ignore[no-any-return, attr-defined, unused-ignore]


def device_index(launches: Sequence[Launch]) -> int:
    """The CUDA device that the tensors of `launches` lie on; the current device when they have none.

    Raises:
        InputError: They lie on several devices, or not on a GPU.
    """
    devices = {tensor.device for launch in launches for tensor in parameters.tensors(launch.args) if tensor is not None}
    if not devices:
        return int(torch.cuda.current_device())
    if len(devices) > 1 or next(iter(devices)).type != "cuda":
        got = ", ".join(sorted(map(str, devices)))
        raise InputError("launch", "tensors", "tensors of one CUDA device", got, "Move all operands to one GPU.")
    return int(next(iter(devices)).index)


def prepare(launch: Launch, index: int | None = None) -> Prepared:
    """Compile, load and lay out `launch`, ready to be called with the address of each of its `parameters.tensors`.

    Args:
        launch: What to run.
        index: CUDA device; that of the tensors when None.

    Raises:
        CompileError, MissingDependencyError: See `nvfp4.jit.compile`.
        InputError: Sizes that cannot be, or tensors elsewhere.
        LaunchError: The driver rejects the kernel or its resources.
    """
    count = len(parameters.tensors(launch.args))
    return Prepared((launch,), (range(count),), count, device_index((launch,)) if index is None else index)


def run(launches: Sequence[Launch]) -> None:
    """Run `launches` in order, in torch's current queue of the device that their tensors lie on. Does not wait."""
    if not launches:
        return
    index = device_index(launches)
    with torch.cuda.device(index):
        queue = current_queue(index)
        for launch in launches:
            addresses = [0 if tensor is None else tensor.data_ptr() for tensor in parameters.tensors(launch.args)]
            prepare(launch, index).run(addresses, queue)
