"""The public face: a PTX module that can be launched."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .checks.policy import Checks
from .compile.kernel import CompiledKernel, compile_kernel, unsupported_opcodes
from .errors import LaunchError, UnsupportedPtx
from .launch import Config, Launch
from .memory import AddressSpace, Buffer, Output, byte_span
from .ptx import parse
from .ptx.ast import Entry, Variable, type_bits
from .report import Report
from .units.errors import UnitError
from .units.tensormap import TensorMap

__all__ = ["Module"]

_MAX_SHARED = {
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    101: 232_448,
    103: 232_448,
    110: 232_448,
    120: 101_376,
    121: 101_376,
}
_MAX_CLUSTER = 16
_SM_COUNT = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 103: 148, 120: 170}


class Module:
    """PTX text, parsed and checked.

    Args:
        ptx: the text of a PTX module.
        allow_unsupported: load even if some opcodes cannot be run; `unsupported` then lists them, and compiling an
        entry that uses one
            raises.

    Attributes:
        entries: kernels by name. unsupported: opcodes that cannot be run, with their first line.

    Raises:
        PtxSyntaxError: malformed PTX, with the line. UnsupportedPtx: opcodes that the emulator cannot run.
    """

    def __init__(self, ptx: str | bytes, *, allow_unsupported: bool = False) -> None:
        text = ptx.decode() if isinstance(ptx, bytes) else ptx
        self._ast = parse(text.rstrip("\0"))
        self.entries: dict[str, Entry] = self._ast.entries
        self.unsupported = unsupported_opcodes(self._ast)
        if self.unsupported and not allow_unsupported:
            raise UnsupportedPtx(self.unsupported)
        self.space = AddressSpace()
        self._globals: dict[str, int] = {}
        self._storage: dict[str, tuple[np.ndarray[Any, Any], Buffer]] = {}
        self._place_variables()
        self._kernels: dict[str, CompiledKernel] = {}

    @property
    def target(self) -> str:
        """The module's ``.target``, for example ``sm_90a``."""
        return self._ast.target

    # -- module variables ----------------------------------------------------------------------------------------

    def _place_variables(self) -> None:
        variables: list[Variable] = [v for v in self._ast.variables.values() if v.space in ("global", "const")]
        for function in (*self._ast.entries.values(), *self._ast.functions.values()):
            variables += [v for v in function.variables.values() if v.space in ("global", "const")]
        for v in variables:
            data = np.zeros(max(v.size, 1), np.uint8)
            if v.initial is not None:
                data[: v.size] = np.frombuffer(v.initial, np.uint8)
            buffer = self.space.map(data, v.name, read_only=v.space == "const")
            self._storage[v.name] = (data, buffer)
            self._globals[v.name] = buffer.va
        for v in variables:
            data = self._storage[v.name][0]
            for at, name, offset in v.relocations:
                if name in self._globals:
                    data[at : at + 8] = np.frombuffer(struct.pack("<Q", self._globals[name] + offset), np.uint8)

    def variable(self, name: str) -> np.ndarray[Any, Any]:
        """The bytes of a module-scope variable; writing to them is cudaMemcpyToSymbol.

        Raises:
            KeyError: there is no such variable.
        """
        return self._storage[name][0]

    def address_of(self, value: Any) -> int:
        """The device address of an array or tensor (of its first element), or of a module variable by name. It stays
        valid as long as the module does, so that it can be put into arrays of pointers and structs."""
        if isinstance(value, str):
            return self._globals[value]
        if isinstance(value, Output):
            buffer = self.space.map(value, "buffer")
            return buffer.va
        first, low, size = byte_span(value)
        buffer_ = self.space.find_host(low, size) or self.space.map(value, "buffer")
        return buffer_.va + (first - buffer_.host)

    # -- launching -----------------------------------------------------------------------------------------------

    def compile(self, entry: str) -> CompiledKernel:
        """Compile an entry (done by the first launch otherwise)."""
        if entry not in self.entries:
            raise LaunchError(f"no kernel {entry!r}: the module has {', '.join(self.entries) or 'none'}")
        if entry not in self._kernels:
            self._kernels[entry] = compile_kernel(self._ast, self.entries[entry], self._globals)
        return self._kernels[entry]

    def launch(
        self,
        entry: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Iterable[Any] = (),
        *,
        cluster: int | Sequence[int] | None = None,
        shared_bytes: int = 0,
        checks: Checks | None = None,
        seed: int = 0,
    ) -> Report:
        """Run a kernel to its end.

        Args:
            entry: name of the kernel. grid: CTAs in x, y, z. block: threads in x, y, z. cluster: CTAs of a cluster
            (default: what the
                kernel's ``.reqnctapercluster`` says, else 1). shared_bytes: dynamic shared memory.
            args: one for each kernel parameter: NumPy arrays or CPU tensors (the kernel works on them in place),
            numbers, ``bytes``,
                `TensorMap`, or ``Output(array)``.
            checks: what to look for (default: everything). seed: selects an interleaving and the completion times of
            asynchronous work.

        Returns:
            The report, with ``report.findings`` empty.

        Raises:
            LaunchError: a launch that a driver would refuse. KernelFault: the kernel did something wrong (see
            ``.report``), unless ``checks.stop_on_finding`` is off.
        """
        policy = checks if checks is not None else Checks.all()
        kernel = self.compile(entry)
        config = self._config(kernel, grid, block, cluster, shared_bytes, policy, seed)
        mapped: list[Buffer] = []
        try:
            params = self._parameters(kernel, list(args), mapped)
            names = {"files": self._ast.files, "source": self._ast.lines, "arch": self._ast.arch}
            return Launch(kernel, self.space, config, params, names).run()
        finally:
            for buffer in mapped:
                self.space.unmap(buffer)

    def _config(
        self, kernel: CompiledKernel, grid: Any, block: Any, cluster: Any, shared_bytes: int, checks: Checks, seed: int
    ) -> Config:
        g, b = _triple(grid, "grid"), _triple(block, "block")
        directives = kernel.entry.directives
        required = directives.get("reqnctapercluster")
        if cluster is None:
            c = _triple(required, "cluster") if required else (1, 1, 1)
        else:
            c = _triple(cluster, "cluster")
            if required and _triple(required, "cluster") != c:
                raise LaunchError(
                    f"cluster {c}, but the kernel requires {_triple(required, 'cluster')} (.reqnctapercluster)"
                )
        threads = b[0] * b[1] * b[2]
        if threads > 1024 or b[2] > 64:
            raise LaunchError(f"block {b} has {threads} threads: at most 1024, and 64 in z")
        for key in ("reqntid", "maxntid"):
            limit = directives.get(key)
            if limit:
                most = int(np.prod(limit))
                if (key == "reqntid" and _triple(limit, "block") != b) or threads > most:
                    raise LaunchError(f"block {b}, but the kernel says .{key} {', '.join(map(str, limit))}")
        if g[0] >= 1 << 31 or g[1] > 65535 or g[2] > 65535:
            raise LaunchError(f"grid {g}: at most 2**31 - 1, 65535, 65535")
        size = c[0] * c[1] * c[2]
        if size > _MAX_CLUSTER:
            raise LaunchError(f"cluster {c} has {size} CTAs: at most {_MAX_CLUSTER} (8 are portable)")
        if size > 1 and self._ast.arch < 90:
            raise LaunchError(f"clusters need sm_90; the module is for {self.target}")
        if any(x % y for x, y in zip(g, c, strict=True)):
            raise LaunchError(f"grid {g} is not a multiple of the cluster {c}")
        total = kernel.layout.shared_static + shared_bytes
        limit_bytes = _MAX_SHARED.get(self._ast.arch, 232_448)
        reserved = 1024 if self._ast.arch >= 90 else 0
        if shared_bytes < 0 or total - reserved > limit_bytes:
            raise LaunchError(
                f"{total - reserved} bytes of shared memory ({kernel.layout.shared_static - reserved} "
                f"static, {shared_bytes} dynamic): "
                f"{self.target} has {limit_bytes} for a CTA"
            )
        return Config(
            g,
            b,
            c,
            cluster is not None or bool(required),
            shared_bytes,
            checks,
            seed,
            _SM_COUNT.get(self._ast.arch, 132),
        )

    def _parameters(self, kernel: CompiledKernel, args: list[Any], mapped: list[Buffer]) -> bytes:
        layout = kernel.layout.params
        if len(args) != len(layout):
            wanted = ", ".join(f".{v.type}{f'[{v.count}]' if v.count > 1 else ''}" for _, v in layout.values())
            raise LaunchError(f"{kernel.entry.name} takes {len(layout)} arguments ({wanted}), got {len(args)}")
        block = bytearray(max((at + v.size for at, v in layout.values()), default=0))
        for index, ((at, v), value) in enumerate(zip(layout.values(), args, strict=True)):
            block[at : at + v.size] = self._argument(index, v, value, mapped)
        return bytes(block)

    def _argument(self, index: int, v: Variable, value: Any, mapped: list[Buffer]) -> bytes:
        where = f"argument {index} ({v.name}, .{v.type}{f'[{v.count}]' if v.count > 1 else ''})"
        if isinstance(value, TensorMap):
            if v.size != 128:
                raise LaunchError(
                    f"{where} holds {v.size} bytes, a TensorMap needs 128 (pass tensor maps as "
                    f"__grid_constant__ parameters)"
                )
            return self.encode(value, mapped)
        if isinstance(value, (bytes, bytearray, memoryview)):
            data = bytes(value)
            if len(data) != v.size:
                raise LaunchError(f"{where} holds {v.size} bytes, got {len(data)}")
            return data
        if isinstance(value, (bool, int, float, np.generic)) or value is None:
            return _scalar(where, v, 0 if value is None else value)
        if v.size != 8:
            raise LaunchError(f"{where} is not a pointer, got {type(value).__name__}")
        return struct.pack("<Q", self._map(value, f"argument {index}", mapped))

    def _map(self, value: Any, name: str, mapped: list[Buffer]) -> int:
        inner = value.array if isinstance(value, Output) else value
        first, low, size = byte_span(inner)
        if isinstance(value, Output):
            buffer: Buffer | None = None
        else:
            buffer = self.space.find_host(low, size)
        if buffer is None:
            buffer = self.space.map(value, name)
            mapped.append(buffer)
        return buffer.va + (first - buffer.host)

    def encode(self, tensor_map: TensorMap, mapped: list[Buffer] | None = None) -> bytes:
        """The 128 bytes of a tensor map, its array replaced by a device address (which stays valid when ``mapped`` is
        None)."""
        address = tensor_map.address
        try:
            if isinstance(address, int):
                return tensor_map.encode()
            where = self.address_of(address) if mapped is None else self._map(address, "tensor map", mapped)
            return tensor_map.resolved(where).encode()
        except UnitError as error:
            raise LaunchError(str(error)) from None


def _triple(value: Any, what: str) -> tuple[int, int, int]:
    numbers = (value,) if isinstance(value, (int, np.integer)) else tuple(value)
    if not 1 <= len(numbers) <= 3 or any(int(n) != n or int(n) < 1 for n in numbers):
        raise LaunchError(f"{what} {value!r}: one to three positive integers")
    full = [int(n) for n in numbers] + [1] * (3 - len(numbers))
    return full[0], full[1], full[2]


def _scalar(where: str, v: Variable, value: Any) -> bytes:
    if v.count > 1:
        raise LaunchError(f"{where} is an array of {v.size} bytes: pass bytes")
    if v.type in ("f32", "f64"):
        return struct.pack("<f" if v.type == "f32" else "<d", float(value))
    bits = type_bits(v.type)
    if isinstance(value, (float, np.floating)):
        # NVRTC declares floats as .f32, Triton some of them as .b32.
        if bits not in (32, 64) or v.type[0] in "su":
            raise LaunchError(f"{where} is an integer, got {value!r}")
        return struct.pack("<f" if bits == 32 else "<d", float(value))
    number = int(value)
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        raise LaunchError(f"{where} cannot hold {number}")
    return (number & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
