"""Speed of the emulator: warp instructions per second with every check on, and time to a first launch.

    python benchmarks/emulator.py                 # print a table, append the records to results/emulator/speed.jsonl
    python benchmarks/emulator.py --only gemv dual-gemm --no-record

The goals are those of the emulator's design: 20 M warp instructions per second with checks on, GEMV 7168 x 16384 in
2 s, dual GEMM 256 x 4096 x 7168 in 15 s, at most 2 s to compile a new kernel, under 4 GiB of memory. One core does
the work.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from nvfp4 import jit
from nvfp4.backends import get
from nvfp4.check import inputs
from nvfp4.device import known
from nvfp4.emulator import Checks, Module, Report
from nvfp4.emulator.native import jit as native
from nvfp4.executors import emulated
from nvfp4.problem import Op, Problem

RESULTS = Path(__file__).parent / "results" / "emulator" / "speed.jsonl"

MICRO = {
    # name: body of a kernel on (unsigned* out, int n), t being the thread
    "alu": """unsigned x = t, y = x * 7;
        for (int i = 0; i < n; ++i) { x = x * 1664525u + y; y ^= x >> 3; x += y << 5; y = y * 3 + i; }
        out[t] = x ^ y;""",
    "fma": """float x = t, y = 1.0f / (t + 1);
        for (int i = 0; i < n; ++i) { x = fmaf(x, 0.999f, y); y = fmaf(y, 0.5f, x); }
        out[t] = __float_as_uint(x + y);""",
    "divergent": """unsigned x = t + 1; int s = 0;
        for (int i = 0; i < n; ++i) { if (x & 1) x = 3 * x + 1; else x >>= 1; s += x; }
        out[t] = s;""",
    "shared": """__shared__ unsigned s[2][256]; int j = threadIdx.x; unsigned a = t; s[0][j] = a;
        for (int i = 0; i < n; ++i) { __syncthreads(); a = a / 2 + s[i & 1][(j * 5 + i) & 255]; s[(i & 1) ^ 1][j] = a; }
        out[t] = a;""",
}
KERNEL = """extern "C" __global__ void k(unsigned* out, int n) {
    unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
    %s
}"""


def micro(name: str, n: int, grid: int) -> Callable[[Checks], Report]:
    """A loop that stresses one thing."""
    from cuda.bindings import nvrtc

    source = KERNEL % MICRO[name]
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"k.cu", 0, [], [])
    status = nvrtc.nvrtcCompileProgram(program, 1, [b"-arch=compute_90a"])[0]
    if int(status):
        raise RuntimeError(f"{name}: {status}")
    text = b" " * nvrtc.nvrtcGetPTXSize(program)[1]
    nvrtc.nvrtcGetPTX(program, text)
    module = Module(text)
    out = np.zeros(grid * 256, np.uint32)
    return lambda checks: module.launch("k", grid=grid, block=256, args=[out, n], checks=checks)


def product(problem: Problem, backend: str, arch: str) -> Callable[[Checks], Report]:
    """One operation of the package through its own backend, on the emulator."""
    chosen: Any = get(backend)
    capability = known(arch)
    refusals = chosen.refuse(capability, problem)
    if refusals:
        raise RuntimeError(f"{problem}: {refusals}")
    operands = inputs.make(problem)
    launches = chosen.launches(chosen.plan(capability, problem), problem, operands)
    for launch in launches:
        jit.compile(launch.kernel, "ptx")

    def run(checks: Checks) -> Report:
        reports = emulated.emulate(launches, checks=checks)
        merged = reports[0]
        for other in reports[1:]:
            merged.steps += other.steps
            merged.seconds += other.seconds
        return merged

    return run


CASES: dict[str, tuple[Callable[[], Callable[[Checks], Report]], str, float]] = {
    # name: (prepare, unit of the goal, goal)
    "alu": (lambda: micro("alu", 4000, 64), "M/s", 20),
    "fma": (lambda: micro("fma", 4000, 64), "M/s", 20),
    "divergent": (lambda: micro("divergent", 1500, 32), "M/s", 20),
    "shared": (lambda: micro("shared", 1500, 32), "M/s", 20),
    "gemv": (lambda: product(Problem(Op.GEMV, 7168, 1, 16384), "sm80", "sm_100a"), "s", 2),
    "gemm-mma": (lambda: product(Problem(Op.GEMM, 128, 512, 2048), "sm80", "sm_90a"), "M/s", 20),
    "dual-gemm": (lambda: product(Problem(Op.DUAL_GEMM, 256, 4096, 7168), "sm100", "sm_100a"), "s", 15),
}


def measure(name: str, repeats: int) -> list[dict[str, Any]]:
    """Records of one case: without stored machine code first, then warm, with and without checks."""
    prepare, unit, goal = CASES[name]
    with tempfile.TemporaryDirectory() as empty, mock.patch.object(native, "_directory", return_value=Path(empty)):
        run = prepare()
        begin = time.perf_counter()
        first = run(Checks.all())
        cold = time.perf_counter() - begin
    records = []
    for label, checks in (("all", Checks.all()), ("none", Checks.none())):
        best: Report | None = None
        busy = wall = 0.0
        for _ in range(repeats):
            begin, start = time.process_time(), time.perf_counter()
            report = run(checks)
            spent, elapsed = time.process_time() - begin, time.perf_counter() - start
            if best is None or spent < busy:
                best, busy, wall = report, spent, elapsed
        assert best is not None
        # Processor time, not time on the wall: the machine may be shared, and one core does the work. Where the two
        # differ, somebody else was at work.
        rate = best.steps / busy / 1e6
        figure = rate if unit == "M/s" else busy
        met = figure >= goal if unit == "M/s" else figure <= goal
        records.append(
            {
                "case": name,
                "checks": label,
                "warp_instructions": best.steps,
                "cpu_seconds": round(busy, 4),
                "wall_seconds": round(wall, 4),
                "seconds": round(best.seconds, 4),
                "load_average": round(os.getloadavg()[0], 1),
                "million_per_second": round(rate, 2),
                "first_launch_seconds": round(cold, 3),
                "compile_seconds": round(first.compile_seconds, 3),
                "mma_flops": best.counts.get("mma_flops", 0),
                "goal": f"{goal:g} {unit}",
                "met": bool(met),
            }
        )
    return records


def environment() -> dict[str, Any]:
    """Where and when the figures were taken."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    import llvmlite

    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "cpu": platform.processor() or platform.machine(),
        "cpu_features": native.llvm.get_host_cpu_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "llvmlite": llvmlite.__version__,
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    where = environment()
    titles = ("M instr", 9), ("cpu s", 8), ("wall s", 8), ("M/s", 8), ("first s", 8), ("load", 5)
    print(f"{'case':12} {'checks':6} {' '.join(f'{text:>{width}}' for text, width in titles)}  goal")
    for name in arguments.only:
        records = measure(name, 1 if name == "dual-gemm" else arguments.repeats)
        for record in records:
            print(
                f"{name:12} {record['checks']:6} {record['warp_instructions'] / 1e6:9.2f} {record['cpu_seconds']:8.3f} "
                f"{record['wall_seconds']:8.3f} {record['million_per_second']:8.1f} "
                f"{record['first_launch_seconds']:8.2f} {record['load_average']:5.1f}  "
                f"{record['goal']} {'met' if record['met'] else 'MISSED'}",
                flush=True,
            )
        if not arguments.no_record:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            with RESULTS.open("a") as file:
                for record in records:
                    file.write(json.dumps({**record, "peak_mib": round(peak), **where}) + "\n")


if __name__ == "__main__":
    main()
