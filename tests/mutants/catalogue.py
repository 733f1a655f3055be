"""The sound kernels of this folder with their launches, and every mutant with the diagnosis that it must get."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hw.silicon.compile import compile_text
from nvfp4.emulator import Checks, Module, Output, Report, TensorMap

HERE = Path(__file__).parent
STRICT = Checks.all().but(strict=True)


@dataclass(frozen=True)
class Launch:
    """Arguments and geometry of one launch, and what the outputs must be."""

    args: list[Any]
    grid: int
    block: int
    verify: Callable[[], bool]
    cluster: int = 1


def _memory() -> Launch:
    data = np.arange(256, dtype=np.uint32) * 7 + 5
    out = np.zeros(256, np.uint32)
    want = data.reshape(2, 128)[:, ::-1].reshape(-1)
    return Launch([data, Output(out), 256], 2, 128, lambda: np.array_equal(out, want))


def _message() -> Launch:
    data, out = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    args = [data, out, np.zeros(1, np.uint32), np.zeros(64, np.uint32)]
    return Launch(args, 2, 64, lambda: np.array_equal(out, data * 3 + 1))


def _readers() -> Launch:
    data, out = np.array([5, 9], np.uint32), np.zeros(96, np.uint32)
    want = np.where(np.arange(96) < 32, 9, 5009)
    return Launch([data, out], 1, 96, lambda: np.array_equal(out, want))


def _ring() -> Launch:
    data, out = np.arange(256, dtype=np.uint32) ** 2, np.zeros(32, np.uint32)
    return Launch([data, out], 1, 64, lambda: np.array_equal(out, data.reshape(8, 32).sum(0)))


def _store() -> Launch:
    data, out = np.arange(128, dtype=np.uint32) * 3, np.zeros(128, np.uint32)
    want = data + np.repeat(np.arange(2, dtype=np.uint32), 64)
    return Launch([data, out], 1, 64, lambda: np.array_equal(out, want))


def _cluster() -> Launch:
    data, out = np.arange(64, dtype=np.uint32) * 5, np.zeros(64, np.uint32)
    want = data.reshape(2, 32)[::-1, ::-1].reshape(-1)
    return Launch([data, out], 2, 32, lambda: np.array_equal(out, want), cluster=2)


def _bf16(values: Any) -> Any:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _wgmma() -> Launch:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-4, 5, (2, 64, 16)), rng.integers(-4, 5, (2, 16, 16))
    out = np.zeros((2, 4, 8, 4, 2, 2, 2), np.float32)  # round, warp, lane / 4, lane % 4, n / 8, row / 8, n % 2

    def verify() -> bool:
        got = out.transpose(0, 1, 5, 2, 4, 3, 6).reshape(2, 64, 16)
        return np.array_equal(got, np.einsum("rmk,rnk->rmn", a, b))

    return Launch([_bf16(a), _bf16(b), out], 1, 128, verify)


def _tensor_memory() -> Launch:
    rng = np.random.default_rng(2)
    a, b = rng.integers(-4, 5, (128, 16)), rng.integers(-4, 5, (16, 16))
    out = np.zeros((128, 16), np.float32)
    return Launch([_bf16(a), _bf16(b), out], 1, 128, lambda: np.array_equal(out, a @ b.T))


def tensor_copy(**changes: Any) -> Launch:
    """The launch of tensor_copy.cu, with other fields of its tensor map."""
    data, out = np.arange(1024, dtype=np.uint32), np.zeros(128, np.uint32)
    fields = {"dtype": "u32", "shape": (32, 32), "strides": (128,), "box": (16, 8), "swizzle": 0, **changes}
    want = data.reshape(32, 32)[2:10, 8:24].reshape(-1)
    return Launch([TensorMap(data, **fields), out], 1, 32, lambda: np.array_equal(out, want))


@dataclass(frozen=True)
class Kernel:
    """One file: its target, its launch, the checks under which it is run."""

    name: str
    arch: str
    launch: Callable[[], Launch]
    checks: Checks = field(default_factory=Checks.all)

    @functools.cached_property
    def text(self) -> str:
        """The source."""
        return (HERE / f"{self.name}.cu").read_text()

    def lines(self, marker: str) -> set[int]:
        """Lines that end with the comment ``// @marker``."""
        found = {i + 1 for i, line in enumerate(self.text.splitlines()) if line.rstrip().endswith(f"// @{marker}")}
        assert found, (self.name, marker)
        return found

    def run(self, defines: tuple[str, ...] = (), seed: int = 0, launch: Launch | None = None, **checks: Any) -> Report:
        """Launch with these macros.

        Raises:
            nvfp4.emulator.KernelFault: The emulator has findings.
        """
        given = launch or self.launch()
        return _module(self.name, self.arch, defines).launch(
            "kernel",
            given.grid,
            given.block,
            given.args,
            cluster=given.cluster if given.cluster > 1 else None,
            seed=seed,
            checks=self.checks.but(**checks),
        )


@functools.cache
def _module(name: str, arch: str, defines: tuple[str, ...]) -> Module:
    header = (HERE / "ptx.cuh").read_text()
    return Module(compile_text((HERE / f"{name}.cu").read_text(), arch, "ptx", f"{name}.cu", defines, header))


KERNELS = {
    k.name: k
    for k in (
        Kernel("memory", "sm_80", _memory),
        Kernel("message", "sm_80", _message),
        Kernel("readers", "sm_80", _readers),
        Kernel("ring", "sm_90", _ring),
        Kernel("store", "sm_90", _store),
        Kernel("cluster", "sm_90", _cluster),
        Kernel("wgmma", "sm_90a", _wgmma),
        Kernel("tensor_memory", "sm_100a", _tensor_memory, STRICT),
        Kernel("tensor_copy", "sm_90", tensor_copy),
    )
}


@dataclass(frozen=True)
class Mutant:
    """A broken twin.

    Attributes:
        kernel: File without suffix.
        defines: Macros that break it.
        kind: Kind of the finding (a regular expression that matches it whole).
        at: Marker of the source line that the finding must name; empty where it concerns no line.
        says: What the message must contain (a regular expression).
        checks: Switches for this launch.
    """

    kernel: str
    defines: tuple[str, ...]
    kind: str
    at: str = ""
    says: str = ""
    checks: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        changed = [f"{k}={v}" for k, v in self.checks]
        return f"{self.kernel}-{'-'.join((*self.defines, *changed))}"

    def run(self, seed: int) -> Report:
        """Launch the mutant. Raises as `Kernel.run` does."""
        return KERNELS[self.kernel].run(self.defines, seed, **dict(self.checks))


def m(kernel: str, define: str, kind: str, at: str = "", says: str = "", **checks: Any) -> Mutant:
    return Mutant(kernel, tuple(define.split()) if define else (), kind, at, says, tuple(checks.items()))


MUTANTS = (
    # -- bounds and alignment, in every space
    m("memory", "READ_BEYOND", "out-of-bounds", "read_beyond", "reads 4 bytes"),
    m("memory", "WRITE_BEYOND", "out-of-bounds", "write_beyond", "writes 4 bytes"),
    m("memory", "SHARED_BEYOND", "out-of-bounds", "shared_beyond", "shared address"),
    m("memory", "LOCAL_BEYOND", "out-of-bounds", "local_beyond", "local"),
    m("memory", "READ_MISALIGNED", "misaligned", "read_misaligned", "not a multiple of 4"),
    m("memory", "SHARED_MISALIGNED", "misaligned", "shared_misaligned"),
    m("memory", "WRITE_CONSTANT", "read-only", "write_constant", "read-only"),
    m("store", "STORE_BEYOND", "out-of-bounds", "store_beyond"),
    m("store", "STORE_MISALIGNED", "misaligned|illegal-instruction", "store_misaligned"),
    m("store", "ODD_SIZE", "misaligned|illegal-instruction", "odd_size", "252|0xfc"),
    m("cluster", "PEER=(rank+2)", "out-of-bounds", "load"),
    m("cluster", 'SPACE="shared::cta"', "out-of-bounds", "load", "shared::cta"),
    # -- initialisation
    m("memory", "UNSET_REGISTER", "uninitialised-register", "unset_register", "lanes 0x00000200"),
    m("memory", "UNSET_REDUCTION", "uninitialised-register", "store", "lanes 0xffffffff"),
    m("memory", "UNSET_LOCAL", "uninitialised-local", "unset_local"),
    m("memory", "HALF_FILLED", "uninitialised-shared", "drain"),
    m("memory", "SKIP_LAST", "output-not-written", "", "4 of 1024 bytes"),
    m("wgmma", "HALF_B", "uninitialised-shared", "wgmma", "matrix B"),
    m("tensor_memory", "ACCUMULATE=1", "uninitialised-tensor-memory", "mma"),
    m("tensor_memory", "LOAD_COLUMN=8", "uninitialised-tensor-memory", "load"),
    # -- races
    m("memory", "NO_BARRIER", "race|uninitialised-shared", "fill|drain"),
    m("memory", "SAME_CELL", "race", "same_cell"),
    m("memory", "SAME_CELL_IN_WARP", "race|lane-race", "same_lanes", "lane"),
    m("message", "NO_RELEASE", "race", "read", "global memory"),
    m("message", "NO_SPIN", "race", "read|write", "global memory"),
    m("readers", "ONE_READER_TOLD", "race", "overwrite|read", "warp 2|writes shared memory|reads shared memory"),
    m("ring", "NO_WAIT_EMPTY", "race|mbarrier", "load|use|expect", "shared memory|waited for this one"),
    m("ring", "NO_WAIT_FULL", "race|uninitialised-shared", "use|load"),
    m("ring", "NO_BARRIER_AFTER_INIT", "race|mbarrier", "", "mbarrier"),
    m("store", "NO_CP_WAIT", "race|uninitialised-shared", "use_stage|cp_async"),
    m("store", "OTHERS_COPY", "race|uninitialised-shared", "use_stage|cp_async"),
    m("store", "NO_BARRIER", "race|uninitialised-shared|missing-proxy-fence", "store"),
    m("store", "NO_PROXY_FENCE", "missing-proxy-fence", "store", "fence.proxy.async"),
    m("store", "NO_WAIT", "race", "use_stage", "bulk"),
    m("store", "NO_LAST_WAIT", "exit-in-flight", "", "in flight"),
    m("cluster", "NO_FIRST_BARRIER", "race|uninitialised-shared", "load|fill"),
    m("cluster", "NO_LAST_BARRIER", "cluster-exit", "load", "exited"),
    m("wgmma", "NO_PROXY_FENCE", "missing-proxy-fence", "wgmma", "matrix"),
    m("wgmma", "NO_BARRIER", "race|uninitialised-shared|missing-proxy-fence", "wgmma|fill"),
    m("wgmma", "NO_WGMMA_FENCE", "missing-wgmma-fence", "wgmma"),
    m("wgmma", "NO_WAIT", "uninitialised-register|race", "result|fill"),
    m("wgmma", "EARLY_REUSE", "race", "early_reuse"),
    m("tensor_memory", "NO_PROXY_FENCE", "missing-proxy-fence", "mma"),
    m("tensor_memory", "NO_WAIT", "race|missing-tcgen05-fence|uninitialised-tensor-memory", "load"),
    m("tensor_memory", "NO_FENCE_AFTER", "missing-tcgen05-fence", "load", "thread synchronisation"),
    m("tensor_memory", "NO_WAIT_LD", "race", "dealloc", "read by tcgen05.ld"),
    m("tensor_memory", "NO_WAIT_ST", "race", "load_copy", "tcgen05.wait::st"),
    # -- deadlocks
    m("ring", "BYTES=132", "deadlock", "wait_full|wait_empty", "4 bytes pending"),
    m("ring", "FULL_COUNT=2", "deadlock", "wait_full|wait_empty", "1 of 2 arrivals"),
    m("ring", "WRONG_PHASE", "race|uninitialised-shared|deadlock", "use|load|wait_full|wait_empty"),
    m("ring", "FORGET_LANE", "deadlock", "wait_full|wait_empty", "1 of 32 arrivals"),
    m("ring", "TWICE", "mbarrier", "twice|expect", "arriv"),
    m("ring", "NO_INIT", "mbarrier", "expect|wait_full", "never initialised"),
    m("memory", "MISSING_WARP", "deadlock", "missing_warp", "96 of 128 threads"),
    m("tensor_memory", "NO_COMMIT", "deadlock", "wait", "1 of 1 arrivals"),
    m("tensor_copy", "BYTES=640", "deadlock", "wait", "128 bytes pending"),
    m("memory", "ENDLESS", "step-limit|livelock", "", "PTX line", step_limit=200_000),
    m("memory", "TRAP", "trap", "trap"),
    # -- malformed descriptors, shapes and instructions
    m("wgmma", "BITS=(1ull<<14)", "illegal-instruction", "wgmma", "reserved bits"),
    m("wgmma", "BITS=0x3fffull", "out-of-bounds", "wgmma", "matrix A"),
    m("tensor_memory", "VERSION=0ull", "illegal-instruction", "mma", "Hopper"),
    m("tensor_memory", "IDESC=(1u<<4|1u<<7|1u<<10|(16u/8)<<17|(96u/16)<<24)", "illegal-instruction", "mma", "M"),
    m("tensor_memory", "IDESC=(1u<<4|1u<<7|1u<<10|1u<<3|(16u/8)<<17|(128u/16)<<24)", "illegal-instruction", "mma"),
    m("tensor_memory", "LANES_OF=((t/32+1)%4)", "illegal-instruction", "load", "lane|warp"),
    m("tensor_memory", "COLUMNS=48", "illegal-instruction", "alloc", "48"),
    m("tensor_memory", "LOAD_COLUMN=32", "tmem|out-of-bounds|illegal-instruction|unallocated-tensor-memory", "load"),
    m("tensor_memory", "NO_DEALLOC", "tensor-memory-leak", "", "32 columns"),
    m("tensor_memory", "USE_AFTER_FREE", ".*", "use_after_free"),
    m("tensor_memory", "FREE_TWICE", ".*", "free_twice"),
    m("tensor_copy", "SHIFT=64", "illegal-instruction|misaligned", "copy", "128"),
    m("tensor_copy", "X=6", "illegal-instruction", "copy", "16 bytes"),
    m("tensor_copy", "THREE_COORDINATES", "illegal-instruction", "copy", "rank"),
    # -- divergence and counts
    m("memory", "DIVERGENT_BARRIER", "divergence", "divergent_barrier", r"\.aligned"),
    m("memory", "COUNT_MISMATCH", "barrier|deadlock", "count_mismatch", "64.*128|128.*64"),
    m("cluster", "ARRIVE_TWICE", "barrier", "sync", "arrive"),
    # -- limits of the chip
    m("tensor_memory", "COLUMNS=1024", "illegal-instruction|tmem", "alloc", "1024"),
)  # fmt: skip


def line_of(source: str) -> tuple[str, int]:
    """("ring.cu", 17) of a finding's ``path/ring.cu:17:5``."""
    match = re.search(r"([^/]+\.cuh?):(\d+)", source)
    return (match.group(1), int(match.group(2))) if match else ("", 0)
